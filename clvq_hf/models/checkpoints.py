"""Checks of a checkpoint before anything is loaded from it, and a description of what it contains."""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import SAFE_WEIGHTS_NAME

from ..hosts.loading import load_config
from ..hub.repositories import (
    CONCEPTS_FOLDER,
    CONFIG_NAME,
    DISTANCES_NAME,
    EVALUATION_FOLDER,
    INDEX_NAME,
    PICKLES,
    REFERENCE_NAME,
    RESULTS_NAME,
    TABLE_NAME,
    WEIGHTS,
    Source,
    file_sizes,
    matches_any,
    read_results,
)
from ..reading import check_file_names, read_json
from .modeling_base import BaseConceptModel
from .registry import method_class

_TABLE_FILE, _RESULTS_FILE = f"{CONCEPTS_FOLDER}/{TABLE_NAME}", f"{EVALUATION_FOLDER}/{RESULTS_NAME}"


def check_checkpoint(source: Source) -> Path:
    """Download a checkpoint and return its folder, if it is safe to load.

    Raises:
        HubError: If it cannot be downloaded.
        ValueError: If it is no concept model, contains pickles instead of safetensors, or names files outside of its
            folder.
    """
    # Small files that are read later come along, so that they are there when the Hub is not.
    folder = source.fetch(CONFIG_NAME, *WEIGHTS, REFERENCE_NAME, DISTANCES_NAME, _TABLE_FILE, _RESULTS_FILE)
    _read_config(folder, source.name)
    if not list(folder.glob("model*.safetensors")) and not (folder / INDEX_NAME).is_file():
        names = [file.name for file in folder.iterdir()] if source.is_local else file_sizes(source)
        if pickles := [name for name in names if matches_any(PurePosixPath(name).name, PICKLES)]:
            raise ValueError(
                f"{source.name} holds pickled weights ({pickles[0]}) and no safetensors. A pickle can run code when it "
                "is opened, so it is refused. Ask its author to save it again with save_pretrained."
            )
        raise ValueError(f"{source.name} holds no weights: it has no model.safetensors.")
    if (folder / INDEX_NAME).is_file():
        weight_map = read_json(folder / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{source.name}: {INDEX_NAME} is damaged; it has no weight_map.")
        check_file_names(list(weight_map.values()), folder / INDEX_NAME)
    return folder


def read_config(source: Source) -> dict[str, Any]:
    """The config of a concept model, as it is in its `config.json`.

    Raises:
        HubError: If it cannot be downloaded.
        ValueError: If it is no concept model.
    """
    return _read_config(source.fetch(CONFIG_NAME), source.name)


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{name} holds no concept model: it has no {CONFIG_NAME}.")
    config = read_json(folder / CONFIG_NAME)
    check_concept_type(config, name)
    return config


def check_concept_type(config: dict[str, Any], name: str) -> None:
    """Check that a config belongs to a concept model, before a class is chosen by it."""
    if method_class(config.get("model_type")) is None:
        raise ValueError(
            f"{name} is a model of the type {config.get('model_type')!r}, not a concept model. Is it the host rather "
            "than its concepts? If it is a method of your own, import its module first; on the command line: "
            "clvq-hf --import MODULE COMMAND …"
        )


def class_of_checkpoint(folder: Path, name: str, wanted: Any) -> Any:
    """The class that loads a checked checkpoint; as `wanted`, `ConceptModel` stands for that of any method."""
    model_type = read_json(folder / CONFIG_NAME).get("model_type")
    expected = getattr(wanted.config_class, "model_type", None)
    if expected is None:
        return method_class(model_type)
    if model_type != expected:
        raise ValueError(
            f"{name} is a model of the type {model_type!r}, but {wanted.__name__} has the type {expected!r}: load it "
            "with ConceptModel.from_pretrained."
        )
    return wanted


def check_weights(model: BaseConceptModel, folder: Path, name: str, variant: str | None = None) -> None:
    """Refuse a checkpoint whose weights and layers were not saved together, or give no codes.

    They are compared as they are in the files, so that another dtype and other settings may be asked for.

    Raises:
        ValueError: If a bit was flipped, the weights are of another model, or a weight is NaN or infinite.
    """
    config = type(model.config).from_dict(read_json(folder / CONFIG_NAME))
    files = _weight_files(folder, variant)
    if config.fingerprint is not None and files:  # earlier versions recorded none
        # Of weights that are shared the files have one copy.
        tensors = dict(model.state_dict())
        for file in files:
            tensors |= load_file(file)
        own = {key: tensor for key, tensor in tensors.items() if key in model.state_dict()}
        if model.fingerprint_of(config, own) != config.fingerprint or (
            config.weights_checksum not in (None, weights_checksum(tensors))
        ):
            raise ValueError(
                f"{name} is damaged, or its files are of different models: its weights and layers are not those that "
                f"were saved together. Get it again. If you have changed it on purpose, remove fingerprint and "
                f"weights_checksum from its {CONFIG_NAME}."
            )
    for key, tensor in model.state_dict().items():
        if not (tensor.is_floating_point() and tensor.device.type != "meta"):
            continue
        if bool((tensor.isnan() if key.startswith(model._may_be_infinite) else ~tensor.isfinite()).any()):
            raise ValueError(
                f"{name} holds NaN or infinite numbers in {key} (as {tensor.dtype}): its codes would mean nothing. "
                "Train it again, or load it in another dtype."
            )


def weights_checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of tensors, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Those that transformers reads; none for a variant in several files."""
    whole = folder / (SAFE_WEIGHTS_NAME if variant is None else f"model.{variant}.safetensors")
    if whole.is_file():
        return [whole]
    if variant is not None or not (folder / INDEX_NAME).is_file():
        return []
    return [folder / name for name in sorted(set(read_json(folder / INDEX_NAME)["weight_map"].values()))]


def describe(source: Source) -> dict[str, Any]:
    """Config, results and files of a concept model, without downloading weights or tables.

    Returns:
        `dict[str, Any]`: `name`, `revision`, `config`, `files` (size in bytes by name), `concepts` (metadata of the
        table, or `None`), `results` (of an evaluation, or `None`), `has_reference`.
    """
    folder = source.fetch(CONFIG_NAME, _TABLE_FILE, _RESULTS_FILE)
    config = _read_config(folder, source.name)
    load_config(folder)  # raises for what cannot be loaded
    table, results = folder / _TABLE_FILE, folder / _RESULTS_FILE
    files = file_sizes(source)
    return {
        "name": source.name,
        "revision": source.revision,
        "config": config,
        "files": files,
        "concepts": read_json(table) if table.is_file() else None,
        "results": read_results(results) if results.is_file() else None,
        "has_reference": REFERENCE_NAME in files,
    }


__all__ = [
    "check_checkpoint",
    "check_concept_type",
    "check_weights",
    "class_of_checkpoint",
    "describe",
    "read_config",
    "weights_checksum",
]
