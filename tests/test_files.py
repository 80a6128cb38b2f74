"""A text file is there whole or not at all."""

import os

import pytest

from clvq_hf.files import write_whole


def test_a_file_replaces_the_earlier_one(tmp_path):
    write_whole(tmp_path / "file.txt", "one")
    write_whole(tmp_path / "file.txt", "zwei: ü 😀")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "zwei: ü 😀"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_half_a_character_does_not_lose_the_file(tmp_path):
    write_whole(tmp_path / "file.txt", "a\ud83db")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "a?b"


def test_a_failure_leaves_the_earlier_file(tmp_path, monkeypatch):
    write_whole(tmp_path / "file.txt", "one")

    def fail(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file.txt", "two")
    assert (tmp_path / "file.txt").read_text() == "one"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_missing_folder(tmp_path):
    with pytest.raises(OSError):
        write_whole(tmp_path / "missing" / "file.txt", "one")
