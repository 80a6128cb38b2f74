"""The files of a concept table: Arrow on disk, Parquet on the Hub; written whole or not at all, read with suspicion."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, load_from_disk
from datasets.exceptions import DatasetsError
from huggingface_hub import CommitInfo
from huggingface_hub.utils import yaml_dump

from ..files import check_file_names, read_json
from ..hub.repositories import (
    CARD_NAME,
    MARKER,
    TABLE_NAME,
    TAGS,
    card_files,
    commit_files,
    full_repo_id,
    look_at,
    repository_link,
)
from .names import NAMES_FILE, ConceptName, read_names, write_names

PARTS = ("tokens", "texts")

Names = Mapping[int, ConceptName]
# Tokens, texts, metadata, names.
TableParts = tuple[Dataset, Dataset, dict[str, Any], Names]


def write_arrow(path: Path, tokens: Dataset, texts: Dataset, metadata: dict[str, Any], names: Names) -> None:
    """Write `tokens/`, `texts/`, `concept_table.json` and the names, if there are any, to `concept_names.json`.

    An earlier table is replaced when this one is whole.
    """

    def write(folder: Path) -> None:
        tokens.save_to_disk(folder / "tokens")
        texts.save_to_disk(folder / "texts")

    _write(path, write, metadata, names)


def write_parquet(path: Path, tokens: Dataset, texts: Dataset, metadata: dict[str, Any], names: Names) -> None:
    """Write `tokens.parquet`, `texts.parquet`, `concept_table.json` and the names, in the same way."""

    def write(folder: Path) -> None:
        tokens.to_parquet(folder / "tokens.parquet")
        texts.to_parquet(folder / "texts.parquet")

    _write(path, write, metadata, names)


def read(path: Path, features: dict[str, Features], cache_dir: str | Path | None = None) -> TableParts:
    """Open a table in either form, memory-mapped.

    Args:
        path (`Path`): A folder that one of the functions above has written.
        features (`dict[str, datasets.Features]`): Of `"tokens"` and `"texts"`: what Parquet files are read as.
        cache_dir (`str` or `Path`, *optional*): Where these are turned into Arrow.

    Raises:
        ValueError: If there is none, it is damaged, or it names files outside of its folder.
    """
    if not (path / TABLE_NAME).is_file():
        raise ValueError(
            f"{path} holds no concept table. Make one with `clvq-hf concepts build` or model.concept_table."
        )
    metadata = read_json(path / TABLE_NAME)
    if (path / "tokens.parquet").is_file():
        parts = [_read_parquet(path / f"{name}.parquet", features[name], cache_dir) for name in PARTS]
    else:
        parts = [_read_arrow(path / name) for name in PARTS]
    return parts[0], parts[1], metadata, read_names(path)


def _read_parquet(file: Path, features: Features, cache_dir: str | Path | None) -> Dataset:
    try:
        return Dataset.from_parquet(str(file), features=features, cache_dir=cache_dir and str(cache_dir))
    except (DatasetsError, FileNotFoundError, pa.ArrowInvalid) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error


def _read_arrow(folder: Path) -> Dataset:
    state = folder / "state.json"
    if not state.is_file():
        raise ValueError(f"{folder.parent} is damaged: it lacks {folder.name}/state.json.")
    try:
        names = [file["filename"] for file in read_json(state)["_data_files"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{state} is damaged: {error}.") from error
    check_file_names(names, state)
    return load_from_disk(folder)


def _write(path: Path, write: Callable[[Path], None], metadata: dict[str, Any], names: Names) -> None:
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / TABLE_NAME).is_file())):
        raise ValueError(f"{path} exists and is no concept table; choose another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(building)
        (building / TABLE_NAME).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        if names:
            write_names(building, names)
    except BaseException:
        shutil.rmtree(building)
        raise
    if path.exists():
        shutil.rmtree(path)
    building.chmod(0o755)  # mkdtemp makes folders that only their owner can read
    building.rename(path)


def dataset_card(table: Any) -> str:
    """The card of a dataset repository that holds a concept table, with the configurations `tokens` and `texts`."""
    metadata = {
        "tags": list(TAGS),
        "configs": [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("tokens", "texts")],
    }
    return (
        f"---\n{yaml_dump(metadata)}---\n\n{MARKER}\n\n# Concepts of {repository_link(table.metadata['host_name_or_path'])}\n\n"
        f"The concept of each of {len(table.tokens):,} tokens in {len(table.texts):,} texts, at layer "
        f"{table.metadata['lower_layer']}. Load it with `clvq_hf.ConceptTable.from_hub`, or with `load_dataset` as "
        "`tokens` and `texts`.\n"
    )


def push_parquet(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    card: Callable[[], str],
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload concept table",
) -> CommitInfo:
    """Upload a concept table as a dataset repository, in one commit.

    Args:
        save (`Callable`): Writes the table as Parquet files into an empty folder.
        repo_id (`str`): `"org/name"`; made if needed.
        card (`Callable`): Writes the card; it is not called if the repository has one that was written by hand.

    The other arguments are those of [`ConceptTable.push_to_hub`][clvq_hf.ConceptTable.push_to_hub].

    Raises:
        HubError: If the Hub could not be reached, or refused.
        ValueError: If the repository holds another dataset.
    """
    repo_id = full_repo_id(repo_id, token)
    with tempfile.TemporaryDirectory() as scratch:
        remote = look_at(repo_id, "dataset", revision, token, Path(scratch) / "cache")
        others = set(remote.names) - {".gitattributes", CARD_NAME}
        if others and TABLE_NAME not in others:
            raise ValueError(
                f"{repo_id} holds another dataset ({sorted(others)[0]}, …), which a push would mix with a concept "
                "table. Choose another repository."
            )
        save(Path(scratch) / "table")
        files: dict[str, Path | bytes] = {file.name: file for file in (Path(scratch) / "table").iterdir()}
        files |= card_files(None, remote.fetch(CARD_NAME).get(CARD_NAME), card)
        return commit_files(
            files,
            repo_id,
            repo_type="dataset",
            stale=(NAMES_FILE,),
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )


__all__ = ["dataset_card", "read", "write_arrow", "write_parquet"]
