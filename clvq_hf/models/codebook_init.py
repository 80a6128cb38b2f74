"""Where a codebook starts: `K` vectors chosen from a sample of encoder states.

The three ways share one signature and one seed, and give the same codebook for any number of threads and processes.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .kmeans import kmeans


def initial_codebook(
    states: torch.Tensor, codebook_size: int, method: str = "spherical-kmeans++", seed: int = 0
) -> torch.Tensor:
    """Choose the first codebook from a sample of encoder states `(N, d)`: `(K, d)`, float32, on the CPU.

    - `"random"`: distinct states of the sample, drawn without replacement.
    - `"kmeans++"`: K-means with k-means++ seeding; a code is the mean of its members.
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
    states = states.detach().to("cpu", torch.float32)
    if not torch.isfinite(states).all():
        raise ValueError("The sample of encoder states contains NaN or Inf; a codebook cannot start from it.")
    if method == "random":
        chosen = np.random.default_rng(seed).choice(len(states), codebook_size, replace=False)
        return states[torch.from_numpy(chosen)]
    if method == "kmeans++":
        return kmeans(states, codebook_size, seed)[0]
    if method == "spherical-kmeans++":
        return _spherical(states, codebook_size, seed)
    raise ValueError(f"Unknown method {method!r}; choose 'spherical-kmeans++', 'kmeans++' or 'random'.")


def _spherical(states: torch.Tensor, codebook_size: int, seed: int) -> torch.Tensor:
    norms = torch.linalg.vector_norm(states, dim=1).double()
    centroids, codes = kmeans(_unit(states), codebook_size, seed)
    counts = torch.bincount(codes, minlength=codebook_size)
    lengths = norms.new_zeros(codebook_size).index_add_(0, codes, norms) / counts.clamp(min=1)
    # A centroid that lost all its members keeps its direction, at the length of an average state.
    lengths = torch.where(counts > 0, lengths, norms.mean())
    return _unit(centroids) * lengths[:, None].float()


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length one; a zero row has no direction and stays zero."""
    return F.normalize(rows, dim=1, eps=torch.finfo(torch.float32).tiny)
