"""The tap that `model.attach(host)` leaves on a host."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from ..hosts import hooks
from ..hosts.step_buffer import StepBuffer
from .modeling_base import BaseConceptModel


class Tap(AbstractContextManager):
    """Concepts of a host's latest call, kept up to date by hooks.

    Made by [`ConceptModel.attach`][clvq_hf.ConceptModel.attach]. A call of the host replaces what is on the tap; a
    call that continues a KV cache (a step of `generate()`) is appended to it, and if the cache was rolled back first
    (assisted decoding), the codes are rolled back too.

    Example:
        ```python
        with model.attach(host) as tap:
            host(**tokenizer("what a wonderful film", return_tensors="pt"))
        tap.codes  # (1, S)
        ```
    """

    def __init__(self, model: BaseConceptModel, host: Any, keep_states: bool = True) -> None:
        self._model = model
        self._keep_states = keep_states
        self._buffer = StepBuffer()
        config = model.config
        self._layers = {config.lower_layer, config.upper_layer} if keep_states else {config.lower_layer}
        self._handle = hooks.capture(host, layers=sorted(self._layers), stack=config.stack, callback=self._record)

    @property
    def codes(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(B, S)`, int64: one concept per token, `-1` on padding.

        Raises:
            RuntimeError: If the host was not called yet.
        """
        return self._joined("codes")

    @property
    def hidden_states(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(B, S, d)`: states at `lower_layer`, detached, in the host's dtype."""
        return self._joined(self._model.config.lower_layer)

    @property
    def target_hidden_states(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(B, S, d')`: states at `upper_layer`, detached, in the host's dtype."""
        return self._joined(self._model.config.upper_layer)

    def remove(self) -> None:
        """Take the hooks off the host; what is on the tap stays readable. May be called twice."""
        self._handle.remove()

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    def _joined(self, what: str | int) -> torch.Tensor:
        if what != "codes" and not self._keep_states:
            raise RuntimeError("This tap keeps codes only; attach with keep_states=True for the states.")
        if not len(self._buffer):
            raise RuntimeError("Nothing on the tap yet: call the host while it is attached.")
        return self._buffer[what]

    @torch.no_grad()
    def _record(self, states: dict[int, torch.Tensor], attention_mask: torch.Tensor, past_length: int | None) -> None:
        """Called by the hook room once a host forward: `past_length` tokens lie in the cache (`None`: unknown > 0)."""
        lower = states[self._model.config.lower_layer]
        codes = self._model.encode(lower.to(self._model.device), attention_mask.to(self._model.device))
        kept = {layer: states[layer].detach() for layer in self._layers} if self._keep_states else {}
        self._buffer.add({"codes": codes, **kept}, past_length)
