"""Configuration of the CLVQ-VAE concept model."""

from collections.abc import Mapping
from typing import Any, ClassVar

from .configuration_concepts import PAPER, ConceptConfig, Preset

DECODER_MEMORIES = ("quantized", "encoder")
MAX_LAYERS = 1_000
CODEBOOK_INITS = ("spherical-kmeans++", "kmeans++", "random")
PAPER_CONFIG = {"decoder_memory": "encoder", "num_decoder_layers": 6}
# Fields of CLVQTrainingArguments in which the paper's settings differ from our defaults, for any kind of host.
PAPER_TRAINING = {
    "num_train_epochs": 50,
    "coupled_weight_decay": True,
    "weight_decay": 1e-4,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "reduce_lr_on_plateau",
    "lr_scheduler_kwargs": {"factor": 0.5, "patience": 5},
    "metric_for_best_model": "loss",
    "greater_is_better": False,
    "eval_strategy": "epoch",
    "min_token_occurrences": 5,
    "max_token_occurrences": 20,
}


class CLVQConfig(ConceptConfig):
    r"""Everything that defines a [`CLVQModel`]: its sizes, its quantizer, and the host layers that it connects.

    Layers are counted as in `output_hidden_states`: `0` is the input of the host's first block, `i` the output of
    block `i`, before the final norm. Most users build a config with [`CLVQConfig.from_host`], which reads the sizes and
    the causality off the host.

    Args:
        hidden_size (`int`): Width `d` of the states at `lower_layer`; also the width of the codebook.
        upper_layer (`int`, *optional*): Host layer that is reconstructed; equal to `lower_layer` for a single-layer
            VQ-VAE.
        is_causal (`bool`): Whether the host reads left to right only. The decoder is then causal too, in self- and in
            cross-attention.
        top_k (`int`): In training a code is drawn from this many nearest codes. `1` gives the nearest code always.
        temperature (`float`): `T` of `softmax(-D / T)` over the squared distances of these codes.
        ema_decay (`float`): `γ` of the codebook's exponential moving averages.
        ema_epsilon (`float`): `ε` of the Laplace smoothing of the code counts.
        commitment_cost (`float`): `β`, the weight of the commitment loss.
        codebook_init (`str`): `"spherical-kmeans++"`, `"kmeans++"` or `"random"`, see [`clvq_hf.models.codebook_init`].
        revive_after (`int`, *optional*): Codes without a token for this many codebook updates are replaced by random
            recent encoder states. `None` (the paper's setting) never does.
        encoder_max_mix (`float`): `m_max`, the upper bound of the encoder's mixing weight.
        encoder_mix_logit (`float`): Start of `a`; the mixing weight is `m_max·sigmoid(a)`.
        center_states (`bool`): Whether the mean of the states that the codebook is initialised from is subtracted
            first. Codes are then differences from it, and removing one leaves what all states share alone.
        num_decoder_layers (`int`): Layers of the transformer decoder; 0 for a linear map of each token's code alone.
        num_attention_heads (`int`): Attention heads of the decoder; must divide `hidden_size`.
        intermediate_size (`int`): Width of the decoder's feed-forward part.
        dropout (`float`): Dropout probability in the decoder.
        decoder_memory (`str`): What the decoder's cross-attention reads. `"quantized"` closes the bottleneck;
            `"encoder"` is the paper's and lets the continuous states leak around it.
        **kwargs: The fields of [`ConceptConfig`][clvq_hf.models.ConceptConfig]: layers, widths,
            number of concepts, host.

    Raises:
        ValueError: If a value is out of its range, or two values contradict each other.

    Example:
        ```python
        >>> from clvq_hf import CLVQConfig
        >>> config = CLVQConfig(hidden_size=768, lower_layer=8, upper_layer=12, codebook_size=400)
        >>> config.target_hidden_size
        768

        ```
    """

    model_type = "clvq"

    is_causal: bool = False
    top_k: int = 5
    temperature: float = 1.0
    ema_decay: float = 0.99
    ema_epsilon: float = 1e-5
    commitment_cost: float = 0.1
    codebook_init: str = "spherical-kmeans++"
    revive_after: int | None = None
    encoder_max_mix: float = 0.5
    encoder_mix_logit: float = 0.2
    center_states: bool = False
    num_decoder_layers: int = 2
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    dropout: float = 0.1
    decoder_memory: str = "quantized"

    title = "CLVQ-VAE"
    source = f"The method is that of {PAPER}."
    hub_tag = "vector-quantization"
    card_settings = (
        *("center_states", "codebook_size", "top_k", "temperature", "ema_decay", "commitment_cost", "codebook_init"),
        *("revive_after", "decoder_memory", "num_decoder_layers", "intermediate_size", "dropout"),
    )
    identity = (
        *ConceptConfig.identity,
        *("is_causal", "num_decoder_layers", "num_attention_heads", "intermediate_size", "decoder_memory"),
        "center_states",
    )
    presets: ClassVar[Mapping[str, Preset]] = {
        "clvq": Preset("CLVQ-VAE"),
        # The paper's optimizer settings and decoder, whose memory is open; batch size and rate differ on causal hosts.
        "clvq-paper": Preset(
            "CLVQ-VAE, paper",
            config=PAPER_CONFIG,
            training={**PAPER_TRAINING, "learning_rate": 5e-3, "per_device_train_batch_size": 128},
            causal_training={"learning_rate": 1e-3, "per_device_train_batch_size": 64},
        ),
        "vqvae": Preset("VQ-VAE, single layer", single_layer=True),
    }

    def model_bytes(self) -> int:
        width, target = self.hidden_size, self.target_hidden_size
        layer = 8 * width * width + 2 * width * self.intermediate_size
        decoder = self.num_decoder_layers * layer + width * target if self.has_decoder else 0
        return 4 * (width * width + self.codebook_size * width + decoder)

    def _check(self) -> None:
        super()._check()
        self._check_integers("top_k", "num_attention_heads", "intermediate_size")
        if not isinstance(self.num_decoder_layers, int) or self.num_decoder_layers < 0:
            raise ValueError(f"num_decoder_layers must be an integer of at least 0, got {self.num_decoder_layers!r}.")
        if self.num_decoder_layers > MAX_LAYERS:
            raise ValueError(
                f"num_decoder_layers={self.num_decoder_layers:,} is refused: more than {MAX_LAYERS:,} is a mistake."
            )
        self._check_numbers(
            *("temperature", "ema_epsilon", "ema_decay", "dropout", "encoder_max_mix", "encoder_mix_logit"),
            "commitment_cost",
        )
        for name in ("temperature", "ema_epsilon"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("ema_decay", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if not 0 <= self.encoder_max_mix <= 1:
            raise ValueError(f"encoder_max_mix must lie in [0, 1], got {self.encoder_max_mix}.")
        if self.commitment_cost < 0:
            raise ValueError(f"commitment_cost must not be negative, got {self.commitment_cost}.")
        if self.revive_after is not None and self.revive_after < 1:
            raise ValueError(f"revive_after counts codebook updates: at least 1, or None; got {self.revive_after}.")
        if self.hidden_size % self.num_attention_heads:
            divisors = [n for n in range(1, 17) if self.hidden_size % n == 0]
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}. "
                f"Choose one of {divisors}."
            )
        for name, allowed in (
            ("decoder_memory", DECODER_MEMORIES),
            ("codebook_init", CODEBOOK_INITS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        self._check_size()

    @classmethod
    def paper(cls, host: Any, lower_layer: int, upper_layer: int, **kwargs: Any) -> "CLVQConfig":
        """[`CLVQConfig.from_host`] with the settings of the paper (arXiv 2506.20040).

        They are our defaults except for the decoder, which has six layers instead of two, and whose cross-attention
        reads the continuous encoder states, which leak around the bottleneck (see the method page of the docs).
        """
        return cls.from_host(host, lower_layer, upper_layer, **{**PAPER_CONFIG, **kwargs})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "CLVQConfig":
        # Six was the default when configs were first saved. With fewer layers, weights would be ignored silently.
        return super().from_dict({"num_decoder_layers": 6, **config_dict}, **kwargs)


__all__ = ["CLVQConfig"]
