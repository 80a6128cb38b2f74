"""The columns of a concept table, and what it needs of a concept model."""

from typing import Any, Protocol

import torch
from datasets import Features, List, Value

FORMAT_VERSION = 1

TOKEN_FEATURES = Features(
    {
        "text_id": Value("int64"),
        "position": Value("int32"),
        "token": Value("string"),
        "token_id": Value("int32"),
        "special": Value("bool"),
        "word_id": Value("int32"),
        "start": Value("int32"),
        "end": Value("int32"),
        "code": Value("int32"),
        "salience": Value("float32"),
        "distance": Value("float32"),
    }
)

TEXT_FEATURES = Features(
    {
        "text_id": Value("int64"),
        "text": Value("string"),
        "label": Value("int64"),
        "prediction": Value("int64"),
        "logits": List(Value("float32")),
        "split": Value("string"),
        "dataset": Value("string"),
        "num_tokens": Value("int32"),
        "salient_position": Value("int32"),
        "salience_error": Value("float32"),
    }
)

FEATURES = {"tokens": TOKEN_FEATURES, "texts": TEXT_FEATURES}
# Columns that tables of earlier versions lack; they are read as null.
ADDED_LATER = ("distance",)
# Splits that were seen in training; figures on them are too good.
TRAINING_SPLITS = ("host_train", "codebook_train")


class CodeModel(Protocol):
    """What a table needs of a [`ConceptModel`][clvq_hf.ConceptModel]."""

    config: Any
    """A [`ConceptConfig`][clvq_hf.models.configuration_concepts.ConceptConfig]."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""

    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Codes `(B, S)` of states `(B, S, d)` and a bool mask `(B, S)`."""

    def distances(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, codes: torch.Tensor
    ) -> torch.Tensor | None:
        """How far each state is from its code, `(B, S)`; `None` if the method does not say."""

    def fingerprint(self) -> str:
        """Hexadecimal digits that models with the same codes share."""


__all__ = [
    "ADDED_LATER",
    "FEATURES",
    "FORMAT_VERSION",
    "TEXT_FEATURES",
    "TOKEN_FEATURES",
    "TRAINING_SPLITS",
    "CodeModel",
]
