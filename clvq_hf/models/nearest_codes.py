"""Which codes are nearest to each state: the distances to all codes, in blocks."""

from collections.abc import Callable

import torch

# Scores that are held at once: 16 MiB, and 256 MiB on an accelerator, which wants more work at a time.
CPU_SCORES, DEVICE_SCORES = 2**22, 2**26


def nearness(states: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """`||z||² - D` of states `(N, d)` to each row of a codebook `(K, d)`: larger is nearer, `(N, K)`.

    The same order and softmax as `-D`, the negative squared distance. Both sides are centred on the mean code: hidden
    states share a large common mean, in whose squares the differences between codes would drown in float32.
    """
    center = codebook.mean(0)
    codebook = codebook - center
    return torch.addmm(-codebook.square().sum(-1), states - center, codebook.T, alpha=2)


def nearest_codes(
    states: torch.Tensor, codebook: torch.Tensor, choose: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """What `choose` makes of the [`nearness`] `(n, K)` of each block of states: the nearest code if not given.

    Args:
        states (`torch.Tensor` of shape `(…, d)`): In the codebook's space, float32.
        codebook (`torch.Tensor` of shape `(K, d)`): Float32.
        choose: From scores `(n, K)` to codes `(n, …)`.

    Returns:
        `torch.Tensor` of shape `(…, …)`, int64.
    """
    choose = choose or (lambda scores: scores.argmax(-1))
    flat = states.reshape(-1, states.shape[-1])
    rows = max(1, (CPU_SCORES if states.device.type == "cpu" else DEVICE_SCORES) // len(codebook))
    # A graph would be compiled again for every number of blocks.
    blocks = [flat] if torch.compiler.is_compiling() or len(flat) <= rows else flat.split(rows)
    found = torch.cat([choose(nearness(block, codebook)) for block in blocks])
    return found.reshape(states.shape[:-1] + found.shape[1:])


__all__ = ["nearest_codes", "nearness"]
