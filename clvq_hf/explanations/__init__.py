"""Which concepts made the host decide, text by text, and whether it would still decide so without them."""

from .explain import Explainer
from .result import ExplainedConcept, ExplainedToken, Explanation, Explanations, Removal

__all__ = ["ExplainedConcept", "ExplainedToken", "Explainer", "Explanation", "Explanations", "Removal"]
