"""Remove the salient concept of each text and see what the prediction loses."""

from .ablate import ablate_texts
from .references import AblationReferences, fit_references
from .words import WordMeans, fit_words

__all__ = ["AblationReferences", "WordMeans", "ablate_texts", "fit_references", "fit_words"]
