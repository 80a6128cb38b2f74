"""A text file is whole or not there; JSON, YAML and file names from elsewhere are not trusted."""

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.files import check_file_names, locked, read_json, read_yaml, write_whole


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


class TestReadJson:
    def test_an_object(self, tmp_path):
        write_whole(tmp_path / "file.json", '{"a": [1, null], "ü": {}}')
        assert read_json(tmp_path / "file.json") == {"a": [1, None], "ü": {}}

    @pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1, 2]", b"3", b"null", b'"text"', b'{"a": "\xff"}'])
    def test_anything_else_is_damaged(self, tmp_path, content):
        (tmp_path / "file.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"file\.json is damaged: "):
            read_json(tmp_path / "file.json")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_json(tmp_path / "file.json")


class TestCheckFileNames:
    def test_names_in_the_folder(self):
        check_file_names(["a.parquet", ".hidden", "b c…", "..a"], Path("state.json"))

    @pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/etc/passwd", "a/", None, 3])
    def test_names_that_lead_elsewhere(self, name):
        with pytest.raises(ValueError, match=r"state\.json names the file .*, which is not in its folder"):
            check_file_names(["a.parquet", name], Path("state.json"))


class TestReadYaml:
    def test_aliases_and_merges(self):
        text = "one: &one {a: 1, b: [x]}\ntwo: {<<: *one, a: 2}\nthree: *one\n"
        expected = {"one": {"a": 1, "b": ["x"]}, "two": {"a": 2, "b": ["x"]}, "three": {"a": 1, "b": ["x"]}}
        assert read_yaml(text, "f") == expected
        assert read_yaml("", "f") is None

    @pytest.mark.parametrize(
        "many", ["[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]", "{{x: *{0}, y: *{0}}}"]
    )
    def test_aliases_of_aliases(self, many):
        lines = ["a0: &a0 [lol]", *(f"a{n + 1}: &a{n + 1} {many.format(f'a{n}')}" for n in range(30))]
        with pytest.raises(ValueError, match=r"bomb.yaml is no YAML: it has more than 100,000 values"):
            read_yaml("\n".join(lines), "bomb.yaml")

    def test_merges_of_merges(self):
        lines = ["a0: &a0 {k: 1}", *(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}, *a{n}]}}" for n in range(30))]
        with pytest.raises(ValueError, match="more than 100,000 values"):
            read_yaml("\n".join(lines), "bomb.yaml")

    @pytest.mark.parametrize(
        "text", ["a: [", "&a [*a]", "a: &a {b: *a}", "[" * 5000, "9" * 5000, "2026-99-99",
                 "!!python/object:os.system x", "a: b\n---\nc: d", "\x00", "- " * 5000, "!!int x", "{[a]: 1}", "*a"]
    )  # fmt: skip
    def test_what_is_none(self, text):
        with pytest.raises(ValueError, match=r"f\.yaml is no YAML"):
            read_yaml(text, "f.yaml")

    @given(st.text() | st.text("&*ab[]{}:,-<|>!? \n\"'#%@019."))
    @settings(deadline=None)
    def test_any_text_is_read_or_refused(self, text):
        with contextlib.suppress(ValueError):
            read_yaml(text, "f")
