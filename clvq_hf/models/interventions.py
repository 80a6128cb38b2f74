"""Interventions on a host's residual stream: remove a concept, steer towards one, or put the reconstruction through.

All of them work on `(B, S, d)` states, compute in float32, leave padding and attention sinks alone (no method is
trained on sinks, and all attention leans on them), and hold inside `generate()`. Measurements use the same positions.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..hosts import hooks
from ..hosts.step_buffer import StepBuffer
from .modeling_base import BaseConceptModel
from .projections import orthonormal_rows, project, swap

POSITIONS = ("code", "all", "cls", "last")
# Ways to remove a concept; a live host can also get another one in its place.
HOW = ("project", "swap")
INTERCHANGE = "interchange"


def check_how(model: BaseConceptModel, how: str, allowed: Sequence[str] = HOW) -> None:
    """Refuse ways of removal that do not exist, or mean nothing for a model."""
    if how not in allowed:
        raise ValueError(f"how must be one of {tuple(allowed)}, got {how!r}.")
    if how != "project" and not model.codes_are_states:
        raise ValueError(
            f"{how} replaces a concept's state, but the concepts of a {type(model).__name__} are directions: "
            "use how='project'."
        )


def ablate(
    model: BaseConceptModel,
    host: nn.Module,
    codes: int | Sequence[int] | torch.Tensor,
    positions: str | torch.Tensor = "code",
    how: str = "project",
    mean: torch.Tensor | None = None,
    member_mean: torch.Tensor | None = None,
    with_code: int | torch.Tensor | None = None,
) -> hooks.Edit:
    """See [`ConceptModel.ablate`][clvq_hf.ConceptModel.ablate]."""
    model.check_host(host)
    check_how(model, how, (*HOW, INTERCHANGE))
    _check_positions(positions)
    if (with_code is None) != (how != INTERCHANGE):
        raise ValueError(
            "with_code names the concept that takes the place: give it with how='interchange', only then."
        )
    codes, per_row = _checked_codes(model, codes)
    basis = orthonormal_rows(model.directions(codes.flatten()).flatten(1, 2).unflatten(0, codes.shape))
    if how != "project" and codes.shape[-1] > 1:
        raise ValueError(f"{how} replaces the vector of one code: pass one, or use how='project' for several.")
    if how == INTERCHANGE:
        if model.member_means is None:
            raise ValueError(
                f"This {type(model).__name__} does not know the mean states of its codes' tokens. Use how='swap' with "
                "mean=members.means[with_code] and member_mean=members.means[code] of fit_references(…).members."
            )
        other, _ = _checked_codes(model, with_code)
        mean = F.embedding(other[..., 0], model.member_means)
    if how != "project":
        mean, vectors = _swapped(model, codes[..., 0], mean, member_mean)
    centre = model.projection_centre

    def fn(states: torch.Tensor, mask: torch.Tensor, past_length: int | None) -> torch.Tensor:
        if per_row and len(codes) != len(states):
            raise ValueError(f"codes has rows for {len(codes)} texts, but the host was called with {len(states)}.")
        where = _where(model, host, positions, states, mask, past_length, codes)
        if how == "project":
            return project(states, basis, where, centre)
        return swap(states, vectors.to(states.device), mean.to(states.device), where)

    return hooks.edit(host, model.config.lower_layer, fn, stack=model.config.stack, with_mask=True)


def _swapped(
    model: BaseConceptModel, codes: torch.Tensor, mean: torch.Tensor | None, member_mean: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean state of all tokens, and of those of each code: as given, or as far as the model knows them."""
    known = model.member_means
    if known is None and (mean is None or member_mean is None):
        raise ValueError(
            f"A {type(model).__name__} does not know the mean states of its codes' tokens: its codebook lies behind an "
            "encoder. Pass mean=members.mean and member_mean=members.means[code], where members is "
            "fit_references(…).members; or use how='project'."
        )
    mean = model.mean_state if mean is None else mean
    return mean, F.embedding(codes, known) if member_mean is None else member_mean


def steer(
    model: BaseConceptModel, host: nn.Module, code: int, strength: float, positions: str | torch.Tensor = "all"
) -> hooks.Edit:
    """See [`ConceptModel.steer`][clvq_hf.ConceptModel.steer]."""
    model.check_host(host)
    _check_positions(positions)
    if not isinstance(code, int | np.integer):
        raise ValueError(f"code must be the number of one concept, got {code!r}.")
    codes, _ = _checked_codes(model, int(code))
    direction = model.directions(codes)[0, 0]

    def fn(states: torch.Tensor, mask: torch.Tensor, past_length: int | None) -> torch.Tensor:
        where = _where(model, host, positions, states, mask, past_length, codes)
        states = states.float()
        shift = strength * states.norm(dim=-1, keepdim=True) * direction.to(states.device)
        return torch.where(where[..., None], states + shift, states)

    return hooks.edit(host, model.config.lower_layer, fn, stack=model.config.stack, with_mask=True)


class Splice(AbstractContextManager):
    """What [`ConceptModel.splice`][clvq_hf.ConceptModel.splice] returns: a context manager with `remove()`."""

    def __init__(self, model: BaseConceptModel, host: nn.Module) -> None:
        model.check_host(host)
        config = model.config
        self._model, self._host = model, host
        self._is_causal = getattr(config, "is_causal", True)
        self._buffer = StepBuffer()
        with ExitStack() as edits:
            # Of several edits of one layer the one registered last runs first: the reading, if the layers are the same.
            edits.callback(hooks.edit(host, config.upper_layer, self._replace, stack=config.stack).remove)
            read = hooks.edit(host, config.lower_layer, self._read, stack=config.stack, with_mask=True)
            edits.callback(read.remove)
            self._edits = edits.pop_all()

    def remove(self) -> None:
        """Take the hooks off the host. May be called twice."""
        self._edits.close()

    def __exit__(self, *exc_info: Any) -> None:
        self.remove()

    def _read(self, states: torch.Tensor, mask: torch.Tensor, past_length: int | None) -> torch.Tensor:
        if past_length != 0:
            if not self._is_causal:
                raise ValueError(
                    "This concept model looks at the whole text (is_causal=False), so it cannot be spliced into a "
                    "host that continues from a cache. Train it on a causal host, or call the host with "
                    "use_cache=False."
                )
            if past_length is not None and past_length > len(self._buffer):
                raise ValueError(
                    f"The host's cache holds {past_length} positions, and the splice saw {len(self._buffer)} of them: "
                    "splice before the cache is filled."
                )
        self._buffer.add({"states": states.detach(), "mask": mask}, past_length)
        return states

    def _replace(self, states: torch.Tensor) -> torch.Tensor:
        device = self._model.device
        seen, mask = self._buffer["states"].to(device), self._buffer["mask"].to(device)
        rebuilt = self._model.reconstruct(seen, mask)[:, -states.shape[1] :].to(states)
        where = spliced_positions(self._model, self._host, seen, states, mask)
        return torch.where(where[..., None], rebuilt, states)


def _checked_codes(model: BaseConceptModel, codes: int | Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Codes as `(k,)` for all rows, or `(B, k)` for each row; and which of the two."""
    per_row = isinstance(codes, torch.Tensor) and codes.ndim > 0
    codes = torch.as_tensor(codes, dtype=torch.int64)
    if codes.ndim == 0 or (per_row and codes.ndim == 1):
        codes = codes[..., None]
    size = model.config.codebook_size
    if codes.numel() == 0 or codes.ndim > 2:
        raise ValueError(
            "codes must be a code, a sequence of codes, or a tensor (B,) or (B, k) with those of each text."
        )
    if int(codes.min()) < 0 or int(codes.max()) >= size:
        raise ValueError(f"Codes run from 0 to {size - 1}, got {sorted(set(codes.flatten().tolist()))[:5]}.")
    return codes.to(model.device), per_row


def _has_code(model: BaseConceptModel, states: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    found = model.encode(states.to(model.device), mask.to(model.device))
    wanted = codes[:, None] if codes.ndim == 2 else codes
    return (found[..., None] == wanted).any(-1).to(states.device)


def _check_positions(positions: str | torch.Tensor) -> None:
    if isinstance(positions, str) and positions not in POSITIONS:
        raise ValueError(f"positions must be one of {POSITIONS} or a bool mask, got {positions!r}.")
    if isinstance(positions, torch.Tensor) and (positions.dtype != torch.bool or positions.ndim not in (1, 2)):
        raise ValueError(
            f"A mask of positions must be bool of shape (B, S) or (S,), got {positions.dtype} of {positions.ndim} axes."
        )


def _where(
    model: BaseConceptModel,
    host: nn.Module,
    positions: str | torch.Tensor,
    states: torch.Tensor,
    mask: torch.Tensor,
    past_length: int | None,
    codes: torch.Tensor,
) -> torch.Tensor:
    """The `(B, S)` bool mask of the positions that are meant, among those of this forward."""
    if isinstance(positions, torch.Tensor):
        # They are positions of the prompt; what is generated after it is none of them.
        if past_length != 0:
            return torch.zeros_like(mask)
        wanted = positions.to(mask.device)
        if wanted.shape[-1] != mask.shape[1] or (wanted.ndim == 2 and wanted.shape != mask.shape):
            raise ValueError(f"The mask of positions is {tuple(positions.shape)}, the input {tuple(mask.shape)}.")
        return mask & wanted
    if positions == "cls" and past_length != 0:
        return torch.zeros_like(mask)
    sinks = find_sinks(host, model.config.stack, model.config.lower_layer, states, mask)
    return select_positions(positions, mask, sinks, lambda: _has_code(model, states, mask, codes))


def select_positions(
    positions: str, mask: torch.Tensor, sinks: torch.Tensor, find_code: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The real tokens `(B, S)` that one of `POSITIONS` stands for, without sinks; `find_code` finds the code's."""
    if positions == "code":
        return mask & ~sinks & find_code()
    if positions == "all":
        return mask & ~sinks
    order = mask.cumsum(-1)
    return mask & ~sinks & (order == (1 if positions == "cls" else order[:, -1:]))


def find_sinks(
    host: nn.Module, stack: str | None, layer: int, states: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The attention sinks among a host's states `(B, S, d)` at a layer: `(B, S)`, bool."""
    from ..data.extraction import attention_sinks  # here, because importing the package does not load datasets

    return attention_sinks(states, mask, hooks.residual_stream(host, stack).usual_norms[layer])


def spliced_positions(
    model: BaseConceptModel,
    host: nn.Module,
    lower: torch.Tensor,
    upper: torch.Tensor,
    mask: torch.Tensor,
    upper_layer: int | None = None,
) -> torch.Tensor:
    """Where a reconstruction replaces the states `upper` `(B, S, d')`: at real tokens that are sinks at neither layer.

    `lower` `(B, P + S, d)` and `mask` `(B, P + S)` may begin earlier, with what is in the host's cache;
    `upper` is the model's `upper_layer` unless another one is given.
    """
    config, length = model.config, upper.shape[1]
    upper_layer = config.upper_layer if upper_layer is None else upper_layer
    inside = mask.to(lower.device)
    low = find_sinks(host, config.stack, config.lower_layer, lower, inside)[:, -length:].to(upper.device)
    inside = mask[:, -length:].to(upper.device)
    return inside & ~low & ~find_sinks(host, config.stack, upper_layer, upper, inside)


__all__ = ["Splice", "ablate", "find_sinks", "select_positions", "spliced_positions", "steer"]
