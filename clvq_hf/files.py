"""Files that are there whole or not at all."""

from pathlib import Path


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


__all__ = ["write_whole"]
