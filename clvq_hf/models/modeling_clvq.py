"""The CLVQ-VAE: encoder, quantizer (`quantizer.py`), transformer decoder.

Paper: CLVQ-VAE, arXiv 2506.20040. Equations are named as in `docs/method.md`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..hosts import hooks
from .codebook_init import initial_codebook
from .configuration_clvq import CLVQConfig
from .modeling_base import distances_to_vectors, masked_mse
from .modeling_concepts import ConceptModel
from .quantizer import Float32Module, TopKQuantizer
from .spaces import NEEDS, AffineSpace


@dataclass
class CLVQOutput(ModelOutput):
    """What [`CLVQModel`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): `reconstruction_loss + β·commitment_loss`; only with a target.
        reconstruction_loss (`torch.Tensor` of shape `()`, *optional*): Mean squared error of the reconstruction, per
            token and dimension of `d'`; only with a target.
        commitment_loss (`torch.Tensor` of shape `()`, *optional*): Mean squared distance of the encoder states to their
            codes, per token and dimension of `d`; only with a target.
        reconstruction (`torch.Tensor` of shape `(B, S, d')`): The decoder's estimate of the states at `upper_layer`.
        quantized (`torch.Tensor` of shape `(B, S, d)`): The tokens' codebook vectors, with straight-through gradient;
            zero on padding.
        encoder_states (`torch.Tensor` of shape `(B, S, d)`): `z`, in float32.
        codes (`torch.Tensor` of shape `(B, S)`, int64): Concept of each token, `-1` on padding.
        perplexity (`torch.Tensor` of shape `()`): `exp(entropy)` of the codes of the tokens that count for the loss.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    encoder_states: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    perplexity: torch.Tensor | None = None


class AdaptiveResidualEncoder(Float32Module):
    """`z = (1-m)·x + m·LayerNorm(Wx+b)`, `m = m_max·sigmoid(a)` (Eq. 1).

    It starts close to the identity, so that the codebook lives in the space of `lower_layer`. With
    `config.center_states`, `x` is the difference from the mean state.
    """

    def __init__(self, config: CLVQConfig) -> None:
        super().__init__()
        self.max_mix = config.encoder_max_mix
        self.mix_logit = nn.Parameter(torch.tensor(config.encoder_mix_logit, dtype=torch.float32))
        self.linear = nn.Linear(config.hidden_size, config.hidden_size, dtype=torch.float32)
        self.norm = nn.LayerNorm(config.hidden_size, dtype=torch.float32)
        if config.center_states:
            self.register_buffer("center", torch.zeros(config.hidden_size, dtype=torch.float32))

    @property
    def origin(self) -> torch.Tensor | float:
        """What lies at zero in the codebook's space: the mean state, or zero."""
        return getattr(self, "center", 0.0)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Encode states of shape `(B, S, d)`, any float dtype, into float32 states of the same shape."""
        with self.full_precision(hidden_states.device):
            hidden_states = hidden_states.float() - self.origin
            mix = self.max_mix * torch.sigmoid(self.mix_logit)
            return (1 - mix) * hidden_states + mix * self.norm(self.linear(hidden_states))


class Attention(nn.Module):
    """Multi-head attention on `scaled_dot_product_attention`.

    Not `nn.MultiheadAttention`: its fast path in evaluation gives NaN for left-padded sequences under a causal mask.
    """

    def __init__(self, config: CLVQConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.dropout
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        # No bias: it would shift all scores of a query alike, and learn nothing but rounding noise.
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """`queries` and `memory` of shape `(B, S, d)`, `allowed` `(B, 1, S, S)` bool; returns `(B, S, d)`."""

        def split(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.q_proj(queries)),
            split(self.k_proj(memory)),
            split(self.v_proj(memory)),
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class CLVQDecoderLayer(nn.Module):
    """A transformer decoder layer: self-attention, cross-attention and feed-forward, each normed after its residual."""

    def __init__(self, config: CLVQConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.self_attention_norm = nn.LayerNorm(config.hidden_size)
        self.cross_attention = Attention(config)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor, memory: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        states = self.self_attention_norm(states + self.dropout(self.self_attention(states, states, allowed)))
        states = self.cross_attention_norm(states + self.dropout(self.cross_attention(states, memory, allowed)))
        hidden = self.dropout(F.relu(self.up_proj(states)))
        return self.feed_forward_norm(states + self.dropout(self.down_proj(hidden)))


class CLVQDecoder(nn.Module):
    """Quantized states of `lower_layer` → estimate of the states of `upper_layer` (Eq. 4)."""

    def __init__(self, config: CLVQConfig) -> None:
        super().__init__()
        self.is_causal = config.is_causal
        if config.scale_targets:
            # Of the states of `upper_layer`, per dimension. Some hosts have a few dimensions of huge variance.
            self.register_buffer("target_mean", torch.zeros(config.target_hidden_size))
            self.register_buffer("target_scale", torch.ones(config.target_hidden_size))
        self.layers = nn.ModuleList(CLVQDecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.head = nn.Linear(config.hidden_size, config.target_hidden_size)

    def forward(self, quantized: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`quantized` and `memory` of shape `(B, S, d)`, `mask` `(B, S)` bool; returns `(B, S, d')`."""
        allowed = self._allowed(mask)
        states, memory = quantized.to(self.head.weight.dtype), memory.to(self.head.weight.dtype)
        for layer in self.layers:
            states = layer(states, memory, allowed)
        return self.in_host_units(self.head(states))

    def in_host_units(self, estimate: torch.Tensor) -> torch.Tensor:
        """From what the decoder predicts to states of `upper_layer`."""
        return estimate * self.target_scale + self.target_mean if hasattr(self, "target_scale") else estimate

    def set_target_scale(self, targets: torch.Tensor) -> None:
        """Take mean and standard deviation of each dimension from a sample `(N, d')`."""
        targets = targets.to(self.target_mean.device, torch.float64)
        deviation = targets.std(0)
        # One that never varies needs no unit of its own: what is left of it is rounding.
        self.target_scale.copy_(torch.where(deviation > 1e-6 * deviation.mean(), deviation, deviation.mean()))
        self.target_mean.copy_(targets.mean(0))

    def _allowed(self, mask: torch.Tensor) -> torch.Tensor:
        """Which memory each query may see, for self- and cross-attention alike: else the future leaks by the memory."""
        length = mask.shape[1]
        allowed = mask[:, None, :].expand(-1, length, -1)
        if self.is_causal:
            allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        # Every query sees itself: a padded one with nothing to see would turn to NaN, and spread.
        return (allowed | torch.eye(length, dtype=torch.bool, device=mask.device))[:, None]


class CLVQModel(ConceptModel):
    """Cross-layer VQ-VAE: one discrete concept per token, decoded into the states of a higher layer.

    Args:
        config ([`CLVQConfig`]): Sizes, quantizer and host layers.

    Example:
        ```python
        >>> import torch
        >>> from clvq_hf import CLVQConfig, CLVQModel
        >>> model = CLVQModel(CLVQConfig(hidden_size=16, codebook_size=8, num_decoder_layers=1)).eval()
        >>> states = torch.randn(2, 5, 16)
        >>> model(states).codes.shape
        torch.Size([2, 5])

        ```
    """

    config_class = CLVQConfig
    _keep_in_fp32_modules_strict = ["encoder", "quantizer"]
    _no_split_modules = ["CLVQDecoderLayer"]
    _not_in_fingerprint = ("decoder.", "quantizer.updates_since_use", "quantizer.member_sums")
    _in_fingerprint = ("encoder_max_mix", "ema_epsilon")
    loss_names = ("reconstruction_loss", "commitment_loss")

    def __init__(self, config: CLVQConfig) -> None:
        super().__init__(config)
        self.encoder: AdaptiveResidualEncoder | AffineSpace = (
            AdaptiveResidualEncoder(config)
            if config.encoder == "residual"
            else AffineSpace(config.hidden_size, is_trained=config.encoder == "linear")
        )
        self.quantizer = TopKQuantizer(config)
        self.decoder = CLVQDecoder(config) if config.has_decoder else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Every parameter and buffer has its line here: post_init runs this over the whole model, and from_pretrained
        # over whatever a checkpoint lacked, which else would be uninitialised memory.
        if isinstance(module, AdaptiveResidualEncoder):
            init.constant_(module.mix_logit, self.config.encoder_mix_logit)
            init.eye_(module.linear.weight)
            init.zeros_(module.linear.bias)
            if self.config.center_states:
                init.zeros_(module.center)
        elif isinstance(module, AffineSpace):
            module.reset()
        elif isinstance(module, CLVQDecoder):
            if self.config.scale_targets:
                init.zeros_(module.target_mean)
                init.ones_(module.target_scale)
        elif isinstance(module, TopKQuantizer):
            init.ones_(module.ema_counts)
            init.normal_(module.ema_sums)
            if self.config.track_members:
                init.normal_(module.member_sums)
            init.zeros_(module.updates_since_use)
            init.zeros_(module.initialized)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @property
    def dtype(self) -> torch.dtype:
        """`torch.dtype`: of the decoder; encoder and quantizer are float32 always."""
        return torch.float32 if self.decoder is None else self.decoder.head.weight.dtype

    @property
    def codebook(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(K, d)`: mean host state of each code's tokens at `lower_layer`.

        In models of earlier versions, which have not tracked it, the encoder's vector.
        """
        members = self.quantizer.member_means
        return self.quantizer.codebook + self.encoder.origin if members is None else members

    @property
    def member_means(self) -> torch.Tensor | None:
        return self.quantizer.member_means

    @property
    def starts_from(self) -> tuple[str, ...]:
        config = self.config
        targets = ("target_hidden_states",) if config.scale_targets and config.has_decoder else ()
        return tuple(dict.fromkeys(("hidden_states", *targets, *NEEDS.get(config.codebook_space, ()))))

    @property
    def is_initialized(self) -> bool:
        return bool(self.quantizer.initialized)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        target_hidden_states: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> CLVQOutput:
        """Quantize the states of `lower_layer` and decode them into those of `upper_layer`.

        In training mode codes are drawn from the `top_k` nearest, and the codebook's counts and sums are added up
        until [`update_codebook`][clvq_hf.CLVQModel.update_codebook] applies them.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, d)`): Host states at `lower_layer`.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on real tokens; all if absent.
            target_hidden_states (`torch.Tensor` of shape `(B, S, d')`, *optional*): Host states at `upper_layer`.
                Without it there is no loss.
            token_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on the real tokens that count for loss
                and codebook (others are still encoded and attended to); all real ones if absent.
            num_items_in_batch (`torch.Tensor` of shape `()` or `int`, *optional*): Number of tokens that losses are
                divided by; the counting tokens of this batch if absent.

        Returns:
            [`CLVQOutput`]: losses, reconstruction (without a decoder neither), quantized and encoder states, codes and
            perplexity.

        Raises:
            ValueError: If a width differs from the config's, or there is a target and no decoder.
        """
        mask = self._real_tokens(hidden_states, attention_mask)
        counted = mask & self._mask("token_mask", token_mask, hidden_states)
        # What lies on padding is arbitrary, NaN at times, and NaN times zero is NaN.
        hidden_states = torch.where(mask[..., None], hidden_states, 0)
        encoder_states = self.encoder(hidden_states)
        quantized, vectors, codes = self.quantizer(encoder_states, mask, counted, hidden_states)
        reconstruction = None
        if self.decoder is not None:
            memory = quantized if self.config.decoder_memory == "quantized" else encoder_states
            reconstruction = self.decoder(quantized, memory, mask)
        output = CLVQOutput(
            reconstruction=reconstruction,
            quantized=quantized,
            encoder_states=encoder_states,
            codes=codes,
            perplexity=self._perplexity(codes, counted),
        )
        if target_hidden_states is not None:
            self._check_target(target_hidden_states, hidden_states)
            tokens = counted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            scale = getattr(self.decoder, "target_scale", None)
            output.reconstruction_loss = masked_mse(reconstruction, target_hidden_states, counted, tokens, scale)
            output.commitment_loss = masked_mse(encoder_states, vectors.detach(), counted, tokens)
            output.loss = output.reconstruction_loss + self.config.commitment_cost * output.commitment_loss
        return output

    @torch.no_grad()
    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = self._real_tokens(hidden_states, attention_mask)
        return self.quantizer.encode(self.encoder(torch.where(mask[..., None], hidden_states, 0)), mask)

    @torch.no_grad()
    def nearest(self, hidden_states: torch.Tensor, k: int = 1) -> torch.Tensor:
        return self.quantizer.nearest(self.encoder(hidden_states), k)

    @torch.no_grad()
    def distances(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        codes = self._codes_of(hidden_states, attention_mask, codes)
        encoder_states = self.encoder(torch.where((codes >= 0)[..., None], hidden_states, 0))
        return distances_to_vectors(encoder_states, self.quantizer.codebook, codes)

    @property
    def removed_vectors(self) -> torch.Tensor:
        return self.codebook - self.encoder.origin

    @property
    def mean_state(self) -> torch.Tensor:
        quantizer = self.quantizer
        if quantizer.member_sums is not None:
            return quantizer.member_sums.sum(0) / quantizer.ema_counts.sum()
        return quantizer.ema_sums.sum(0) / quantizer.ema_counts.sum() + self.encoder.origin

    @property
    def projection_centre(self) -> torch.Tensor:
        return super().projection_centre + self.encoder.origin

    @torch.no_grad()
    def reconstruct(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self._check_decoder()
        mask = self._real_tokens(hidden_states, attention_mask)
        hidden_states = torch.where(mask[..., None], hidden_states, 0)
        with hooks.evaluation_mode(self):
            encoder_states = self.encoder(hidden_states)
            if codes is None:
                codes = self.quantizer.encode(encoder_states, mask)
            quantized = F.embedding(codes.clamp(min=0), self.quantizer.codebook) * mask[..., None]
            memory = quantized if self.config.decoder_memory == "quantized" else encoder_states
            return self.decoder(quantized, memory, mask)

    @torch.no_grad()
    def initialize_codebook(
        self,
        hidden_states: torch.Tensor,
        target_hidden_states: torch.Tensor | None = None,
        seed: int = 0,
        *,
        input_ids: torch.Tensor | None = None,
        sensitivity: torch.Tensor | None = None,
    ) -> None:
        """Set encoder, codebook and the decoder's units from `K` states or more.

        See [`ConceptModel.initialize_codebook`][clvq_hf.ConceptModel.initialize_codebook]; the codebook is chosen by
        `config.codebook_init`. Without targets the decoder keeps the host's own units.

        Args:
            hidden_states (`torch.Tensor` of shape `(N, d)`): At `lower_layer`.
            target_hidden_states (`torch.Tensor` of shape `(N, d')`, *optional*): Of the same tokens at `upper_layer`.
            seed (`int`): Of every choice.
            input_ids (`torch.Tensor` of shape `(N,)`, *optional*): The tokens; for `codebook_space="residual"`.
            sensitivity (`torch.Tensor` of shape `(d, d)`, *optional*): For `codebook_space="functional"`, see
                [`upper_sensitivity`][clvq_hf.data.upper_sensitivity].

        Raises:
            ValueError: If there are fewer states than codes, one is not finite, or what the space needs is missing.
        """
        self._check_width("hidden_states", hidden_states[None], self.config.hidden_size)
        hidden_states = hidden_states.to(self.device, torch.float32)
        if isinstance(self.encoder, AffineSpace):
            self.encoder.fit(
                self.config.codebook_space,
                hidden_states,
                seed,
                target_hidden_states=target_hidden_states,
                input_ids=input_ids,
                sensitivity=sensitivity,
            )
        elif self.config.center_states:
            self.encoder.center.copy_(hidden_states.mean(0))
        if self.config.scale_targets and self.decoder is not None and target_hidden_states is not None:
            self.decoder.set_target_scale(target_hidden_states)
        encoder_states = self.encoder(hidden_states)
        codebook = initial_codebook(encoder_states, self.config.codebook_size, self.config.codebook_init, seed)
        self.quantizer.set_codebook(codebook, encoder_states, hidden_states)

    def update_codebook(self) -> int:
        """Apply the moving averages of the optimizer step; call it once after `optimizer.step()`.

        Returns:
            `int`: Number of codes that were revived (0 unless `config.revive_after` is set).
        """
        return self.quantizer.update()

    def discard_pending(self) -> None:
        self.quantizer.discard_pending()

    def _perplexity(self, codes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        buckets = torch.where(mask, codes, self.config.codebook_size).flatten()
        counts = torch.zeros(self.config.codebook_size + 1, device=codes.device)
        counts = counts.index_add_(0, buckets, torch.ones_like(buckets, dtype=counts.dtype))[:-1]
        frequencies = counts / counts.sum().clamp(min=1)
        return torch.exp(torch.special.entr(frequencies).sum())


__all__ = ["AdaptiveResidualEncoder", "CLVQModel", "CLVQOutput", "TopKQuantizer"]
