"""Concept models: what each method is, what is attached to a host, how models are loaded and shared."""

from .configuration_clusters import ClusterConfig
from .configuration_clvq import CLVQConfig
from .configuration_concepts import ConceptConfig, Preset
from .configuration_sparse import SparseConfig
from .distances import DistanceQuantiles
from .edits import ConceptEdit
from .interventions import Splice
from .modeling_base import BaseConceptModel
from .modeling_class_only import ClassOnlyConfig, ClassOnlyModel
from .modeling_clusters import ClusterModel
from .modeling_clvq import AdaptiveResidualEncoder, CLVQModel, CLVQOutput
from .modeling_concepts import ConceptModel
from .modeling_sparse import SparseDictionary, SparseOutput
from .published_dictionaries import load_dictionary
from .quantizer import TopKQuantizer
from .registry import register_method
from .tap import Tap
from .verification import Reference, Verification

# One line per method. `auto_types.py` imports this room as soon as AutoModel meets one of these types.
register_method(CLVQModel)
register_method(ClusterModel)
register_method(SparseDictionary)
register_method(ClassOnlyModel)

__all__ = [
    "AdaptiveResidualEncoder",
    "BaseConceptModel",
    "CLVQConfig",
    "CLVQModel",
    "CLVQOutput",
    "ClassOnlyConfig",
    "ClassOnlyModel",
    "ClusterConfig",
    "ClusterModel",
    "ConceptConfig",
    "ConceptEdit",
    "ConceptModel",
    "DistanceQuantiles",
    "Preset",
    "Reference",
    "SparseConfig",
    "SparseDictionary",
    "SparseOutput",
    "Splice",
    "Tap",
    "TopKQuantizer",
    "Verification",
    "load_dictionary",
    "register_method",
]
