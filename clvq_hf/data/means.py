"""Running means of states by an id: of codes, words, classes."""

import torch
import torch.nn.functional as F


class MeansById:
    """Running means by an id. Only ids that occur take memory: a vocabulary times a wide state would be gigabytes."""

    def __init__(self, width: int) -> None:
        # Of each id the row of its sum, -1 for none yet.
        self._rows = torch.empty(0, dtype=torch.int64)
        self._sums = torch.zeros(0, width, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._used = 0

    def add(self, ids: torch.Tensor, states: torch.Tensor) -> None:
        """Add states `(N, d)` of ids `(N,)`."""
        if len(ids) == 0:
            return
        ids = ids.long()
        found = ids.unique()
        self._rows = F.pad(self._rows, (0, max(0, int(found[-1]) + 1 - len(self._rows))), value=-1)
        new = found[self._rows[found] < 0]
        self._rows[new] = torch.arange(self._used, self._used + len(new))
        self._used += len(new)
        if (missing := self._used - len(self._counts)) > 0:
            missing = max(missing, len(self._counts))  # twice as many, so that it is seldom
            self._sums, self._counts = F.pad(self._sums, (0, 0, 0, missing)), F.pad(self._counts, (0, missing))
        rows = self._rows[ids]
        self._sums.index_add_(0, rows, states.double())
        self._counts.index_add_(0, rows, torch.ones_like(rows))

    def fill(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Means `(size, d)`, float32, zero where there are none, and counts `(size,)` of the ids from 0."""
        ids, means, counts = self.means()
        filled = means.new_zeros(size, self._sums.shape[1]), counts.new_zeros(size)
        return filled[0].index_copy(0, ids, means), filled[1].index_copy(0, ids, counts)

    def means(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids `(V,)`, ascending, their means `(V, d)`, float32, and counts `(V,)`."""
        ids = (self._rows >= 0).nonzero().flatten()
        rows = self._rows[ids]
        counts = self._counts[rows]
        return ids, (self._sums[rows] / counts[:, None]).float(), counts


__all__ = ["MeansById"]
