"""The files of a concept table: Arrow on disk, Parquet on the Hub. They are written whole or not at all."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.exceptions import DatasetsError
from huggingface_hub import CommitInfo
from huggingface_hub.utils import yaml_dump

from ..checksums import CHECKSUMS_NAME, check_file, read_metadata, read_rows, write_metadata, write_rows
from ..files import ScratchFolder, check_replaceable, replaced
from ..hub.repositories import CARD_NAME, TABLE_NAME
from ..hub.uploads import MARKER, TAGS, card_files, commit_files, full_repo_id, inspect_remote, repository_link
from ..reading import check_file_names
from .by_hand import BY_HAND_FILE, ByHand, read_by_hand, write_by_hand
from .names import NAMES_FILE, ConceptName, read_names, write_names
from .schema import ADDED_LATER, FEATURES

REMEDY = "Make the table again with `clvq-hf concepts build` or model.concept_table, or get it again."


class TableParts(NamedTuple):
    """The parts of a concept table; see [`ConceptTable`][clvq_hf.ConceptTable]."""

    tokens: Dataset
    texts: Dataset
    metadata: dict[str, Any]
    names: Mapping[int, ConceptName]
    by_hand: ByHand


@contextmanager
def table_folder(path: Path) -> Generator[Path]:
    """A folder to write a table to, which replaces `path` once it is complete.

    Raises:
        ValueError: As of [`check_table_folder`].
    """
    check_table_folder(path)
    with replaced(path) as building:
        yield building


def check_table_folder(path: Path) -> None:
    """Find out whether a table can be written to a folder, before one is made.

    Raises:
        ValueError: If it contains something else, or cannot be written.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / TABLE_NAME).is_file():
        raise ValueError(f"{path} exists and is no concept table; choose another folder.")
    check_replaceable(path)


def write_table(path: Path, parts: TableParts, as_parquet: bool = False) -> None:
    """Write tokens, texts, `concept_table.json` and, if there are any, names and decisions about concepts to a folder.

    An earlier table in the folder is replaced once the new one is complete.

    Raises:
        ValueError: If the folder contains something else.
    """
    with table_folder(path) as building:
        for name in FEATURES:
            dataset = getattr(parts, name)
            if as_parquet:
                dataset.to_parquet(building / f"{name}.parquet")
            else:
                write_rows(dataset, building / name)
        # Those of the rows in Arrow files have checksums of all others.
        files = [f"{name}.parquet" if as_parquet else f"{name}/{CHECKSUMS_NAME}" for name in FEATURES]
        write_metadata(building / TABLE_NAME, parts.metadata, files)
        if parts.names:
            write_names(building, parts.names)
        if parts.by_hand:
            write_by_hand(building, parts.by_hand, parts.metadata["model_fingerprint"])


def read_table(path: Path, cache_dir: str | Path | None = None) -> TableParts:
    """Open a table in either form, memory-mapped.

    Raises:
        ValueError: If the folder contains no table, a damaged one, or one that names files outside of the folder.
    """
    if not (path / TABLE_NAME).is_file():
        raise ValueError(
            f"{path} holds no concept table. Make one with `clvq-hf concepts build` or model.concept_table."
        )
    metadata, noted = read_metadata(path / TABLE_NAME, REMEDY)
    for name, checksum in noted.items():
        check_file_names(list(PurePosixPath(name).parts), path / TABLE_NAME)
        check_file(path / name, checksum, REMEDY)
    if (path / "tokens.parquet").is_file():
        datasets = {name: _read_parquet(path / f"{name}.parquet", cache_dir) for name in FEATURES}
    else:
        datasets = {name: read_rows(path / name, REMEDY) for name in FEATURES}
    return TableParts(datasets["tokens"], datasets["texts"], metadata, read_names(path), read_by_hand(path, metadata))


def _read_parquet(file: Path, cache_dir: str | Path | None) -> Dataset:
    try:
        names = set(pq.read_schema(file).names)
        features = Features({k: v for k, v in FEATURES[file.stem].items() if k in names or k not in ADDED_LATER})
        return Dataset.from_parquet(str(file), features=features, cache_dir=cache_dir and str(cache_dir))
    except (DatasetsError, FileNotFoundError, pa.ArrowInvalid) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error


def push_table(
    parts: TableParts,
    repo_id: str,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    **options: Any,
) -> CommitInfo:
    """Upload a table as a dataset repository; see [`push_to_hub`][clvq_hf.ConceptTable.push_to_hub].

    `options` are those of [`commit_files`][clvq_hf.hub.uploads.commit_files].

    Raises:
        HubError: If the Hub cannot be reached, or refuses.
        ValueError: If the repository holds another dataset.
    """
    repo_id = full_repo_id(repo_id, token)
    with ScratchFolder() as scratch:
        remote = inspect_remote(repo_id, "dataset", revision, token, Path(scratch) / "cache")
        others = set(remote.names) - {".gitattributes", CARD_NAME}
        if others and TABLE_NAME not in others:
            raise ValueError(
                f"{repo_id} holds another dataset ({sorted(others)[0]}, …), which a push would mix with a concept "
                "table. Choose another repository."
            )
        folder = Path(scratch) / "table"
        write_table(folder, parts, as_parquet=True)
        files: dict[str, Path | bytes] = {file.name: file for file in folder.iterdir()}
        files |= card_files(None, remote.fetch(CARD_NAME).get(CARD_NAME), lambda: _dataset_card(parts))
        stale = (NAMES_FILE, BY_HAND_FILE)
        return commit_files(
            files, repo_id, repo_type="dataset", stale=stale, token=token, revision=revision, **options
        )


def _dataset_card(parts: TableParts) -> str:
    """The card of a dataset repository, with the configurations `tokens` and `texts`."""
    metadata = {
        "tags": list(TAGS),
        "configs": [{"config_name": name, "data_files": f"{name}.parquet"} for name in FEATURES],
    }
    return (
        f"---\n{yaml_dump(metadata)}---\n\n{MARKER}\n\n"
        f"# Concepts of {repository_link(parts.metadata['host_name_or_path'])}\n\n"
        f"The concept of each of {len(parts.tokens):,} tokens in {len(parts.texts):,} texts, at layer "
        f"{parts.metadata['lower_layer']}. Load it with `clvq_hf.ConceptTable.from_hub`, or with `load_dataset` as "
        "`tokens` and `texts`.\n"
    )


__all__ = ["TableParts", "check_table_folder", "push_table", "read_table", "table_folder", "write_table"]
