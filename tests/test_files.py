"""A file or folder is complete or absent, and one process at a time works in a folder."""

import ast
import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from clvq_hf.checksums import (
    read_tensors,
    write_tensors,
)
from clvq_hf.files import ScratchFolder, drafted, held, locked, remove_folder, replaced, updated, write_whole


class TestWriteWhole:
    def test_a_file_replaces_the_earlier_one(self, tmp_path):
        write_whole(tmp_path / "file.txt", "one")
        write_whole(str(tmp_path / "file.txt"), "zwei: ü 😀")
        assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "zwei: ü 😀"
        assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]

    def test_half_a_character_does_not_lose_the_file(self, tmp_path):
        write_whole(tmp_path / "file.txt", "a\ud83db")
        assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "a?b"

    def test_a_failure_leaves_the_earlier_file(self, tmp_path, monkeypatch):
        write_whole(tmp_path / "file.txt", "one")

        def fail(self, target):
            raise OSError("No space left on device")

        monkeypatch.setattr("pathlib.Path.replace", fail)
        with pytest.raises(OSError, match="No space"):
            write_whole(tmp_path / "file.txt", "two")
        assert (tmp_path / "file.txt").read_text() == "one"
        assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]

    def test_writers_at_once_leave_one_of_their_texts_whole(self, tmp_path):
        texts = [character * 1_000_000 for character in "abcdefgh"]
        with ThreadPoolExecutor(len(texts)) as pool:
            list(pool.map(lambda text: write_whole(tmp_path / "file.txt", text), texts))
        assert (tmp_path / "file.txt").read_text() in texts
        assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]

    def test_a_planted_link_is_not_followed(self, tmp_path, monkeypatch):
        (tmp_path / "precious").write_text("mine")
        monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
        (tmp_path / ".file.txt.00000000.partial").symlink_to(tmp_path / "precious")
        with pytest.raises(FileExistsError):
            write_whole(tmp_path / "file.txt", "text")
        assert (tmp_path / "precious").read_text() == "mine"

    def test_others_may_read_it_as_the_umask_says(self, tmp_path):
        before = os.umask(0o027)
        try:
            write_whole(tmp_path / "file.txt", "text")
        finally:
            os.umask(before)
        assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            write_whole(tmp_path / "missing" / "file.txt", "one")


class TestDrafted:
    def test_a_file_of_any_kind(self, tmp_path):
        with drafted(tmp_path / "file.bin") as draft:
            draft.write_bytes(b"\xff")
            assert draft.parent == tmp_path and not (tmp_path / "file.bin").exists()
        assert (tmp_path / "file.bin").read_bytes() == b"\xff" and len(list(tmp_path.iterdir())) == 1

    def test_others_may_read_it_as_the_umask_says_whatever_writes_it(self, tmp_path):
        before = os.umask(0o027)
        try:
            with drafted(tmp_path / "a.safetensors") as draft:
                save_file({"a": np.arange(4)}, draft)
            write_tensors(tmp_path / "b.safetensors", {"a": np.arange(4)})
        finally:
            os.umask(before)
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}

    def test_writers_of_tensors_at_once(self, tmp_path):
        def write(number: int) -> None:
            write_tensors(tmp_path / "file.safetensors", {"a": np.full(100_000, number)})

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(32)))
        [found] = read_tensors(tmp_path / "file.safetensors", ["a"], "")[0].values()
        assert len(set(found)) == 1 and len(list(tmp_path.iterdir())) == 1

    def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(self, tmp_path):
        code = (
            "import sys, time; from pathlib import Path; from clvq_hf.files import drafted\n"
            "with drafted(Path(sys.argv[1])) as draft:\n"
            "    draft.write_text('half'); print('begun', flush=True); sys.stdin.read(1); draft.write_text('whole')"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "file[1].txt")]
        killed, other = (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        )
        (tmp_path / ".file2.txt.00000000.partial").touch()  # of another file
        for process in (killed, other):
            assert process.stdout.readline() == "begun\n"
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 3
        write_whole(tmp_path / "file[1].txt", "mine")
        assert len(list(tmp_path.iterdir())) == 3 and (tmp_path / "file[1].txt").read_text() == "mine"
        other.communicate(" ")
        assert (tmp_path / "file[1].txt").read_text() == "whole" and len(list(tmp_path.iterdir())) == 2


class TestScratchFolder:
    def test_it_is_private_and_goes(self, tmp_path):
        with ScratchFolder(tmp_path) as folder:
            (folder / "file").touch()
            assert not list(folder.parent.parent.glob("[!.]*")) and folder.parent.stat().st_mode & 0o777 == 0o700
        assert not list(tmp_path.iterdir())

    def test_that_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_is_not(self, tmp_path):
        code = (
            "import sys; from clvq_hf.files import ScratchFolder\n"
            "folder = ScratchFolder(sys.argv[1]); print(folder.path, flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        killed, other = (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        )
        left_over, in_use = (Path(process.stdout.readline().strip()) for process in (killed, other))
        killed.kill()
        killed.wait()
        (left_over / "file").touch()
        with ScratchFolder(tmp_path):
            assert not left_over.parent.exists() and in_use.is_dir()
        other.communicate("")
        assert not list(tmp_path.iterdir())


# What writes files, and where it may: into a folder or under a name that is moved to its place when it is complete.
WRITERS = {
    *("write_text", "write_bytes", "save_file", "to_parquet", "to_json", "to_csv", "save_to_disk", "savefig", "dump"),
    *("mkdtemp", "TemporaryDirectory", "NamedTemporaryFile", "rmtree", "rename", "copy2", "copytree", "move"),
}
ALLOWED = {
    "files": None,  # the one that the others use
    "cli.explain": {"open"},  # of a draft, line by line
    "cli.push": {"copy"},  # into a scratch folder
    "comparison.cell": {"rmtree"},  # inside of a cell that is not complete yet
    "comparison.figures": {"savefig"},  # to a draft
    "comparison.run": {"rmtree"},  # of cells that are not complete
    "data.cache_draft": {"save_file", "rmtree"},  # drafts, in a folder of shards that goes on
    "judging.language_models.answers": {"open"},  # answers are appended, a line at once
    "report.plots": {"savefig"},  # to memory
    "tables.builder": {"save_to_disk"},  # a concept table's own, to a folder that is not complete yet
    "tables.table_files": {"to_parquet"},  # to a folder that is not complete yet
    "training.hub_trainer": {"copytree", "copy2"},  # into a scratch folder
    "cli.demo": {"save_to_disk"},  # a concept table's own
}


def test_every_file_is_complete_or_absent():
    """Whoever writes a file uses what this file tests."""
    package = Path(__file__).parents[1] / "clvq_hf"
    found: dict[str, set[str]] = {}
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            texts = {
                each.value
                for each in [*node.args[:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
            called = ast.unparse(node.func)
            opens = called == "os.open" or (name == "open" and texts & {"w", "x", "a", "wb", "xb", "ab"})
            if name in WRITERS or opens or called == "shutil.copy":
                found.setdefault(module, set()).add(name)
    strangers = {module: names - (ALLOWED.get(module, set()) or names) for module, names in found.items()}
    assert not {module: names for module, names in strangers.items() if names}
    assert found.keys() >= ALLOWED.keys(), "what is no longer needed is no longer allowed"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_the_system_forbids_it_the_place_is_named(tmp_path, monkeypatch, number):
    def forbid(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "a.temporary.name"))

    monkeypatch.setattr("os.open", forbid)
    monkeypatch.setattr("os.mkdir", forbid)
    for write, place in (
        (lambda: write_whole(tmp_path / "report.html", "text"), "report.html"),
        (lambda: locked(tmp_path / "results").__enter__(), "results"),
        (lambda: held(tmp_path / "file", tmp_path / "place").__enter__(), "place"),
        (lambda: updated(tmp_path / "model", []).__enter__(), "model"),
        (lambda: replaced(tmp_path / "table").__enter__(), "table"),
    ):
        with pytest.raises(ValueError, match=rf"{place} cannot be written: .*Choose another folder\.") as told:
            write()
        assert "temporary" not in str(told.value)


class TestUpdated:
    def test_files_arrive_together_and_what_they_replace_goes(self, tmp_path):
        for name in ("model.txt", "model-1.txt", "notes.md"):
            (tmp_path / name).write_text("old")
        with updated(tmp_path, ["model*.txt"]) as new:
            (new / "model.txt").write_text("new")
            assert (tmp_path / "model.txt").read_text() == "old"
        assert content(tmp_path) == ["model.txt: new", "notes.md: old"]

    def test_if_one_cannot_be_written_all_is_as_before(self, tmp_path):
        (tmp_path / "a").write_text("old")

        def write() -> None:
            with updated(tmp_path, ["*"]) as new:
                (new / "a").write_text("new")
                raise OSError("No space left on device")

        with pytest.raises(OSError, match="No space"):
            write()
        assert content(tmp_path) == ["a: old"]

    def test_a_new_folder(self, tmp_path):
        with updated(tmp_path / "some" / "where", []) as new:
            (new / "a").write_text("new")
        assert content(tmp_path / "some" / "where") == ["a: new"]


class TestLocked:
    def test_one_at_a_time(self, tmp_path):
        folder = tmp_path / "new"
        with locked(folder), pytest.raises(ValueError, match=r"at work in .*new\. Choose another folder, or wait"):
            locked(folder).__enter__()
        with locked(folder):
            pass

    def test_a_process_that_dies_lets_go(self, tmp_path):
        code = (
            "import sys, time; from pathlib import Path; from clvq_hf.files import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="at work"):
            locked(tmp_path).__enter__()
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass


# Builds or removes a folder where another one is, in processes that die by SIGKILL at their first, second, … change of
# a name or file, and then once more undisturbed.
KILLED = """
import os, signal, sys
from itertools import count
from pathlib import Path
from clvq_hf.files import remove_folder, replaced
import filelock

def work(folder, left):
    def counted(event, args):
        nonlocal left
        if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") or event == "open" and args[1] in ("w", "rb+"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(counted)
    if sys.argv[2] == "remove":
        remove_folder(folder)
    else:
        with replaced(folder) as building:
            for name in ("a", "b"):
                (building / name).write_text("new")

for number in count(1):
    folder = Path(sys.argv[1]) / str(number) / "folder"
    folder.mkdir(parents=True)
    for name in ("a", "c"):
        (folder / name).write_text("old")
    for left in (number, 0):
        if (child := os.fork()) == 0:
            work(folder, left)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        print(*(file.name + file.read_text() for file in found), sep=",", end=";")
        if left:
            was_killed = killed
    print(*(path.name for path in folder.parent.iterdir()), sep=",")
    if not was_killed:
        break
"""


def content(folder: Path) -> list[str]:
    return [f"{file.name}: {file.read_text()}" for file in sorted(folder.iterdir())] if folder.is_dir() else []


class TestReplaced:
    def test_a_folder_is_replaced_when_it_is_complete(self, tmp_path):
        for text in ("old", "new"):
            with replaced(tmp_path / "in" / "folder") as building:
                (building / "a").write_text(text)
                assert content(tmp_path / "in" / "folder") == ([] if text == "old" else ["a: old"])
        assert content(tmp_path / "in" / "folder") == ["a: new"]
        assert [path.name for path in (tmp_path / "in").iterdir()] == ["folder"]

    @pytest.mark.parametrize("action", ["build", "remove"])
    def test_a_process_that_dies_leaves_one_of_both_and_the_next_one_goes_on(self, tmp_path, action):
        command = [sys.executable, "-c", KILLED, str(tmp_path), action]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        after_kill, after_next, names = zip(*(line.split(";") for line in lines), strict=True)
        new, name = ("anew,bnew", "folder") if action == "build" else ("", "")
        assert len(lines) > 6 and set(after_next) == {new} and set(names) == {name}
        # Between two renames there is neither; the next process puts the old one back before it starts.
        assert set(after_kill) == {"aold,cold", new, ""}
        assert action == "remove" or after_kill.count("") == 1

    def test_a_failure_leaves_the_earlier_folder(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a").write_text("old")
        with pytest.raises(OSError, match="No space"), replaced(tmp_path / "folder") as building:
            (building / "a").write_text("new")
            raise OSError("No space left on device")
        assert content(tmp_path / "folder") == ["a: old"]
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_one_process_at_a_time(self, tmp_path):
        with replaced(tmp_path / "folder"), pytest.raises(ValueError, match=r"at work in .*folder\. Choose another"):
            replaced(tmp_path / "folder").__enter__()

    def test_what_a_link_leads_to_is_replaced(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "folder")
        for _ in range(2):
            with replaced(tmp_path / "link") as building:
                (building / "a").write_text("new")
            assert (tmp_path / "link").is_symlink() and content(tmp_path / "elsewhere" / "folder") == ["a: new"]

    def test_others_may_read_it_as_the_umask_or_the_earlier_folder_says(self, tmp_path):
        before = os.umask(0o027)
        try:
            with replaced(tmp_path / "folder") as building:
                assert building.parent.stat().st_mode & 0o777 == 0o700
        finally:
            os.umask(before)
        assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
        (tmp_path / "folder").chmod(0o700)
        with replaced(tmp_path / "folder"):
            pass
        assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700

    def test_what_cannot_be_replaced_is_refused_first(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("mine")
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".planted.partial").symlink_to(tmp_path)
        for folder, message in (
            ("file", "is a file. Choose another"),
            ("file/folder", "folder cannot be written"),
            ("/", "root of a file system"),
            (".", "a folder that you are in"),
            ("planted", "is a link"),
        ):
            with pytest.raises(ValueError, match=message):
                replaced(folder).__enter__()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        (tmp_path / "folder").mkdir()
        with pytest.raises(ValueError, match="is read-only"):
            replaced("folder").__enter__()
        assert content(tmp_path / "planted") == []

    def test_removing_what_is_not_there(self, tmp_path):
        remove_folder(tmp_path / "folder")
        assert list(tmp_path.iterdir()) == []
