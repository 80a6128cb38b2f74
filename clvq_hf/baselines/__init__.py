"""The rivals of the paper, each a [`ConceptModel`][clvq_hf.ConceptModel]: clusters, and sparse dictionaries.

The single-layer VQ-VAE is no file of its own: it is a [`CLVQModel`][clvq_hf.CLVQModel] whose two layers are one.
"""

from .configuration_clusters import ClusterConfig
from .configuration_sparse import SparseConfig
from .modeling_clusters import ClusterModel
from .modeling_sparse import SparseDictionary, SparseOutput
from .published import load_dictionary

__all__ = ["ClusterConfig", "ClusterModel", "SparseConfig", "SparseDictionary", "SparseOutput", "load_dictionary"]
