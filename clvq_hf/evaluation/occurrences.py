"""Real occurrences of words in training texts: the state of each, and its code."""

from dataclasses import dataclass

import numpy as np
import torch

# Of rarer words the mean states of their codes would be those of single tokens.
MIN_OCCURRENCES = 20
# Of a frequent word as many are kept, drawn at random: "the" alone is one token in twenty.
MAX_OCCURRENCES = 100
# A code that a word has less often is not known of this word.
MIN_OF_CODE = 5


@dataclass(frozen=True)
class Occurrences:
    """Occurrences of each token type that occurs at least 20 times, at most 100 of each, sorted by type.

    Special tokens and attention sinks are left out.

    Attributes:
        ids (`torch.Tensor` of shape `(N,)`, int64): Token ids.
        codes (`torch.Tensor` of shape `(N,)`, int64): Their codes.
        states (`torch.Tensor` of shape `(N, d)`, float32): Their states at `lower_layer`.
    """

    ids: torch.Tensor
    codes: torch.Tensor
    states: torch.Tensor

    def of_word(self, word: int) -> slice:
        """Where the occurrences of a token id are; empty for one that occurs too rarely."""
        first, end = np.searchsorted(self.ids.numpy(), [word, word + 1])
        return slice(int(first), int(end))


class OccurrenceDraw:
    """Draws the occurrences that are kept, while the training texts are read.

    Which are drawn depends on the order of the tokens alone, not on their codes, so that methods get the same ones.
    """

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)
        self._parts: list[tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._waiting = 0
        self._counts = np.zeros(0, np.int64)

    def add(self, ids: torch.Tensor, codes: torch.Tensor, states: torch.Tensor) -> None:
        """Add tokens: ids `(N,)`, codes `(N,)`, and states `(N, d)`."""
        if len(ids) == 0:
            return
        ids = ids.long()
        size = max(len(self._counts), int(ids.max()) + 1)
        self._counts = np.pad(self._counts, (0, size - len(self._counts))) + np.bincount(ids.numpy(), minlength=size)
        self._parts.append((self._generator.random(len(ids)), ids, codes.long(), states.float()))
        self._waiting += len(ids)
        kept = len(self._parts[0][1])
        if self._waiting > 2 * kept + 10_000:  # so that memory holds little more than what is kept
            self._parts = [self._drawn()]
            self._waiting = len(self._parts[0][1])

    def occurrences(self) -> Occurrences:
        """What was drawn."""
        if not self._parts:
            return Occurrences(*torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 0))
        _, ids, codes, states = self._drawn()
        frequent = torch.from_numpy(self._counts >= MIN_OCCURRENCES)[ids]
        return Occurrences(ids[frequent], codes[frequent], states[frequent])

    def _drawn(self) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each type the tokens with the smallest random numbers, sorted by type."""
        numbers = np.concatenate([part[0] for part in self._parts])
        ids, codes, states = (torch.cat([part[column] for part in self._parts]) for column in (1, 2, 3))
        order = np.lexsort((numbers, ids.numpy()))
        ordered = ids.numpy()[order]
        rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        order = order[rank < MAX_OCCURRENCES]
        chosen = torch.from_numpy(order)
        return numbers[order], ids[chosen], codes[chosen], states[chosen]


__all__ = ["MIN_OF_CODE", "OccurrenceDraw", "Occurrences"]
