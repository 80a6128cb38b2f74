"""A text file is whole or not there; JSON and file names from elsewhere are not trusted."""

from pathlib import Path

import pytest

from clvq_hf.files import check_file_names, read_json, write_whole


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

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            write_whole(tmp_path / "missing" / "file.txt", "one")


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
