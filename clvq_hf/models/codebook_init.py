"""Where a codebook starts: `K` vectors chosen from a sample of encoder states.

The three ways share one signature and one seed, and run on one thread: with several, the order of floating-point sums,
and so the codebook, would depend on the machine's cores and on the number of processes.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from sklearn.cluster import MiniBatchKMeans


def initial_codebook(
    states: torch.Tensor, codebook_size: int, method: str = "spherical-kmeans++", seed: int = 0
) -> torch.Tensor:
    """Choose the first codebook from a sample of encoder states `(N, d)`: `(K, d)`, float32, on the CPU.

    - `"random"`: distinct states of the sample, drawn without replacement.
    - `"kmeans++"`: mini-batch k-means with k-means++ seeding; a code is the mean of its members.
    - `"spherical-kmeans++"` (the paper's): the same on unit vectors; each centroid is renormalised, then scaled by the
      mean norm of its members.

    Raises:
        ValueError: If there are fewer states than codes, a state is not finite, or the method is unknown.
    """
    if states.ndim != 2:
        raise ValueError(f"states must have the shape (N, d), got {tuple(states.shape)}.")
    if len(states) < codebook_size:
        raise ValueError(
            f"codebook_size={codebook_size} is larger than the number of available states ({len(states)}). "
            "Choose a smaller codebook or give more text."
        )
    sample = states.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(sample).all():
        raise ValueError("The sample of encoder states contains NaN or Inf; a codebook cannot start from it.")
    if method == "random":
        chosen = np.random.default_rng(seed).choice(len(sample), codebook_size, replace=False)
        return torch.from_numpy(sample[chosen])
    if method == "kmeans++":
        return torch.from_numpy(_cluster(sample, codebook_size, seed).cluster_centers_.astype(np.float32))
    if method == "spherical-kmeans++":
        return torch.from_numpy(_spherical(sample, codebook_size, seed))
    raise ValueError(f"Unknown method {method!r}; choose 'spherical-kmeans++', 'kmeans++' or 'random'.")


def _cluster(sample: np.ndarray, codebook_size: int, seed: int) -> "MiniBatchKMeans":
    from sklearn.cluster import MiniBatchKMeans  # at use: it takes longer to import than all of this package

    kmeans = MiniBatchKMeans(
        codebook_size, init="k-means++", n_init=1, batch_size=4096, max_iter=50, random_state=seed, compute_labels=True
    )
    with threadpool_limits(limits=1):
        return kmeans.fit(sample)


def _spherical(sample: np.ndarray, codebook_size: int, seed: int) -> np.ndarray:
    norms = np.linalg.norm(sample, axis=1)
    unit = _unit(sample)
    kmeans = _cluster(unit, codebook_size, seed)
    members = np.bincount(kmeans.labels_, minlength=codebook_size)
    summed_norms = np.bincount(kmeans.labels_, weights=norms, minlength=codebook_size)
    # A centroid that lost all its members keeps its direction, at the length of an average state.
    lengths = np.where(members > 0, summed_norms / np.maximum(members, 1), norms.mean())
    return (_unit(kmeans.cluster_centers_) * lengths[:, None]).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one; a zero row has no direction and stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
