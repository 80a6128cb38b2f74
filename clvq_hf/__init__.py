"""clvq-hf: find the discrete concepts that a language model uses, the Hugging Face way."""

import importlib
from typing import Any

from transformers import AutoConfig, AutoModel

from .models import ClusterConfig, ClusterModel, SparseConfig, SparseDictionary, SparseOutput
from .models.configuration_clvq import CLVQConfig
from .models.modeling_clvq import AdaptiveResidualEncoder, CLVQModel, CLVQOutput
from .models.modeling_concepts import ConceptModel
from .models.quantizer import TopKQuantizer
from .version import __version__

# At import, so that AutoModel.from_pretrained knows these types right after `import clvq_hf`.
for _model in (CLVQModel, ClusterModel, SparseDictionary):
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)

# The rest is imported at first use: the trainer alone costs seconds.
_LAZY = {
    "CLVQTrainer": ".training.trainer",
    "CLVQTrainingArguments": ".training.training_args",
    "ActivationCache": ".data.extraction",
    "ConceptTable": ".tables.concept_table",
    "salient_tokens": ".evaluation.attribution",
    "ablate_texts": ".evaluation.ablation.ablate",
    "load_texts": ".data.texts",
    "list_codebooks": ".hub.repositories",
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
