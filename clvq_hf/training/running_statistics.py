"""Sums from which losses, perplexity and explained variance of many batches are computed at the end."""

from collections.abc import Sequence

import torch
from accelerate.utils import gather
from transformers.utils import ModelOutput

from ..models.quantizer import is_distributed


class RunningStatistics:
    """Adds up what a concept model returned for many batches, on one or many processes.

    A ratio of sums, never a mean of ratios: batches differ in their number of tokens, and the perplexity of a whole
    set is not the mean of its batches' perplexities. The target's variance is merged from centred batches (Chan et al.,
    1983): the mean of hidden states is large, and the difference of two large sums would lose the digits that matter.

    `names` are figures of an output, each a mean over its tokens. With `by_code` targets are also averaged by code.
    """

    def __init__(
        self,
        names: Sequence[str],
        codebook_size: int,
        target_hidden_size: int,
        device: torch.device,
        by_code: bool = False,
    ) -> None:
        self.names = tuple(names)
        self.losses = torch.zeros(len(self.names), device=device)  # times tokens
        self.code_counts = torch.zeros(codebook_size, device=device)
        self.residual = torch.zeros(1, device=device)  # summed squared error, in the host's units
        # In float64: what is wanted of them are differences between sums of large means. Not every device has it.
        self.code_sums = torch.zeros(codebook_size, target_hidden_size, dtype=torch.float64) if by_code else None
        # Tokens, mean and summed squared deviation of the target.
        self.moments = torch.zeros(2 + target_hidden_size, device=device)

    @torch.no_grad()
    def update(
        self,
        outputs: ModelOutput,
        target_hidden_states: torch.Tensor,
        mask: torch.Tensor,
        num_items: torch.Tensor | int,
    ) -> None:
        """Add a batch: outputs, target, the tokens that count, and the number that its losses were divided by."""
        mask = mask.bool()
        losses = torch.stack([outputs[name].detach() for name in self.names])
        self.losses += losses.float() * num_items
        self.code_counts += torch.bincount(outputs.codes[mask], minlength=len(self.code_counts))
        target = target_hidden_states[mask].float()
        if len(target):
            mean = target.mean(0)
            batch = torch.cat([mean.new_tensor([len(target)]), (target - mean).square().sum()[None], mean])
            self.moments = _merge_moments(self.moments, batch)
            self.residual += (outputs.reconstruction[mask].float() - target).square().sum()
            if self.code_sums is not None:
                self.code_sums.index_add_(0, outputs.codes[mask].cpu(), target.double().cpu())

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """The figures over all processes, each of which must call this; empty if no token was seen.

        Besides those of the outputs: `explained_variance` (1 - residual variance ÷ variance of the target about its
        mean), `perplexity` and `active_codes`; by code `code_explained_variance`, that of the mean target of each code,
        with as many degrees of freedom taken off as there are codes (the adjusted R²).
        """
        parts = [self.losses, self.code_counts, self.residual, self.moments]
        losses, code_counts, residual, moments = gather(torch.cat(parts)[None]).split(list(map(len, parts)), dim=-1)
        losses, code_counts = losses.sum(0), code_counts.sum(0)
        merged = moments[0]
        for other in moments[1:]:
            merged = _merge_moments(merged, other)
        tokens, variance = merged[0], merged[1]
        if tokens == 0:
            return {}
        frequencies = code_counts / code_counts.sum()
        by_code = {} if self.code_sums is None else self._by_code(code_counts, merged)
        figures = {name: (total / tokens).item() for name, total in zip(self.names, losses, strict=True)}
        return {
            **figures,
            "explained_variance": (1 - residual.sum() / variance).item() if variance > 0 else float("nan"),
            **by_code,
            "perplexity": torch.exp(torch.special.entr(frequencies).sum()).item(),
            "active_codes": int((code_counts > 0).sum()),
        }

    def _by_code(self, counts: torch.Tensor, moments: torch.Tensor) -> dict[str, float]:
        sums = self.code_sums
        if is_distributed():
            sums = gather(sums[None].to(counts.device)).sum(0).cpu()
        counts, moments = counts.double().cpu(), moments.double().cpu()
        tokens, variance, num_codes = counts.sum(), moments[1], (counts > 0).sum()
        if not variance > 0 or tokens <= num_codes:
            return {}
        means = sums / counts.clamp(min=1)[:, None]
        between = (counts * (means - sums.sum(0) / tokens).square().sum(-1)).sum()
        unexplained = (1 - between / variance) * (tokens - 1) / (tokens - num_codes)
        return {"code_explained_variance": (1 - unexplained).item()}


def _merge_moments(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Merge `(n, M2, mean)` of two sets: `M2 = M2₁ + M2₂ + |δ|²·n₁n₂/n`."""
    tokens = first[0] + second[0]
    share = second[0] / tokens.clamp(min=1)
    delta = second[2:] - first[2:]
    squared_deviation = first[1] + second[1] + delta.square().sum() * first[0] * share
    return torch.cat([tokens[None], squared_deviation[None], first[2:] + delta * share])
