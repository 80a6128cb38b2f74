"""`map` and `shuffle` of datasets that leave nothing beside the data, and during which Ctrl-C is never swallowed.

`datasets` hashes the function and its arguments with dill, to name a file beside the data in which it looks for an
earlier result. Hashing a tokenizer takes long, and whatever interrupts it is swallowed. And the folder of the data may
be somebody else's, or one that cannot be written to.
"""

import hashlib
import secrets
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from ..files import ScratchFolder


def map_rows(dataset: Dataset, function: Callable[..., Any], what: tuple[Any, ...], **options: Any) -> Dataset:
    """`dataset.map(function, **options)`; of data on disk the result is in a temporary file of this process.

    Args:
        dataset (`datasets.Dataset`): The data.
        function (`Callable`): What is applied.
        what (`tuple`): All that the function depends on, for the fingerprint of the result.
        options: Arguments of `Dataset.map`.
    """
    file = _new_file() if dataset.cache_files else None
    name = _fingerprint(dataset, function.__qualname__, *what)
    return dataset.map(function, new_fingerprint=name, cache_file_name=file, load_from_cache_file=False, **options)


def shuffle_rows(dataset: Dataset, seed: int) -> Dataset:
    """`dataset.shuffle(seed)`, in the same order."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    return dataset.select(order, new_fingerprint=_fingerprint(dataset, "shuffle", seed))


def take_rows(stream: IterableDataset, number: int | None = None) -> Dataset:
    """The first rows of a stream, or all, in a temporary file of this process: texts are small beside their states.

    Raises:
        ValueError: If the stream has no rows.
    """
    file = _new_file()
    writer = ArrowWriter(path=file, features=stream.features)
    count = 0
    for row in tqdm(stream if number is None else stream.take(number), "Reading the stream", number, unit="text"):
        writer.write(row)
        count += 1
    if count == 0:
        raise ValueError("The stream of texts has no rows.")
    writer.finalize()
    return Dataset.from_file(file)


def _new_file() -> str:
    return str(_temporary().path / f"{secrets.token_hex(8)}.arrow")


@cache
def _temporary() -> ScratchFolder:
    """The folder of this process: that of `datasets` would remain if the process is killed."""
    return ScratchFolder()


def _fingerprint(dataset: Dataset, *what: Any) -> str:
    return hashlib.sha256(repr((dataset._fingerprint, what)).encode("utf-8", errors="replace")).hexdigest()[:16]


__all__ = ["map_rows", "shuffle_rows", "take_rows"]
