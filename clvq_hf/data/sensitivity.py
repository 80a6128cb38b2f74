"""How far the states of a higher layer depend on each direction of a lower layer."""

from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..hosts import hooks
from ..hosts.host import without_parameter_gradients
from ..hosts.runner import HostRunner
from .batching import batches_by_length
from .extraction import attention_sinks
from .tokenization import TextCollator

# Texts that are read, and gradients of each: with two, texts of 25 tokens give 12,800 gradients.
NUM_TEXTS, NUM_DRAWS = 256, 2


def upper_sensitivity(
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokenized: Dataset,
    lower_layer: int,
    upper_layer: int,
    *,
    stack: str | None = None,
    batch_size: int = 32,
    num_texts: int = NUM_TEXTS,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> torch.Tensor:
    """Estimate how much a small change of a token's state at the lower layer changes the text's states at the upper.

    That is `G = E_t[Σ_s Jᵀ D⁻² J]` with `J = ∂y_s/∂x_t`: a change `δ` of `x_t` changes the states `y` by `δᵀGδ`, in
    units of the variance `D²` of each dimension. `G` is the mean outer product of gradients of random projections of
    `y`, whose entries are standard normal divided by the dimension's standard deviation: some decoders have a few
    dimensions of huge variance, which the norm of the next block scales down, and without the division `G` would be
    about these alone. Special tokens and attention sinks are not changed; attention sinks are not looked at either.

    Args:
        host (`PreTrainedModel`): The host, in any mode; its parameters get no gradients.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        tokenized (`datasets.Dataset`): A result of [`tokenize_texts`][clvq_hf.data.tokenize_texts].
        lower_layer (`int`): Layer of `x`.
        upper_layer (`int`): Layer of `y`.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.
        batch_size (`int`): Texts per host forward.
        num_texts (`int`): Maximum number of texts, drawn with the seed.
        num_draws (`int`): Projections of each text.
        seed (`int`): Of texts and projections.

    Returns:
        `torch.Tensor` of shape `(d, d)`, float32, on the CPU: the identity if the layers are the same.
    """
    width = hooks.residual_stream(host, stack).hidden_sizes[lower_layer]
    if lower_layer == upper_layer:
        return torch.eye(width)
    order = np.random.default_rng(seed).permutation(len(tokenized))[:num_texts].tolist()
    runner = HostRunner(host, stack)
    usual_norms = hooks.residual_stream(host, stack).usual_norms
    batches = list(batches_by_length(tokenized, TextCollator(tokenizer), batch_size, order))

    def upper_states(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        states = hooks.run(host, runner.inputs(batch), [upper_layer], stack=stack)[upper_layer]
        mask = batch["attention_mask"].bool().to(states.device)
        return states, mask & ~attention_sinks(states.detach(), mask, usual_norms[upper_layer])

    gram, count = torch.zeros(width, width, dtype=torch.float64), 0
    with hooks.evaluation_mode(host), without_parameter_gradients(host), torch.enable_grad():
        with torch.no_grad():
            parts = [states[mask].double().cpu() for states, mask in (upper_states(batch) for _, batch in batches)]
        deviation = torch.cat(parts).std(0).clamp(min=1e-6).float()
        for rows, batch in batches:
            with torch.no_grad():
                lower = hooks.run(host, runner.inputs(batch), [lower_layer], stack=stack)[lower_layer]
            start = lower.clone().requires_grad_()

            def replace(_: torch.Tensor, start: torch.Tensor = start) -> torch.Tensor:
                return start

            with hooks.edit(host, lower_layer, replace, stack=stack):
                upper, mask = upper_states(batch)
            sinks = attention_sinks(lower, batch["attention_mask"].bool().to(lower.device), usual_norms[lower_layer])
            counted = batch["token_mask"].bool().to(sinks.device) & ~sinks
            lengths = batch["attention_mask"].sum(-1)
            generators = [torch.Generator().manual_seed(seed + 2**20 * row) for row in rows]
            for _ in range(num_draws):
                # Of each text its own, whatever the batch.
                each = [
                    torch.randn(int(n), len(deviation), generator=g) for n, g in zip(lengths, generators, strict=True)
                ]
                noise = torch.nn.utils.rnn.pad_sequence(each, batch_first=True) / deviation
                projection = (upper.float() * noise.to(upper.device) * mask[..., None]).sum()
                (gradients,) = torch.autograd.grad(projection, start, retain_graph=True)
                found = gradients[counted].double().cpu()
                gram += found.T @ found
                count += len(found)
    return (gram / max(count, 1)).float()


__all__ = ["upper_sensitivity"]
