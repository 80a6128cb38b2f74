"""Configuration of sparse dictionaries: sparse autoencoders and transcoders."""

from collections.abc import Mapping
from typing import Any, ClassVar

from .configuration_concepts import PAPER, ConceptConfig, Preset

ACTIVATIONS = ("relu", "topk", "jumprelu")


class SparseConfig(ConceptConfig):
    r"""Everything that defines a [`SparseDictionary`].

    With `lower_layer == upper_layer` it is a sparse autoencoder, else a transcoder (cross-layer). Its concepts are its
    neurons: `codebook_size` is their number.

    Args:
        activation (`str`): `"relu"` (with an L1 penalty), `"topk"`, or `"jumprelu"` (a threshold for each neuron; only
            dictionaries that were trained elsewhere have it).
        num_active (`int`, *optional*): `k` of `"topk"`.
        sparsity_cost (`float`): `λ`, the weight of the L1 penalty.
        scale_states (`bool`): Whether states are scaled so that the root mean square norm of their differences from the
            mean is `√d`, at both layers: `λ`, learning rate and thresholds then mean the same on hosts of any scale.
        revive_after (`int`, *optional*): Neurons that fired for no token in this many optimizer steps are started anew,
            on the tokens that are reconstructed worst. `None` never does.
        has_skip (`bool`): Whether a linear map of the input is added to the output (skip transcoders).
        has_row_lengths (`bool`): Whether the lengths of decoder rows are stored beside the encoder, because they are
            not one (only of dictionaries that were trained elsewhere).
        **kwargs: The fields of [`ConceptConfig`][clvq_hf.models.ConceptConfig]: layers, widths, number
            of concepts, host.

    Raises:
        ValueError: If a value is out of its range, or two values contradict each other.
    """

    model_type = "sparse_dictionary"

    codebook_size: int = 4096
    activation: str = "relu"
    num_active: int | None = None
    sparsity_cost: float = 0.2
    scale_states: bool = True
    revive_after: int | None = None
    has_skip: bool = False
    has_row_lengths: bool = False

    family = "sparse"
    source = f"It is one of the methods that {PAPER} compares CLVQ-VAE with."
    card_settings = (*("activation", "num_active", "sparsity_cost", "scale_states", "codebook_size", "revive_after"),)
    identity = (*ConceptConfig.identity, "activation", "num_active", "scale_states", "has_skip")
    presets: ClassVar[Mapping[str, Preset]] = {
        "sae": Preset("SAE"),
        "sae-single-layer": Preset("SAE, single layer", single_layer=True),
        "transcoder": Preset("transcoder", config={"activation": "topk", "num_active": 32, "sparsity_cost": 0.0}),
    }

    @property
    def title(self) -> str:
        """What the model is called in a sentence: a transcoder if it maps one layer to another."""
        return f"a {self.hub_tag.replace('-', ' ')}"

    @property
    def hub_tag(self) -> str:
        """The tag of the method on the Hub."""
        return "sparse-autoencoder" if self.lower_layer == self.upper_layer else "transcoder"

    def model_bytes(self) -> int:
        width, target = self.hidden_size, self.target_hidden_size
        decoder = self.codebook_size * target + (width * target if self.has_skip else 0) if self.has_decoder else 0
        return 4 * (self.codebook_size * width + decoder)

    def _check(self) -> None:
        super()._check()
        self._check_numbers("sparsity_cost")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got {self.activation!r}.")
        if self.activation == "topk":
            self._check_integers("num_active")
            if self.num_active > self.codebook_size:
                raise ValueError(f"num_active={self.num_active} is more than codebook_size={self.codebook_size}.")
        elif self.num_active is not None:
            raise ValueError(f"num_active applies only to activation='topk', got activation={self.activation!r}.")
        if self.sparsity_cost < 0:
            raise ValueError(f"sparsity_cost must not be negative, got {self.sparsity_cost}.")
        if self.revive_after is not None and self.revive_after < 1:
            raise ValueError(f"revive_after counts optimizer steps: at least 1, or None; got {self.revive_after}.")
        self._check_size()

    @classmethod
    def sae(cls, host: Any, lower_layer: int, upper_layer: int, **kwargs: Any) -> "SparseConfig":
        """[`SparseConfig.from_host`] of the paper's sparse autoencoder: ReLU with L1, 4,096 neurons."""
        return cls.from_host(host, lower_layer, upper_layer, **{"activation": "relu", **kwargs})

    @classmethod
    def transcoder(cls, host: Any, lower_layer: int, upper_layer: int, **kwargs: Any) -> "SparseConfig":
        """[`SparseConfig.from_host`] of a TopK transcoder in the style of Llama Scope (arXiv 2410.20526): `k=32`."""
        fields = {"activation": "topk", "num_active": 32, "sparsity_cost": 0.0}
        return cls.from_host(host, lower_layer, upper_layer, **{**fields, **kwargs})


__all__ = ["SparseConfig"]
