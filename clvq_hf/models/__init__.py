"""Concept models: what each method is, what is attached to a host, how models are loaded and shared."""

from .configuration_clusters import ClusterConfig
from .configuration_sparse import SparseConfig
from .modeling_clusters import ClusterModel
from .modeling_sparse import SparseDictionary, SparseOutput
from .published_dictionaries import load_dictionary

__all__ = ["ClusterConfig", "ClusterModel", "SparseConfig", "SparseDictionary", "SparseOutput", "load_dictionary"]
