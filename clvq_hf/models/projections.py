"""Removing directions from hidden states: pure functions of tensors."""

import torch
import torch.nn.functional as F


def orthonormal_rows(vectors: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows `(…, k, d)`, float32, that span the same space as `vectors`, `(…, k, d)`.

    Each row is what of the vector is new, after those before it; one that depends on them, or is zero, becomes zero.
    """
    rows: list[torch.Tensor] = []
    for vector in F.normalize(vectors.double(), dim=-1).unbind(-2):
        # Gram-Schmidt, not a QR of the library's: that fills up a space of lower rank with arbitrary directions, which
        # nobody asked to remove. Twice, because the first time leaves rounding.
        for _ in range(2):
            for row in rows:
                vector = vector - (vector * row).sum(-1, keepdim=True) * row
        length = vector.norm(dim=-1, keepdim=True)
        rows.append(torch.where(length > 1e-6, vector / length.clamp(min=1e-6), 0.0))
    return torch.stack(rows, dim=-2).float()


def project(
    states: torch.Tensor, basis: torch.Tensor, where: torch.Tensor, centre: torch.Tensor | None = None
) -> torch.Tensor:
    """Remove a subspace at the positions `where` `(B, S)`: `x ← x - Σ q qᵀ(x - c)`, `(B, S, d)`, float32.

    `basis`, of shape `(k, d)` or `(B, k, d)`, has the orthonormal rows `q`; `centre`, of shape `(d,)`, is `c`, zero if
    not given.
    """
    states = states.float()
    basis = basis.to(states)
    differences = states if centre is None else states - centre.to(states)
    # Outside of `where` a state may hold anything, NaN at times.
    removed = (torch.where(where[..., None], differences, 0) @ basis.transpose(-1, -2)) @ basis
    return states - removed


def swap(states: torch.Tensor, vectors: torch.Tensor, mean: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Replace a concept's vector by the mean state `(d,)` at the positions `where` `(B, S)`: `x ← x - e + μ`, float32.

    `vectors`, of shape `(d,)`, `(B, d)` or `(B, S, d)`, are the `e` of all, of each row, of each token.
    """
    states = states.float()
    shift = mean.to(states) - vectors.to(states)
    if shift.ndim == 2:
        shift = shift[:, None]
    return states + shift * where[..., None]


__all__ = ["orthonormal_rows", "project", "swap"]
