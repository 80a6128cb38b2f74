"""An edit of a host's states put into its weights, where that may be exact; whether it was, the caller measures."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .hooks import capture, residual_stream, run
from .host import unwrap

# Rows of an embedding that are edited at once.
ROWS_AT_ONCE = 4096


@torch.no_grad()
def fold_into_readers(
    host: PreTrainedModel,
    inputs: Mapping[str, Any],
    layer: int,
    basis: torch.Tensor,
    centre: torch.Tensor,
    stack: str | None = None,
) -> PreTrainedModel | None:
    """A copy whose linear modules read projected states: `W(x - QᵀQ(x - c)) + b` is linear in `x`, too.

    It does what the projection at all tokens does if nothing else reads the states of this layer, such as after the
    last block of hosts without a final norm. Blocks read them by a residual connection as well, which has no weights.

    Args:
        host (`PreTrainedModel`): Stays as it is.
        inputs (`Mapping`): Arguments of the host, with which the readers are found.
        layer (`int`): Layer of the states.
        basis (`torch.Tensor` of shape `(k, d)`): Orthonormal rows `Q`.
        centre (`torch.Tensor` of shape `(d,)`): `c`.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.

    Returns:
        `PreTrainedModel` or `None`: `None` if no linear module reads these states, or one lacks a bias that it needs.
    """
    model = unwrap(host)
    names = _readers(model, inputs, layer, stack)
    folded = copy.deepcopy(model)
    for name in names:
        module: Any = folded.get_submodule(name)
        rows = basis.to(module.weight)
        # What each output loses along each direction.
        lost = module.weight @ rows.T
        shift = lost @ (rows @ centre.to(module.weight))
        if module.bias is None and shift.abs().max() > 0:
            return None
        module.weight.sub_(lost @ rows)
        if module.bias is not None:
            module.bias.add_(shift)
    return folded if names else None


def _readers(model: PreTrainedModel, inputs: Mapping[str, Any], layer: int, stack: str | None) -> list[str]:
    """Names of the linear modules whose input is the state of a layer, or a part of it."""
    state: list[int] = []
    found: list[str] = []

    def see(states: dict[int, torch.Tensor], mask: torch.Tensor, past_length: int | None) -> None:
        # The capture keeps it, so that no other tensor gets its place in memory.
        state.append(states[layer].untyped_storage().data_ptr())

    def look(name: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            if state and args and args[0].untyped_storage().data_ptr() == state[0]:
                found.append(name)

        return before

    linear = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    handles = [module.register_forward_pre_hook(look(name)) for name, module in linear]
    try:
        with capture(model, [layer], stack=stack, callback=see):
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))


@torch.no_grad()
def fold_into_embedding(
    host: PreTrainedModel,
    inputs: Mapping[str, Any],
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    stack: str | None = None,
) -> PreTrainedModel | None:
    """A copy with other token embeddings, if the first block reads nothing else (as in Llama).

    There the state of a token depends on the token alone, so any edit of layer 0 is one of the embedding's rows.

    Args:
        host (`PreTrainedModel`): Stays as it is.
        inputs (`Mapping`): Arguments of the host, with `input_ids`.
        change (`Callable`): From states `(1, N, d)` and a mask `(1, N)` to edited states.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.

    Returns:
        `PreTrainedModel` or `None`: `None` if the first block reads something else. Tied output embeddings stay what
        they were.
    """
    model = unwrap(host)
    residual_stream(model, stack)
    embedding: Any = model.get_input_embeddings()
    state = run(model, inputs, [0], stack=stack)[0]
    plain = embedding(inputs["input_ids"])
    if type(embedding) is not nn.Embedding or plain.shape != state.shape or not torch.allclose(plain, state):
        return None
    folded = copy.deepcopy(model)
    output: Any = folded.get_output_embeddings()
    table: Any = folded.get_input_embeddings()
    if output is not None and output.weight is table.weight:
        output.weight = nn.Parameter(table.weight.detach().clone())
        folded.config.tie_word_embeddings = folded.config.get_text_config().tie_word_embeddings = False
    for rows in torch.arange(len(table.weight), device=table.weight.device).split(ROWS_AT_ONCE):
        states = table.weight[rows][None]
        table.weight[rows] = change(states, torch.ones_like(rows)[None].bool())[0].to(table.weight.dtype)
    return folded


__all__ = ["fold_into_embedding", "fold_into_readers"]
