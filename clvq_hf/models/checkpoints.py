"""What may be loaded as a concept model, and what a checkpoint holds, before anything is loaded."""

from pathlib import Path, PurePosixPath
from typing import Any

from transformers import AutoConfig

from ..files import check_file_names, read_json
from ..hub.repositories import (
    CONCEPTS_FOLDER,
    CONFIG_NAME,
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
)
from .registry import method_class


def check_checkpoint(source: Source) -> Path:
    """Bring a checkpoint here, and look at it before it is loaded.

    Args:
        source ([`Source`][clvq_hf.hub.repositories.Source]): Where it is.

    Returns:
        `Path`: The folder with its config and weights.

    Raises:
        HubError: If it cannot be downloaded.
        ValueError: If it is no concept model's, holds pickles in place of safetensors, or names files elsewhere.
    """
    folder, name = source.fetch(CONFIG_NAME, *WEIGHTS), source.name
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{name} holds no concept model: it has no {CONFIG_NAME}.")
    check_concept_type(read_json(folder / CONFIG_NAME), name)
    if not list(folder.glob("model*.safetensors")) and not (folder / INDEX_NAME).is_file():
        there = [file.name for file in folder.iterdir()] if source.is_local else file_sizes(source)
        if pickles := [file for file in there if matches_any(PurePosixPath(file).name, PICKLES)]:
            raise ValueError(
                f"{name} holds pickled weights ({pickles[0]}) and no safetensors. A pickle can run code when it is "
                "opened, so it is refused. Ask its author to save it again with save_pretrained."
            )
        raise ValueError(f"{name} holds no weights: it has no model.safetensors.")
    if (folder / INDEX_NAME).is_file():
        weight_map = read_json(folder / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{name}: {INDEX_NAME} is damaged; it has no weight_map.")
        check_file_names(list(weight_map.values()), folder / INDEX_NAME)
    return folder


def check_concept_type(config: dict[str, Any], name: str) -> None:
    """Refuse a config that is no concept model's, before anything chooses a class by it.

    Raises:
        ValueError: Naming what it is.
    """
    if method_class(config.get("model_type")) is None:
        raise ValueError(
            f"{name} is a model of the type {config.get('model_type')!r}, not a concept method that is registered here. Is it "
            "the host rather than its concepts? A method from outside must be imported first."
        )


def class_of_checkpoint(folder: Path, name: str, wanted: Any) -> Any:
    """The class that loads a checkpoint.

    Args:
        folder (`Path`): With a `config.json` that [`check_checkpoint`] has seen.
        name (`str`): What the checkpoint is called in messages.
        wanted (`type`): The class that was asked for. If it has no `model_type` of its own, as
            [`ConceptModel`][clvq_hf.ConceptModel], that of the checkpoint's method is taken.

    Raises:
        ValueError: If the checkpoint is of another method than `wanted`.
    """
    model_type = read_json(folder / CONFIG_NAME).get("model_type")
    expected = getattr(wanted.config_class, "model_type", None)
    if expected is None:
        return method_class(model_type)
    if model_type != expected:
        raise ValueError(
            f"{name} is a model of the type {model_type!r}, and {wanted.__name__} is of the type {expected!r}: load it "
            "with ConceptModel.from_pretrained."
        )
    return wanted


def describe(source: Source) -> dict[str, Any]:
    """Config, figures and files of a concept model; weights and tables are not downloaded.

    Args:
        source ([`Source`][clvq_hf.hub.repositories.Source]): A folder, or a repository.

    Returns:
        `dict[str, Any]`: `name`, `revision`, `config`, `files` (bytes by name), `concepts` (the table's metadata, or
        `None`), `results` (what was measured, or `None`), `has_reference`.

    Raises:
        HubError: If there is no such repository, or the Hub is out of reach.
        ValueError: If it holds no concept model.
    """
    small = (CONFIG_NAME, f"{CONCEPTS_FOLDER}/{TABLE_NAME}", f"{EVALUATION_FOLDER}/{RESULTS_NAME}")
    folder = source.fetch(*small)
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{source.name} holds no concept model: it has no {CONFIG_NAME}.")
    config = read_json(folder / CONFIG_NAME)
    check_concept_type(config, source.name)
    AutoConfig.from_pretrained(folder, trust_remote_code=False)  # raises for what cannot be loaded
    table, results = ((folder / name) for name in small[1:])
    files = file_sizes(source)
    return {
        "name": source.name,
        "revision": source.revision,
        "config": config,
        "files": files,
        "concepts": read_json(table) if table.is_file() else None,
        "results": read_json(results) if results.is_file() else None,
        "has_reference": REFERENCE_NAME in files,
    }


__all__ = ["check_checkpoint", "check_concept_type", "class_of_checkpoint", "describe"]
