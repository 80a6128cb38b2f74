"""One decoder for the codes of any method, so that what codes say of the upper layer is compared on equal terms."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.activation_cache import ActivationCache, StateCollator
from ..hosts import hooks
from ..models.configuration_clvq import CLVQConfig
from ..models.modeling_base import masked_mse
from ..models.modeling_clusters import group_means
from ..models.modeling_clvq import CLVQDecoder
from ..models.modeling_concepts import ConceptModel

NUM_STEPS, BATCH_SIZE = 100, 16
LEARNING_RATE, WARMUP = 1e-3, 0.1


class CodeDecoder(nn.Module):
    """Codes of a text → estimate of its states at the upper layer: the mean of each code there, and what others add.

    What it adds comes from a CLVQ-VAE's decoder of two layers, which reads all codes of the text, and adds nothing
    before it is trained. The states themselves are never read.

    Attributes:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): Gives the codes; it is frozen, and not a part of this module.
        upper_layer (`int`): Whose states are estimated.
        upper_mean (`torch.Tensor` of shape `(d',)`, float32): Mean of these states in the training texts, without
            special tokens.
    """

    def __init__(
        self,
        model: ConceptModel,
        upper_layer: int,
        means: torch.Tensor,
        upper_means: torch.Tensor,
        scale: float,
        is_causal: bool,
    ) -> None:
        super().__init__()
        width, target_width = means.shape[1], upper_means.shape[1]
        config = CLVQConfig(
            hidden_size=width,
            target_hidden_size=target_width,
            codebook_size=len(means),
            num_decoder_layers=2,
            num_attention_heads=math.gcd(width, max(width // 64, 1)),
            intermediate_size=width,
            is_causal=is_causal,
        )
        self.__dict__["model"] = model  # past nn.Module, which would take it for a part
        self.upper_layer = upper_layer
        self.embedding = nn.Embedding.from_pretrained(F.layer_norm(means, (width,)), freeze=False)
        self.decoder = CLVQDecoder(config)
        nn.init.zeros_(self.decoder.head.weight)
        nn.init.zeros_(self.decoder.head.bias)
        self.register_buffer("upper_means", upper_means)
        self.register_buffer("upper_mean", upper_means.new_zeros(target_width))
        self.scale = scale

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """`(B, S, d')` of codes `(B, S)`, -1 on padding."""
        mask = codes >= 0
        codes = codes.clamp(min=0)
        embedded = self.embedding(codes) * mask[..., None]
        return F.embedding(codes, self.upper_means) + self.scale * self.decoder(embedded, embedded, mask)

    @torch.no_grad()
    def reconstruct(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, codes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See [`ConceptModel.reconstruct`][clvq_hf.ConceptModel.reconstruct]."""
        return self(self.model.encode(hidden_states, attention_mask) if codes is None else codes)


def fit_code_decoder(
    model: ConceptModel,
    host: PreTrainedModel,
    cache: ActivationCache,
    *,
    num_steps: int = NUM_STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> CodeDecoder:
    """Train a decoder on the codes of a frozen model: for all methods the same one, as long, on the same batches.

    The loss is the mean squared error of the states at the cache's upper layer, also of methods whose own upper layer
    is another one; of all real tokens, those that a host's head reads (`[CLS]`, the last token) among them, without
    attention sinks. Of a sparse dictionary it reads the strongest concept.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are; it does not run.
        cache ([`ActivationCache`][clvq_hf.ActivationCache]): States of training texts.
        num_steps (`int`): Optimizer steps.
        batch_size (`int`): Texts per step.
        seed (`int`): Of the initial weights and the batches.

    Returns:
        [`CodeDecoder`][clvq_hf.evaluation.CodeDecoder]: In evaluation mode, on the model's device.

    Raises:
        ValueError: If the cache is of another host or lower layer.
    """
    config, device = model.config, model.device
    if cache.metadata["lower_layer"] != config.lower_layer:
        raise ValueError(
            f"lower_layer is {config.lower_layer} in the model, and {cache.metadata['lower_layer']} in the activation "
            f"cache {cache.path}. Build or load a cache of this layer."
        )
    cache.check_source(host)
    is_causal = hooks.residual_stream(host, config.stack).is_causal
    texts = _read(model, cache)
    codes, content, targets, states = (
        torch.cat([text[name][text["counted"]] for text in texts]) for name in ("codes", "content", "target", "state")
    )
    means = group_means(states, codes, config.codebook_size)
    upper_means = group_means(targets, codes, config.codebook_size)
    scale = float((targets - upper_means[codes]).square().mean().sqrt())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = CodeDecoder(model, cache.metadata["upper_layer"], means, upper_means, scale, is_causal)
        decoder.upper_mean.copy_(targets[content].mean(0))
        decoder.to(device).train()
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        warmup = max(1, int(WARMUP * num_steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (num_steps - step) / max(1, num_steps - warmup))
        )
        order = np.random.default_rng(seed)
        for _ in tqdm(range(num_steps), desc="Training a decoder of codes", unit="step"):
            rows = order.choice(len(texts), min(batch_size, len(texts)), replace=False)
            chosen = [texts[row] for row in rows]
            read, target = _padded(chosen, "codes", -1).to(device), _padded(chosen, "target", 0).to(device)
            counted = _padded(chosen, "counted", False).to(device)
            loss = masked_mse(decoder(read), target, counted, counted.sum().clamp(min=1)) / max(scale, 1e-8) ** 2
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return decoder.eval()


def _read(model: ConceptModel, cache: ActivationCache) -> list[dict[str, torch.Tensor]]:
    """Of each text with a token that counts: codes and masks `(S,)`, states `(S, d)` and targets `(S, d')`."""
    texts = []
    collate = StateCollator()
    for row in range(len(cache)):
        batch = collate([cache[row]])
        mask = batch["attention_mask"].bool()
        lower, upper = batch["hidden_states"].float(), batch["target_hidden_states"].float()
        codes = model.encode(lower.to(model.device), mask.to(model.device)).cpu()
        counted = mask & ~batch["sink_mask"].bool() & (codes >= 0)
        text = {"codes": codes, "counted": counted, "content": counted & batch["token_mask"].bool()}
        texts.append({name: values[0] for name, values in {**text, "state": lower, "target": upper}.items()})
    return texts


def _padded(texts: list[dict[str, torch.Tensor]], name: str, value: float) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([text[name] for text in texts], batch_first=True, padding_value=value)


__all__ = ["CodeDecoder", "fit_code_decoder"]
