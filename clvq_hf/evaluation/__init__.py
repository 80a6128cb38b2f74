"""Measure one concept model: ablation, bottleneck."""

# ruff: noqa: E402

from ..extras import require

# Before the imports, which would name one package after the other.
require("An evaluation", "evaluation")

from .ablation import AblationReferences, MemberMeans, WordMeans, ablate_texts, fit_references, fit_words
from .ablation.probe import probe_texts
from .bottleneck import bottleneck_figures, splice_texts
from .code_statistics import CodeStatistics
from .evaluate import EvaluationSettings, evaluate_concepts
from .fidelity import fidelity_figures, fidelity_texts

__all__ = [
    "AblationReferences",
    "CodeStatistics",
    "EvaluationSettings",
    "MemberMeans",
    "WordMeans",
    "ablate_texts",
    "bottleneck_figures",
    "evaluate_concepts",
    "fidelity_figures",
    "fidelity_texts",
    "fit_references",
    "fit_words",
    "probe_texts",
    "splice_texts",
]
