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

# Everything is imported at first use: torch and transformers cost seconds. What is not named here is in `models`.
_HOMES = {"ActivationCache": ".data", "load_texts": ".data", "ablate_texts": ".evaluation", "list_codebooks": ".hub"}
_HOMES |= {"ConceptTable": ".tables", "salient_tokens": ".tables"}
_HOMES |= {"CLVQTrainer": ".training", "CLVQTrainingArguments": ".training"}
_ROOMS = ("auditing", "data", "evaluation", "explanations", "hosts", "hub", "metrics", "models", "tables", "training")
_MODULES = {"hooks": ".hosts.hooks", **{name: f".{name}" for name in _ROOMS}}

register_types()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name], __name__)
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, ".models"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


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
