"""Tokens of labelled texts as flat arrays, and random draws whose unit is the text.

A metric folder must stand alone, so each metric that needs this file has a copy of it, letter for letter.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from inspect import getdoc
from itertools import chain
from typing import Any

import numpy as np

# Equal figures may differ by rounding, depending on the order of their sums.
TOLERANCE = 1e-12


@dataclass(frozen=True)
class TokenTable:
    """Tokens of distinct labelled texts; texts are in the order of the alphabet, their tokens in their own order.

    Codes and types are numbered in the order in which they first occur, labels by their size. So no figure and no
    tie depends on the order of rows or on how codes are numbered.

    Args:
        text (`np.ndarray` of shape `(t,)`, int64): Text of each token.
        code (`np.ndarray` of shape `(t,)`, int64): Code of each token, as a place in `code_names`.
        type (`np.ndarray` of shape `(t,)`, int64): Type of each token, as a place in `type_names`.
        label (`np.ndarray` of shape `(n,)`, int64): Label of each text, as a place in `label_names`.
        text_names (`list[str]`): The texts.
        code_names (`list[int]`): The codes that occur.
        type_names (`list[str]`): The token types that occur.
        label_names (`list[int]`): The labels that occur.
        tallies (`dict[str, int]`): `num_texts`, `num_tokens`, `num_duplicates` (rows that repeat a text),
            `num_unlabelled` and `num_empty` (texts left out for want of a label, and of a token).
    """

    text: np.ndarray
    code: np.ndarray
    type: np.ndarray
    label: np.ndarray
    text_names: list[str]
    code_names: list[int]
    type_names: list[str]
    label_names: list[int]
    tallies: dict[str, int]


def read_token_table(
    texts: Sequence[str],
    codes: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[str]],
    labels: Sequence[int],
) -> TokenTable:
    """Keep distinct texts that have a label and a token.

    Of rows with equal text one stays: one with a label and a token if there is any, then that of the smallest label,
    then the first by its tokens and by the pattern of its codes.

    Args:
        texts (`Sequence[str]`): The texts, one a row. Equal texts count once: a row with a label and a token goes
            first, then that of the smallest label.
        codes (`Sequence[Sequence[int]]`): One code per token. Tokens with a negative code (padding, special tokens,
            stop words) are left out.
        tokens (`Sequence[Sequence[str]]`): Types of the same tokens (words or pieces of words), compared as they are
            written: lower-case them first if case is not to matter. Words make a stricter control.
        labels (`Sequence[int]`): Class of each text. Texts with a negative label are left out.

    Returns:
        [`TokenTable`]

    Raises:
        ValueError: If the columns don't fit each other, values are missing, or fewer than two labels are left.
    """
    if not len(texts) == len(codes) == len(tokens) == len(labels):
        raise ValueError("texts, codes, tokens and labels must have one row per text, all of them.")
    groups = defaultdict(list)
    for row, text in enumerate(texts):
        _check_row(row, text, codes[row], tokens[row], labels[row])
        groups[text].append(row)
    distinct = [
        min(rows, key=lambda row: _precedence(codes[row], tokens[row], labels[row])) if len(rows) > 1 else rows[0]
        for _, rows in sorted(groups.items())
    ]
    labelled = [row for row in distinct if labels[row] >= 0]
    rows = [row for row in labelled if max(codes[row], default=-1) >= 0]
    label_names, label = np.unique(np.array([labels[row] for row in rows], np.int64), return_inverse=True)
    if len(label_names) < 2:
        raise ValueError(
            f"The texts that have a label (from 0 up) and a token with a code (from 0 up) have {len(label_names)} "
            "different labels: give texts of at least two classes."
        )
    lengths = np.array([len(codes[row]) for row in rows])
    flat_codes = np.fromiter(chain.from_iterable(codes[row] for row in rows), np.int64, lengths.sum())
    kept = flat_codes >= 0
    vocabulary: dict[str, int] = {}
    flat_types = np.fromiter(
        (vocabulary.setdefault(token, len(vocabulary)) for row in rows for token in tokens[row]),
        np.int64,
        lengths.sum(),
    )
    code_names, code = _number_by_occurrence(flat_codes[kept])
    types, token_type = _number_by_occurrence(flat_types[kept])
    spellings = list(vocabulary)
    return TokenTable(
        text=np.repeat(np.arange(len(rows)), lengths)[kept],
        code=code,
        type=token_type,
        label=label,
        text_names=[texts[row] for row in rows],
        code_names=code_names.tolist(),
        type_names=[spellings[place] for place in types],
        label_names=label_names.tolist(),
        tallies={
            "num_texts": len(rows),
            "num_tokens": len(code),
            "num_duplicates": len(texts) - len(distinct),
            "num_unlabelled": len(distinct) - len(labelled),
            "num_empty": len(labelled) - len(rows),
        },
    )


def describe_with_columns(function: Callable) -> str:
    """The docstring of a function with the columns of [`read_token_table`] in place of its `table`."""
    columns = re.search(r"(?<=Args:\n).*?(?=\n\n)", getdoc(read_token_table), re.DOTALL)[0]
    return re.sub(r"    table .*?(?=\n    \w)", lambda _: columns, getdoc(function), count=1, flags=re.DOTALL)


def check_settings(**settings: int) -> None:
    """Raise a ValueError that names the first setting below 1."""
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def draw_halves(texts: Sequence[str], num_splits: int, seed: int) -> np.ndarray:
    """Split texts into two halves, several times over; the half of a text depends on itself and the seed alone.

    So rows in another order, copies, other texts beside it, and other codes change nothing, and two methods are asked
    about the same texts. Halves are as even as fair coins make them: of 120 texts 60 ± 5, of a label with 24 texts
    12 ± 2. A mean over splits takes little notice.

    Args:
        texts (`Sequence[str]`): The texts, n of them.
        num_splits (`int`): Number of splits, at most 512: the bits of a hash.
        seed (`int`): Of all splits.

    Returns:
        `np.ndarray` of shape `(n, num_splits)`, uint8: 0 or 1 for each text and split. Fewer splits are the first ones
        of more.
    """
    key = str(seed).encode()
    hashes = b"".join(blake2b(text.encode("utf-8", "surrogatepass"), key=key).digest() for text in texts)
    return np.unpackbits(np.frombuffer(hashes, np.uint8).reshape(len(texts), -1), axis=1, count=num_splits)


def draw_bootstrap(num_texts: int, num_draws: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield how often each text occurs in a draw of `num_texts` texts with replacement, `(n,)` int64, draw by draw."""
    for _ in range(num_draws):
        yield np.bincount(generator.integers(num_texts, size=num_texts), minlength=num_texts)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the draws that are defined (not NaN)."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return low, high


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean of the values that are defined (not NaN); NaN if there are none."""
    defined = ~np.isnan(values)
    if not defined.any():
        return np.nan
    return np.average(values[defined], weights=None if weights is None else weights[defined])


def p_value(observed: float, null: np.ndarray) -> float:
    """(1 + number of null draws as large as the observed figure) ÷ (1 + number of null draws)."""
    defined = null[~np.isnan(null)]
    if np.isnan(observed) or not len(defined):
        return np.nan
    return (1 + np.sum(defined >= observed - TOLERANCE)) / (1 + len(defined))


def as_results(figures: dict[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's, NaN as None; everything else stays."""
    results = {name: value.item() if isinstance(value, np.generic) else value for name, value in figures.items()}
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in results.items()}


def _check_row(row: int, text: str | None, codes: Sequence[int], tokens: Sequence[str], label: int | None) -> None:
    if text is None or label is None or codes is None or tokens is None or None in codes or None in tokens:
        raise ValueError(
            f"Row {row} has a value that is None: leave out rows without a text, write -1 for a label that is missing "
            "and for the code of a token that is to be left out."
        )
    if len(codes) != len(tokens):
        raise ValueError(
            f"Row {row} has {len(codes)} codes and {len(tokens)} tokens: each token needs its code, -1 if it is to be "
            "left out."
        )


def _precedence(codes: Sequence[int], tokens: Sequence[str], label: int) -> tuple:
    """Sorts rows of one text; the numbers of the codes come last, where nothing else tells two rows apart."""
    kept = [(token, int(code)) for token, code in zip(tokens, codes, strict=True) if code >= 0]
    seen: dict[int, int] = {}
    pattern = [seen.setdefault(code, len(seen)) for _, code in kept]
    return label < 0, not kept, label, [token for token, _ in kept], pattern, [code for _, code in kept]


def _number_by_occurrence(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in the order in which they first occur, and the place of each value among them."""
    names, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return names[order], np.argsort(order)[place]
