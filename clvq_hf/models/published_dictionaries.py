"""Dictionaries that others have published, as [`SparseDictionary`][clvq_hf.SparseDictionary].

Two formats are read, a JSON config and safetensors each, without the packages that write them: that of SAELens
(`cfg.json`, `sae_weights.safetensors`) and that of EleutherAI's sparsify (`cfg.json`, `sae.safetensors`). Whatever is
not understood is refused: a wrong activation or a wrong layer would give plausible numbers that mean nothing.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ..files import read_json
from ..hub.provenance import is_hub_id
from ..hub.repositories import PICKLES, Source, file_sizes
from .configuration_sparse import SparseConfig
from .modeling_sparse import SparseDictionary

CONFIG_FILE = "cfg.json"
LENS_WEIGHTS = "sae_weights.safetensors"
SPARSIFY_WEIGHTS = "sae.safetensors"
# What the trainer of sparsify notes beside the folders of its hookpoints.
SPARSIFY_RUN_FILE = "config.json"

# Of safetensors; what is quantised further is not what the original packages compute with.
FLOATS = ("F64", "F32", "F16", "BF16")
# Shorter decoder rows than this are not divided by their length, as in SAELens.
SHORTEST_ROW = 1e-8


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
# SAELens has saved this one for a while; only ones change nothing.
LENS_SCALING = "scaling_factor"

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


def load_dictionary(
    name_or_path: str | Path,
    *,
    host: PreTrainedModel | None = None,
    lower_layer: int | None = None,
    upper_layer: int | None = None,
    norm_scaling_factor: float | None = None,
    center_states: bool | None = None,
    subfolder: str = "",
    force_download: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> SparseDictionary:
    """Load a dictionary that was trained with SAELens or with EleutherAI's sparsify.

    Which of the two it is is seen from the files. `activations` and `reconstruct` of the result are those of the
    original package, in float32. From there on it is a model of this library: it can be saved, pushed, attached.

    Args:
        name_or_path (`str` or `Path`): Folder or Hub id.
        host (`PreTrainedModel`, *optional*): The model whose states were encoded. Its name, commit, class and dtype go
            into the config, and its widths are checked. Without it the config names the host if the files do.
        lower_layer (`int`, *optional*): Layer of the states that are encoded, counted as in `output_hidden_states`;
            together with `upper_layer`, and only where the files do not tell.
        upper_layer (`int`, *optional*): Layer of the states that are estimated; of an autoencoder the same.
        norm_scaling_factor (`float`, *optional*): What states were multiplied by in the training of a SAELens
            dictionary with `normalize_activations="expected_average_only_in"`, whose files lack it.
        center_states (`bool`, *optional*): Whether a SAELens dictionary was trained on a host with
            `center_writing_weights=True`, which is a model of TransformerLens whose states have a mean of zero over
            their dimensions. Then this mean is subtracted before encoding, and reconstructions are without it. Has to
            be given if the files say so.
        subfolder (`str`): Where in it. Of sparsify, the folder of the hookpoint (`"layers.5"`).
        force_download (`bool`): Whether to download again what the cache has.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        token (`str` or `bool`, *optional*): The one you are logged in with if not given.
        cache_dir (`str` or `Path`, *optional*): Instead of the usual cache.
        local_files_only (`bool`): Whether only the cache is looked at.

    Returns:
        [`SparseDictionary`][clvq_hf.SparseDictionary]: In evaluation mode.

    Raises:
        HubError: If the repository or revision does not exist or may not be read, or the Hub is out of reach.
        ValueError: If there is no such dictionary, its weights are pickled, incomplete or damaged, it has something
            that is not understood, reads another place than the residual stream, or does not fit `host`.
    """
    source = Source(
        name_or_path,
        subfolder=subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    name = f"{source.name}/{subfolder}" if subfolder else source.name
    # The config alone at first: what is refused need not be downloaded.
    file = source.fetch(CONFIG_FILE) / CONFIG_FILE
    if not file.is_file():
        raise ValueError(_no_dictionary(source, name))
    described = read_json(file)
    if "d_sae" in described:
        plan = _of_sae_lens(described, name, norm_scaling_factor, center_states)
    elif {"d_in", "k"} <= set(described):
        if norm_scaling_factor is not None or center_states is not None:
            raise ValueError(
                f"{name} is a dictionary of sparsify; norm_scaling_factor and center_states are for SAELens only."
            )
        plan = _of_sparsify(described, name, source)
    else:
        raise ValueError(f"{name}: {CONFIG_FILE} is neither of SAELens nor of sparsify. It has {sorted(described)}.")
    lower_layer, upper_layer = _layers(plan, name, lower_layer, upper_layer)
    # What trains a dictionary does not apply; states are taken as they are.
    untrained = {"sparsity_cost": 0.0, "scale_states": False}
    fields = {**plan.fields, **untrained, "training": _provenance(plan, source)}
    if host is None:
        config = SparseConfig(lower_layer=lower_layer, upper_layer=upper_layer, **plan.host, **fields)
    else:
        config = SparseConfig.from_host(host, lower_layer, upper_layer, **fields)
    source.force_download = force_download  # a source does so once, and that was the config
    file = source.fetch(plan.weights) / plan.weights
    if not file.is_file():
        about_pickles = _about_pickles(_files(source))
        raise ValueError(f"{name} holds no weights: it has no {plan.weights}." + about_pickles)
    model = _with_weights(plan, config, file, name)
    if host is not None:
        model.check_host(host)
    return model


# ------------------------------------------------------------------------------------------------------------- configs


def _of_sae_lens(
    config: dict[str, Any], name: str, norm_scaling_factor: float | None, center_states: bool | None
) -> Plan:
    if "metadata" not in config:
        config = _as_of_version_6(config, name)
    architecture, metadata = config.get("architecture"), config["metadata"]
    form = LENS_ARCHITECTURES.get(str(architecture))
    if form is None:
        raise ValueError(
            f"{name} has the architecture {architecture!r}, which is not known here; known are "
            f"{sorted(LENS_ARCHITECTURES)}. (SAELens saves batchtopk and matryoshka_batchtopk as jumprelu, with "
            "save_inference_model.)"
        )
    topk = form.activation == "topk"
    known = LENS_FIELDS | ({"k", "rescale_acts_by_decoder_norm"} if topk else set())
    _check_fields(config, known | ({"d_out"} if form.is_transcoder else set()), name)
    kwargs = (metadata.get("model_from_pretrained_kwargs") or {}) if isinstance(metadata, dict) else None
    if not isinstance(kwargs, dict):
        raise ValueError(f"{name}: {CONFIG_FILE} is damaged; its metadata is {metadata!r}.")
    subtracts_bias = _flag(config, "apply_b_dec_to_input", name, default=True)
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
            "target_hidden_size": _present(config, "d_out", name) if form.is_transcoder else config.get("d_in"),
            "codebook_size": config["d_sae"],
            "activation": form.activation,
            "num_active": _present(config, "k", name) if topk else None,
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
        scales_by_rows=topk and _flag(config, "rescale_acts_by_decoder_norm", name, default=False),
        scaling=_scaling(config, norm_scaling_factor, name),
        centres=bool(center_states),
    )


def _as_of_version_6(old: dict[str, Any], name: str) -> dict[str, Any]:
    """A config of SAELens before version 6, which had everything in one place, in today's form.

    Of its many fields those of training are left out, as SAELens does. But it also leaves out activations that it no
    longer knows, and reads a ReLU.
    """
    old = {LENS_RENAMED.get(field, field): value for field, value in old.items()}
    architecture, activation = old.get("architecture", "standard"), old.get("activation_fn", "relu")
    if activation == "topk" and architecture == "standard":
        architecture = "topk"
    elif activation != "relu" and (activation, architecture) != ("topk", "topk"):
        raise ValueError(
            f"{name} has the activation {activation!r} in the architecture {architecture!r}; this is not known here."
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
            raise ValueError(f"{name} has the TopK of activation_fn_kwargs={settings!r}; only k is known here.")
        new["k"] = settings["k"]
    return new


def _of_sparsify(config: dict[str, Any], name: str, source: Source) -> Plan:
    _check_fields(config, SPARSIFY_FIELDS, name)
    if (activation := config.get("activation", "topk")) != "topk" or _flag(config, "signed", name, default=False):
        raise ValueError(
            f"{name} has the activation {activation!r} (signed={config.get('signed', False)}), which is not known "
            "here; known is 'topk', not signed."
        )
    if "skip_connection" in config and "transcode" not in config:
        raise ValueError(
            f"{name} does not say whether it transcodes: some versions of sparsify noted that elsewhere. If you know, "
            f'download it and add "transcode": true or false to its {CONFIG_FILE}.'
        )
    is_transcoder = _flag(config, "transcode", name, default=False)
    has_skip = _flag(config, "skip_connection", name, default=False)
    width, size = config["d_in"], config.get("num_latents")
    if not size:
        width, size = (_integer(config, field, name) for field in ("d_in", "expansion_factor"))
        size *= width
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
            "num_active": config["k"],
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


def _check_fields(config: dict[str, Any], known: set[str], name: str) -> None:
    if unknown := sorted(set(config) - known):
        raise ValueError(
            f"{name}: {CONFIG_FILE} has {unknown}, which is not known here and may change what is computed. Is it "
            "of another version, or a training checkpoint? (SAELens saves finished ones with save_inference_model.)"
        )


def _present(config: dict[str, Any], field: str, name: str) -> Any:
    if field not in config:
        raise ValueError(f"{name}: {CONFIG_FILE} lacks {field!r}; get it again, or ask its author.")
    return config[field]


def _flag(config: dict[str, Any], field: str, name: str, default: bool) -> bool:
    if not isinstance(value := config.get(field, default), bool):
        raise ValueError(f"{name}: {field} in {CONFIG_FILE} must be true or false, got {value!r}.")
    return value


def _integer(config: dict[str, Any], field: str, name: str) -> int:
    if not isinstance(value := _present(config, field, name), int):
        raise ValueError(f"{name}: {field} in {CONFIG_FILE} must be an integer, got {value!r}.")
    return value


def _scaling(config: dict[str, Any], factor: float | None, name: str) -> float | None:
    normalization = config.get("normalize_activations", "none")
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


def _provenance(plan: Plan, source: Source) -> dict[str, Any]:
    """What is known of the training. Folders are not named: they are of this machine."""
    place = {"repo": source.name, "subfolder": source.subfolder, "revision": source.revision}
    dictionary = {**plan.origin, "hooks": plan.hooks, **({} if source.is_local else place)}
    return {
        **({"dataset": plan.dataset} if isinstance(plan.dataset, str) else {}),
        "dictionary": {key: value for key, value in dictionary.items() if value is not None},
    }


# -------------------------------------------------------------------------------------------------------------- layers


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


def _layers(plan: Plan, name: str, lower: int | None, upper: int | None) -> tuple[int, int]:
    if (lower is None) != (upper is None):
        raise ValueError("Name both layers, lower_layer and upper_layer, or neither.")
    if lower is None:
        if plan.layers is None:
            raise ValueError(
                f"{name} does not name the layers of its states ({plan.hooks}). If they are of the residual stream, "
                "name lower_layer and upper_layer, counted as in output_hidden_states (0: the first block's input); "
                "of an autoencoder they are the same."
            )
        return plan.layers
    if plan.layers not in (None, (lower, upper)):
        raise ValueError(
            f"{name} is of the layers {plan.layers} ({plan.hooks}), not {(lower, upper)}: leave them out. Layers are "
            "counted as in output_hidden_states (0: the first block's input)."
        )
    if not plan.is_transcoder and lower != upper:
        raise ValueError(f"{name} is an autoencoder: its two layers must be the same, got {lower} and {upper}.")
    return lower, upper


# ------------------------------------------------------------------------------------------------------------- weights


def _with_weights(plan: Plan, config: SparseConfig, file: Path, name: str) -> SparseDictionary:
    try:
        with safe_open(file, framework="pt") as tensors:
            _check_tensors(plan, config, tensors, name)
            model = SparseDictionary(config).eval()
            state = model.state_dict()
            for theirs, (ours, transposed) in plan.tensors.items():
                tensor = tensors.get_tensor(theirs)
                state[ours].copy_(tensor.T if transposed else tensor)
    except SafetensorError as error:
        raise ValueError(f"The weights of {name} are damaged ({error}); get them again.") from error
    _fold(plan, model)
    return model


def _check_tensors(plan: Plan, config: SparseConfig, tensors: Any, name: str) -> None:
    """Refuse tensors that are unknown, missing, or of other shapes, before memory is asked for."""
    size, width, target = config.codebook_size, config.hidden_size, config.target_hidden_size
    shapes = {
        "encoder.weight": [size, width],
        "encoder.bias": [size],
        "encoder.threshold": [size],
        "decoder.weight": [size, target],
        "decoder.bias": [target],
        "decoder.skip": [target, width],
    }
    there = set(tensors.keys())
    if missing := sorted(set(plan.tensors) - there):
        raise ValueError(f"{name} lacks the tensors {missing}. The file is incomplete, or of another architecture.")
    unknown = there - set(plan.tensors)
    if plan.weights == LENS_WEIGHTS and LENS_SCALING in unknown:
        if not (tensors.get_tensor(LENS_SCALING) == 1).all():
            raise ValueError(f"{name} scales its activations after training ({LENS_SCALING}): this is not known here.")
        unknown.remove(LENS_SCALING)
    if unknown:
        raise ValueError(
            f"{name} has the tensors {sorted(unknown)}, which its config does not mention. Is it of another "
            "architecture, or a training checkpoint?"
        )
    for theirs, (ours, transposed) in plan.tensors.items():
        found = tensors.get_slice(theirs)
        shape = shapes[ours][::-1] if transposed else shapes[ours]
        if list(found.get_shape()) != shape:
            raise ValueError(f"{name}: {theirs} has the shape {found.get_shape()}, and its config says {shape}.")
        if found.get_dtype() not in FLOATS:
            raise ValueError(f"{name}: {theirs} has the dtype {found.get_dtype()}; known are {FLOATS}.")


@torch.no_grad()
def _fold(plan: Plan, model: SparseDictionary) -> None:
    """Bring into the weights what the original does besides, in its order."""
    encoder, decoder = model.encoder, model.decoder
    if plan.scaling is not None:
        encoder.weight.mul_(plan.scaling)
        decoder.weight.div_(plan.scaling)
        decoder.bias.div_(plan.scaling)
    if plan.scales_by_rows:
        lengths = decoder.weight.norm(dim=-1).clamp(min=SHORTEST_ROW)
        encoder.weight.mul_(lengths[:, None])
        encoder.bias.mul_(lengths)
        decoder.weight.div_(lengths[:, None])
    if plan.subtracts_bias:
        encoder.input_bias.copy_(decoder.bias)
    if plan.centres:
        # (Cx - b)·w = (x - b)·Cw - b·(w - Cw), where C subtracts the mean over the dimensions.
        means = encoder.weight.mean(-1)
        encoder.weight.sub_(means[:, None])
        encoder.bias.sub_(means * encoder.input_bias.sum())
        if decoder.skip is not None:
            decoder.skip.sub_(decoder.skip.mean(-1, keepdim=True))
    encoder.initialized.fill_(True)


# ------------------------------------------------------------------------------------------------------- what is there


def _files(source: Source) -> list[str]:
    if not source.is_local:
        return list(file_sizes(source))
    folder = source.fetch()
    return [file.relative_to(folder).as_posix() for file in [*folder.glob("*"), *folder.glob(f"*/{CONFIG_FILE}")]]


def _no_dictionary(source: Source, name: str) -> str:
    files = _files(source)
    folders = sorted(file.removesuffix(f"/{CONFIG_FILE}") for file in files if file.endswith(f"/{CONFIG_FILE}"))
    if folders:
        return f"{name} holds {len(folders)} dictionaries: name one with subfolder=…, such as {folders[:3]}."
    return f"{name} holds no dictionary: it has no {CONFIG_FILE}." + _about_pickles(files)


def _about_pickles(files: list[str]) -> str:
    pickles = [file for file in files if any(PurePath(file).match(pattern) for pattern in PICKLES)]
    if not pickles:
        return ""
    return (
        f" It has pickled ones ({pickles[0]}), which are refused: a pickle can run code when it is opened. Convert it "
        "with the package that wrote it, on a machine where you trust it."
    )


__all__ = ["load_dictionary"]
