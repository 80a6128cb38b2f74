"""Files and folders that are complete or absent, folders that one process works in, checks of JSON and file names."""

import json
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any


def write_whole(file: str | Path, text: str) -> None:
    """Write a text file in UTF-8; an earlier file of this name remains until the new one is complete.

    Args:
        file (`str` or `Path`): Path of the file.
        text (`str`): Its content; a lone surrogate becomes a question mark.

    Raises:
        OSError: If the folder does not exist or the disk is full.
    """
    file = Path(file)
    # A name of its own: two writers do not mix, and a link that somebody has planted is not followed ("x").
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("x", encoding="utf-8", errors="replace") as draft:
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
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / ".lock", folder, wait, remedy):
        yield


@contextmanager
def _held(file: Path, folder: Path, wait: bool, remedy: str) -> Generator[None]:
    """Hold the lock of a folder that is in `file`."""
    import filelock  # at use: most commands lock nothing

    # The system lets go of it when a process dies, however it dies.
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise ValueError(f"Another run is at work in {folder}. Choose another folder, {remedy}.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replaced(folder: str | Path) -> Generator[Path]:
    """Build a folder beside the one that it replaces once it is complete, so that `folder` is complete or absent.

    If an exception is raised, or the process dies, an earlier folder remains. What a process that died has left is
    removed when the folder is built again.

    Args:
        folder (`str` or `Path`): The folder. Of a link, what it leads to is replaced.

    Yields:
        `Path`: An empty folder, `new` in a hidden folder beside the final one.

    Raises:
        ValueError: If the folder cannot be replaced, or another process builds it.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    with _beside(folder) as home:
        new = home / "new"
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())  # or a crash of the machine could leave the folder with empty files
        if folder.is_dir():
            shutil.copymode(folder, new)
            folder.rename(home / "old")
        new.rename(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it exists, in such a way that a process that dies leaves it complete or absent."""
    folder = folder.resolve()
    if folder.is_dir() or _home(folder).is_dir():
        with _beside(folder) as home:
            if folder.is_dir():
                folder.rename(home / "new")


def check_replaceable(folder: Path) -> None:
    """Find out whether a folder could be [`replaced`], before anything is computed.

    Raises:
        ValueError: If it cannot.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Choose another folder.")
    if os.path.ismount(folder) or Path.cwd().is_relative_to(folder):
        raise ValueError(
            f"{folder} is the root of a file system or a folder that you are in, which cannot be replaced. Choose a "
            "folder inside it."
        )
    if folder.exists() and not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is read-only. Choose another folder.")
    with _beside(folder):
        pass


def _home(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


@contextmanager
def _beside(folder: Path) -> Generator[Path]:
    """A hidden folder for the successor (`new`) and the predecessor (`old`) of a folder; nothing remains in it."""
    home = _home(folder)
    if home.is_symlink():
        raise ValueError(f"{home} is a link, which could lead anywhere. Remove it, or choose another folder.")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error}. Choose another folder.") from error
    with _held(home / ".lock", folder, False, "or wait for it"):
        _tidy(home, folder)  # after a process that died
        try:
            yield home
        finally:
            _tidy(home, folder)
            with suppress(OSError):  # another process has come in between
                (home / ".lock").unlink()
                home.rmdir()


def _tidy(home: Path, folder: Path) -> None:
    """Put back the predecessor if there is no successor, and remove what is left."""
    if (home / "old").is_dir() and not folder.exists():
        (home / "old").rename(folder)
    for name in ("old", "new"):
        shutil.rmtree(home / name, ignore_errors=True)


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


__all__ = ["check_file_names", "check_replaceable", "locked", "read_json", "remove_folder", "replaced", "write_whole"]
