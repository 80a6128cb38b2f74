"""Batches of texts of similar length, with their rows, so that results can be returned to the order of the texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

Collate = Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]


def batches_by_length(
    tokenized: Dataset, collate: Collate, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[list[int], Mapping[str, torch.Tensor]]]:
    """Batch texts of similar length, shortest first, which saves padding.

    Args:
        tokenized (`datasets.Dataset`): A result of [`tokenize_texts`][clvq_hf.data.tokenize_texts], with `length`.
        collate (`Callable`): Turns a list of rows into tensors, usually a
            [`TextCollator`][clvq_hf.data.TextCollator].
        batch_size (`int`): Number of texts per batch.
        rows (`Sequence[int]`, *optional*): Only these rows. Default: all.

    Yields:
        `tuple[list[int], Mapping[str, torch.Tensor]]`: The rows of `tokenized` in a batch, and their tensors.
    """
    chosen = np.arange(len(tokenized)) if rows is None else np.asarray(rows, dtype=np.int64)
    lengths = np.asarray(tokenized["length"][:])[chosen]
    ordered = chosen[np.argsort(lengths, kind="stable")].tolist()
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        yield batch, collate(tokenized.select(batch).to_list())


def split_batch(batch: Mapping[str, torch.Tensor], max_tokens: int) -> list[dict[str, torch.Tensor]]:
    """Split a padded batch into batches of at most `max_tokens` tokens, padding included, or of one text.

    Args:
        batch (`Mapping[str, torch.Tensor]`): Tensors with one row per text; `attention_mask` has the shape `(B, S)`.
        max_tokens (`int`): Limit in tokens.

    Returns:
        `list[dict[str, torch.Tensor]]`: The same tensors with fewer rows each, in the same order.
    """
    rows, length = batch["attention_mask"].shape
    step = max(1, max_tokens // max(length, 1))
    return [{name: tensor[start : start + step] for name, tensor in batch.items()} for start in range(0, rows, step)]


def in_order(results: Mapping[int, Any]) -> list[Any]:
    """Return the results of [`batches_by_length`][clvq_hf.data.batches_by_length], a mapping by row, in row order."""
    return [results[row] for row in sorted(results)]


__all__ = ["batches_by_length", "in_order", "split_batch"]
