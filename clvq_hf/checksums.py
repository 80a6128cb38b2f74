"""Files with checksums: JSON that describes a folder, tensors, and rows of datasets."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import drafted, replaced, write_whole
from .reading import check_file_names, read_json

if TYPE_CHECKING:  # importing the package does not load what only some files need
    import numpy as np
    from datasets import Dataset

# Fields of the JSON that describes a folder: size and SHA-256 of its other files, and SHA-256 of the JSON itself.
_FILES, _CHECKSUM = "files", "checksum"
# Beside the rows of a dataset.
CHECKSUMS_NAME = "checksums.json"


def write_metadata(file: Path, metadata: Mapping[str, Any], names: Iterable[str] = (), mode: int = 0o666) -> None:
    """Write a JSON file with a checksum of its content, and with checksums of other files of its folder."""
    checksums = {name: file_checksum(file.parent / name) for name in names}
    content = json.loads(json.dumps({**metadata, **({_FILES: checksums} if checksums else {})}, allow_nan=False))
    write_whole(file, json.dumps({**content, _CHECKSUM: _digest_of_json(content)}, indent=2) + "\n", mode)


def read_metadata(file: Path, remedy: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file of [`write_metadata`], and what it notes of the other files, for [`check_file`].

    Raises:
        ValueError: If it is damaged.
    """
    content = read_json(file, remedy=remedy)
    noted = content.pop(_CHECKSUM, None)  # earlier versions wrote none
    if noted not in (None, _digest_of_json(content)):
        raise ValueError(
            f"{file} is damaged: its checksum differs. {remedy} (If you have edited it, remove {_CHECKSUM} from it.)"
        )
    checksums = content.pop(_FILES, {})
    return content, checksums if isinstance(checksums, dict) else {}


def file_checksum(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with file.open("rb") as opened:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def check_file(file: Path, noted: Any, remedy: str) -> None:
    """Compare a file with what was noted of it when it was written; `None` says nothing.

    Raises:
        ValueError: If it is missing or differs.
    """
    if noted is None:
        return
    if not file.is_file():
        raise ValueError(f"{file.parent} is damaged: it lacks {file.name}. {remedy}")
    if not isinstance(noted, dict) or file.stat().st_size != noted.get("size") or file_checksum(file) != noted:
        raise ValueError(f"{file} is damaged: it is not what was written (its checksum differs). {remedy}")


def write_tensors(
    file: str | Path, arrays: Mapping[str, "np.ndarray"], about: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file with a checksum; `about` describes it."""
    from safetensors.numpy import save

    about = dict(about or {})
    with drafted(file) as draft:
        draft.write_bytes(save(dict(arrays), {**about, _CHECKSUM: _digest_of_arrays(arrays, about)}))


def read_tensors(file: Path, names: Iterable[str], remedy: str) -> tuple[dict[str, "np.ndarray"], dict[str, str]]:
    """Read some tensors of a file of [`write_tensors`], in memory, and its description.

    Raises:
        ValueError: If it is damaged, or lacks a tensor.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as content:
            arrays = {name: content.get_tensor(name) for name in names}
            about = dict(content.metadata() or {})
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}). {remedy}") from error
    noted = about.pop(_CHECKSUM, None)  # earlier versions wrote none
    if noted not in (None, _digest_of_arrays(arrays, about)):
        raise ValueError(f"{file} is damaged (its checksum differs). {remedy}")
    return arrays, about


def _digest_of_arrays(arrays: Mapping[str, "np.ndarray"], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_rows(rows: "Dataset", folder: Path) -> None:
    """Save a dataset to a folder, which is complete or absent, with checksums; see [`replaced`]."""
    with replaced(folder) as building:
        rows.save_to_disk(building)
        names = sorted(file.name for file in building.iterdir())
        write_metadata(building / CHECKSUMS_NAME, {}, names)


def read_rows(folder: Path, remedy: str) -> "Dataset":
    """Open a folder of [`write_rows`], or of `save_to_disk`, memory-mapped.

    Raises:
        ValueError: If it is missing or damaged, or names files outside of it.
    """
    from datasets import load_from_disk  # at use: importing the package does not load datasets

    for name in ("state.json", "dataset_info.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder.parent} is damaged: it lacks {folder.name}/{name}. {remedy}")
    state = read_json(folder / "state.json", {"_data_files": list}, remedy)
    try:
        names = [file["filename"] for file in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder / 'state.json'} is damaged: {error}. {remedy}") from error
    check_file_names(names, folder / "state.json")
    # Before anything else: Arrow trusts its files, and one with a flipped bit can end Python.
    has_checksums = (folder / CHECKSUMS_NAME).is_file()
    if has_checksums:
        noted = read_metadata(folder / CHECKSUMS_NAME, remedy)[1]
        for name in ("state.json", "dataset_info.json", *names):
            check_file(folder / name, noted.get(name, {}), remedy)
    try:
        rows = load_from_disk(folder)
        if not has_checksums:  # of an earlier version, or of somebody else
            rows.data.validate(full=True)
    except Exception as error:  # whatever the libraries make of bytes that are not theirs
        raise ValueError(f"{folder} is damaged: {error}. {remedy}") from error
    return rows


def _digest_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


__all__ = [
    "CHECKSUMS_NAME",
    "check_file",
    "file_checksum",
    "read_metadata",
    "read_rows",
    "read_tensors",
    "write_metadata",
    "write_rows",
    "write_tensors",
]
