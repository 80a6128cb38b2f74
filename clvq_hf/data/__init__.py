"""From texts to token ids to hidden states."""

from .activation_cache import ActivationCache, StateCollator
from .batching import batches_by_length, in_order
from .extraction import HiddenStateExtractor, attention_sinks
from .labels import host_labels, label_names
from .readouts import host_question, text_limit, text_readout
from .sensitivity import upper_sensitivity
from .texts import PARTS, load_texts, split_texts, text_hash, without_texts
from .tokenization import TextCollator, tokenize_texts

__all__ = [
    "PARTS",
    "ActivationCache",
    "HiddenStateExtractor",
    "StateCollator",
    "TextCollator",
    "attention_sinks",
    "batches_by_length",
    "host_labels",
    "host_question",
    "in_order",
    "label_names",
    "load_texts",
    "split_texts",
    "text_hash",
    "text_limit",
    "text_readout",
    "tokenize_texts",
    "upper_sensitivity",
    "without_texts",
]
