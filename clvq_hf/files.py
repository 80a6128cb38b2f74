"""Text files that are complete or absent, folders of one process, and checks of JSON, YAML and file names."""

import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

MAX_YAML_NODES = 100_000


def write_whole(file: str | Path, text: str, mode: int = 0o666) -> None:
    """Write a text file in UTF-8; an earlier file of this name remains until the new one is complete.

    Args:
        file (`str` or `Path`): Path of the file.
        text (`str`): Its content; a lone surrogate becomes a question mark.
        mode (`int`): Who may read and write it, as far as the umask allows: 0o600 is its owner alone.

    Raises:
        OSError: If the folder does not exist or the disk is full.
    """
    file = Path(file)
    # A name of its own: two writers do not mix, and a link that somebody has planted is not followed ("x").
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        # Created with its mode: a moment in which everybody can read it would be enough.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as draft:
            draft.write(text)
            draft.flush()
            os.fsync(draft.fileno())  # or a crash of the machine could leave the new name with nothing in it
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, wait: bool = False, remedy: str = "or wait for it") -> Generator[None]:
    """Keep other processes out of a folder, which is created if needed: its file `.lock` is held.

    Args:
        folder (`Path`): The folder.
        wait (`bool`): Whether to wait for another process that is at work there.
        remedy (`str`): What to do besides choosing another folder.

    Raises:
        ValueError: If another process is at work there.
    """
    import filelock  # at use: most commands lock nothing

    folder.mkdir(parents=True, exist_ok=True)
    # The system lets go of it when a process dies, however it dies.
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise ValueError(f"Another run is at work in {folder}. Choose another folder, {remedy}.") from None
    try:
        yield
    finally:
        lock.release()


def read_yaml(text: str, source: str | Path) -> Any:
    """Read a YAML document: what `yaml.safe_load` gives, but nothing that grows on the way.

    Args:
        text (`str`): The document.
        source (`str` or `Path`): Its file, for messages.

    Raises:
        ValueError: If it is no YAML, or has more than 100,000 values once its aliases are filled in: a few lines of
            aliases of aliases stand for more values than any machine holds.
    """
    import yaml  # at use: an optional package

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_nodes(node, {}) > MAX_YAML_NODES:
            raise ValueError(f"it has more than {MAX_YAML_NODES:,} values")
        return loader.construct_document(node)
    # Of numbers and dates that are none, such as 2026-99-99, too.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{source} is no YAML: {error}.") from error


def _count_nodes(node: Any, known: dict[int, int]) -> int:
    """Values of a YAML node with aliases filled in; more than are allowed if it contains itself."""
    if id(node) not in known:
        known[id(node)] = MAX_YAML_NODES + 1  # what an alias to an enclosing node finds
        parts = node.value if isinstance(node.value, list) else []
        parts = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_count_nodes(part, known) for part in parts)
    return known[id(node)]


def check_file_names(names: list[Any], source: Path) -> None:
    """Refuse file names, read from the file `source`, that lead out of its folder.

    Raises:
        ValueError: If a name does; the message contains the first.
    """
    for name in names:
        if not isinstance(name, str) or name != PurePath(name).name or name in ("", ".", ".."):
            raise ValueError(f"{source} names the file {name!r}, which is not in its folder: this is refused.")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        ValueError: If it is damaged or contains something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it contains no JSON object.")
    return content


__all__ = ["check_file_names", "locked", "read_json", "read_yaml", "write_whole"]
