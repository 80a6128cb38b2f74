"""`ResidualStream`: the location of a host's residual stream, and the layout of its blocks' states."""

from dataclasses import dataclass

import torch

from .host import UnsupportedHostError


@dataclass(frozen=True)
class ResidualStream:
    """The residual stream of one stack of a host.

    Attributes:
        stack: `"encoder"` or `"decoder"` on encoder-decoder hosts, otherwise `None`.
        num_blocks: Number of block calls in one forward, L. Valid layers are 0 to L.
        hidden_sizes: Width of the stream at layers 0 to L, a tuple of length L + 1.
        usual_norms: Norms of the states of 14 tokens at layers 0 to L; what is far longer is an attention sink.
        is_causal: Whether no position attends to a later one (found by perturbing the last token).
        scope_name: Name of the module whose forward is one pass through the stack (`""`: the host itself).
        scope_parameters: Names of that forward's parameters, in order.
        list_name: Name of the `nn.ModuleList` of the blocks.
        block_names: Names of the blocks in call order, length L. Shared blocks (ALBERT) occur several times.
        input_key: Position or keyword of the stream among a block's arguments.
        output_index: Index of the stream in a block's tuple or list output; `None` if the output is the stream.
        time_first: Whether blocks see `(T, B, d)` instead of `(B, T, d)`.
        prefix_length: Number of positions that the host inserts before those of the input (CPM-Ant).
        pads_tail: Whether the host may append positions to those of the input (padding to a window, n-gram streams).
    """

    stack: str | None
    num_blocks: int
    hidden_sizes: tuple[int, ...]
    usual_norms: tuple[tuple[float, ...], ...]
    is_causal: bool
    scope_name: str
    scope_parameters: tuple[str, ...]
    list_name: str
    block_names: tuple[str, ...]
    input_key: int | str
    output_index: int | None
    time_first: bool
    prefix_length: int
    pads_tail: bool

    def check_layer(self, layer: int) -> None:
        """Check that `layer` is an integer from 0 to L.

        Raises:
            ValueError: If it is not; the message names the number of blocks.
        """
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= self.num_blocks:
            blocks = f"the host's {self.stack} has" if self.stack else "the host has"
            raise ValueError(
                f"Layer {layer!r} does not exist: {blocks} {self.num_blocks} blocks, so layers run from 0 (the first "
                f"block's input) to {self.num_blocks} (the last block's output)."
            )

    def read(self, state: torch.Tensor, batch_size: int, length: int) -> torch.Tensor:
        """View a block's state, `(B, T, d)` or `(T, B, d)`, as `(B, S, d)`, without positions that the host added.

        Raises:
            UnsupportedHostError: If the state does not have one vector per input position.
        """
        start = self._start(state, batch_size, length)
        state = state.transpose(0, 1) if self.time_first else state
        return state if state.shape[1] == length else state[:, start : start + length]

    def write(self, state: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Return edited states `new` `(B, S, d)` in the layout of `state`, with the positions that the host added."""
        batch_first = state.transpose(0, 1) if self.time_first else state
        length = new.shape[1]
        if batch_first.shape[1] != length:
            start = self._start(state, *new.shape[:2])
            new = torch.cat([batch_first[:, :start], new, batch_first[:, start + length :]], dim=1)
        return new.transpose(0, 1) if self.time_first else new

    def _start(self, state: torch.Tensor, batch_size: int, length: int) -> int:
        shape = tuple(state.shape)
        if state.ndim == 3:
            batch, total = (shape[1], shape[0]) if self.time_first else shape[:2]
            if batch == batch_size:
                if total == length:
                    return 0
                if self.prefix_length and total == self.prefix_length + length:
                    return self.prefix_length
                if self.pads_tail and total > length:
                    return 0
        raise UnsupportedHostError(
            f"A block's state has shape {shape}: not one vector for each of the {batch_size} x {length} input "
            "positions. If the host drops padding (FlashAttention unpadding), load it with "
            "attn_implementation='sdpa' or 'eager'."
        )


def check_layer_order(lower_layer: int | None, upper_layer: int | None) -> None:
    """Refuse negative and swapped layers.

    Raises:
        ValueError: If a layer is negative or not an integer, or `lower_layer` is above `upper_layer`.
    """
    for name, layer in (("lower_layer", lower_layer), ("upper_layer", upper_layer)):
        if layer is not None and (not isinstance(layer, int) or layer < 0):
            raise ValueError(f"{name} counts from 0 (the first block's input), got {layer!r}.")
    if lower_layer is not None and upper_layer is not None and lower_layer > upper_layer:
        raise ValueError(
            f"lower_layer={lower_layer} is above upper_layer={upper_layer}; did you swap them? States of the lower "
            "layer are decoded into those of the upper layer."
        )


__all__ = ["ResidualStream", "check_layer_order"]
