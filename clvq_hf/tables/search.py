"""Which concepts stand for a pattern of characters, or for a slice of the texts: how precisely, and how completely."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import regex

# Of computing, for all texts together: some patterns take longer than the age of the universe.
MAX_SECONDS = 60.0
# Columns of a table's texts that divide them.
SLICE_COLUMNS = ("label", "prediction", "split", "dataset")


def tokens_that_match(pattern: str, texts: Sequence[str], owners: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Which tokens share a character with a match of a regular expression, `(N,)` bool.

    Args:
        pattern (`str`): The expression, in the syntax of the package `regex` (that of `re`, and more). Case counts
            unless it begins with `(?i)`.
        texts (`Sequence[str]`): M texts.
        owners (`np.ndarray` of shape `(N,)`): The text of each token, ascending.
        spans (`np.ndarray` of shape `(N, 2)`): Start and end of each token in its text, in characters.

    Raises:
        ValueError: If the expression is none, or takes longer than a minute.
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}.") from error
    has = np.zeros(len(owners), dtype=bool)
    bounds = np.searchsorted(owners, np.arange(len(texts) + 1))
    until = time.process_time() + MAX_SECONDS
    for number, text in enumerate(texts):
        first, last = bounds[number : number + 2]
        starts, ends = spans[first:last].T
        try:
            left = max(until - time.process_time(), 1e-3)
            for match in compiled.finditer(text, timeout=left):
                has[first:last] |= (starts < match.end()) & (ends > match.start())
        except TimeoutError as error:
            raise ValueError(
                f"{pattern!r} took longer than {MAX_SECONDS:.0f} seconds. Repetitions inside repetitions, such as "
                "(a+)+, take very long: write it without them."
            ) from error
    return has


def score_codes(codes: np.ndarray, is_wanted: np.ndarray, num_wanted: int, codebook_size: int) -> pd.DataFrame:
    """How well each code stands for what is wanted, the best first.

    Args:
        codes (`np.ndarray` of shape `(N,)`): Codes of tokens, or of pairs of text and concept.
        is_wanted (`np.ndarray` of shape `(N,)`, bool): Which of them are wanted.
        num_wanted (`int`): How many tokens or texts are wanted.
        codebook_size (`int`): K.

    Returns:
        `pandas.DataFrame`: `code`, `found` (wanted ones with this code), `total` (all with this code), `precision`,
        `recall`, `f1`. Codes that find nothing are left out.
    """
    total = np.bincount(codes, minlength=codebook_size)
    found = np.bincount(codes[is_wanted], minlength=codebook_size)
    some = np.flatnonzero(found)
    found, total = found[some], total[some]
    precision, recall = found / total, found / max(num_wanted, 1)
    f1 = 2 * precision * recall / (precision + recall)
    columns = {"code": some, "found": found, "total": total, "precision": precision, "recall": recall, "f1": f1}
    return pd.DataFrame(columns).sort_values(["f1", "code"], ascending=[False, True], ignore_index=True)


def read_slice(wanted: str) -> tuple[str, str]:
    """Column and value of `COLUMN=VALUE`.

    Raises:
        ValueError: If it is not of that form, or a table's texts have no such column.
    """
    column, equals, value = wanted.partition("=")
    if not equals or column not in SLICE_COLUMNS:
        raise ValueError(
            f"A slice is COLUMN=VALUE with one of the columns {', '.join(SLICE_COLUMNS)}, got {wanted!r}."
        )
    return column, value


def texts_of_slice(values: Sequence[Any], value: str, column: str) -> np.ndarray:
    """Which texts have this value, `(M,)` bool.

    Raises:
        ValueError: If none has; the message lists the values.
    """
    spelled = np.asarray([str(own) for own in values], dtype=object)
    is_in = spelled == value
    if not is_in.any():
        known = sorted(set(spelled))
        listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
        raise ValueError(f"No text has the {column} {value!r}; there are {listed}.")
    return is_in


__all__ = ["SLICE_COLUMNS", "read_slice", "score_codes", "texts_of_slice", "tokens_that_match"]
