"""Remove the salient concept of each text and see what the prediction loses."""

from .ablate import ablate_texts
from .references import AblationReferences, MemberMeans, fit_references
from .words import WordMeans, fit_words

__all__ = ["AblationReferences", "MemberMeans", "WordMeans", "ablate_texts", "fit_references", "fit_words"]
