"""`clvq-hf explain`."""

import json

import pytest
from helpers.command_line import refuse, succeed
from helpers.hub_commands import table  # noqa: F401


@pytest.fixture
def model(hub, shared_model, table, tmp_path):
    """A model folder with its concept table, as `clvq-hf train` leaves it."""
    shared_model.save_pretrained(tmp_path / "out")
    table.save_to_disk(tmp_path / "out" / "concepts")
    return tmp_path / "out"


def test_a_text_is_explained(model):
    told = succeed("explain", model, "a moving film", "--method", "gradient_x_input")
    assert "a moving film" in told and "The host predicts" in told
    assert "texts" in told, "words and counts from the table"
    both = succeed("explain", model, "a moving film", "--target", "all")
    assert "about negative" in both or "about positive" in both


def test_a_file_becomes_json_lines(model, tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("id,comment_text\n1,a moving film\n2,\n3,dull and long\n")
    told = succeed(
        *("explain", model, file, "-o", tmp_path / "new" / "explanations.jsonl", "--text-column", "comment_text"),
        *("--method", "gradient_x_input"),
    )
    rows = [json.loads(line) for line in (tmp_path / "new" / "explanations.jsonl").read_text().splitlines()]
    assert [(row["text_id"], row["text"]) for row in rows] == [(0, "a moving film"), (2, "dull and long")]
    assert all(row["schema"] == 1 and row["method"] == "gradient_x_input" for row in rows)
    assert "2 explanations" in told
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["explanations.jsonl"]


def test_the_column_of_training_is_known(hub, shared_model, table, tmp_path):
    file = tmp_path / "tweets.csv"
    file.write_text("tweet\na moving film\n")
    shared_model.config.training = {"dataset": str(file), "split": "train", "text_column": "tweet"}
    try:
        shared_model.save_pretrained(tmp_path / "out")
    finally:
        shared_model.config.training = None
    assert "a moving film" in succeed("explain", tmp_path / "out", file, "--method", "gradient_x_input")


def test_mistakes_are_found_before_the_model_is_loaded(tmp_path):
    assert "There is no file reviews.csv" in refuse("explain", "nowhere", "reviews.csv")
    assert "--output is for the texts of a file" in refuse("explain", "nowhere", "a film", "-o", tmp_path / "e.jsonl")
    texts = tmp_path / "texts.csv"
    texts.write_text("text\nfine\n")
    assert "holds the texts, and would be lost" in refuse("explain", "nowhere", texts, "-o", texts)
    assert texts.read_text() == "text\nfine\n"
    many = tmp_path / "many.csv"
    many.write_text("text\n" + "fine\n" * 21)
    assert "-o explanations.jsonl" in refuse("explain", "nowhere", many)
    other = tmp_path / "other.csv"
    other.write_text("tweet,mood\nfine,good\n")
    assert "set --text-column to one of" in refuse("explain", "nowhere", other)


def test_wrong_arguments(model):
    assert "no answer 'fine'" in refuse("explain", model, "a film", "--target", "fine")
    assert "method must be one of" in refuse("explain", model, "a film", "--method", "magic")
