"""Files that are there whole or not at all."""

import json
from pathlib import Path, PurePath
from typing import Any


def write_whole(file: str | Path, text: str) -> None:
    """Write a text file; an earlier one there stays until this one is whole.

    Args:
        file (`str` or `Path`): Where.
        text (`str`): What, in UTF-8; half a character becomes a question mark.

    Raises:
        OSError: If the folder does not exist or the disk is full.
    """
    file = Path(file)
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def check_file_names(names: list[Any], source: Path) -> None:
    """Refuse names that lead out of the folder in which `source` names them.

    Raises:
        ValueError: Naming the first.
    """
    for name in names:
        if not isinstance(name, str) or name != PurePath(name).name or name in ("", ".", ".."):
            raise ValueError(f"{source} names the file {name!r}, which is not in its folder: this is refused.")


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        ValueError: If it is damaged, or no object.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error


__all__ = ["check_file_names", "read_json", "write_whole"]
