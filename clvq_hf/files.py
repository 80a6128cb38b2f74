"""Files and folders that are complete or absent, folders of one process, and checks of JSON, YAML and file names."""

import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

if TYPE_CHECKING:  # importing the package does not load what only some files need
    import numpy as np
    from datasets import Dataset

# Fields of the JSON that describes a folder: size and SHA-256 of its other files, and SHA-256 of the JSON itself.
_FILES, _CHECKSUM = "files", "checksum"
# Ends of the names of what is not complete yet, and beginnings of those of temporary folders.
_PARTIAL, _SCRATCH = ".partial", ".clvq-hf-"
# Beside the rows of a dataset.
CHECKSUMS_NAME = "checksums.json"

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
    with drafted(file, mode) as draft:
        draft.write_text(text, encoding="utf-8", errors="replace")


@contextmanager
def drafted(file: str | Path, mode: int = 0o666) -> Generator[Path]:
    """Write a file of any kind under another name; an earlier file remains until the new one is complete.

    What a process that died has left beside the file is removed.

    Args:
        file (`str` or `Path`): Path of the file.
        mode (`int`): Its permissions, before the umask takes some away.

    Yields:
        `Path`: An empty file to write into, which becomes `file` at the end. If a library replaces it instead, another
            process may take what is there for a left-over: do that only in a folder that is locked.
    """
    file = Path(file)
    for left_over in file.parent.glob(f".{glob.escape(file.name)}.*{_PARTIAL}"):
        with suppress(OSError), left_over.open("rb") as opened:  # or another process writes it
            if not left_over.is_symlink() and _hold(opened, wait=False):
                left_over.unlink()
    draft, opened = _new_draft(file, mode)
    try:
        with opened:
            permissions = stat.S_IMODE(draft.stat().st_mode)
            yield draft
            draft.chmod(permissions)  # safetensors makes files that only their owner can read
            _sync(draft)
            draft.replace(file)
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
            with suppress(OSError, ValueError), held(left_over / ".lock", left_over, False, ""):
                shutil.rmtree(left_over, ignore_errors=True)
        while True:
            self._home = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent, ignore_cleanup_errors=True)
            home, self._lock = Path(self._home.name), ExitStack()
            self.path = home / "content"
            try:
                self._lock.enter_context(held(home / ".lock", home, True, ""))
                self.path.mkdir()
                return
            except FileNotFoundError:  # another process took it for a left-over before it was held
                self.cleanup()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder."""
        self._home.cleanup()
        self._lock.close()


def _sync(file: Path) -> None:
    """Have a file on the disk, or a crash of the machine could leave its name with nothing in it."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


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
    with held(folder / ".lock", folder, wait, remedy):
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
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error}. Choose another folder.") from error
    with held(home / ".lock", folder):
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


def read_json(file: Path, fields: Mapping[str, type] | None = None, remedy: str = "") -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Args:
        file (`Path`): The file.
        fields (`Mapping[str, type]`, *optional*): Fields that it must have, and of what type.
        remedy (`str`): What to do if it is damaged, in sentences.

    Raises:
        ValueError: If it is damaged or contains something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}. {remedy}".strip()) from error
    return check_object(content, file, fields, remedy)


def read_json_lines(file: Path) -> dict[str, dict[str, Any]]:
    """Read a file with a JSON object on each line, by the names of the lines: "line 3 of cells.jsonl".

    Raises:
        ValueError: If a line is damaged; the message contains its name.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        where = f"line {number} of {file}"
        try:
            content = json.loads(line) if line else None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is damaged: {error}.") from error
        if line:
            rows[where] = check_object(content, where)
    return rows


def check_object(
    content: Any, where: Path | str, fields: Mapping[str, type] | None = None, remedy: str = ""
) -> dict[str, Any]:
    """Check what was read as JSON from `where`, as [`read_json`] does.

    Raises:
        ValueError: If it is no object, or lacks a field.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} is damaged: it contains no JSON object. {remedy}".strip())
    for name, kind in (fields or {}).items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{where} is damaged: its {name} is no {kind.__name__}. {remedy}".strip())
    return content


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
    "ScratchFolder",
    "check_file",
    "check_file_names",
    "check_object",
    "check_replaceable",
    "drafted",
    "file_checksum",
    "held",
    "locked",
    "read_json",
    "read_json_lines",
    "read_metadata",
    "read_rows",
    "read_tensors",
    "read_yaml",
    "remove_folder",
    "replaced",
    "write_metadata",
    "write_rows",
    "write_tensors",
    "write_whole",
]
