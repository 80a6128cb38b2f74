"""clvq-hf: find the discrete concepts that a language model uses, the Hugging Face way."""

import importlib
from typing import Any

from transformers import AutoConfig, AutoModel

from .baselines import ClusterConfig, ClusterModel, SparseConfig, SparseDictionary, SparseOutput
from .configuration_clvq import CLVQConfig
from .modeling_clvq import AdaptiveResidualEncoder, CLVQModel, CLVQOutput
from .modeling_concepts import ConceptModel
from .quantizer import TopKQuantizer
from .version import __version__

# At import, so that AutoModel.from_pretrained knows these types right after `import clvq_hf`.
for _model in (CLVQModel, ClusterModel, SparseDictionary):
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)

# The rest is imported at first use: the trainer alone costs seconds.
_LAZY = {
    "CLVQTrainer": ".trainer",
    "CLVQTrainingArguments": ".training_args",
    "ActivationCache": ".activations",
    "ConceptTable": ".concept_table",
    "salient_tokens": ".attribution",
    "ablate_texts": ".ablation",
    "load_texts": ".data",
    "list_codebooks": ".hub",
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module(".metrics", __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, "metrics"])


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
    "list_codebooks",
    "load_texts",
    "metrics",
    "salient_tokens",
]
