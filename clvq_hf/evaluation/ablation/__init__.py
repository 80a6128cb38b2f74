"""Remove the salient concept of each text and see what the prediction loses."""

from .ablate import ablate_texts
from .references import AblationReferences, fit_references

__all__ = ["AblationReferences", "ablate_texts", "fit_references"]
