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
        codes (`Sequence[Sequence[int]]`): One code per token of each text; negative ones are left out.
        codebook_size (`int`): Number of codes `K`.
        details (`bool`): Whether to add `counts`, the tokens of each code.

    Returns:
        `dict[str, Any]`: `perplexity` (`exp(H)`, from 1 to `K`), `entropy` (`H` in bits), `gini` (over all `K` codes),
        `active_codes`, `active_share`, `codes_per_text`, `num_tokens`, `num_texts`, `num_empty`.

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
