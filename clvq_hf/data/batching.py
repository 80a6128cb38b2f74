"""Texts of similar length in batches, with the rows that they come from, so that results can be put back in order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

Collate = Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]


def batches_by_length(
    tokenized: Dataset, collate: Collate, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[list[int], Mapping[str, torch.Tensor]]]:
    """Batch texts of similar length, shortest first, so that little is spent on padding.

    Args:
        tokenized (`datasets.Dataset`): Of [`tokenize_texts`][clvq_hf.data.tokenization.tokenize_texts], with `length`.
        collate (`Callable`): Turns a list of rows into tensors, usually a
            [`TextCollator`][clvq_hf.data.tokenization.TextCollator].
        batch_size (`int`): Number of texts per batch.
        rows (`Sequence[int]`, *optional*): Only these rows; all if not given.

    Yields:
        `tuple[list[int], Mapping[str, torch.Tensor]]`: The rows of `tokenized` in a batch, and their tensors.
    """
    chosen = np.arange(len(tokenized)) if rows is None else np.asarray(rows, dtype=np.int64)
    lengths = np.asarray(tokenized["length"][:])[chosen]
    ordered = chosen[np.argsort(lengths, kind="stable")].tolist()
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        yield batch, collate(tokenized.select(batch).to_list())


def in_order(results: Mapping[int, Any]) -> list[Any]:
    """Values by ascending row, for results that batches have given by row."""
    return [results[row] for row in sorted(results)]


__all__ = ["batches_by_length", "in_order"]
