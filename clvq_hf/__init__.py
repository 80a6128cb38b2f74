"""clvq-hf: find the discrete concepts that a language model uses, the Hugging Face way."""

import importlib
from typing import TYPE_CHECKING, Any

from .auto_types import register_types
from .version import __version__

if TYPE_CHECKING:
    from . import metrics
    from .data import ActivationCache, load_texts
    from .evaluation import ablate_texts
    from .hosts import hooks
    from .hub import list_codebooks
    from .models import (
        AdaptiveResidualEncoder,
        ClusterConfig,
        ClusterModel,
        CLVQConfig,
        CLVQModel,
        CLVQOutput,
        ConceptModel,
        SparseConfig,
        SparseDictionary,
        SparseOutput,
        TopKQuantizer,
        register_method,
    )
    from .tables import ConceptTable, salient_tokens
    from .training import CLVQTrainer, CLVQTrainingArguments

# Everything is imported at first use: torch and transformers cost seconds.
_HOMES = {
    ".data": ("ActivationCache", "load_texts"),
    ".evaluation": ("ablate_texts",),
    ".hub": ("list_codebooks",),
    ".models": (
        "AdaptiveResidualEncoder",
        "CLVQConfig",
        "CLVQModel",
        "CLVQOutput",
        "ClusterConfig",
        "ClusterModel",
        "ConceptModel",
        "SparseConfig",
        "SparseDictionary",
        "SparseOutput",
        "TopKQuantizer",
        "register_method",
    ),
    ".tables": ("ConceptTable", "salient_tokens"),
    ".training": ("CLVQTrainer", "CLVQTrainingArguments"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = ("data", "evaluation", "explanations", "hosts", "hub", "metrics", "models", "tables", "training")
_MODULES = {"hooks": ".hosts.hooks", **{name: f".{name}" for name in _ROOMS}}

register_types()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name], __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_MODULES])


__all__ = [
    "ActivationCache",
    "AdaptiveResidualEncoder",
    "CLVQConfig",
    "CLVQModel",
    "CLVQOutput",
    "CLVQTrainer",
    "CLVQTrainingArguments",
    "ClusterConfig",
    "ClusterModel",
    "ConceptModel",
    "ConceptTable",
    "SparseConfig",
    "SparseDictionary",
    "SparseOutput",
    "TopKQuantizer",
    "__version__",
    "ablate_texts",
    "hooks",
    "list_codebooks",
    "load_texts",
    "metrics",
    "register_method",
    "salient_tokens",
]
