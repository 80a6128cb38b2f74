"""How alike the vectors of a codebook are: pure functions on arrays, tile by tile, never K × K at once."""

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# A vector shorter than this share of the longest is zero but for rounding (of float32): it has no direction.
ZERO = 1e-6
# Rows and columns of a tile of the matrix of pairs: 16 MB in float32.
TILE = 2048


class NearestNeighbours:
    """The largest cosine of each vector to another, found tile by tile.

    Args:
        inverse_norms (`np.ndarray` of shape `(n,)`, float32): 1 ÷ norm of each vector, 0 for one without a direction,
            which is left out.

    Attributes:
        cosine (`np.ndarray` of shape `(n,)`, float32): Of each vector and its nearest, -inf if it has none.
        index (`np.ndarray` of shape `(n,)`, int64): The nearest, -1 if there is none.
    """

    def __init__(self, inverse_norms: np.ndarray) -> None:
        self.inverse_norms = inverse_norms
        self.cosine = np.full(len(inverse_norms), -np.inf, np.float32)
        self.index = np.full(len(inverse_norms), -1)

    def update(self, rows: slice, columns: slice, products: np.ndarray) -> None:
        """Read one tile of inner products; it counts for its transpose too."""
        cosines = products * self.inverse_norms[rows, None]
        cosines *= self.inverse_norms[None, columns]
        cosines[self.inverse_norms[rows] == 0] = -np.inf
        cosines[:, self.inverse_norms[columns] == 0] = -np.inf
        if rows == columns:
            np.fill_diagonal(cosines, -np.inf)
        else:
            self._improve(columns, rows, cosines.T)
        self._improve(rows, columns, cosines)

    def _improve(self, rows: slice, columns: slice, cosines: np.ndarray) -> None:
        place = cosines.argmax(axis=1)
        best = cosines[np.arange(len(place)), place]
        better = best > self.cosine[rows]
        self.cosine[rows][better] = best[better]
        self.index[rows][better] = place[better] + columns.start

    def mean(self) -> float | None:
        """Mean cosine to the nearest, of the vectors that have one."""
        found = self.index >= 0
        return float(self.cosine[found].mean(dtype=np.float64)) if found.any() else None


def codebook_similarity(vectors: ArrayLike, counts: ArrayLike, details: bool = False) -> dict[str, Any]:
    """Mean cosine and distance of distinct codes, and cosine to the nearest, of all codes and of those in use.

    Args:
        vectors (`ArrayLike` of shape `(K, d)`): The vector of each code, one a row.
        counts (`ArrayLike` of shape `(K,)`, integers): Number of tokens that use each code, in the same order; a code
            in use has one or more.
        details (`bool`, defaults to `False`): Whether to describe each code.

    Returns:
        `dict[str, Any]`: None stands for what is undefined: fewer than two codes in use (`num_active`), or fewer than
        two vectors with a direction.

        - **mean_cosine** (`float`, from -1 to 1): Mean cosine of the pairs of distinct codes.
        - **mean_centred_cosine** (`float`, from -1 to 1): The same of the vectors less their mean.
        - **mean_euclidean** (`float`, from 0 up, in the units of the vectors): Mean Euclidean distance of the pairs.
        - **nearest_cosine**, **nearest_centred_cosine** (`float`, from -1 to 1): Mean over codes of the largest cosine
          to another code: 1 if every code has a duplicate.
        - **mean_norm_ratio** (`float`, from 0 to 1): Norm of the mean vector ÷ mean norm: 0 without a common mean.
        - **active_mean_cosine**, **active_mean_centred_cosine**, **active_mean_euclidean**, **active_nearest_cosine**,
          **active_nearest_centred_cosine**, **active_mean_norm_ratio** (`float`): The same of the codes in use, centred
          on their own mean.
        - **num_codes**, **num_active** (`int`): Codes, and those in use.
        - **num_zero** (`int`): Vectors of zero norm (a millionth of the longest, or less), which have no cosine and are
          left out of it. So is a vector at the mean from the centred ones. Distances and means include them.
        - **codes** (`list[dict]`, details): In the order of the rows `code`, `count`, `norm`, `nearest_code`,
          `nearest_cosine`, `nearest_centred_code`, `nearest_centred_cosine`.

    Raises:
        ValueError: If there are fewer than two codes, vectors differ in width or are not finite, or counts are not
            non-negative integers, one a code.
    """
    vectors = _as_codebook(vectors)
    counts = np.asarray(counts)
    if len(vectors) < 2:
        raise ValueError(f"Similarity is between two codes: give at least two vectors, got {len(vectors)}.")
    if counts.shape != (len(vectors),) or not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise ValueError("counts must be one number of tokens per vector, 0 or more.")
    figures, plain, centred = _compare(vectors)
    active = figures if counts.min() > 0 else _compare(vectors[counts > 0])[0]
    result = {
        **figures,
        **{f"active_{name}": value for name, value in active.items()},
        "num_codes": len(vectors),
        "num_active": int(np.sum(counts > 0)),
        "num_zero": int(np.sum(plain.inverse_norms == 0)),
    }
    if details:
        result["codes"] = [
            {
                "code": code,
                "count": int(counts[code]),
                "norm": float(np.linalg.norm(vectors[code])),
                **_neighbour("nearest", plain, code),
                **_neighbour("nearest_centred", centred, code),
            }
            for code in range(len(vectors))
        ]
    return result


def _compare(vectors: np.ndarray) -> tuple[dict[str, float | None], NearestNeighbours, NearestNeighbours]:
    """Figures of one set of vectors `(n, d)`, and the neighbours of plain and of centred vectors.

    One product of matrices a tile serves all. It is that of the centred vectors c, which loses fewer digits:
    `x·y = c·c' + μ·c + μ·c' + |μ|²`, and distances are the same.
    """
    mean = vectors.mean(axis=0, dtype=np.float64) if len(vectors) else np.zeros(vectors.shape[1])
    centred = (vectors - mean).astype(np.float32)
    norms, centred_norms = np.linalg.norm(vectors, axis=1), np.linalg.norm(centred, axis=1)
    longest = norms.max(initial=0)
    plain_neighbours = NearestNeighbours(_inverse(norms, longest))
    centred_neighbours = NearestNeighbours(_inverse(centred_norms, longest))
    # Half of |μ|² comes with the row of a product, half with its column.
    with_mean = (centred @ mean + mean @ mean / 2).astype(np.float32)
    squares = np.square(centred_norms)
    total_distance = 0.0
    parts = [slice(start, min(start + TILE, len(vectors))) for start in range(0, len(vectors), TILE)]
    for rows, columns in combinations_with_replacement(parts, 2):
        products = centred[rows] @ centred[columns].T
        centred_neighbours.update(rows, columns, products)
        distances = squares[rows, None] + squares[None, columns] - 2 * products
        if rows == columns:
            np.fill_diagonal(distances, 0)
        # Rounding makes the squared distance of equal vectors a little less than zero.
        distance = np.sqrt(np.maximum(distances, 0)).sum(dtype=np.float64)
        total_distance += float(distance if rows == columns else 2 * distance)
        products += with_mean[rows, None]
        products += with_mean[None, columns]
        plain_neighbours.update(rows, columns, products)
    for neighbours in (plain_neighbours, centred_neighbours):
        np.clip(neighbours.cosine, -1, 1, out=neighbours.cosine)
    num_pairs = len(vectors) * (len(vectors) - 1)
    figures = {
        "mean_cosine": _mean_cosine(vectors, plain_neighbours.inverse_norms),
        "mean_centred_cosine": _mean_cosine(centred, centred_neighbours.inverse_norms),
        "mean_euclidean": total_distance / num_pairs if num_pairs else None,
        "nearest_cosine": plain_neighbours.mean(),
        "nearest_centred_cosine": centred_neighbours.mean(),
        "mean_norm_ratio": (
            float(np.linalg.norm(mean) / norms.mean(dtype=np.float64)) if num_pairs and longest > 0 else None
        ),
    }
    return figures, plain_neighbours, centred_neighbours


def _mean_cosine(vectors: np.ndarray, inverse_norms: np.ndarray) -> float | None:
    """Mean cosine of distinct pairs, from the sum of the unit vectors u: `(|Σu|² - n) ÷ n(n - 1)`."""
    num_vectors = int(np.sum(inverse_norms > 0))
    if num_vectors < 2:
        return None
    total = inverse_norms.astype(np.float64) @ vectors
    return float((total @ total - num_vectors) / (num_vectors * (num_vectors - 1)))


def _inverse(norms: np.ndarray, longest: float) -> np.ndarray:
    """1 ÷ norm, 0 for vectors without a direction."""
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > ZERO * longest)


def _neighbour(name: str, neighbours: NearestNeighbours, code: int) -> dict[str, float | int | None]:
    found = neighbours.index[code] >= 0
    return {
        f"{name}_code": int(neighbours.index[code]) if found else None,
        f"{name}_cosine": float(neighbours.cosine[code]) if found else None,
    }


def _as_codebook(vectors: ArrayLike) -> np.ndarray:
    """A finite float32 array `(K, d)` out of rows."""
    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError("vectors must be rows of numbers of one width, one row per code.") from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"vectors must be rows of numbers, one row per code; got the shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("vectors hold NaN or infinity: leave broken codes out, with their counts.")
    return array
