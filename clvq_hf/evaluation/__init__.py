"""Measure one concept model: ablation, bottleneck."""

# ruff: noqa: E402

from ..extras import require

# Before the imports, which would name one package after the other.
require("An evaluation", "evaluation")

from .ablation import AblationReferences, MemberMeans, WordMeans, ablate_texts, fit_references, fit_words
from .ablation.probe import probe_texts
from .bottleneck import bottleneck_figures, splice_texts
from .evaluate import EvaluationSettings, evaluate_concepts
from .occurrences import Occurrences
from .senses import exchange_senses, sense_figures

__all__ = [
    "AblationReferences",
    "EvaluationSettings",
    "MemberMeans",
    "Occurrences",
    "WordMeans",
    "ablate_texts",
    "bottleneck_figures",
    "evaluate_concepts",
    "exchange_senses",
    "fit_references",
    "fit_words",
    "probe_texts",
    "sense_figures",
    "splice_texts",
]
