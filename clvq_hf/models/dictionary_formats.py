"""The configs of published dictionaries, in the formats of SAELens and of EleutherAI's sparsify.

Each is read into a [`Plan`]. Whatever is not understood is refused: a wrong activation or a wrong layer would give
plausible numbers that mean nothing.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from ..hub.provenance import is_hub_id
from ..hub.repositories import Source
from ..reading import read_json

CONFIG_FILE = "cfg.json"
LENS_WEIGHTS = "sae_weights.safetensors"
SPARSIFY_WEIGHTS = "sae.safetensors"
# What the trainer of sparsify notes beside the folders of its hookpoints.
SPARSIFY_RUN_FILE = "config.json"


@dataclass(frozen=True)
class Form:
    """What the name of an architecture says."""

    activation: str
    is_transcoder: bool = False
    has_skip: bool = False


LENS_ARCHITECTURES = {
    "standard": Form("relu"),
    "topk": Form("topk"),
    "jumprelu": Form("jumprelu"),
    "transcoder": Form("relu", is_transcoder=True),
    "skip_transcoder": Form("relu", is_transcoder=True, has_skip=True),
    "jumprelu_transcoder": Form("jumprelu", is_transcoder=True),
    "jumprelu_skip_transcoder": Form("jumprelu", is_transcoder=True, has_skip=True),
}
LENS_FIELDS = {
    *("architecture", "d_in", "d_sae", "dtype", "device", "metadata"),
    *("apply_b_dec_to_input", "normalize_activations", "reshape_activations"),
}
# In version 6.
LENS_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
SPARSIFY_FIELDS = {
    *("activation", "k", "signed", "d_in", "num_latents", "expansion_factor"),
    *("transcode", "skip_connection", "normalize_decoder", "multi_topk"),
}
# Their tensors → ours, and whether theirs are transposed.
LENS_TENSORS = {
    "W_enc": ("encoder.weight", True),
    "b_enc": ("encoder.bias", False),
    "threshold": ("encoder.threshold", False),
    "W_dec": ("decoder.weight", False),
    "b_dec": ("decoder.bias", False),
    "W_skip": ("decoder.skip", False),
}
SPARSIFY_TENSORS = {
    "encoder.weight": ("encoder.weight", False),
    "encoder.bias": ("encoder.bias", False),
    "W_dec": ("decoder.weight", False),
    "b_dec": ("decoder.bias", False),
    "W_skip": ("decoder.skip", False),
}

# A place in a block, in the names of TransformerLens or of modules of transformers.
HOOK = re.compile(r"((?:\w+\.)*?)(?:layers|layer|blocks|block|h)\.(\d+)(?:\.(.+))?")
# Layers of `output_hidden_states` from the block's number; a module's name alone is that of its output.
FROM_BLOCK = {"hook_resid_pre": 0, "hook_resid_post": 1, None: 1}
# Other prefixes, such as `decoder.`, may be of one of several stacks.
OF_THE_ONLY_STACK = re.compile(r"((model|transformer|gpt_neox|language_model)\.)*")


@dataclass(frozen=True)
class Plan:
    """A dictionary as its config describes it, before any weights are looked at.

    Attributes:
        weights (`str`): Name of the file with them.
        tensors (`dict`): Names in the file → ours, and whether theirs are transposed.
        fields (`dict`): Of [`SparseConfig`][clvq_hf.SparseConfig], but for layers and host.
        host (`dict`): Those that name the host, if the files do.
        layers (`tuple[int, int]`, *optional*): The two layers, if the files tell them.
        hooks (`str`): What they do tell.
        dataset (`Any`): Hub id of the texts, if the files name one.
        origin (`dict`): What else is noted in the config.
        is_transcoder (`bool`): Whether it may have two layers.
        subtracts_bias (`bool`): Whether the decoder's bias is subtracted from the input.
        scales_by_rows (`bool`): Whether activations are in units of their decoder rows.
        scaling (`float`, *optional*): Of the states, before encoding.
        centres (`bool`): Whether the mean over the dimensions of each state is subtracted first.
    """

    weights: str
    tensors: dict[str, tuple[str, bool]]
    fields: dict[str, Any]
    host: dict[str, str]
    layers: tuple[int, int] | None
    hooks: str
    dataset: Any
    origin: dict[str, Any]
    is_transcoder: bool = False
    subtracts_bias: bool = False
    scales_by_rows: bool = False
    scaling: float | None = None
    centres: bool = False


@dataclass(frozen=True)
class _Config:
    """What a config file has, read with suspicion; `name` is what errors call the dictionary."""

    name: str
    fields: dict[str, Any]

    def get(self, field: str, default: Any = None) -> Any:
        return self.fields.get(field, default)

    def present(self, field: str) -> Any:
        if field not in self.fields:
            raise ValueError(f"{self.name}: {CONFIG_FILE} lacks {field!r}; get it again, or ask its author.")
        return self.fields[field]

    def flag(self, field: str, default: bool) -> bool:
        if not isinstance(value := self.get(field, default), bool):
            raise ValueError(f"{self.name}: {field} in {CONFIG_FILE} must be true or false, got {value!r}.")
        return value

    def integer(self, field: str) -> int:
        if not isinstance(value := self.present(field), int):
            raise ValueError(f"{self.name}: {field} in {CONFIG_FILE} must be an integer, got {value!r}.")
        return value

    def check_fields(self, known: set[str]) -> None:
        if unknown := sorted(set(self.fields) - known):
            raise ValueError(
                f"{self.name}: {CONFIG_FILE} has {unknown}, which is not known here and may change what is computed. "
                "Is it of another version, or a training checkpoint? (SAELens saves finished ones with "
                "save_inference_model.)"
            )


def read_plan(
    described: dict[str, Any],
    name: str,
    source: Source,
    norm_scaling_factor: float | None,
    center_states: bool | None,
) -> Plan:
    """Read what a `cfg.json` holds; `name` is what errors call the dictionary, of `source`.

    The last two arguments are those of [`load_dictionary`][clvq_hf.models.load_dictionary].

    Raises:
        ValueError: If it is of neither format, or has something that is not understood.
    """
    config = _Config(name, described)
    if "d_sae" in described:
        return _of_sae_lens(config, norm_scaling_factor, center_states)
    if not {"d_in", "k"} <= set(described):
        raise ValueError(f"{name}: {CONFIG_FILE} is neither of SAELens nor of sparsify. It has {sorted(described)}.")
    if norm_scaling_factor is not None or center_states is not None:
        raise ValueError(
            f"{name} is a dictionary of sparsify; norm_scaling_factor and center_states are for SAELens only."
        )
    return _of_sparsify(config, source)


def _of_sae_lens(config: _Config, norm_scaling_factor: float | None, center_states: bool | None) -> Plan:
    if "metadata" not in config.fields:
        config = _as_of_version_6(config)
    name, architecture, metadata = config.name, config.get("architecture"), config.get("metadata")
    form = LENS_ARCHITECTURES.get(str(architecture))
    if form is None:
        raise ValueError(
            f"{name} has the architecture {architecture!r}, which is not known here; known are "
            f"{sorted(LENS_ARCHITECTURES)}. (SAELens saves batchtopk and matryoshka_batchtopk as jumprelu, with "
            "save_inference_model.)"
        )
    topk = form.activation == "topk"
    known = LENS_FIELDS | ({"k", "rescale_acts_by_decoder_norm"} if topk else set())
    config.check_fields(known | ({"d_out"} if form.is_transcoder else set()))
    kwargs = (metadata.get("model_from_pretrained_kwargs") or {}) if isinstance(metadata, dict) else None
    if not isinstance(kwargs, dict):
        raise ValueError(f"{name}: {CONFIG_FILE} is damaged; its metadata is {metadata!r}.")
    subtracts_bias = config.flag("apply_b_dec_to_input", default=True)
    if subtracts_bias and form.is_transcoder:
        raise ValueError(f"{name} is a transcoder with apply_b_dec_to_input; its biases are of different layers.")
    if config.get("reshape_activations", "none") != "none" or metadata.get("hook_head_index") is not None:
        raise ValueError(
            f"{name} reads attention heads (reshape_activations={config.get('reshape_activations')!r}, "
            f"hook_head_index={metadata.get('hook_head_index')!r}). Concept models read the residual stream."
        )
    if kwargs.get("center_writing_weights") and center_states is None:
        raise ValueError(
            f"{name} was trained on a model with center_writing_weights=True. TransformerLens centres the states of "
            "models with LayerNorm then, and leaves those with RMSNorm as they are: say which with center_states=True "
            "or center_states=False."
        )
    places = {"threshold": form.activation == "jumprelu", "W_skip": form.has_skip}
    hooks = [metadata.get("hook_name"), metadata.get("hook_name_out" if form.is_transcoder else "hook_name")]
    layers = [_layer(hook, name) for hook in hooks]
    return Plan(
        weights=LENS_WEIGHTS,
        tensors={theirs: ours for theirs, ours in LENS_TENSORS.items() if places.get(theirs, True)},
        fields={
            "hidden_size": config.get("d_in"),
            "target_hidden_size": config.present("d_out") if form.is_transcoder else config.get("d_in"),
            "codebook_size": config.get("d_sae"),
            "activation": form.activation,
            "num_active": config.present("k") if topk else None,
            "has_skip": form.has_skip,
        },
        host=_host(metadata.get("model_name"), kwargs.get("revision")),
        layers=None if None in layers else tuple(layers),
        hooks=f"hook_name={hooks[0]!r}" + (f", hook_name_out={hooks[1]!r}" if form.is_transcoder else ""),
        dataset=metadata.get("dataset_path"),
        origin={
            "format": "SAELens",
            "version": metadata.get("sae_lens_version"),
            "model_name": metadata.get("model_name"),
            "prepend_bos": metadata.get("prepend_bos"),
        },
        is_transcoder=form.is_transcoder,
        subtracts_bias=subtracts_bias,
        scales_by_rows=topk and config.flag("rescale_acts_by_decoder_norm", default=False),
        scaling=_scaling(config, norm_scaling_factor),
        centres=bool(center_states),
    )


def _as_of_version_6(config: _Config) -> _Config:
    """A config of SAELens before version 6, which had everything in one place, in today's form.

    Of its many fields those of training are left out, as SAELens does. But it also leaves out activations that it no
    longer knows, and reads a ReLU.
    """
    old = {LENS_RENAMED.get(field, field): value for field, value in config.fields.items()}
    architecture, activation = old.get("architecture", "standard"), old.get("activation_fn", "relu")
    if activation == "topk" and architecture == "standard":
        architecture = "topk"
    elif activation != "relu" and (activation, architecture) != ("topk", "topk"):
        raise ValueError(
            f"{config.name} has the activation {activation!r} in the architecture {architecture!r}; this is not known "
            "here."
        )
    normalization = old.get("normalize_activations") or "none"
    new = {
        "architecture": architecture,
        "d_in": old.get("d_in"),
        "d_sae": old["d_sae"],
        "apply_b_dec_to_input": old.get("apply_b_dec_to_input", True),
        "normalize_activations": "expected_average_only_in" if normalization is True else normalization,
        "reshape_activations": old.get("reshape_activations", "none"),
        "metadata": old,
    }
    if architecture == "topk":
        settings = old.get("activation_fn_kwargs") or {}
        if set(settings) != {"k"}:
            raise ValueError(f"{config.name} has the TopK of activation_fn_kwargs={settings!r}; only k is known here.")
        new["k"] = settings["k"]
    return _Config(config.name, new)


def _of_sparsify(config: _Config, source: Source) -> Plan:
    name = config.name
    config.check_fields(SPARSIFY_FIELDS)
    if (activation := config.get("activation", "topk")) != "topk" or config.flag("signed", default=False):
        raise ValueError(
            f"{name} has the activation {activation!r} (signed={config.get('signed', False)}), which is not known "
            "here; known is 'topk', not signed."
        )
    if "skip_connection" in config.fields and "transcode" not in config.fields:
        raise ValueError(
            f"{name} does not say whether it transcodes: some versions of sparsify noted that elsewhere. If you know, "
            f'download it and add "transcode": true or false to its {CONFIG_FILE}.'
        )
    is_transcoder = config.flag("transcode", default=False)
    has_skip = config.flag("skip_connection", default=False)
    width, size = config.get("d_in"), config.get("num_latents")
    if not size:
        width = config.integer("d_in")
        size = width * config.integer("expansion_factor")
    hookpoint, run = _hookpoint(source)
    block = _layer(hookpoint, name)
    # A block's input is the output of the one before.
    layers = None if block is None else (block - 1 if is_transcoder else block, block)
    return Plan(
        weights=SPARSIFY_WEIGHTS,
        tensors={theirs: ours for theirs, ours in SPARSIFY_TENSORS.items() if has_skip or theirs != "W_skip"},
        fields={
            "hidden_size": width,
            "codebook_size": size,
            "activation": activation,
            "num_active": config.get("k"),
            "has_skip": has_skip,
        },
        host=_host(run.get("model"), run.get("revision")),
        layers=layers,
        hooks=f"hookpoint {hookpoint!r}",
        dataset=run.get("dataset"),
        origin={"format": "sparsify", "model_name": run.get("model")},
        is_transcoder=is_transcoder,
        subtracts_bias=not is_transcoder,
    )


def _hookpoint(source: Source) -> tuple[str, dict[str, Any]]:
    """The folder that is named after a module, and what the run's own config says, if the subfolder leads below it."""
    inside = PurePosixPath(source.subfolder)
    root = PurePath(Path(source.name).resolve() if source.is_local else source.name)
    # Of several dictionaries of one module each has its own folder.
    if re.fullmatch(r"seed\d+", (inside.parts or root.parts)[-1]):
        inside, root = (inside.parent, root) if inside.parts else (inside, root.parent)
    if not inside.parts:
        return root.name, {}
    above = replace(source, subfolder="" if inside.parent == PurePosixPath(".") else str(inside.parent))
    file = above.fetch(SPARSIFY_RUN_FILE) / SPARSIFY_RUN_FILE
    run = read_json(file) if file.is_file() else {}
    # A config.json may be anything's.
    return inside.name, run if isinstance(run.get("sae"), dict) else {}


def _scaling(config: _Config, factor: float | None) -> float | None:
    name, normalization = config.name, config.get("normalize_activations", "none")
    if normalization not in ("none", "expected_average_only_in"):
        raise ValueError(
            f"{name} has normalize_activations={normalization!r}, which is another for each token: a dictionary of "
            "this library cannot do that. Known are 'none' and 'expected_average_only_in'."
        )
    if normalization == "none":
        if factor is not None:
            raise ValueError(f"{name} takes states as they are: leave norm_scaling_factor out.")
    elif factor is None:
        raise ValueError(
            f"{name} has normalize_activations={normalization!r}, and its files do not hold the factor. Give it as "
            "norm_scaling_factor: it is in SAELens' list of pretrained ones, or √d over the mean norm of the states."
        )
    elif not factor > 0:
        raise ValueError(f"norm_scaling_factor must be positive, got {factor}.")
    return factor


def _host(name: Any, revision: Any) -> dict[str, str]:
    """Fields that name the host. Short names, such as "gemma-2-2b", are TransformerLens' own and no ids of the Hub."""
    if not isinstance(name, str) or "/" not in name or not is_hub_id(name):
        return {}
    return {"host_name_or_path": name, **({"host_revision": revision} if isinstance(revision, str) else {})}


def _layer(hook: Any, name: str) -> int | None:
    """The layer of a hook point; `None` if that cannot be told, `ValueError` if it lies inside a block."""
    found = HOOK.fullmatch(hook) if isinstance(hook, str) else None
    if found is None:
        return None
    prefix, block, inside = found.groups()
    if inside not in FROM_BLOCK:
        raise ValueError(
            f"{name} is of {hook!r}, inside a block. Concept models read and write the residual stream between blocks "
            "(hook_resid_pre, hook_resid_post; of sparsify whole blocks, such as layers.5): its codes would mean "
            "nothing there."
        )
    return int(block) + FROM_BLOCK[inside] if OF_THE_ONLY_STACK.fullmatch(prefix) else None


__all__ = ["CONFIG_FILE", "LENS_WEIGHTS", "Plan", "read_plan"]
