"""Dictionaries that others have published, as [`SparseDictionary`][clvq_hf.SparseDictionary].

Two formats are read, a JSON config and safetensors each, without the packages that write them: that of SAELens
(`cfg.json`, `sae_weights.safetensors`) and that of EleutherAI's sparsify (`cfg.json`, `sae.safetensors`). What the
configs say is read in `dictionary_formats.py`.
"""

from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ..hub.repositories import PICKLES, Source, file_sizes
from ..reading import read_json
from .configuration_sparse import SparseConfig
from .dictionary_formats import CONFIG_FILE, LENS_WEIGHTS, Plan, read_plan
from .modeling_sparse import SparseDictionary

# Of safetensors; what is quantised further is not what the original packages compute with.
FLOATS = ("F64", "F32", "F16", "BF16")
# Shorter decoder rows than this are not divided by their length, as in SAELens.
SHORTEST_ROW = 1e-8
# How far rows of length one are off it after rounding to bfloat16, at most.
UNIT_TOLERANCE = 5e-3
# SAELens has saved this one for a while; only ones change nothing.
LENS_SCALING = "scaling_factor"


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
    original package, in float32. Neurons are ranked by activation times length of their decoder row: how one number is
    shared out between the two changes no code. From there on it is a model of this library: it can be saved, pushed,
    attached.

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
    plan = read_plan(read_json(file), name, source, norm_scaling_factor, center_states)
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


def _provenance(plan: Plan, source: Source) -> dict[str, Any]:
    """What is known of the training. Folders are not named: they are of this machine."""
    place = {"repo": source.name, "subfolder": source.subfolder, "revision": source.revision}
    dictionary = {**plan.origin, "hooks": plan.hooks, **({} if source.is_local else place)}
    return {
        **({"dataset": plan.dataset} if isinstance(plan.dataset, str) else {}),
        "dictionary": {key: value for key, value in dictionary.items() if value is not None},
    }


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
    lengths = decoder.weight.norm(dim=-1)
    if (lengths - 1).abs().max() > UNIT_TOLERANCE:
        encoder.row_lengths, model.config.has_row_lengths = lengths, True
    encoder.initialized.fill_(True)


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
