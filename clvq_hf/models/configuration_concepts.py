"""What the configs of all concept methods share: the host layers, where everything came from, what may be loaded."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.utils import logging

from ..hosts.residual_stream import check_layer_order
from ..typed import MAX_CODES, check_value, field_types
from ..version import __version__

logger = logging.get_logger(__name__)

PAPER = "[arXiv 2506.20040](https://arxiv.org/abs/2506.20040)"
# How layers are counted. Another convention would give other states under the same number.
LAYER_CONVENTION = "hidden_states"
# Metrics by which tokens can be compared at the lower layer, see `spaces.py`.
SPACES = ("states", "functional", "predictive", "residual")
# More than any concept model needs (a million codes of 8,192 dimensions), less than what brings a machine down.
MAX_MODEL_BYTES = 64 * 2**30
# What transformers and its Trainer write into a config, or read from one, besides its fields.
_OF_TRANSFORMERS = {
    *("model_type", "_name_or_path", "name_or_path", "num_labels", "torch_dtype", "output_attentions", "use_cache"),
}


@dataclass(frozen=True)
class Preset:
    """A named setting of a method, as `clvq-hf compare` offers it.

    Attributes:
        title (`str`): Name for tables and figures.
        config (`Mapping[str, Any]`): Fields of the method's config.
        training (`Mapping[str, Any]`): Fields of [`CLVQTrainingArguments`][clvq_hf.CLVQTrainingArguments], or
            arguments of the method's `fit`.
        causal_training (`Mapping[str, Any]`): Those that differ on causal hosts.
        single_layer (`bool`): Whether the lower layer is both layers.
        control (`bool`): Whether it is a sanity control, which takes no part in the count of wins.
    """

    title: str
    config: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    causal_training: Mapping[str, Any] = field(default_factory=dict)
    single_layer: bool = False
    control: bool = False


class ConceptConfig(PreTrainedConfig):
    r"""Base of the configs of all concept methods.

    Layers are counted as in `output_hidden_states`: `0` is the input of the host's first block, `i` the output of
    block `i`, before the final norm.

    Args:
        hidden_size (`int`): Width `d` of the states at `lower_layer`.
        target_hidden_size (`int`, *optional*): Width `d'` of the states at `upper_layer`; `hidden_size` if not given.
        codebook_size (`int`): Number of concepts `K`.
        has_decoder (`bool`): Whether there is what reconstructs `upper_layer`. A model without it encodes, attaches and
            ablates; see [`codebook_only`][clvq_hf.ConceptModel.codebook_only].
        lower_layer (`int`, *optional*): Host layer whose states get a concept. Needed to attach or train.
        upper_layer (`int`, *optional*): Host layer that is reconstructed.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host, else `None`.
        layer_convention (`str`): How layers are counted: `"hidden_states"`, as above.
        host_name_or_path (`str`, *optional*): Where the host came from.
        host_revision (`str`, *optional*): Commit of the host on the Hub.
        host_architecture (`str`, *optional*): Class of the host, with its head.
        host_dtype (`str`, *optional*): Its dtype.
        host_gguf_file (`str`, *optional*): Its file in the repository or folder, if the weights are stored as GGUF.
        tokenizer_fingerprint (`str`, *optional*): Of the host's tokenizer, see
            [`clvq_hf.hub.provenance.tokenizer_fingerprint`][].
        training (`dict`, *optional*): What the trainer records: texts, settings, figures.
        concepts_repo (`str`, *optional*): Dataset repository with the concept table, if it is not beside the weights.
        concepts_revision (`str`, *optional*): Commit of it.
        fingerprint (`str`, *optional*): [`ConceptModel.fingerprint`][clvq_hf.ConceptModel.fingerprint] of the weights
            that this config was saved with.
        weights_checksum (`str`, *optional*): SHA-256 of all of these weights, those of the decoder too.
        clvq_version (`str`): Version of clvq-hf that the model was made with.
        library_versions (`dict`, *optional*): Versions of the libraries that it was trained with.

    Raises:
        ValueError: If a value is out of its range, or two values contradict each other.
    """

    hidden_size: int = 768
    target_hidden_size: int | None = None
    codebook_size: int = 400
    has_decoder: bool = True
    lower_layer: int | None = None
    upper_layer: int | None = None
    stack: str | None = None
    layer_convention: str = LAYER_CONVENTION
    host_name_or_path: str | None = None
    host_revision: str | None = None
    host_architecture: str | None = None
    host_dtype: str | None = None
    host_gguf_file: str | None = None
    tokenizer_fingerprint: str | None = None
    training: dict | None = None
    concepts_repo: str | None = None
    concepts_revision: str | None = None
    fingerprint: str | None = None
    weights_checksum: str | None = None
    clvq_version: str = __version__
    library_versions: dict | None = None

    # What follows describes the method, for cards, runs and comparisons.
    # Fields that a model card lists.
    card_settings: ClassVar[tuple[str, ...]] = ("codebook_size",)
    # Fields in which two models of one method must agree for a folder to hold checkpoints of both.
    identity: ClassVar[tuple[str, ...]] = (
        *("hidden_size", "target_hidden_size", "codebook_size", "lower_layer", "upper_layer", "stack"),
    )
    # What the method is called in the records of a comparison; the `model_type` if it has no other name there.
    family: ClassVar[str | None] = None
    # Settings that `clvq-hf compare` offers, by name.
    presets: ClassVar[Mapping[str, Preset]] = {}

    @property
    def title(self) -> str:
        """What the method is called in a sentence."""
        return self.model_type.replace("_", " ")

    @property
    def source(self) -> str:
        """Where the method comes from: a sentence in Markdown, or nothing."""
        return ""

    @property
    def hub_tag(self) -> str:
        """The tag of the method on the Hub."""
        return self.model_type.replace("_", "-")

    @property
    def layers_text(self) -> str:
        """The layers as text: `"4 → 8"`, with the stack of an encoder-decoder host in brackets."""
        return f"{self.lower_layer} → {self.upper_layer}" + (f" ({self.stack})" if self.stack else "")

    @property
    def longest_text(self) -> int | None:
        """The length in tokens at which training cut its texts; `None` if it is not known, or none was set."""
        settings = (self.training or {}).get("settings")
        length = settings.get("longest_text") if isinstance(settings, dict) else None
        return length if isinstance(length, int) and length > 0 else None

    def column_of(self, kind: str, names: Sequence[str]) -> str:
        """The column of the `"text"` or `"label"` that training read, if it is among `names`; else one of that name."""
        column = (self.training or {}).get(f"{kind}_column")
        return column if column in names else kind

    def __post_init__(self, **kwargs: Any) -> None:
        if self.target_hidden_size is None:
            self.target_hidden_size = self.hidden_size
        super().__post_init__(**kwargs)
        try:
            self._check()
        except TypeError:  # a comparison with what is no number
            self._check_types()
            raise
        self._check_types()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "ConceptConfig":
        """Build a config from what a `config.json` holds.

        Fields that this version does not know are left out, with a warning: the model is of a newer one.

        Raises:
            ValueError: If a newer major version has written it, or a value is out of its range.
        """
        check_version(config_dict.get("clvq_version"))
        known = {field.name for field in dataclasses.fields(cls)} | _OF_TRANSFORMERS
        if unknown := sorted(set(config_dict) - known):
            logger.warning(
                f"Version {__version__} of clvq_hf does not know the fields {unknown} of this config, which was "
                f"written by version {config_dict.get('clvq_version')}; they are ignored."
            )
            config_dict = {name: value for name, value in config_dict.items() if name not in unknown}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_host(
        cls, host: Any, lower_layer: int, upper_layer: int, stack: str | None = None, **kwargs: Any
    ) -> "ConceptConfig":
        """Build a config that fits `host`.

        Widths and causality are measured with a tiny probe forward (`hooks.residual_stream`); nothing is
        guessed from the host's config.

        Args:
            host (`PreTrainedModel`): Any text model of transformers, with or without a task head, also inside PEFT or
                DDP.
            lower_layer (`int`): Layer whose states get a concept, from `0` to the number of blocks.
            upper_layer (`int`): Layer that is reconstructed, not below `lower_layer`.
            stack (`str`, *optional*): `"encoder"` (default) or `"decoder"` on encoder-decoder hosts.
            **kwargs: Any other field of the config.

        Returns:
            `ConceptConfig`: Of this class, with the host's name, class and dtype, and its commit if it came from the
            Hub.

        Raises:
            ValueError: If a layer is out of range, the two are swapped, a field is unknown, or the host cannot be
                hooked.
        """
        from ..hosts import hooks
        from ..hub.provenance import describe_host

        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(kwargs) - known):
            raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}. Its fields are {sorted(known)}.")

        stream = hooks.residual_stream(host, stack)
        stream.check_layer(lower_layer)
        stream.check_layer(upper_layer)
        check_layer_order(lower_layer, upper_layer)
        fields = {
            "hidden_size": stream.hidden_sizes[lower_layer],
            "target_hidden_size": stream.hidden_sizes[upper_layer],
            "is_causal": stream.is_causal,
            "stack": stream.stack,
            **describe_host(host),
        }
        fields = {name: value for name, value in fields.items() if name in known}
        return cls(lower_layer=lower_layer, upper_layer=upper_layer, **{**fields, **kwargs})

    def model_bytes(self) -> int:
        """Bytes that a model of this config takes in float32, about; to be known before they are asked for."""
        raise NotImplementedError  # abstract

    def _check(self) -> None:
        """Raise `ValueError` for the first value that cannot work, naming what would."""
        self._check_integers("hidden_size", "target_hidden_size", "codebook_size")
        if self.codebook_size > MAX_CODES:
            raise ValueError(f"codebook_size={self.codebook_size:,} is refused: more than {MAX_CODES:,} is a mistake.")
        if self.stack not in (None, "encoder", "decoder"):
            raise ValueError(f"stack must be one of {(None, 'encoder', 'decoder')}, got {self.stack!r}.")
        if self.layer_convention != LAYER_CONVENTION:
            raise ValueError(
                f"This version of clvq_hf counts layers as {LAYER_CONVENTION!r}, and the config says "
                f"{self.layer_convention!r}: its layer numbers mean other states."
            )
        check_layer_order(self.lower_layer, self.upper_layer)

    def _check_size(self) -> None:
        if (size := self.model_bytes()) > MAX_MODEL_BYTES:
            raise ValueError(
                f"A model of this config would take {size / 2**30:,.0f} GiB; more than {MAX_MODEL_BYTES // 2**30} GiB "
                "is refused. Is a size mistyped, or the config damaged?"
            )

    def _check_types(self) -> None:
        """Raise `ValueError` for a value of another type than its field's, or a number that is not finite."""
        own = {name for each in type(self).__mro__ if issubclass(each, ConceptConfig) for name in vars(each)}
        for name, kind in field_types(type(self)).items():
            if name in own:
                check_value(getattr(self, name), kind, name)

    def _check_integers(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")

    def _check_numbers(self, *names: str) -> None:
        for name in names:
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)!r}.")


def check_version(version: str | None) -> None:
    """Refuse the `clvq_version` of a newer major version, naming what to install."""
    if version is None:
        return
    major = re.match(r"\d+(?=\.)", str(version))
    if major is None:
        raise ValueError(f"clvq_version={version!r} in the config is no version; is the file damaged?")
    if int(major[0]) > int(__version__.split(".")[0]):
        raise ValueError(
            f"This model was made with clvq-hf {version}, and version {__version__} cannot read it. Install a newer "
            f"one: pip install 'clvq-hf>={major[0]}'."
        )


__all__ = ["PAPER", "ConceptConfig", "Preset"]
