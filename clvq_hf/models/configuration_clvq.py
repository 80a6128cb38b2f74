"""Configuration of the CLVQ-VAE concept model."""

from collections.abc import Mapping
from typing import Any, ClassVar

from .configuration_concepts import PAPER, SPACES, ConceptConfig, Preset

DECODER_MEMORIES = ("quantized", "encoder")
MAX_LAYERS = 1_000
CODEBOOK_INITS = ("spherical-kmeans++", "kmeans++", "random")
ENCODERS = ("residual", "linear", "frozen")
PAPER_CONFIG = {"decoder_memory": "encoder", "num_decoder_layers": 6, "encoder": "residual", "scale_targets": False}
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
        codebook_init (`str`, *optional*): `"spherical-kmeans++"`, `"kmeans++"` or `"random"`, see
            [`clvq_hf.models.codebook_init`]. If not given the first, which is the paper's, for the residual encoder,
            and the second for the others, which centre the states: directions from their mean say little without
            lengths.
        revive_after (`int`, *optional*): Codes without a token for this many codebook updates are replaced by random
            recent encoder states. `None` (the paper's setting) never does.
        encoder (`str`): `"residual"` is the paper's: it stays close to the identity. `"linear"` is a full linear map
            that starts at `codebook_space` and then learns. `"frozen"` is the same map without learning, and its
            codebook stays where it starts: only the decoder is trained.
        codebook_space (`str`): Where the linear and the frozen encoder start: `"states"`, `"functional"`,
            `"predictive"` or `"residual"`, see [`clvq_hf.models.spaces`].
        track_members (`bool`): Whether the mean host state of each code's tokens is averaged in training. It is what
            `codebook` holds, and what interventions remove. False in models of earlier versions, whose `codebook` is
            the encoder's.
        scale_targets (`bool`, *optional*): Whether the decoder predicts the states of `upper_layer` in units of each
            dimension's mean and standard deviation, and is trained on the error in these units. If not given, not with
            the residual encoder, as in the paper, but with the others.
        encoder_max_mix (`float`): `m_max`, the upper bound of the encoder's mixing weight.
        encoder_mix_logit (`float`): Start of `a`; the mixing weight is `m_max·sigmoid(a)`.
        center_states (`bool`): Whether the residual encoder first subtracts the mean of the states that the codebook is
            initialised from, as the others always do. Codes are then differences from it, and removing one leaves
            what all states share alone.
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
    codebook_init: str | None = None
    revive_after: int | None = None
    encoder: str = "residual"
    codebook_space: str = "states"
    track_members: bool = True
    scale_targets: bool | None = None
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
        *(
            "encoder",
            "codebook_space",
            "center_states",
            "codebook_size",
            "top_k",
            "temperature",
            "ema_decay",
            "commitment_cost",
            "codebook_init",
        ),
        *("revive_after", "decoder_memory", "num_decoder_layers", "intermediate_size", "dropout"),
    )
    identity = (
        *ConceptConfig.identity,
        *("is_causal", "num_decoder_layers", "num_attention_heads", "intermediate_size", "decoder_memory"),
        *("center_states", "encoder", "codebook_space", "track_members", "scale_targets"),
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
        **{
            f"clvq-{name}": Preset(f"CLVQ-VAE, {title}", config={"encoder": "linear", "codebook_space": space})
            for name, title, space in (
                ("linear", "linear encoder", "states"),
                *((space, f"{space} space", space) for space in SPACES[1:]),
            )
        },
        "clvq-frozen": Preset("CLVQ-VAE, frozen codes", config={"encoder": "frozen", "codebook_space": "functional"}),
        "vqvae": Preset("VQ-VAE, single layer", single_layer=True),
    }

    def __post_init__(self, **kwargs: Any) -> None:
        if self.codebook_init is None:
            self.codebook_init = "spherical-kmeans++" if self.encoder == "residual" else "kmeans++"
        if self.scale_targets is None:
            self.scale_targets = self.encoder != "residual"
        super().__post_init__(**kwargs)

    def model_bytes(self) -> int:
        width, target = self.hidden_size, self.target_hidden_size
        layer = 8 * width * width + 2 * width * self.intermediate_size
        decoder = self.num_decoder_layers * layer + width * target if self.has_decoder else 0
        vectors = self.codebook_size * width * (2 if self.track_members else 1)
        return 4 * (width * width + vectors + decoder)

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
            ("encoder", ENCODERS),
            ("codebook_space", SPACES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        if self.encoder == "residual" and self.codebook_space != "states":
            raise ValueError(
                f"The residual encoder stays close to the states themselves, so codebook_space={self.codebook_space!r} "
                "needs encoder='linear' (or 'frozen')."
            )
        if self.encoder != "residual" and self.center_states:
            raise ValueError("center_states is for the residual encoder: a linear one always centres the states.")
        self._check_size()

    @classmethod
    def paper(cls, host: Any, lower_layer: int, upper_layer: int, **kwargs: Any) -> "CLVQConfig":
        """[`CLVQConfig.from_host`] with the settings of the paper (arXiv 2506.20040).

        The decoder has six layers instead of two, predicts the states of `upper_layer` in their own units, and its
        cross-attention reads the continuous encoder states, which leak around the bottleneck (see the method page of
        the docs).
        """
        return cls.from_host(host, lower_layer, upper_layer, **{**PAPER_CONFIG, **kwargs})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "CLVQConfig":
        # What the fields were when configs were first saved without them: else weights would be missing or ignored.
        before = {"num_decoder_layers": 6, "track_members": False, "scale_targets": False}
        return super().from_dict(
            {**before, "encoder": "residual", "codebook_space": "states", **config_dict}, **kwargs
        )


__all__ = ["CLVQConfig"]
