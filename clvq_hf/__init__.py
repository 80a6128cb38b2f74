"""clvq-hf: find the discrete concepts that a language model uses, the Hugging Face way."""

import importlib
from typing import Any

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
from .version import __version__

# The rest is imported at first use: the trainer alone costs seconds.
_LAZY = {
    "CLVQTrainer": ".training",
    "CLVQTrainingArguments": ".training",
    "ActivationCache": ".data",
    "ConceptTable": ".tables",
    "salient_tokens": ".tables",
    "ablate_texts": ".evaluation",
    "load_texts": ".data",
    "list_codebooks": ".hub",
}
_MODULES = {"hooks": ".hosts.hooks", "metrics": ".metrics"}


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
