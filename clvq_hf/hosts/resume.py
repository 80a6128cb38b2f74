"""Rerun only a host's upper blocks, from a changed state."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .hooks import capture, edit, residual_stream, unwrap


class Resume:
    """A host on one batch, ready to continue from any state at one layer.

    Made by [`resume`][clvq_hf.hosts.resume]. The lower blocks' outputs are stored and replayed instead of calling the
    blocks, so their other outputs (position biases, attentions) reach the upper blocks too.

    Attributes:
        state: `(B, S, d)`, the state at the layer, detached.
        output: The host's output, without gradients.
    """

    def __init__(self, host: nn.Module, inputs: Mapping[str, Any], layer: int, stack: str | None) -> None:
        self._host = host
        self._inputs = dict(inputs)
        self._layer = layer
        self._stack = stack
        stream = residual_stream(host, stack)
        stream.check_layer(layer)
        model = unwrap(host)
        self._scope = model.get_submodule(stream.scope_name)
        # A block that several layers share (ALBERT) occurs once here; calls are counted to distinguish its layers.
        self._lower = list(dict.fromkeys(model.get_submodule(name) for name in stream.block_names[:layer]))
        self._outputs: list[Any] = []
        recorders = [block.register_forward_hook(self._record) for block in self._lower]
        try:
            with torch.no_grad(), capture(host, [layer], stack=stack) as states:
                self.output = host(**self._inputs)
        finally:
            for recorder in recorders:
                recorder.remove()
        self.state = states[layer].detach()

    def __call__(self, state: torch.Tensor) -> Any:
        """Return the output of the host when it continues with `state`.

        Args:
            state (`torch.Tensor` of shape `(B, S, d)`): Replaces the state at the layer; gradients flow to it.

        Returns:
            The host's output for the same inputs.
        """

        def replace(_: torch.Tensor) -> torch.Tensor:
            return state

        originals = {block: block.forward for block in self._lower}
        own = {block for block in self._lower if "forward" in vars(block)}
        begin = self._scope.register_forward_pre_hook(self._begin)
        try:
            for block, forward in originals.items():
                block.forward = self._replayed(forward)
            with edit(self._host, self._layer, replace, stack=self._stack):
                return self._host(**self._inputs)
        finally:
            begin.remove()
            for block, forward in originals.items():
                # As before: an attribute of the block itself (accelerate sets one), or the method of its class.
                if block in own:
                    block.forward = forward
                else:
                    del block.forward

    def with_texts(self, state: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the states at the layer with those of `state` `(B, S, d)` where `mask` `(B, S)` is nonzero.

        All other positions keep their own: padding, and what follows a text (see `Readout.append`), for which the
        states at the layer may have more positions than `state`.
        """
        width = mask.shape[1]
        here = mask.bool().to(self.state.device)[..., None]
        new = torch.where(here, state.to(self.state), self.state[:, :width])
        return torch.cat([new, self.state[:, width:]], dim=1)

    def _record(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if len(self._outputs) < self._layer:
            self._outputs.append(output)

    def _begin(self, scope: nn.Module, args: tuple[Any, ...]) -> None:
        self._turn = 0

    def _replayed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def replay(*args: Any, **kwargs: Any) -> Any:
            turn, self._turn = self._turn, self._turn + 1
            return self._outputs[turn] if turn < self._layer else forward(*args, **kwargs)

        return replay


def resume(host: nn.Module, inputs: Mapping[str, Any], layer: int, stack: str | None = None) -> Resume:
    """Run the host once on a batch, so that it can continue from changed states at `layer`.

    Args:
        host: A transformers model in evaluation mode; see `residual_stream`.
        inputs: Keyword arguments of the host. Turn its cache off (`use_cache=False`), because replayed blocks would not
            fill it.
        layer: The layer to continue from, 0 (the first block's input) to L.
        stack: `"encoder"` (default) or `"decoder"` on encoder-decoder hosts, `None` elsewhere.

    Returns:
        A `Resume` with `.state` and `.output`; call it with a changed state.

    Raises:
        UnsupportedHostError: If the host's residual stream cannot be found with certainty.
        ValueError: If the layer or the stack does not exist.

    Example:
        ```python
        upper = resume(host, {"input_ids": ids, "attention_mask": mask}, layer=3)
        upper(upper.state * 0.5).logits
        ```
    """
    return Resume(host, inputs, layer, stack)


__all__ = ["Resume", "resume"]
