"""K-means, exact and the same for any number of threads: Lloyd's algorithm that skips tokens which cannot change.

Distances are computed in float32, and again in float64 where two centroids are so near that rounding could decide.
Bounds after Hamerly (SDM 2010): a token is looked at again only if its centroid has moved away, or another could have
come nearer, by as much as the gap between its nearest two.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# Tokens among which starts are tried, at least, and per centroid.
MIN_SAMPLE, SAMPLE_PER_CENTROID = 8192, 8
# Scores that a thread holds at once: 16 MiB.
BLOCK_SCORES = 2**22
# A float32 squared distance is wrong by less than this share of (|x| + |c|)²: twice what was seen at widths up to 4096.
ROUNDING = 2e-6
_one_at_a_time = threading.Lock()


def kmeans(
    states: torch.Tensor, num_clusters: int, seed: int = 0, *, num_starts: int = 1, max_steps: int = 300
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster states by squared distance.

    Starts are seeded by greedy k-means++ and run to their end on a sample; the best goes on with all states until no
    assignment changes, or for `max_steps`. The same states and seed give the same clusters for any number of threads.

    Args:
        states (`torch.Tensor` of shape `(N, d)`): On the CPU.
        num_clusters (`int`): `K`, at most `N`.
        seed (`int`): Of the sample and the starts.
        num_starts (`int`): How many starts are tried.
        max_steps (`int`): Steps at most, on the sample and on all states.

    Returns:
        `tuple`: centroids `(K, d)`, float32, and the cluster of each state `(N,)`, int64. A cluster is empty only if
        fewer than `K` states are distinct.

    Raises:
        ValueError: If a state is NaN or infinite.
    """
    with _workers() as run:
        states = states.detach()
        states = states if states.dtype == torch.float64 else states.float()
        center = states.mean(0, dtype=torch.float64).to(states.dtype)
        if not torch.isfinite(center).all():
            raise ValueError("States that are NaN or infinite cannot be clustered.")
        states = (states - center).float()
        generator = np.random.default_rng(seed)
        size = max(MIN_SAMPLE, SAMPLE_PER_CENTROID * num_clusters)
        sample = states
        if len(states) > size:
            sample = states[torch.from_numpy(generator.choice(len(states), size, replace=False))]
        starts = [_Lloyd(sample, _plus_plus(sample, num_clusters, generator), run) for _ in range(num_starts)]
        for start in starts:
            start.converge(max_steps)
        search = min(starts, key=_Lloyd.inertia)
        if sample is not states:
            search = _Lloyd(states, search.centroids, run)
            search.converge(max_steps)
        return (search.centroids + center.double()).float(), search.labels


class _Lloyd:
    """Lloyd's algorithm from given centroids.

    Args:
        states (`torch.Tensor` of shape `(N, d)`): Float32, about their mean.
        centroids (`torch.Tensor` of shape `(K, d)`): Float64.
        run: Applies a function to each of a list, in several threads.
    """

    def __init__(self, states: torch.Tensor, centroids: torch.Tensor, run: Callable[..., list[Any]]) -> None:
        self.states, self.centroids, self._run = states, centroids, run
        self._lengths = torch.linalg.vector_norm(states, dim=1).double()
        self.labels = states.new_full((len(states),), -1, dtype=torch.int64)
        # Distance to the own centroid at most, and to any other at least.
        self._upper, self._lower = self._lengths.new_full((2, len(states)), torch.inf)
        self._lower.fill_(-torch.inf)
        self._sums, self._counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
        rows = max(256, min(8192, BLOCK_SCORES // len(centroids)))
        self._blocks = [slice(start, start + rows) for start in range(0, len(states), rows)]

    def converge(self, max_steps: int) -> None:
        """Step until no assignment changes and no cluster is empty."""
        for _ in range(max_steps):
            rows, before = self._assign_all()
            if len(rows):
                self._move(rows, before)
            elif not self._fill_empty():
                return
        self._assign_all()

    def inertia(self) -> float:
        """Sum of squared distances to the centroids."""
        return sum(float(self._own_squares(part).sum()) for part in self._blocks)

    def _assign_all(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows, before = zip(*self._run(self._assign, self._blocks), strict=True)
        return torch.cat(rows), torch.cat(before)

    def _assign(self, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Look at those of a block that may have changed; their rows that have, and where these were."""
        rows = (self._upper[block] >= self._lower[block]).nonzero()[:, 0] + block.start
        states, lengths = self.states[rows], self._lengths[rows]
        centroids, squares = self.centroids.float(), self.centroids.square().sum(1)
        scores = torch.addmm(squares.float(), states, centroids.T, alpha=-2)
        near, order = scores.topk(min(2, len(centroids)), dim=1, largest=False)
        near = near.double()
        errors = ROUNDING * (lengths + squares.max().sqrt()).square()
        labels = order[:, 0]
        gap = near[:, -1] - near[:, 0]
        if (unsure := (gap <= 2 * errors).nonzero()[:, 0]).numel():
            exact = squares - 2 * states[unsure].double() @ self.centroids.T
            near[unsure], order = exact.topk(near.shape[1], dim=1, largest=False)
            labels[unsure] = order[:, 0]
        distances = near + lengths.square()[:, None]
        self._upper[rows] = (distances[:, 0] + errors).clamp(min=0).sqrt()
        self._lower[rows] = (distances[:, -1] - errors).clamp(min=0).sqrt() if len(centroids) > 1 else torch.inf
        before = self.labels[rows]
        self.labels[rows] = labels
        changed = labels != before
        return rows[changed], before[changed]

    def _fill_empty(self) -> bool:
        """Give clusters without members the states that are farthest from their own; whether there were any."""
        empty = (self._counts == 0).nonzero()[:, 0]
        if len(empty) == 0:
            return False
        squares = torch.cat([self._own_squares(part) for part in self._blocks])
        far, rows = squares.topk(min(len(empty), len(squares)))
        rows = rows[far > 0]
        self.centroids[empty[: len(rows)]] = self.states[rows].double()
        self._upper.fill_(torch.inf)
        self._lower.fill_(-torch.inf)
        return len(rows) > 0

    def _own_squares(self, block: slice) -> torch.Tensor:
        """Squared distances of a block's states to their centroids."""
        return (self.states[block].double() - self.centroids[self.labels[block]]).square().sum(1)

    def _move(self, rows: torch.Tensor, before: torch.Tensor) -> None:
        """Move the centroids to their members' means; one without members stays."""
        states, weights = self.states[rows].double(), self._lengths.new_ones(len(rows))
        old = before >= 0
        for clusters, part, sign in ((self.labels[rows], slice(None), 1), (before[old], old, -1)):
            self._sums.index_add_(0, clusters, states[part], alpha=sign)
            self._counts.index_add_(0, clusters, weights[part], alpha=sign)
        means = self._sums / self._counts.clamp(min=1)[:, None]
        moved = torch.where(self._counts[:, None] > 0, means, self.centroids)
        steps = torch.linalg.vector_norm(moved - self.centroids, dim=1)
        self.centroids = moved
        self._upper += steps[self.labels]
        # Of the centroid that has moved farthest, members have to fear the second farthest.
        far, which = steps.topk(min(2, len(steps)))
        self._lower -= torch.where(self.labels == which[0], far[-1], far[0])


def _plus_plus(states: torch.Tensor, num_clusters: int, generator: np.random.Generator) -> torch.Tensor:
    """Centroids `(K, d)`, float64, by greedy k-means++: each the best of a few states drawn by squared distance."""
    num_trials = 2 + int(np.log(num_clusters))
    squares = states.square().sum(1)

    def distances(rows: torch.Tensor) -> torch.Tensor:
        return torch.addmm(squares[:, None], states, states[rows].T, alpha=-2).add_(squares[rows]).clamp_(min=0)

    chosen = torch.from_numpy(generator.choice(len(states), 1))
    nearest, rows = distances(chosen)[:, 0], [chosen]
    for _ in range(num_clusters - 1):
        # A race of exponential waiting times: a little noise changes no draw, as it would in a cumulative sum.
        waiting = torch.from_numpy(generator.standard_exponential((num_trials, len(states)), dtype=np.float32))
        trials = (nearest / waiting.clamp_(min=1e-30)).argmax(1)
        found = torch.minimum(distances(trials), nearest[:, None])
        best = found.sum(0, dtype=torch.float64).argmin()
        nearest = found[:, best]
        rows.append(trials[best, None])
    return states[torch.cat(rows)].double()


@contextmanager
def _workers() -> Generator[Callable[..., list[Any]]]:
    """A `map` over blocks, in as many threads as torch has, of which each works alone.

    So sums and products are of the same blocks in the same order, whatever the number of threads. Products are of whole
    float32 numbers, and tensors of the usual kind, whatever the caller has chosen.
    """
    # What is set here holds for the process.
    with _one_at_a_time, torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        try:
            with ThreadPoolExecutor(threads) as pool:
                yield lambda function, blocks: list(pool.map(function, blocks))
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.set_num_threads(threads)


__all__ = ["kmeans"]
