"""How evenly a codebook is used: perplexity, entropy, Gini index, active codes.

Pure functions on lists and arrays.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from scipy.stats import entropy


def codebook_usage(codes: Sequence[Sequence[int]], codebook_size: int, details: bool = False) -> dict[str, Any]:
    """Figures of how often each code of a codebook occurs.

    Args:
        codes (`Sequence[Sequence[int]]`): One code per token of each text, one text a row. Negative codes (padding,
            special tokens) are left out.
        codebook_size (`int`): Number of codes of the codebook, used or not.
        details (`bool`, defaults to `False`): Whether to add `counts`.

    Returns:
        `dict[str, Any]`:

        - **perplexity** (`float`): exp of the entropy of the codes' frequencies, from 1 to `codebook_size`; higher is
          more even.
        - **entropy** (`float`): That entropy, from 0 to log2(`codebook_size`) bits.
        - **gini** (`float`): Gini index over all codes of the codebook, from 0 (all equally often) to
          1 − 1 ÷ `codebook_size` (one has all tokens).
        - **active_codes** (`int`), **active_share** (`float`): Codes that occur, and their share of the codebook.
        - **codes_per_text** (`float`): Mean number of distinct codes of a text.
        - **num_tokens**, **num_texts** (`int`): Tokens with a code, and texts with such a token.
        - **num_empty** (`int`): Texts without one.
        - **counts** (`list[int]`, details): Tokens of each code.

    Raises:
        ValueError: If `codebook_size` is below 1, a code is None or not in the codebook, or no token has a code.
    """
    if codebook_size < 1:
        raise ValueError(f"codebook_size must be at least 1, got {codebook_size}.")
    if any(row is None or None in row for row in codes):
        raise ValueError("A code is None: write -1 for tokens that are to be left out.")
    lengths = np.array([len(row) for row in codes], np.int64)
    flat = np.fromiter(chain.from_iterable(codes), np.int64, lengths.sum())
    kept = flat >= 0
    text, code = np.repeat(np.arange(len(codes)), lengths)[kept], flat[kept]
    if not len(code):
        raise ValueError("No token has a code from 0 up: give the codes of at least one text.")
    if code.max() >= codebook_size:
        raise ValueError(
            f"Code {code.max()} is not in a codebook of {codebook_size} codes, 0 to {codebook_size - 1}: give the "
            "codebook_size of the model that made the codes."
        )
    counts = np.bincount(code, minlength=codebook_size)
    used_texts = len(np.unique(text))
    results = {
        "perplexity": float(np.exp(entropy(counts))),
        "entropy": float(entropy(counts, base=2)),
        "gini": gini(counts),
        "active_codes": int(np.count_nonzero(counts)),
        "active_share": float(np.count_nonzero(counts) / codebook_size),
        "codes_per_text": float(len(np.unique(text * codebook_size + code)) / used_texts),
        "num_tokens": len(code),
        "num_texts": used_texts,
        "num_empty": len(codes) - used_texts,
    }
    return results | {"counts": counts.tolist()} if details else results


def gini(counts: np.ndarray) -> float:
    """Gini index of counts `(K,)`, not all zero: 0 if all are equal, (K − 1)/K if one code has all tokens.

    Half the mean absolute difference of two codes, relative to the mean: `Σ_i (2i − K − 1)·n_(i) / (K·Σn)` with the
    counts in ascending order.
    """
    size = len(counts)
    return float((2 * np.arange(1, size + 1) - size - 1) @ np.sort(counts) / (size * counts.sum()))
