"""Files and folders that are complete or absent, temporary folders, and locks."""

import errno
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

# Ends of the names of what is not complete yet, and beginnings of those of temporary folders.
_PARTIAL, _SCRATCH = ".partial", ".clvq-hf-"
# The lock of a folder; it stays there.
LOCK_NAME = ".lock"


def write_whole(file: str | Path, text: str, mode: int = 0o666) -> None:
    """Write a text file in UTF-8; an earlier file of this name remains until the new one is complete.

    Args:
        file (`str` or `Path`): Path of the file.
        text (`str`): Its content; a lone surrogate becomes a question mark.
        mode (`int`): Who may read and write it, as far as the umask allows: 0o600 is its owner alone.

    Raises:
        OSError: If the folder does not exist or the disk is full.
    """
    with drafted(file, mode) as draft:
        draft.write_text(text, encoding="utf-8", errors="replace")


@contextmanager
def drafted(file: str | Path, mode: int = 0o666) -> Generator[Path]:
    """Write a file of any kind under another name; an earlier file remains until the new one is complete.

    What a process that died has left beside the file is removed.

    Args:
        file (`str` or `Path`): Path of the file.
        mode (`int`): Its permissions, before the umask takes some away.

    Raises:
        ValueError: If the file cannot be written there.

    Yields:
        `Path`: An empty file to write into, which becomes `file` at the end. If a library replaces it instead, another
            process may take what is there for a left-over: do that only in a folder that is locked.
    """
    file = Path(file)
    for left_over in file.parent.glob(f".{glob.escape(file.name)}.*{_PARTIAL}"):
        with suppress(OSError), left_over.open("rb") as opened:  # or another process writes it
            if not left_over.is_symlink() and _hold(opened, wait=False):
                left_over.unlink()
    with _writable(file):
        draft, opened = _new_draft(file, mode)
    try:
        with opened:
            permissions = stat.S_IMODE(draft.stat().st_mode)
            yield draft
            draft.chmod(permissions)  # safetensors makes files that only their owner can read
            _sync(draft)
            draft.replace(file)
            _sync_folder(file.parent)
    finally:
        draft.unlink(missing_ok=True)


def _new_draft(file: Path, mode: int) -> tuple[Path, IO[bytes]]:
    while True:
        # A name of its own: two writers do not mix, and a link that somebody has planted is not followed ("x").
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}{_PARTIAL}")
        # Made with its permissions: a moment in which everybody can read it would be enough.
        opened = os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
        if fcntl is None:
            opened.close()  # Windows does not rename open files
            return draft, opened
        _hold(opened, wait=True)
        if os.fstat(opened.fileno()).st_nlink:  # another process may have taken it for a left-over before it was held
            return draft, opened
        opened.close()


def _hold(opened: IO[bytes], wait: bool) -> bool:
    """Lock a file as long as this process has it open; whether that was possible."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process holds it, or the file system has no locks
        return False
    return True


class ScratchFolder:
    """A private temporary folder, which is removed with this object, or, if the process dies, by the next one.

    Args:
        parent (`str` or `Path`, *optional*): Where it is made; the system's folder for temporary files if not given.

    Attributes:
        path (`Path`): The folder.
    """

    def __init__(self, parent: str | Path | None = None) -> None:
        parent = Path(tempfile.gettempdir() if parent is None else parent)
        for left_over in parent.glob(f"{_SCRATCH}*"):
            with suppress(OSError, ValueError), held(left_over / LOCK_NAME, left_over, False, ""):
                shutil.rmtree(left_over, ignore_errors=True)
        while True:
            self._home = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent, ignore_cleanup_errors=True)
            home, self._lock = Path(self._home.name), ExitStack()
            self.path = home / "content"
            with suppress(FileNotFoundError):
                made = home.stat().st_ino
                self._lock.enter_context(held(home / LOCK_NAME, home, True, ""))  # which makes a missing folder again
                if home.stat().st_ino == made:
                    self.path.mkdir()
                    return
            self.cleanup()  # another process took it for a left-over before it was held

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder."""
        self._home.cleanup()
        self._lock.close()


@contextmanager
def _writable(place: Path) -> Generator[None]:
    """Say which file or folder cannot be written if the system forbids it, rather than a temporary name.

    Raises:
        ValueError: If it does.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise
        raise ValueError(f"{place} cannot be written: {error.strerror}. Choose another folder.") from error


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    if fcntl is not None:  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some file systems cannot
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync(file: Path) -> None:
    """Have a file on the disk, or a crash of the machine could leave its name with nothing in it."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


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
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK_NAME, folder, wait, remedy):
        yield


@contextmanager
def held(file: Path, place: Path, wait: bool = False, remedy: str = "or wait for it") -> Generator[None]:
    """Hold a lock that is the file `file`, of a folder or of another file; see [`locked`].

    Raises:
        ValueError: If another process holds it.
    """
    import filelock  # at use: most commands lock nothing

    # The system lets go of it when a process dies, however it dies.
    lock = filelock.FileLock(file)
    with _writable(place):
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except filelock.Timeout:
            raise ValueError(f"Another run is at work in {place}. Choose another folder, {remedy}.") from None
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
                _sync(file)
        if folder.is_dir():
            shutil.copymode(folder, new)
            folder.rename(home / "old")
        new.rename(folder)
        _sync_folder(folder.parent)


@contextmanager
def updated(folder: str | Path, owned: Collection[str]) -> Generator[Path]:
    """Write some files of a folder, which are moved there when all of them are complete.

    If an exception is raised, the folder is as before. Only a process that dies between two renames leaves a mixture.

    Args:
        folder (`str` or `Path`): The folder; made if needed.
        owned (`Collection[str]`): Patterns of names: files that match one, and are not written now, are removed.

    Yields:
        `Path`: An empty folder.
    """
    folder = Path(folder)
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = ScratchFolder(folder)
    with scratch as new:
        yield new
        names = sorted(file.name for file in new.iterdir())
        for name in names:
            _sync(new / name)
        for name in names:
            (new / name).replace(folder / name)
        for file in list(folder.iterdir()):
            if file.name not in names and any(fnmatchcase(file.name, pattern) for pattern in owned):
                file.unlink()
        _sync_folder(folder)


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
    return folder.with_name(f".{folder.name}{_PARTIAL}")


@contextmanager
def _beside(folder: Path) -> Generator[Path]:
    """A hidden folder for the successor (`new`) and the predecessor (`old`) of a folder; nothing remains in it."""
    home = _home(folder)
    if home.is_symlink():
        raise ValueError(f"{home} is a link, which could lead anywhere. Remove it, or choose another folder.")
    with _writable(folder):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(home / LOCK_NAME, folder):
        _tidy(home, folder)  # after a process that died
        try:
            yield home
        finally:
            _tidy(home, folder)
            with suppress(OSError):  # another process has come in between
                (home / LOCK_NAME).unlink()
                home.rmdir()


def _tidy(home: Path, folder: Path) -> None:
    """Put back the predecessor if there is no successor, and remove what is left."""
    if (home / "old").is_dir() and not folder.exists():
        (home / "old").rename(folder)
    for name in ("old", "new"):
        shutil.rmtree(home / name, ignore_errors=True)


__all__ = [
    "LOCK_NAME",
    "ScratchFolder",
    "check_replaceable",
    "drafted",
    "held",
    "locked",
    "remove_folder",
    "replaced",
    "updated",
    "write_whole",
]
