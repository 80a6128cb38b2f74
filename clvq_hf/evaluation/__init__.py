"""Measure one concept model: salience, ablation, bottleneck."""

from .ablation import AblationReferences, ablate_texts, fit_references
from .attribution import salient_tokens
from .bottleneck import splice_texts
from .evaluate import EvaluationSettings, evaluate_concepts

__all__ = [
    "AblationReferences",
    "EvaluationSettings",
    "ablate_texts",
    "evaluate_concepts",
    "fit_references",
    "salient_tokens",
    "splice_texts",
]
