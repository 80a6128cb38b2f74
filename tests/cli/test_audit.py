"""`clvq-hf audit`."""

import json

import pytest
from helpers.command_line import refuse, succeed

from clvq_hf import ConceptTable
from clvq_hf.auditing import Audit


@pytest.fixture
def model(hub, shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def news(texts, tmp_path):
    """A file of a stranger: other names of columns, labels as names, a column of sources, an empty text."""
    file = tmp_path / "news.jsonl"
    rows = [
        {"review": text, "mood": ["negative", "positive"][label], "source": "ab"[number % 2]}
        for number, (text, label) in enumerate(zip(texts["text"][:20], texts["label"][:20], strict=True))
    ]
    rows.insert(3, {"review": "", "mood": "positive", "source": "a"})
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return file


def test_a_file_is_audited(model, news, tmp_path):
    words = tmp_path / "groups.json"
    words.write_text('{"people": ["he", "she"]}')
    arguments = [
        "audit",
        model,
        "--dataset",
        news,
        "-o",
        tmp_path / "audit",
        "--label-column",
        "mood",
    ]
    arguments += ["--slice-column", "source", "--groups", words, "--show", "3"]
    told = succeed(*arguments)
    assert "removals from 20 texts" in told and "Suspects" in told, "the whole file, without the empty text"
    assert "clvq-hf report" in told and "--forbid" not in told, "without an alarm there is nothing to cut"
    assert "concepts support a class more than other concepts" in told
    audit = Audit.load_from_disk(tmp_path / "audit")
    assert {"slice_source", "group_people"} <= set(audit.concepts.column_names)
    assert set(audit.concepts["class"][:]) <= {"negative", "positive"}
    assert len(ConceptTable.load_from_disk(tmp_path / "audit" / "concept_table").texts) == 20
    assert "Suspects" in succeed(*arguments, "--sort", "slice_source")
    told = refuse(*arguments, "--max-texts", 15)
    assert "holds an audit of other texts" in told and "--overwrite" in told
    table = ConceptTable.load_from_disk(tmp_path / "audit" / "concept_table")
    assert len(table.texts) == 20 and Audit.load_from_disk(tmp_path / "audit").rows[:] == audit.rows[:]
    succeed(*arguments, "--max-texts", 15, "--overwrite")
    assert len(ConceptTable.load_from_disk(tmp_path / "audit" / "concept_table").texts) < 16


def test_mistakes_are_found_before_the_model_is_loaded(model, news, tmp_path):
    common = ["audit", "nowhere", "--dataset", news, "--split", "news", "-o", tmp_path / "audit"]
    assert "There is no column 'region'" in refuse("audit", model, *common[2:], "--slice-column", "region")
    assert "set --sort to one of" in refuse("audit", model, *common[2:], "--sort", "magic")
    (tmp_path / "groups.json").write_text('{"people": "she"}')
    assert "must be a list of words" in refuse(*common, "--groups", tmp_path / "groups.json")
