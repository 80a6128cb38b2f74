"""`clvq-hf edit`."""

import csv
import json
import shutil

import pytest
from helpers.command_line import invoke, refuse, succeed
from transformers import AutoModelForSequenceClassification

from clvq_hf import ConceptModel, load_texts
from clvq_hf.data.texts import text_numbers


@pytest.fixture
def model(hub, shared_model, hub_host, tmp_path):
    """A model folder, as `clvq-hf train` leaves it; its host is on the Hub."""
    shared_model.save_pretrained(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def reviews(texts, tmp_path):
    """A file with string labels in an order of its own, and a column of sources."""
    file = tmp_path / "reviews.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["source", "comment_text", "verdict"])
        for number, (text, label) in enumerate(zip(texts["text"], texts["label"], strict=True)):
            rows.writerow(["ab"[number % 2], text, ["negative", "positive"][label]])
    return file


COLUMNS = ("--text-column", "comment_text", "--label-column", "verdict")


def test_an_edit_is_retested_and_loaded_again(model, hub_host, reviews, tmp_path):
    edited = tmp_path / "edited"
    told = succeed(
        *("edit", model, "--forbid", "1, 2,3", "--retest", reviews, *COLUMNS, "--slice-column", "source", "-o", edited)
    )
    assert "Accuracy, all texts (60)" in told and "Accuracy, source=a (30)" in told and "load_edit" in told
    assert {file.name for file in edited.iterdir()} == {"edits.json", "retest.json", "retest.html"}
    found = json.loads((edited / "retest.json").read_text())
    assert found["facts"]["forbid"] == [1, 2, 3] and found["facts"]["slices"] == ["source"]
    with ConceptModel.from_pretrained(model).load_edit(hub_host, edited) as edit:
        assert edit.forbid == (1, 2, 3) and edit.how == found["facts"]["how"]


def test_texts_that_differ_by_case_or_not_at_all_are_retested(model, reviews, tmp_path):
    """Pairs of texts show a shortcut of casing; equal rows may have other labels and slices."""
    rows = reviews.read_text(encoding="utf-8").splitlines()
    with reviews.open("a", encoding="utf-8") as file:
        file.write("\n".join([rows[1].upper(), rows[2], "a,,positive"]) + "\n")
    concepts = ConceptModel.from_pretrained(model)
    concepts.record_training_texts(text_numbers([load_texts(str(reviews), text_column="comment_text")["text"][2]]))
    concepts.save_pretrained(model)
    told = succeed("edit", model, "--forbid", "1", "--retest", reviews, *COLUMNS, "-o", tmp_path / "edited")
    # The last one is empty, so the host says nothing to it.
    assert "1 of 63 texts are left out: concepts were learned from them" in told and "all texts (61)" in told
    facts = json.loads((tmp_path / "edited" / "retest.json").read_text())["facts"]
    assert (facts["num_texts"], facts["num_left_out"]) == (61, 1)


def test_a_condition_decides_the_exit_code(model, reviews, tmp_path):
    run = ("edit", model, "--forbid", "1,2,3", "--retest", reviews, *COLUMNS, "-o", tmp_path / "edited")
    result = invoke(*run, "--fail-if", "accuracy<-1", "--fail-if", "margin<1e9")
    assert result.exit_code == 1 and "Traceback" not in result.output
    told = " ".join(result.output.split())
    assert "Failed: margin of all texts changed by" in told and "Failed: accuracy" not in told
    assert (tmp_path / "edited" / "retest.json").exists(), "what failed can be looked at"
    succeed(*run, "--fail-if", "accuracy<-1")
    shutil.rmtree(tmp_path / "edited")
    without_labels = ("edit", model, "--forbid", "1", "--retest", reviews, *COLUMNS[:2], "-o", tmp_path / "edited")
    assert "because they have no labels" in refuse(*without_labels, "--fail-if", "accuracy<0")
    assert (tmp_path / "edited" / "retest.json").exists(), "what was measured is not lost by a figure that was not"


def test_a_folded_model(model, reviews, tmp_path):
    edited = tmp_path / "edited"
    told = succeed(
        *("edit", model, "--forbid", "1", "--retest", reviews, *COLUMNS, "--max-texts", 40),
        *("--fold", "--fold-texts", reviews, "--max-steps", 3, "-o", edited),
    )
    assert "Hook and folded model on" in told
    assert AutoModelForSequenceClassification.from_pretrained(edited).config.num_labels == 2
    assert {"README.md", "edits.json", "retest.html"} <= {file.name for file in edited.iterdir()}
    conditions = {each["condition"] for each in json.loads((edited / "retest.json").read_text())["figures"]}
    assert "folded model" in conditions


def test_mistakes_are_found_before_the_host_is_loaded(model, reviews, tmp_path, monkeypatch):
    monkeypatch.setattr("clvq_hf.models.modeling_concepts.load_with_host", None)
    edit = ("edit", model, "-o", tmp_path / "edited", "--forbid")
    retest = ("1", "--retest", reviews, *COLUMNS)
    assert "numbers of concepts" in refuse(*edit, "one")
    assert "Codes run from 0 to 11; --forbid has [12]" in refuse(*edit, "12")
    assert "is no condition" in refuse(*edit, *retest, "--fail-if", "accuracy")
    assert "no group 'source=a' of texts; there are 'all texts'" in refuse(
        *edit, *retest, "--fail-if", "accuracy[source=a]<0"
    )
    assert "no figure 'acuracy'" in refuse(*edit, *retest, "--fail-if", "acuracy<0")
    assert "--retest" in refuse(*edit, "1", "--fail-if", "accuracy<0")
    assert "for --fold" in refuse(*edit, "1", "--fold-texts", reviews)
    assert "--fold-texts" in refuse(*edit, "1", "--fold")
    assert "no column 'author'" in refuse(*edit, *retest, "--slice-column", "author")
    assert "There is no file" in refuse(*edit, "1", "--retest", "nothing.csv")
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "thesis.txt").write_text("years of work")
    assert "would be lost" in refuse(*edit, "1")


def test_wrong_ways(model, tmp_path):
    edit = ("edit", model, "-o", tmp_path / "edited", "--forbid")
    assert "how must be one of" in refuse(*edit, "1", "--how", "delete")
    assert not (tmp_path / "edited").exists()
    assert "edits.json" in succeed(*edit, "1", "--how", "project", "--positions", "all")
