"""Concepts by a regular expression or a slice, on tables where precision and recall are counted by hand."""

import pytest
from helpers.made_tables import made_table

from clvq_hf.tables import search

TEXTS = ["Reuters said so", "said Reuters again", "the wire said", "no agency"]
CODES = {"reuters": 1, "said": 2, "wire": 1, "agency": 3}


@pytest.fixture
def table():
    return made_table(TEXTS, [1, 1, 0, 0], CODES, labels=[1, 1, 0, -1])


def row(found, code):
    (one,) = found[found["code"] == code].to_dict("records")
    return {name: one[name] for name in ("found", "total", "precision", "recall", "f1")}


def test_a_pattern_finds_tokens(table):
    found = table.find("Reuters")
    # Two of the three tokens of concept 1 are Reuters, and no other concept has one.
    assert found["code"].tolist() == [1]
    assert row(found, 1) == {"found": 2, "total": 3, "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": 0.8}


def test_a_pattern_may_span_words_and_parts_of_them(table):
    found = table.find("(?i)reuters SAI")
    assert found["code"].tolist() == [2, 1] or found["code"].tolist() == [1, 2]
    assert row(found, 1)["found"] == row(found, 2)["found"] == 1 and row(found, 1)["recall"] == 0.5
    assert found["f1"].is_monotonic_decreasing
    assert table.find("xyz").empty


def test_a_slice_finds_texts(table):
    found = table.find(slice="label=good")
    # Texts 0 and 1 are good; concept 1 occurs in these and in text 2, concept 2 in the same.
    assert row(found, 1) == {"found": 2, "total": 3, "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": 0.8}
    assert 3 not in found["code"].tolist()
    assert row(table.find(slice="prediction=bad"), 3) == {
        "found": 1,
        "total": 1,
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
    }
    assert len(table.find(slice="split=test")) == 4 and len(table.find(slice="dataset=made up")) == 4


def test_merged_concepts_are_one_and_hidden_ones_none(table):
    table.merge([1, 2], "what agencies say")
    found = table.find("Reuters said")
    assert found["code"].tolist() == [1] and found["name"].tolist() == ["what agencies say"]
    assert row(found, 1) == {"found": 2, "total": 6, "precision": pytest.approx(1 / 3), "recall": 1.0, "f1": 0.5}
    table.hide([1])
    assert table.find("Reuters").empty


def test_mistakes(table):
    with pytest.raises(ValueError, match="no regular expression"):
        table.find("(")
    for given in ({}, {"pattern": "a", "slice": "label=good"}):
        with pytest.raises(ValueError, match="either"):
            table.find(**given)
    with pytest.raises(ValueError, match="one of the columns label, prediction, split, dataset"):
        table.find(slice="source=Reuters")
    with pytest.raises(ValueError, match="there are None, bad, good"):
        table.find(slice="label=great")


def test_a_pattern_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(search, "MAX_SECONDS", 0.2)
    table = made_table(["a" * 80 + "b"], [0], {})
    with pytest.raises(ValueError, match="took longer than"):
        table.find("(a|aa)+$")
