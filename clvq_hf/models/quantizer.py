"""The quantizer: a codebook with exponential moving averages, from whose nearest codes training draws.

Paper: CLVQ-VAE, arXiv 2506.20040. Equations are named as in `docs/method.md`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_clvq import CLVQConfig
from .nearest_codes import nearest_codes


class Float32Module(nn.Module):
    """A module that stays in float32: `.to(bfloat16)` moves it but keeps its dtype, autocast is off inside.

    Codes are decided by small differences of distances; in half precision `forward` and `encode` would disagree.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Float32Module":
        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    @staticmethod
    def full_precision(device: torch.device) -> torch.autocast:
        """Context in which autocast is off on `device`."""
        return torch.autocast(device_type=device.type, enabled=False)


class TopKQuantizer(Float32Module):
    """Codebook with exponential moving averages; in training a code is drawn from the `top_k` nearest (Eqs. 2, 3).

    The raw averages are stored, `ema_counts` (`N`) and `ema_sums` (`W`); the codebook `W/N` is smoothed at use. In
    training mode `forward` only adds up the batch's counts and sums; [`update`][clvq_hf.TopKQuantizer.update] applies
    them, once an optimizer step. In eval mode nothing changes, and with a frozen encoder nothing ever does.

    The host states of each code's tokens are averaged with the same counts (`member_sums`): these are what a concept is
    in the host, whatever space the codebook lives in.
    """

    def __init__(self, config: CLVQConfig) -> None:
        super().__init__()
        self.codebook_size = config.codebook_size
        self.top_k = min(config.top_k, config.codebook_size)
        self.temperature = config.temperature
        self.decay = config.ema_decay
        self.epsilon = config.ema_epsilon
        self.revive_after = config.revive_after
        self.is_frozen = config.encoder == "frozen"
        shape = (config.codebook_size, config.hidden_size)
        self.register_buffer("ema_counts", torch.ones(config.codebook_size, dtype=torch.float32))
        self.register_buffer("ema_sums", torch.zeros(shape, dtype=torch.float32))
        # None in models of earlier versions.
        self.register_buffer("member_sums", torch.zeros(shape, dtype=torch.float32) if config.track_members else None)
        self.register_buffer("updates_since_use", torch.zeros(config.codebook_size, dtype=torch.int64))
        self.register_buffer("initialized", torch.tensor(False))
        # Of the optimizer step under way; a checkpoint is written between steps, when there is none.
        self._pending: tuple[torch.Tensor, torch.Tensor] | None = None
        self._recent: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def codebook(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(K, d)`: `W / N̂` with Laplace-smoothed `N̂ = (N+ε)/(ΣN+Kε)·ΣN`."""
        return self.ema_sums / self._smoothed_counts[:, None]

    @property
    def member_means(self) -> torch.Tensor | None:
        """`torch.Tensor` of shape `(K, d)`: mean host state of each code's tokens; `None` if not tracked."""
        return None if self.member_sums is None else self.member_sums / self._smoothed_counts[:, None]

    @property
    def _smoothed_counts(self) -> torch.Tensor:
        total = self.ema_counts.sum()
        return (self.ema_counts + self.epsilon) / (total + self.codebook_size * self.epsilon) * total

    @torch.no_grad()
    def set_codebook(
        self,
        codebook: torch.Tensor,
        encoder_states: torch.Tensor | None = None,
        hidden_states: torch.Tensor | None = None,
    ) -> None:
        """Start from `codebook` of shape `(K, d)`: every code has the weight of one token.

        With the sample that it was chosen from, `(N, d)` in its space and in the host, the host states of a code are
        those of the tokens that are nearest to it, or of the one token that it is nearest to; without, its vector.
        """
        self.ema_counts.fill_(1.0)
        self.ema_sums.copy_(codebook)
        if self.member_sums is not None:
            known = encoder_states is not None and hidden_states is not None
            self.member_sums.copy_(self._members(encoder_states, hidden_states) if known else codebook)
        self.updates_since_use.zero_()
        self.initialized.fill_(True)

    def _members(self, encoder_states: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        distances = torch.cdist(encoder_states.float(), self.codebook)
        codes, nearest = distances.argmin(1), distances.argmin(0)
        hidden_states = hidden_states.to(self.ema_sums)
        sums = torch.zeros_like(self.ema_sums).index_add_(0, codes, hidden_states)
        counts = torch.zeros_like(self.ema_counts).index_add_(0, codes, torch.ones_like(hidden_states[:, 0]))
        return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], hidden_states[nearest])

    def forward(
        self,
        encoder_states: torch.Tensor,
        mask: torch.Tensor,
        count_mask: torch.Tensor | None = None,
        hidden_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantize encoder states.

        Args:
            encoder_states (`torch.Tensor` of shape `(B, S, d)`): `z`.
            mask (`torch.Tensor` of shape `(B, S)`, bool): Real tokens.
            count_mask (`torch.Tensor` of shape `(B, S)`, bool, *optional*): Tokens that move the codebook; `mask` if
                not given.
            hidden_states (`torch.Tensor` of shape `(B, S, d)`, *optional*): The host states that were encoded;
                `encoder_states` if not given.

        Returns:
            `tuple`: quantized states `(B, S, d)` with straight-through gradient, codebook vectors `(B, S, d)`
            without, codes `(B, S)` int64 with `-1` where `mask` is false.
        """
        with self.full_precision(encoder_states.device):
            encoder_states = encoder_states.float()
            codebook = self.codebook
            codes = nearest_codes(encoder_states.detach(), codebook, self._draw if self.training else None)
            # A row of zeros for padding, as the last one.
            rows = torch.where(mask, codes, self.codebook_size)
            vectors = F.embedding(rows, F.pad(codebook, (0, 0, 0, 1)))
            if self.training and not self.is_frozen:
                counted = mask if count_mask is None else count_mask & mask
                self._accumulate(encoder_states.detach(), hidden_states, codes, counted)
            quantized = _StraightThrough.apply(encoder_states, vectors, mask)
            return quantized, vectors, codes.masked_fill(~mask, -1)

    @torch.no_grad()
    def encode(self, encoder_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Nearest codes `(B, S)`, int64, `-1` where `mask` is false; the same in training and evaluation."""
        with self.full_precision(encoder_states.device):
            return nearest_codes(encoder_states.float(), self.codebook).masked_fill(~mask, -1)

    @torch.no_grad()
    def nearest(self, encoder_states: torch.Tensor, k: int) -> torch.Tensor:
        """The `k` nearest codes of states `(…, d)`, int64 `(…, k)`, nearest first."""
        with self.full_precision(encoder_states.device):
            return nearest_codes(encoder_states.float(), self.codebook, lambda scores: scores.topk(k, dim=-1).indices)

    def discard_pending(self) -> None:
        """Forget what training forwards have added up since the last update, as after a step that was broken off."""
        self._pending = self._recent = None

    @torch.no_grad()
    def update(self) -> int:
        """Apply what the training forwards since the last update have added up (Eq. 3).

        Counts and sums are added over all processes first, so the result does not depend on how the batch was split.
        Without a training forward since the last update nothing happens.

        Returns:
            `int`: Number of codes that were revived.

        Raises:
            ValueError: If an encoder state was NaN or Inf; the codebook is left as it was.
        """
        if self._pending is None:
            return 0
        (counts, sums), self._pending = self._pending, None
        if is_distributed():
            both = torch.cat([counts[:, None], sums], dim=1)
            torch.distributed.all_reduce(both)
            counts, sums = both[:, 0], both[:, 1:]
        if not torch.isfinite(sums).all():
            raise ValueError("NaN or Inf in the encoder states of this step; the codebook was not updated.")
        self.ema_counts.lerp_(counts, 1 - self.decay)
        self.ema_sums.lerp_(sums[:, : self.ema_sums.shape[1]], 1 - self.decay)
        if self.member_sums is not None:
            self.member_sums.lerp_(sums[:, self.ema_sums.shape[1] :], 1 - self.decay)
        self.updates_since_use.add_(1).masked_fill_(counts > 0, 0)
        return self._revive() if self.revive_after is not None else 0

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        """Sample `p ∝ softmax(-D/T)` over the `top_k` nearest, as one Gumbel-max."""
        top, candidates = scores.topk(self.top_k, dim=-1)
        noise = -torch.empty_like(top).exponential_().log()
        return candidates.gather(-1, (top / self.temperature + noise).argmax(-1, keepdim=True)).squeeze(-1)

    def _accumulate(
        self, encoder_states: torch.Tensor, hidden_states: torch.Tensor | None, codes: torch.Tensor, mask: torch.Tensor
    ) -> None:
        # A bucket of its own for tokens that do not count: boolean indexing would break torch.compile.
        buckets = torch.where(mask, codes, self.codebook_size).flatten()
        averaged = [encoder_states]
        if self.member_sums is not None:
            averaged.append(encoder_states if hidden_states is None else hidden_states.float())
        # Sums of the rows of each bucket, side by side once they are sorted: many times as fast as adding row by row.
        # The last offset ends the last code's rows; what does not count comes after it, and is not read.
        order = buckets.argsort(stable=True)
        counts = buckets.new_zeros(self.codebook_size + 1).index_add_(0, buckets, torch.ones_like(buckets))[:-1]
        ends = F.pad(counts.cumsum(0), (1, 0))
        sums = torch.cat(
            [
                F.embedding_bag(order, each.flatten(0, -2), ends, mode="sum", include_last_offset=True)
                for each in averaged
            ],
            dim=1,
        )
        counts = counts.to(sums.dtype)
        if self._pending is not None:
            counts, sums = self._pending[0] + counts, self._pending[1] + sums
        self._pending = (counts, sums)
        if self.revive_after is not None:
            self._recent = (torch.cat(averaged, dim=-1), mask)

    def _revive(self) -> int:
        dead = (self.updates_since_use >= self.revive_after).nonzero().flatten()
        (states, mask), self._recent = self._recent, None
        recent = states[mask]
        if len(dead) == 0:
            return 0
        # The first process chooses for all; only its pool of recent states is read.
        dead = dead[: int(from_first_process(torch.tensor(min(len(dead), len(recent)), device=dead.device)))]
        chosen = recent.new_zeros(len(dead), recent.shape[1])
        if not is_distributed() or torch.distributed.get_rank() == 0:
            chosen = recent[torch.randperm(len(recent))[: len(dead)].to(recent.device)]
        self.ema_counts[dead] = 1.0
        chosen = from_first_process(chosen)
        self.ema_sums[dead] = chosen[:, : self.ema_sums.shape[1]]
        if self.member_sums is not None:
            self.member_sums[dead] = chosen[:, self.ema_sums.shape[1] :]
        self.updates_since_use[dead] = 0
        return len(dead)

    def extra_repr(self) -> str:
        """Sizes, for `repr`."""
        return f"codebook_size={self.codebook_size}, dim={self.ema_sums.shape[1]}, top_k={self.top_k}"


class _StraightThrough(torch.autograd.Function):
    """The codes' vectors, in the same memory, with the gradient of the states where `mask` is true."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask)
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.where(mask[..., None], gradient, 0), None, None


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def from_first_process(tensor: torch.Tensor) -> torch.Tensor:
    """The first process's tensor, written into that of each."""
    if is_distributed():
        torch.distributed.broadcast(tensor, src=0)
    return tensor
