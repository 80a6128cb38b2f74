"""Names of concepts in their file: read with suspicion, written whole or not at all."""

import json

import pytest

from clvq_hf.tables.names import NAMES_FILE, ConceptName, read_names, write_names

NAME = ConceptName("praise", "judge", 1, "detector", 0.9, 10)


def test_they_come_back(tmp_path):
    assert read_names(tmp_path) == {}
    write_names(tmp_path, {3: NAME, 1: ConceptName("größer", "judge", 2)})
    assert read_names(tmp_path) == {1: ConceptName("größer", "judge", 2), 3: NAME}


@pytest.mark.parametrize("score", [1, 0, 0.5, None])
def test_any_number_is_a_score(tmp_path, score):
    write_names(tmp_path, {3: ConceptName("praise", "judge", 1, None, score)})
    assert read_names(tmp_path)[3].score == score


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5),
        ("judge", None),
        ("prompt_version", "1"),
        ("detector", 1),
        ("score", "0.9"),
        ("score", True),
        ("trials", 1.5),
    ],
)
def test_damage_is_named(tmp_path, field, value):
    write_names(tmp_path, {3: NAME})
    content = json.loads((tmp_path / NAMES_FILE).read_text(encoding="utf-8"))
    content["names"]["3"][field] = value
    (tmp_path / NAMES_FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{field} of concept 3 is {value!r}"):
        read_names(tmp_path)


def test_a_failure_leaves_the_earlier_names_and_nothing_else(tmp_path, monkeypatch):
    write_names(tmp_path, {3: NAME})

    def fail(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_names(tmp_path, {4: NAME})
    assert [path.name for path in tmp_path.iterdir()] == [NAMES_FILE] and list(read_names(tmp_path)) == [3]
