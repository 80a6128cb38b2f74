"""Finding a host's residual stream: which modules are its blocks, their order, and how states are laid out.

Nothing is looked up by architecture. One tiny forward is watched, and the blocks are the modules whose calls form the
chain that the host itself reports as `output_hidden_states`. A host for which that cannot be shown is refused: a
wrong block would make every figure downstream wrong without any sign of it.
"""

import inspect
import itertools
import random
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .host import input_device, refusal, unwrap
from .residual_stream import ResidualStream

# The probe's shape. Batch and length differ and the length is odd, so that a swapped layout or padding to a multiple
# of a window cannot go unseen.
_PROBE_BATCH, _PROBE_LENGTH = 2, 7

# Hosts that pad the end of the input to a multiple of a block size, where the probe cannot show it: BigBird does so
# only for inputs far longer than the probe, Pegasus-X reports its hidden states with the padding.
_PADS_THE_END = {"big_bird", "bigbird_pegasus", "pegasus_x"}


def residual_stream(host: nn.Module, stack: str | None = None) -> ResidualStream:
    """Find the residual stream of a host with a tiny probe forward, or return what was found before.

    The probe takes two forwards of 2 x 7 tokens in eval mode without gradients; the host is left as it was (training
    flags, attributes, hooks, random states).

    Args:
        host: A transformers model, with or without a task head, PEFT adapters or `DistributedDataParallel`.
        stack: `"encoder"` or `"decoder"` on encoder-decoder hosts (`None` means encoder), `None` elsewhere.

    Returns:
        The `ResidualStream`, kept until the host is collected or its blocks are replaced.

    Raises:
        UnsupportedHostError: If the blocks cannot be found with certainty.
        ValueError: If `stack` does not fit the host.
    """
    model = unwrap(host)
    stack = _resolve_stack(model, stack)
    found = _KNOWN_STREAMS.setdefault(model, {}).get(stack)
    if found is not None and found[1] == _children(model, found[0].list_name):
        return found[0]
    stream = _find(model, stack)
    _KNOWN_STREAMS[model][stack] = (stream, _children(model, stream.list_name))
    return stream


_probe = threading.local()


def probing() -> bool:
    """Whether this thread runs a probe: what else is captured or edited at the time must not notice."""
    return getattr(_probe, "running", False)


# Values hold names and weak references only: a strong reference to a module would keep its host alive for ever.
_KNOWN_STREAMS: "weakref.WeakKeyDictionary[nn.Module, dict]" = weakref.WeakKeyDictionary()


def _children(model: nn.Module, list_name: str) -> tuple | None:
    try:
        return tuple(weakref.ref(child) for child in model.get_submodule(list_name).children())
    except AttributeError:
        return None


def _takes(module: nn.Module) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(type(module).forward).parameters)


def _resolve_stack(model: PreTrainedModel, stack: str | None) -> str | None:
    # What the body accepts is the rule: `config.is_encoder_decoder` is also set on lone encoders and decoders.
    two_stacks = "decoder_input_ids" in _takes(model.base_model)
    if two_stacks and stack in (None, "encoder", "decoder"):
        return stack or "encoder"
    if stack is None:
        return None
    expected = "'encoder' or 'decoder'" if two_stacks else "None: this host is not an encoder-decoder"
    raise ValueError(f"stack={stack!r} does not fit {type(model).__name__}; expected {expected}.")


@dataclass
class _Call:
    block: nn.Module
    inputs: dict[int | str, torch.Tensor]
    outputs: dict[int | None, torch.Tensor]
    # Copies made at once: they tell whether the host changes a block's output in place afterwards.
    copies: dict[int | None, torch.Tensor]
    input_copies: dict[int | str, torch.Tensor]


@dataclass
class _Chain:
    """One way of reading the calls of one list as a stream: `states[0]` goes in, `states[i]` comes out of call i."""

    list_name: str
    calls: list[_Call]
    input_key: int | str
    output_index: int | None

    @property
    def states(self) -> list[torch.Tensor]:
        return [self.calls[0].input_copies[self.input_key], *(call.copies[self.output_index] for call in self.calls)]


def _find(model: PreTrainedModel, stack: str | None) -> ResidualStream:
    base = model.base_model
    scope = base
    if stack is not None:
        scope = base.get_encoder() if stack == "encoder" else base.get_decoder()
        if scope is base:
            raise refusal(model, f"it names no separate {stack}")
    names = {module: name for name, module in model.named_modules()}
    with _untouched(model):
        inputs = _probe_inputs(model, base, stack)
        calls, returned, readers = _watch(model, base, scope, inputs)
        reported = _reported(returned, stack)
        chain, layout = _choose(model, calls, reported)
        is_causal = _is_causal(model, chain, layout, inputs, stack)
    prefix = names[scope] + "." if names[scope] else ""
    # The innermost module that reads token ids is one that every way of running the blocks goes through: some heads
    # pass the body by, and call its decoder (TrOCR).
    entry = max((m for m in readers if m in _ancestors(scope, chain.list_name)), key=lambda m: len(names[m]))
    time_first, prefix_length, pads_tail = layout
    return ResidualStream(
        stack=stack,
        num_blocks=len(chain.calls),
        hidden_sizes=tuple(state.shape[-1] for state in chain.states),
        is_causal=is_causal,
        scope_name=names[entry],
        scope_parameters=tuple(_takes(entry))[1:],
        list_name=prefix + chain.list_name,
        block_names=tuple(names[call.block] for call in chain.calls),
        input_key=chain.input_key,
        output_index=chain.output_index,
        time_first=time_first,
        prefix_length=prefix_length,
        pads_tail=pads_tail or model.config.model_type in _PADS_THE_END,
    )


def _probe_inputs(model: PreTrainedModel, base: nn.Module, stack: str | None) -> dict[str, Any]:
    # CANINE has no vocabulary: it hashes characters.
    vocab_size = getattr(model.config.get_text_config(), "vocab_size", 1000)
    # Special ids mean something to some hosts (padding, end, an image to insert): ordinary ones do not.
    special = set(_special_ids(model.config.to_dict()))
    known = range(min(vocab_size, 1000))
    ordinary = [token for token in known if token not in special]
    tokens = itertools.cycle(ordinary if len(ordinary) > 1 else known)
    rows = [list(itertools.islice(tokens, _PROBE_LENGTH)) for _ in range(_PROBE_BATCH)]
    ids = torch.tensor(rows, device=input_device(model))
    takes = _takes(base)
    inputs: dict[str, Any] = {"input_ids": ids, "output_hidden_states": True, "return_dict": True}
    inputs.update(
        {name: torch.ones_like(ids) for name in ("attention_mask", "decoder_attention_mask") if name in takes}
    )
    if "use_cache" in takes:
        inputs["use_cache"] = False
    if "bbox" in takes:  # layout models want to know where the words are
        inputs["bbox"] = torch.zeros(_PROBE_BATCH, _PROBE_LENGTH, 4, dtype=torch.long, device=ids.device)
    if stack is not None:
        inputs["decoder_input_ids"] = ids.flip(0)
    return inputs


def _special_ids(config: Mapping) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _special_ids(value)
        elif str(key).endswith(("token_id", "token_index", "token_ids")):
            yield from (v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, int))


def _tensors(values: Mapping) -> dict:
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim >= 3
    }


def _ancestors(scope: nn.Module, name: str) -> list[nn.Module]:
    parts = name.split(".")
    return [scope.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def _watch(model: PreTrainedModel, base: nn.Module, scope: nn.Module, inputs: dict) -> tuple[dict, list, list]:
    """Run the probe.

    Returns:
        The calls of each list's children, by list name; what `scope` and `base` returned; and the modules around the
        lists that were called with token ids.
    """
    lists = {name: module for name, module in scope.named_modules() if isinstance(module, nn.ModuleList)}
    calls: dict[str, list[_Call]] = {name: [] for name in lists}
    homes: dict[nn.Module, list[str]] = {}
    for name, module in lists.items():
        for child in module:
            homes.setdefault(child, []).append(name)
    pending: dict[nn.Module, dict] = {}
    returned: list = []
    readers: list[nn.Module] = []

    def reads(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = {**dict(zip(tuple(_takes(module))[1:], args, strict=False)), **kwargs}
        if module is scope or given.get("input_ids") is not None:
            readers.append(module)

    def before(block: nn.Module, args: tuple, kwargs: dict) -> None:
        tensors = _tensors(dict(enumerate(args)) | kwargs)
        pending[block] = {key: tensor.clone() for key, tensor in tensors.items()}

    def after(block: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        outputs = _tensors(dict(enumerate(output)) if isinstance(output, (tuple, list)) else {None: output})
        copies = {key: tensor.clone() for key, tensor in outputs.items()}
        call = _Call(block, _tensors(dict(enumerate(args)) | kwargs), outputs, copies, pending.pop(block))
        for name in homes[block]:
            calls[name].append(call)

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        returned.append(output)

    handles = [scope.register_forward_hook(keep)]
    for module in {module for name in lists for module in _ancestors(scope, name)}:
        if "input_ids" in _takes(module) or module is scope:
            handles.append(module.register_forward_pre_hook(reads, with_kwargs=True))
    for block in homes:
        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(block.register_forward_hook(after, with_kwargs=True))
    try:
        returned.append(base(**inputs))
    except Exception as error:
        reason = f"a tiny forward with token ids only failed with {type(error).__name__}: {error}"
        raise refusal(model, reason.rstrip(".")) from error
    finally:
        for handle in handles:
            handle.remove()
    if lists and all(not calls[name] for name in lists):
        raise refusal(model, "the blocks are run without calling them as modules, so hooks on them never fire")
    unused = {name for name, module in lists.items() if {call.block for call in calls[name]} != set(module)}
    return {name: found for name, found in calls.items() if found and name not in unused}, returned, readers


def _reported(returned: list, stack: str | None) -> tuple:
    for output in returned:
        for key in ("hidden_states", f"{stack}_hidden_states"):
            states = output.get(key) if isinstance(output, Mapping) else None
            if isinstance(states, (tuple, list)) and states:
                return tuple(states)
    return ()


def _chains(list_name: str, calls: list[_Call]) -> list[_Chain]:
    """Every way in which each call's input is the previous call's output, shapes kept. One call: the first tensors."""
    links = {(key, index) for key in calls[0].inputs for index in calls[0].outputs}
    for previous, call in itertools.pairwise(calls):
        links &= {
            (key, index)
            for key, given in call.inputs.items()
            for index, gave in previous.outputs.items()
            if _same(given, gave)
        }
    links = {
        (key, index)
        for key, index in links
        if all(index in c.outputs and key in c.inputs and c.inputs[key].shape == c.outputs[index].shape for c in calls)
    }
    ordered = sorted(links, key=lambda link: (str(link[0]), link[1] or 0))
    return [_Chain(list_name, calls, key, index) for key, index in ordered]


def _same(given: torch.Tensor, gave: torch.Tensor) -> bool:
    if given is gave:
        return True
    if given.shape != gave.shape:
        return False
    if given.device != gave.device:  # a dispatched host moves states between devices
        return torch.equal(given, gave.to(given.device))
    return given.data_ptr() == gave.data_ptr() and given.stride() == gave.stride()  # transposed and back (FSMT)


def _choose(
    model: PreTrainedModel, calls: dict[str, list[_Call]], reported: tuple
) -> tuple[_Chain, tuple[bool, int, bool]]:
    chains = [chain for name, found in calls.items() for chain in _chains(name, found)]
    if not chains:
        raise refusal(model, "no list of blocks passes a state from each block to the next with its shape kept")
    if not reported:
        raise refusal(model, "it reports no output_hidden_states to check the blocks against")
    padded_ok = model.config.model_type in _PADS_THE_END
    matches = [(chain, layout) for chain in chains if (layout := _layout(chain, reported, padded_ok)) is not None]
    # Blocks inside blocks (ALBERT's groups) carry the same states: the outer list is meant.
    matches = [m for m in matches if not any(m[0].list_name.startswith(o[0].list_name + ".") for o in matches)]
    if not matches:
        if all(chain.states[0].ndim > 3 for chain in chains):
            shape = tuple(chains[0].states[0].shape)
            raise refusal(model, f"its blocks pass states of shape {shape}: several residual streams, not one")
        raise refusal(model, "what its blocks pass on does not match its own output_hidden_states")
    if len({chain.list_name for chain, _ in matches}) > 1:
        found = ", ".join(chain.list_name for chain, _ in matches)
        raise refusal(model, f"several lists of modules match its output_hidden_states ({found})")
    chain, layout = matches[0]
    others = [c for c in chains if c.list_name == chain.list_name and c.input_key != chain.input_key]
    if any(c.states[0].shape == chain.states[0].shape and c.output_index != chain.output_index for c in others):
        raise refusal(model, "its blocks pass on two residual streams side by side, not one")
    index = chain.output_index
    changed = [i for i, call in enumerate(chain.calls, 1) if not torch.equal(call.outputs[index], call.copies[index])]
    if changed:
        raise refusal(model, f"it changes the output of block {changed[0]} in place afterwards")
    if not torch.equal(chain.calls[0].inputs[chain.input_key], chain.states[0]):
        raise refusal(model, "it changes the input of block 1 in place")
    return chain, layout


def _layout(chain: _Chain, reported: tuple, padded_ok: bool) -> tuple[bool, int, bool] | None:
    """How the chain's states become the reported ones: (time_first, prefix_length, pads_tail), or None if they do not.

    The last reported entry is left out: many hosts report it after the final norm. Some hosts report no embedding
    entry, so their entries are shifted by one.
    """
    states = chain.states
    blocks = len(chain.calls)
    if any(state.ndim != 3 for state in states):
        return None
    time_first = states[0].shape[0] != _PROBE_BATCH
    if time_first:
        states = [state.transpose(0, 1) for state in states]
    pairs = list(zip(states[:-1], reported, strict=False)) if len(reported) == blocks + 1 else []
    inner = states[1 : max(blocks, 2)]
    shifted = list(zip(inner, reported, strict=False)) if len(reported) in (blocks, blocks + 1) else []
    for candidate in (pairs, shifted):
        starts = [_start(state, entry, padded_ok) for state, entry in candidate]
        if starts and starts[0] is not None and len(set(starts)) == 1:
            total = states[0].shape[1]
            return time_first, starts[0], starts[0] + _PROBE_LENGTH < total
    return None


def _start(state: torch.Tensor, entry: Any, padded_ok: bool) -> int | None:
    """The position of `state` at which the reported `entry` begins, or None if it is not part of it."""
    if not isinstance(entry, torch.Tensor) or entry.ndim != 3 or entry.shape[::2] != state.shape[::2]:
        return None
    length = entry.shape[1]
    if length != _PROBE_LENGTH and not (padded_ok and length == state.shape[1]):
        return None
    entry = entry.to(state.device)
    for start in range(state.shape[1] - length + 1):
        if torch.equal(state[:, start : start + length].to(entry.dtype), entry):
            return start
    return None


def _is_causal(
    model: PreTrainedModel, chain: _Chain, layout: tuple[bool, int, bool], inputs: dict, stack: str | None
) -> bool:
    name = "decoder_input_ids" if stack == "decoder" else "input_ids"
    ids = inputs[name].clone()
    first, second = ids[0, 0], ids[0, 1]
    ids[:, -1] = torch.where(ids[:, -1] == first, second, first)
    seen: list[torch.Tensor] = []

    def keep(block: nn.Module, args: tuple, output: Any) -> None:
        seen[:] = [output if chain.output_index is None else output[chain.output_index]]

    handle = chain.calls[-1].block.register_forward_hook(keep)
    try:
        model.base_model(**{**inputs, name: ids, "output_hidden_states": False})
    finally:
        handle.remove()
    time_first, start, _ = layout
    before, after = (state.transpose(0, 1) if time_first else state for state in (chain.states[-1], seen[0]))
    change = (before.float() - after.float()).abs()[:, start : start + _PROBE_LENGTH]
    early, last = change[:, :-1].max(), change[:, -1].max()
    if last == 0:
        raise refusal(model, "its states do not depend on its input")
    # Causal hosts give exactly 0 but for kernels that regroup rows (mixture of experts): their rounding noise was
    # below 1e-6 of the change at the last position in float32, the weakest bidirectional stack surveyed 9e-4 of it.
    return bool(early <= min(128 * torch.finfo(before.dtype).eps, 1e-3) * last)


@contextmanager
def _untouched(model: PreTrainedModel) -> Iterator[None]:
    """Run a probe in eval mode, without gradients or autocast, and leave the model as it was.

    A forward can leave traces: transformers installs its own capture hooks at the first `output_hidden_states`,
    BigBird swaps its attention modules for a short input, rotary embeddings cache. So attributes, submodules and hooks
    of every module, and the attributes of its config, are put back.
    """
    modules = list(model.modules())
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}.values()
    holders = [vars(thing) for thing in (*modules, *configs)]
    kept = [dict(holder) for holder in holders]
    inner = [(v, dict(v)) for holder in kept for v in holder.values() if isinstance(v, dict)]
    tensors = [*model.parameters(), *model.buffers()]
    versions = _versions(tensors)
    devices = {tensor.device for tensor in tensors}
    cuda = [device.index for device in devices if device.type == "cuda"]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=cuda), torch.inference_mode(False), torch.no_grad(), _no_autocast(devices):
        try:
            _probe.running = True
            model.eval()
            yield
        finally:
            _probe.running = False
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            if _versions(tensors) == versions:
                for holder, before in (*zip(holders, kept, strict=True), *inner):
                    if holder.keys() != before.keys() or any(holder[key] is not before[key] for key in before):
                        holder.clear()
                        holder.update(before)
            else:
                # The host rewrote its weights for eval mode (RWKV) and noted so in its attributes: these must agree.
                for module, before in zip(modules, kept, strict=False):
                    module.training = before["training"]


@contextmanager
def _no_autocast(devices: set[torch.device]) -> Iterator[None]:
    with torch.autocast("cpu", enabled=False):
        if any(device.type == "cuda" for device in devices):
            with torch.autocast("cuda", enabled=False):
                yield
        else:
            yield


def _versions(tensors: list[torch.Tensor]) -> list[int]:
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
