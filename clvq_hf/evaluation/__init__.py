"""Measure one concept model: ablation, bottleneck."""

# ruff: noqa: E402

from ..extras import require

# Before the imports, which would name one package after the other.
require("An evaluation", "evaluation")

from .ablation import AblationReferences, MemberMeans, WordMeans, ablate_texts, fit_references, fit_words
from .ablation.probe import probe_texts
from .bag_of_codes import mean_states, probe_bags
from .bottleneck import bottleneck_figures, splice_texts
from .code_decoder import CodeDecoder, fit_code_decoder
from .code_statistics import CodeStatistics
from .evaluate import EvaluationSettings, evaluate_concepts
from .fidelity import fidelity_figures, fidelity_texts
from .occurrences import Occurrences
from .senses import exchange_senses, sense_figures

__all__ = [
    "AblationReferences",
    "CodeDecoder",
    "CodeStatistics",
    "EvaluationSettings",
    "MemberMeans",
    "Occurrences",
    "WordMeans",
    "ablate_texts",
    "bottleneck_figures",
    "evaluate_concepts",
    "exchange_senses",
    "fidelity_figures",
    "fidelity_texts",
    "fit_code_decoder",
    "fit_references",
    "fit_words",
    "mean_states",
    "probe_bags",
    "probe_texts",
    "sense_figures",
    "splice_texts",
]
