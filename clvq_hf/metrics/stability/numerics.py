"""Whether two concept models found the same concepts: pure functions on lists and arrays."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score

# A vector shorter than this share of the longest is zero but for rounding (of float32): it has no direction.
ZERO = 1e-6
# What two codebooks add to the result.
MATCH_FIGURES = (
    "matched_cosine",
    "active_matched_cosine",
    "null_matched_cosine",
    "null_active_matched_cosine",
    "match",
)


def stability(
    codes: Sequence[Sequence[int]],
    reference_codes: Sequence[Sequence[int]],
    codebook: ArrayLike | None = None,
    reference_codebook: ArrayLike | None = None,
    num_null: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Agreement of two models' codes of the same tokens, and of their codebooks.

    Args:
        codes (`Sequence[Sequence[int]]`): One code per token of each text, a text a row.
        reference_codes (`Sequence[Sequence[int]]`): The other model's codes of the same tokens. A token counts if both
            its codes are 0 or more.
        codebook (`ArrayLike` of shape `(K, d)`, *optional*): Vectors of the codes; row *i* is that of code *i*.
        reference_codebook (`ArrayLike` of shape `(K', d)`, *optional*): Vectors of the reference codes. K and K' may
            differ, the width not: both must live in the same layer of the same host.
        num_null (`int`, defaults to 10): Draws of unrelated codebooks ([`shuffled_axes`]) for the null.
        seed (`int`, defaults to 0): Of those draws.

    Returns:
        `dict[str, Any]`: None stands for what is undefined: all cosines without codebooks, or with fewer than two codes
        to match.

        - **ami** (`float`): Adjusted mutual information of the two labellings of tokens: 1 for the same up to names, 0
          in the mean for unrelated ones, may be a little below. Higher is more stable.
        - **num_tokens** (`int`): Tokens that have both codes.
        - **num_codes**, **num_reference_codes** (`int`): Codes that they use.
        - **matched_cosine** (`float`, from -1 to 1): Mean cosine of the [`match`]. Higher is more stable, but only
          beside the null.
        - **active_matched_cosine** (`float`, from -1 to 1): The same of the codes in use, each match weighted by the
          tokens that use either of its codes.
        - **null_matched_cosine**, **null_active_matched_cosine** (`float`): Means over draws of the same with an
          unrelated codebook of the same shape in place of the reference codebook.
        - **match** (`list[dict]`): Of all codes `code`, `reference_code`, `cosine`, `count`, `reference_count`. The
          larger codebook has codes left over; a code at the mean has no direction and is matched with none.

    Raises:
        ValueError: If codes don't pair up, no token counts, only one codebook is given, the codebooks differ in width,
            or a code has no vector.
    """
    if num_null < 1:
        raise ValueError(f"num_null must be at least 1, got {num_null}.")
    tokens, reference_tokens = paired_tokens(codes, reference_codes)
    comparison = dict.fromkeys(MATCH_FIGURES)
    if codebook is not None and reference_codebook is not None:
        codebook, reference_codebook = as_codebook(codebook), as_codebook(reference_codebook)
        uses = count_uses(tokens, len(codebook))
        reference_uses = count_uses(reference_tokens, len(reference_codebook))
        comparison = compare_codebooks(codebook, reference_codebook, uses, reference_uses, num_null, seed)
    elif codebook is not None or reference_codebook is not None:
        raise ValueError("Only one codebook is given: matching needs both, or leave both out.")
    return {
        "ami": float(adjusted_mutual_info_score(reference_tokens, tokens)),
        "num_tokens": len(tokens),
        "num_codes": len(np.unique(tokens)),
        "num_reference_codes": len(np.unique(reference_tokens)),
        **comparison,
    }


def compare_codebooks(
    codebook: np.ndarray,
    reference_codebook: np.ndarray,
    uses: np.ndarray,
    reference_uses: np.ndarray,
    num_null: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Cosines of matched vectors of two codebooks of one width, and what unrelated codebooks of their shape would give.

    Args:
        codebook (`np.ndarray` of shape `(K, d)`, float64): The vectors.
        reference_codebook (`np.ndarray` of shape `(K', d)`, float64): The others.
        uses (`np.ndarray` of shape `(K,)`, int64): Tokens of each code.
        reference_uses (`np.ndarray` of shape `(K',)`, int64): Tokens of each of the others.
        num_null (`int`): Draws of the null.
        seed (`int`): Of those draws.

    Returns:
        `dict[str, Any]`: `MATCH_FIGURES`, as in [`stability`].

    Raises:
        ValueError: If the codebooks differ in width.
    """
    if codebook.shape[1] != reference_codebook.shape[1]:
        raise ValueError(
            f"The codebooks are {codebook.shape[1]} and {reference_codebook.shape[1]} wide: vectors can be compared "
            "only in one space, those of the same layer of the same host."
        )
    # A draw must not depend on the numbers of the codes.
    order = np.lexsort((reference_uses, *reference_codebook.T))
    shuffled, shuffled_uses = reference_codebook[order], reference_uses[order]
    active, reference_active, shuffled_active = uses > 0, reference_uses > 0, shuffled_uses > 0
    generator = np.random.default_rng(seed)
    null = [matched_cosine(codebook, shuffled_axes(shuffled, generator)) for _ in range(num_null)]
    active_null = [
        matched_cosine(
            codebook[active],
            shuffled_axes(shuffled[shuffled_active], generator),
            (uses[active], shuffled_uses[shuffled_active]),
        )
        for _ in range(num_null)
    ]
    return {
        "matched_cosine": matched_cosine(codebook, reference_codebook),
        "active_matched_cosine": matched_cosine(
            codebook[active], reference_codebook[reference_active], (uses[active], reference_uses[reference_active])
        ),
        "null_matched_cosine": _mean(null),
        "null_active_matched_cosine": _mean(active_null),
        "match": [
            {
                "code": int(code),
                "reference_code": int(reference_code),
                "cosine": float(cosine),
                "count": int(uses[code]),
                "reference_count": int(reference_uses[reference_code]),
            }
            for code, reference_code, cosine in zip(*match(codebook, reference_codebook), strict=True)
        ],
    }


def paired_tokens(
    codes: Sequence[Sequence[int]], reference_codes: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Both codes, as two int64 arrays, of each token that has both.

    Raises:
        ValueError: If rows don't pair up, or no token has both codes.
    """
    if len(codes) != len(reference_codes):
        raise ValueError(f"codes has {len(codes)} texts, reference_codes {len(reference_codes)}: give the same texts.")
    for row, (mine, reference) in enumerate(zip(codes, reference_codes, strict=True)):
        if len(mine) != len(reference):
            raise ValueError(
                f"Row {row} has {len(mine)} codes and {len(reference)} reference codes: both models must read the "
                "same tokens."
            )
        if None in mine or None in reference:
            raise ValueError(f"Row {row} has a code that is None: write -1 for tokens that are to be left out.")
    tokens = np.fromiter(chain.from_iterable(codes), np.int64)
    reference_tokens = np.fromiter(chain.from_iterable(reference_codes), np.int64)
    kept = (tokens >= 0) & (reference_tokens >= 0)
    if not kept.any():
        raise ValueError("No token has a code of both models: all codes of one or the other are negative.")
    return tokens[kept], reference_tokens[kept]


def as_codebook(vectors: ArrayLike) -> np.ndarray:
    """A finite float64 array of shape `(K, d)`.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        array = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("A codebook must be rows of numbers of one width.") from error
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"A codebook must be finite numbers in two dimensions; got the shape {array.shape}.")
    return array


def count_uses(tokens: np.ndarray, num_codes: int) -> np.ndarray:
    """Tokens of each code, `(num_codes,)`.

    Raises:
        ValueError: If a code has no vector.
    """
    if tokens.max() >= num_codes:
        raise ValueError(f"The code {tokens.max()} has no vector: the codebook has {num_codes} rows.")
    return np.bincount(tokens, minlength=num_codes)


def match(codebook: np.ndarray, reference_codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The one-to-one match of codes that has the largest sum of cosines of centred vectors (Hungarian method).

    Each codebook is centred on its own mean, or their large common mean would make everything alike. The larger one
    has codes left over. A vector at the mean has no direction and is matched with none.

    Args:
        codebook (`np.ndarray` of shape `(K, d)`): The vectors.
        reference_codebook (`np.ndarray` of shape `(K', d)`): The others.

    Returns:
        Three arrays `(pairs,)`: rows of `codebook`, rows of `reference_codebook`, cosines.
    """
    rows, units = _centred_units(codebook)
    reference_rows, reference_units = _centred_units(reference_codebook)
    cosines = np.clip(units @ reference_units.T, -1, 1)
    index, reference_index = linear_sum_assignment(cosines, maximize=True)
    return rows[index], reference_rows[reference_index], cosines[index, reference_index]


def matched_cosine(
    codebook: np.ndarray, reference_codebook: np.ndarray, weights: tuple[np.ndarray, np.ndarray] | None = None
) -> float | None:
    """Mean cosine of the [`match`]; with the uses of the codes of both, weighted by the uses of the two matched.

    None if no code can be matched: a single vector is its own mean.
    """
    index, reference_index, cosines = match(codebook, reference_codebook)
    if not len(cosines):
        return None
    weight = None if weights is None else weights[0][index] + weights[1][reference_index]
    return float(np.average(cosines, weights=weight))


def shuffled_axes(codebook: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A codebook of the same mean and the same spread along each principal axis, and nothing else in common.

    In the axes of its own principal components, every coordinate is permuted among the codes, each axis by itself. The
    mean and the values along each axis stay exactly, and so does, but for chance, the covariance (principal
    components don't correlate). Which coordinates belong together in one code is gone.
    """
    mean = codebook.mean(axis=0)
    scores, scales, axes = np.linalg.svd(codebook - mean, full_matrices=False)
    return mean + (generator.permuted(scores, axis=0) * scales) @ axes


def _centred_units(codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a direction about the mean, and that direction."""
    centred = codebook - codebook.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1)
    rows = np.flatnonzero(norms > ZERO * np.linalg.norm(codebook, axis=1).max())
    return rows, centred[rows] / norms[rows, None]


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
