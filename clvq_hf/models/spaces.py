"""The space in which tokens are compared: an affine map of the states of `lower_layer`, fitted to a sample.

Two tokens get the same concept if they are near each other, and what is near depends on what is looked at. Each space
is a metric `M` at `lower_layer`, in which the squared distance of two states is `(x - x')ᵀM(x - x')`; the map is
`z = c·M^½(x - μ)`. See `docs/method.md`, "Spaces".
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import initialization as init

from .quantizer import Float32Module

# What a space is fitted to, besides the states of `lower_layer`.
NEEDS = {"functional": ("sensitivity",), "predictive": ("target_hidden_states",), "residual": ("input_ids",)}
# Ridge penalties that are tried, in units of the mean variance of a dimension.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# A type that occurs less often in a sample has no mean state to speak of.
MIN_OCCURRENCES = 5


class AffineSpace(Float32Module):
    """`z = W(x - μ)` with `W` of shape `(d, d)` and `μ` of shape `(d,)`: the identity until it is fitted.

    Args:
        hidden_size (`int`): `d`.
        is_trained (`bool`): Whether `W` is a parameter, which training changes.
    """

    def __init__(self, hidden_size: int, is_trained: bool = False) -> None:
        super().__init__()
        weight = torch.eye(hidden_size, dtype=torch.float32)
        if is_trained:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
        self.register_buffer("center", torch.zeros(hidden_size, dtype=torch.float32))

    def reset(self) -> None:
        """Initialise, also what a checkpoint lacked."""
        init.eye_(self.weight)
        init.zeros_(self.center)

    @property
    def origin(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(d,)`: `μ`, what lies at zero in the space."""
        return self.center

    @torch.no_grad()
    def fit(self, space: str, hidden_states: torch.Tensor, seed: int = 0, **sample: torch.Tensor | None) -> None:
        """Set the map from a sample of tokens; see [`metric`].

        `W` is scaled so that the mean variance of a dimension of `z` is one: what is measured in this space, like the
        commitment loss, then means the same for every host and space.
        """
        states = hidden_states.double()
        center = states.mean(0)
        values, vectors = torch.linalg.eigh(metric(space, states, seed=seed, **sample).double())
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        variance = ((states - center) @ root.T).square().mean()
        if not variance > 0:
            raise ValueError(f"All {len(states)} states of the sample are the same in the space {space!r}.")
        self.weight.copy_(root / variance.sqrt())
        self.center.copy_(center)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map states of shape `(…, d)`, any float dtype, to float32 states of the same shape."""
        with self.full_precision(hidden_states.device):
            return (hidden_states.float() - self.center) @ self.weight.T


def metric(
    space: str,
    hidden_states: torch.Tensor,
    target_hidden_states: torch.Tensor | None = None,
    input_ids: torch.Tensor | None = None,
    sensitivity: torch.Tensor | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """The metric of a space, estimated on a sample of `N` tokens.

    - `"states"`: the identity; all directions count alike.
    - `"functional"`: how far the states of `upper_layer` depend on each direction, see
      [`upper_sensitivity`][clvq_hf.data.upper_sensitivity].
    - `"predictive"`: `BᵀB`, where `B` is the ridge regression of the token's own state at `upper_layer` (each
      dimension in units of its standard deviation) on its state. The best `K` codes for a token's upper state are
      those of K-means on `E[y | x]`.
    - `"residual"`: `RᵀR`, where `R` is the ridge regression of the state's difference from the mean of its token type
      on the state: what of a state its word does not tell, as far as the state alone says it. So it is defined for
      types that the sample lacks, and needs no ids afterwards.

    Args:
        space (`str`): Which.
        hidden_states (`torch.Tensor` of shape `(N, d)`): At `lower_layer`.
        target_hidden_states (`torch.Tensor` of shape `(N, d')`, *optional*): At `upper_layer`, for `"predictive"`.
        input_ids (`torch.Tensor` of shape `(N,)`, *optional*): For `"residual"`.
        sensitivity (`torch.Tensor` of shape `(d, d)`, *optional*): For `"functional"`.
        seed (`int`): Of the tokens that are held out to choose the ridge penalty.

    Returns:
        `torch.Tensor` of shape `(d, d)`, float64: symmetric, positive semidefinite.

    Raises:
        ValueError: If what the space is fitted to is missing, or no type occurs five times.
    """
    given = {"target_hidden_states": target_hidden_states, "input_ids": input_ids, "sensitivity": sensitivity}
    if missing := [name for name in NEEDS.get(space, ()) if given[name] is None]:
        raise ValueError(f"The space {space!r} needs {missing[0]} of the sample.")
    states = hidden_states.double()
    if space == "states":
        return torch.eye(states.shape[1], dtype=torch.float64, device=states.device)
    if space == "functional":
        return sensitivity.to(states.device, torch.float64)
    if space == "predictive":
        targets = target_hidden_states.double()
        targets = (targets - targets.mean(0)) / targets.std(0).clamp(min=1e-6)
        weight = _ridge(states, targets, seed)
    else:
        _, types, counts = input_ids.unique(return_inverse=True, return_counts=True)
        is_common = counts[types] >= MIN_OCCURRENCES
        if not is_common.any():
            raise ValueError(
                f"No token type occurs {MIN_OCCURRENCES} times in the sample of {len(states):,} tokens, so words have "
                "no mean states: give more text, or a larger sample (init_tokens), or take another space."
            )
        sums = states.new_zeros(len(counts), states.shape[1]).index_add_(0, types, states)
        # Of the other occurrences: the type's mean over all of them contains a part of the state itself.
        others = (sums[types] - states)[is_common] / (counts[types][is_common] - 1)[:, None]
        weight = _ridge(states[is_common], states[is_common] - others, seed)
    return weight.T @ weight


def _ridge(states: torch.Tensor, targets: torch.Tensor, seed: int) -> torch.Tensor:
    """Weights `(d', d)` of the ridge regression of targets on states, with the penalty that is best on a fifth."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(states))).to(states.device)
    held_out, kept = order.split([max(1, len(order) // 5), len(order) - max(1, len(order) // 5)])

    def solve(rows: torch.Tensor, penalties: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        center, target_center = states[rows].mean(0), targets[rows].mean(0)
        x, y = states[rows] - center, targets[rows] - target_center
        values, vectors = torch.linalg.eigh(x.T @ x)
        cross = vectors.T @ (x.T @ y)
        unit = values.mean()
        weights = [(vectors @ (cross / (values + penalty * unit)[:, None])).T for penalty in penalties]
        return [(weight, target_center - weight @ center) for weight in weights]

    errors = [
        float((targets[held_out] - states[held_out] @ weight.T - bias).square().sum())
        for weight, bias in solve(kept, PENALTIES)
    ]
    return solve(order, [PENALTIES[int(np.argmin(errors))]])[0][0]


__all__ = ["NEEDS", "AffineSpace", "metric"]
