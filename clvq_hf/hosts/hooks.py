"""Capture and edit a host's residual stream with forward hooks, and stop the host early.

```python
with capture(host, [4, 8]) as states:
    host(**batch)
states[4]                                        # (B, S, d), what block 5 received

with edit(host, 4, lambda state: state * 0.5):   # the host continues with the edited state
    host(**batch)
```

Layer 0 is the first block's input, layer `i` the output of the `i`-th block that runs, before any final norm.
Everything is removed on exit, even after an exception. `probe.py` finds the blocks.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import transformers
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache

from .host import (
    UnsupportedHostError,
    check_checkpointing,
    evaluation_mode,
    input_device,
    max_length,
    refuse_compiled,
    reserved_positions,
    unwrap,
)
from .probe import probing, residual_stream
from .residual_stream import ResidualStream

__all__ = [
    "Capture",
    "Edit",
    "ResidualStream",
    "UnsupportedHostError",
    "capture",
    "edit",
    "evaluation_mode",
    "input_device",
    "max_length",
    "residual_stream",
    "run",
    "unwrap",
]

CaptureCallback = Callable[[dict[int, torch.Tensor], torch.Tensor, int | None], None]

# Inverted masks, true on padding: FSMT's decoder, XLNet.
_PADDING_ARGUMENTS = ("decoder_padding_mask", "input_mask")


class _StopForward(Exception):
    """Ends a host's forward once every requested layer was seen; caught by the capture that raised it."""

    def __init__(self, owner: "Capture") -> None:
        super().__init__("the host was stopped after the highest captured layer; use capture(stop=True) in a `with`")
        self.owner = owner


class _Handle:
    """Hooks on the blocks up to one layer, which count the calls; `_see` receives each state that passes.

    The order is checked at every call, because a skipped block (LayerDrop) would shift every layer after it.
    """

    _prepend = False

    def __init__(self, host: nn.Module, layers: Sequence[int], stack: str | None) -> None:
        model = unwrap(host)
        self.stream = residual_stream(host, stack)
        if not layers:
            raise ValueError("layers is empty; name at least one layer.")
        for layer in layers:
            self.stream.check_layer(layer)
        self._layers = frozenset(layers)
        refuse_compiled(model, {self.stream.scope_name, *self.stream.block_names})
        self._scope = model.get_submodule(self.stream.scope_name)
        blocks = [model.get_submodule(name) for name in self.stream.block_names]
        hooked = set(blocks[: max(1, max(self._layers))])
        # A block that is called again above the highest layer (ALBERT) fires there too, so all its turns are listed.
        self._turns = [(layer, block) for layer, block in enumerate(blocks, 1) if block in hooked]
        self._turn: int | None = None
        self._removable: list[RemovableHandle] = []
        try:
            self._register(blocks[0], hooked)
        except BaseException:
            self.remove()
            raise

    def _register(self, first: nn.Module, hooked: set[nn.Module]) -> None:
        add = self._removable.append
        add(self._scope.register_forward_pre_hook(self._enter, with_kwargs=True))
        add(self._scope.register_forward_hook(self._leave))
        if 0 in self._layers:
            add(first.register_forward_pre_hook(self._before_first, with_kwargs=True, prepend=self._prepend))
        for block in hooked:
            add(block.register_forward_hook(self._after_block, prepend=self._prepend))

    def remove(self) -> None:
        """Remove every hook from the host; calling it again has no effect."""
        while self._removable:
            self._removable.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: Any) -> bool:
        self.remove()
        return False

    def _see(self, layer: int, state: torch.Tensor) -> torch.Tensor | None:
        """Handle one state `(B, S, d)`; a returned tensor of the same shape replaces it, None leaves it."""
        raise NotImplementedError  # abstract

    def _enter(self, scope: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if probing():
            return
        check_checkpointing(scope, [block for _, block in self._turns])
        self._arguments = _Arguments(self.stream, scope, args, kwargs)
        self._turn = 0
        self._begin()

    def _begin(self) -> None:
        """Prepare for a forward of the stack, whose inputs are in `_arguments`."""

    def _leave(self, scope: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if probing():
            return
        turn, self._turn = self._turn, None
        if turn != len(self._turns):
            raise _out_of_turn(self.stream, f"{turn} of {len(self._turns)} watched block calls happened")

    def _before_first(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._turn != 0 or probing():  # a shared first block, called again
            return None
        key = self.stream.input_key
        new = self._pass(0, args[key] if isinstance(key, int) else kwargs[key])
        if new is None:
            return None
        if isinstance(key, int):
            return (*args[:key], new, *args[key + 1 :]), kwargs
        return args, {**kwargs, key: new}

    def _after_block(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if probing():
            return None
        turn = self._turn
        if turn is None:
            raise _out_of_turn(self.stream, "a block ran outside of its stack's forward")
        if turn == len(self._turns) or self._turns[turn][1] is not block:
            raise _out_of_turn(self.stream, "the blocks did not run in the order they were found in")
        self._turn = turn + 1
        layer = self._turns[turn][0]
        if layer not in self._layers:
            return None
        index = self.stream.output_index
        new = self._pass(layer, output if index is None else output[index])
        if new is None or index is None:
            return new
        items = [*output[:index], new, *output[index + 1 :]]
        return items if isinstance(output, list) else tuple(items)

    def _pass(self, layer: int, state: torch.Tensor) -> torch.Tensor | None:
        seen = self.stream.read(state, self._arguments.batch_size, self._arguments.length)
        new = self._see(layer, seen)
        return None if new is None else self.stream.write(state, new)


class Capture(_Handle, Mapping[int, torch.Tensor]):
    """A read-only mapping from layer to the latest `(B, S, d)` state, from [`capture`][clvq_hf.hosts.hooks.capture].

    It is also a context manager, and `remove` removes its hooks. The states remain readable afterwards.
    """

    def __init__(
        self, host: nn.Module, layers: Sequence[int], stack: str | None, stop: bool, callback: CaptureCallback | None
    ) -> None:
        self._states: dict[int, torch.Tensor] = {}
        self._stop = stop
        self._callback = callback
        super().__init__(host, layers, stack)
        self._last = max(self._layers)

    def __getitem__(self, layer: int) -> torch.Tensor:
        if layer in self._states:
            return self._states[layer]
        if layer in self._layers:
            raise KeyError(f"layer {layer} has not been seen: the host has not run inside this capture")
        raise KeyError(f"layer {layer} was not requested; this capture holds layers {sorted(self._layers)}")

    def __iter__(self) -> Iterator[int]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __exit__(self, *exc_info: Any) -> bool:
        self.remove()
        error = exc_info[1]
        return isinstance(error, _StopForward) and error.owner is self

    def _begin(self) -> None:
        self._states.clear()
        if self._callback is not None:
            # Now, because the cache fills while the host runs.
            self._past_length = self._arguments.past_length()

    def _see(self, layer: int, state: torch.Tensor) -> None:
        self._states[layer] = state
        if layer == self._last:
            if self._callback is not None:
                self._callback(dict(self._states), self._arguments.mask(state.device), self._past_length)
            if self._stop:
                raise _StopForward(self)


class Edit(_Handle):
    """A context manager, returned by [`edit`][clvq_hf.hosts.hooks.edit]; `remove` removes the edit."""

    # Before transformers' own hooks, which record output_hidden_states: they should report the edited state.
    _prepend = True

    def __init__(
        self, host: nn.Module, layer: int, fn: Callable[..., torch.Tensor], stack: str | None, with_mask: bool
    ) -> None:
        self._fn = fn
        self._with_mask = with_mask
        self._applied = False
        super().__init__(host, [layer], stack)

    def __exit__(self, *exc_info: Any) -> bool:
        if exc_info[1] is None and not self._applied:
            warnings.warn("an edit was never applied: the host did not run inside it", RuntimeWarning, stacklevel=2)
        return super().__exit__(*exc_info)

    def _begin(self) -> None:
        # Now, because the cache fills while the host runs.
        self._past_length = self._arguments.past_length() if self._with_mask else 0

    def _see(self, layer: int, state: torch.Tensor) -> torch.Tensor | None:
        self._applied = True
        if self._with_mask:
            new = self._fn(state, self._arguments.mask(state.device), self._past_length)
        else:
            new = self._fn(state)
        if new is state:
            return None
        if not isinstance(new, torch.Tensor) or new.shape != state.shape:
            got = f"shape {tuple(new.shape)}" if isinstance(new, torch.Tensor) else type(new).__name__
            raise ValueError(
                f"An edit must return a tensor of the shape it received, {tuple(state.shape)}; at layer {layer} it "
                f"returned {got}."
            )
        # Mamba's stream is float32 in a bfloat16 model: the state's own dtype counts, not the host's.
        return new.to(device=state.device, dtype=state.dtype)


def capture(
    host: nn.Module,
    layers: Sequence[int],
    stack: str | None = None,
    stop: bool = False,
    callback: CaptureCallback | None = None,
) -> Capture:
    """Capture hidden states while the host runs.

    Hooks are registered immediately, all or none. Use the result in a `with` block, or call its `remove()`.
    The states are the tensors that the host computes with, not copies: gradients flow through them, and an in-place
    change of one changes the other.

    Args:
        host: A transformers model; see `residual_stream`.
        layers: Which layers, from 0 (the first block's input) to L (the last block's output, before a final norm).
        stack: `"encoder"` (default) or `"decoder"` on encoder-decoder hosts, `None` elsewhere.
        stop: Whether to stop the host after the highest layer, by an exception that the `with` block swallows. Lines
            after the host's call in the block are skipped.
        callback: Called once per forward after the highest layer, as `callback(states, attention_mask, past_length)`:
            the states by layer, each `(B, S, d)`; a `(B, S)` bool mask of the real tokens among these positions
            (all true if the stack received no mask); the number of earlier positions in the cache, as in `generate()`
            (0 without a cache, None if a cache is filled but does not know its length, as Mamba's).

    Returns:
        A mapping from layer to the `(B, S, d)` states of the latest forward, in the host's dtype and on its device.

    Raises:
        UnsupportedHostError: If the host's residual stream cannot be found with certainty.
        ValueError: If a layer or the stack does not exist.
    """
    return Capture(host, layers, stack, stop, callback)


def edit(
    host: nn.Module, layer: int, fn: Callable[..., torch.Tensor], stack: str | None = None, with_mask: bool = False
) -> Edit:
    """Replace the hidden states at one layer while the host runs.

    A capture of the same layer sees the edited states, and so does `output_hidden_states` on hosts that record it
    with hooks. If a layer has several edits, the one registered last runs first.

    Args:
        host: A transformers model; see `residual_stream`.
        layer: Which layer, from 0 (the first block's input) to L (the last block's output, before a final norm).
        fn: Maps `(B, S, d)` to `(B, S, d)`; the result is cast to the dtype and device of the state.
        stack: `"encoder"` (default) or `"decoder"` on encoder-decoder hosts, `None` elsewhere.
        with_mask: Whether to call `fn(states, attention_mask, past_length)`, with the same mask and number of cached
            positions as the callback of `capture`.

    Returns:
        A handle that is a context manager and has `remove()`.

    Raises:
        UnsupportedHostError: If the host's residual stream cannot be found with certainty.
        ValueError: If the layer or the stack does not exist; during the forward, if `fn` changes the shape.
    """
    return Edit(host, layer, fn, stack, with_mask)


def run(
    host: nn.Module, inputs: Mapping[str, Any], layers: Sequence[int], stack: str | None = None
) -> dict[int, torch.Tensor]:
    """Run the host up to the highest of `layers` and return their hidden states.

    Args:
        host: A transformers model; see `residual_stream`.
        inputs: Keyword arguments of the host, passed unchanged.
        layers: Which layers, 0 to L.
        stack: `"encoder"` (default) or `"decoder"` on encoder-decoder hosts, `None` elsewhere.

    Returns:
        Layer to `(B, S, d)`, in the host's dtype and on its device.

    Raises:
        UnsupportedHostError: If the host's residual stream cannot be found with certainty.
        ValueError: If a layer or the stack does not exist.
    """
    with capture(host, layers, stack=stack, stop=True) as states:
        host(**inputs)
    return {layer: states[layer] for layer in layers}


def _out_of_turn(stream: ResidualStream, reason: str) -> RuntimeError:
    return RuntimeError(
        f"Layers cannot be distinguished: {reason} (expected {stream.num_blocks} calls of {stream.list_name}). "
        "LayerDrop in train mode skips blocks, and gradient checkpointing may repeat them: put the host in eval mode. "
        "Compiled code may skip hooks: call the uncompiled host."
    )


class _Arguments:
    """The arguments of a call of the stack: the shape of its input, its mask, its cache."""

    def __init__(
        self, stream: ResidualStream, scope: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._scope = scope
        names = stream.scope_parameters
        self._values = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
        tokens = self._values.get("input_ids")
        if tokens is None:
            tokens = self._values.get("inputs_embeds")
        if tokens is None:
            raise ValueError(f"{type(scope).__name__} was called with neither input_ids nor inputs_embeds.")
        self.batch_size, self.length = tokens.shape[:2]

    def mask(self, device: torch.device) -> torch.Tensor:
        """The `(B, S)` bool mask of real tokens."""
        mask = self._values.get("attention_mask")
        if mask is None:
            padding = next((m for name in _PADDING_ARGUMENTS if (m := self._values.get(name)) is not None), None)
            mask = None if padding is None else padding == 0
        if mask is None:
            if "decoder_padding_mask" in self._values:
                raise ValueError("FSMT drops the decoder's mask when it uses a cache; call it with use_cache=False.")
            return torch.ones(self.batch_size, self.length, dtype=torch.bool, device=device)
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or mask.shape[1] < self.length:
            shape = f"of shape {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else f"({type(mask).__name__})"
            raise ValueError(
                f"The attention mask {shape} that reached the host does not mark which of the {self.batch_size} x "
                f"{self.length} positions are real; call the host with a 2-D attention_mask (batch, sequence)."
            )
        # During generation the mask covers the cache too; its end belongs to these positions.
        return mask[:, mask.shape[1] - self.length :].to(device).bool()

    def past_length(self) -> int | None:
        """Number of earlier positions in the cache when the stack was called; None if filled but without a length."""
        # By what they are: releases of transformers, and models, call them by different names.
        caches = [value for value in self._values.values() if _is_cache(value)]
        if not caches:
            self._check_whole()
        lengths = [_cached_length(cache) for cache in caches]
        known = [length for length in lengths if length is not None]
        return max(known, default=0) if len(known) == len(lengths) else None

    def _check_whole(self) -> None:
        """Refuse a call that goes on with a text although no cache is found: it would be taken for a new text."""
        mask, positions = self._values.get("attention_mask"), self._values.get("position_ids")
        reason = None
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] > self.length:
            reason = f"an attention mask of {mask.shape[1]} positions for {self.length} tokens"
        elif isinstance(positions, torch.Tensor) and positions.numel():
            first = int(positions.min())
            # RoBERTa reserves the first positions for padding.
            if first > 0 and first > max(reserved_positions(module) for module in self._scope.modules()):
                reason = f"position_ids from {first} on"
        if reason is not None:
            raise ValueError(
                f"{type(self._scope).__name__} was called with {reason}, but with no cache that is known here, so how "
                f"the text began is unknown (transformers {transformers.__version__}). Call the host on the whole text "
                "with use_cache=False."
            )


def _is_cache(value: Any) -> bool:
    """Whether an argument holds keys and values, or a recurrent state, of earlier positions.

    These are transformers' caches, lists of states (XLNet, RWKV) and classes of models' own (xLSTM).
    """
    if isinstance(value, Cache):
        return True
    if isinstance(value, (tuple, list)):
        return any((isinstance(item, torch.Tensor) and item.is_floating_point()) or _is_cache(item) for item in value)
    return type(value).__name__.endswith("Cache")


def _cached_length(cache: Any) -> int | None:
    cache = getattr(cache, "self_attention_cache", cache)
    if not isinstance(cache, Cache):
        return None
    layers = cache.layers
    lengths = [int(layer.get_seq_length()) for layer in layers if hasattr(layer, "get_seq_length")]
    if any(lengths):
        return max(lengths)
    for layer in layers:  # Mamba's states have no positions
        seen = getattr(layer, "has_previous_state", False)
        if any(seen.values()) if isinstance(seen, dict) else seen:
            return None
    return 0
