"""What a host's latest call left behind, continued over the steps of `generate()`."""

import sys
from collections.abc import Hashable, Mapping

import torch


class StepBuffer:
    """Tensors by name, each `(B, S, …)`, of the latest call of a host.

    A call replaces what is held; one that continues a KV cache is appended, and if the cache was rolled back first
    (assisted decoding), the buffer is rolled back too.
    """

    def __init__(self) -> None:
        self._pieces: dict[Hashable, list[torch.Tensor]] = {}

    def __len__(self) -> int:
        """Number of positions held."""
        return sum(piece.shape[1] for piece in next(iter(self._pieces.values()), []))

    def __getitem__(self, name: Hashable) -> torch.Tensor:
        pieces = self._pieces[name]
        if len(pieces) > 1:
            pieces[:] = [torch.cat(pieces, dim=1)]
        return pieces[0]

    def add(self, tensors: Mapping[Hashable, torch.Tensor], past_length: int | None) -> None:
        """Hold the tensors of one forward.

        Args:
            tensors (`Mapping[Hashable, torch.Tensor]`): Each of shape `(B, S, …)`; the same names at each call.
            past_length (`int`, *optional*): Positions in the host's cache before it; `None` if some, unknown how many.

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
    """Beam search reorders the rows of the cache between steps; what is appended would belong to other beams.

    Nothing that reaches the host's forward tells of beams, so we look for the search among our callers.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_beam_search":
            raise ValueError(
                "Beam search reorders rows between steps, so what is seen at a step cannot be appended to the earlier "
                "ones. Call generate(num_beams=1), or attach after generation and call the host once on the "
                "finished text."
            )
        frame = frame.f_back


__all__ = ["StepBuffer"]
