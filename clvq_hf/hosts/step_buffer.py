"""`StepBuffer`: tensors of a host's latest call, continued over the steps of `generate()`."""

import sys
from collections.abc import Hashable, Mapping

import torch

# The method of transformers' GenerationMixin that runs a beam search.
BEAM_SEARCH = "_beam_search"


class StepBuffer:
    """Tensors by name, each `(B, S, …)`, of the latest call of a host.

    A call replaces the tensors, unless it continues a KV cache: then it is appended. If the cache was rolled back
    before (assisted decoding), the buffer is rolled back too.
    """

    def __init__(self) -> None:
        self._pieces: dict[Hashable, list[torch.Tensor]] = {}

    def __len__(self) -> int:
        """Number of positions in the buffer."""
        return sum(piece.shape[1] for piece in next(iter(self._pieces.values()), []))

    def __getitem__(self, name: Hashable) -> torch.Tensor:
        pieces = self._pieces[name]
        if len(pieces) > 1:
            pieces[:] = [torch.cat(pieces, dim=1)]
        return pieces[0]

    def add(self, tensors: Mapping[Hashable, torch.Tensor], past_length: int | None) -> None:
        """Add the `(B, S, …)` tensors of one forward; the same names at each call.

        `past_length` is the length of the host's cache before this forward; `None` if it is filled but does not know
        its length.

        Raises:
            ValueError: In beam search.
        """
        if past_length == 0 or not self._pieces:
            self._pieces = {name: [] for name in tensors}
        else:
            _refuse_beams()
            if past_length is not None and past_length < len(self):
                for pieces in self._pieces.values():
                    pieces[:] = [torch.cat(pieces, dim=1)[:, :past_length]]
        for name, tensor in tensors.items():
            self._pieces[name].append(tensor)


def _refuse_beams() -> None:
    """Raise in beam search, which reorders the rows of the cache between steps: rows would belong to other beams.

    No argument of the host's forward reveals beams, so the search is looked up among the callers.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == BEAM_SEARCH:
            raise ValueError(
                "Beam search reorders rows between steps, so the states of a step cannot be appended to earlier ones. "
                "Call generate(num_beams=1), or attach after generation and call the host once on the finished text."
            )
        frame = frame.f_back


__all__ = ["StepBuffer"]
