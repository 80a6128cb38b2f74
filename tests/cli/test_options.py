"""Options that every command with texts has, and messages that name them."""

import json

import pytest
import typer
from helpers.command_line import refuse

from clvq_hf.cli import app
from clvq_hf.comparison.grid import DatasetSpec

WITH_TEXTS = {
    "demo": ("demo", "--quick"),
    "concepts build": ("concepts", "build", "nowhere", "--output-dir", "table", "--split", "train"),
    "evaluate": ("evaluate", "nowhere", "--output-dir", "results", "--split", "train"),
}


@pytest.fixture(autouse=True)
def tweets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"tweet": f"t{number}", "mood": ["bad", "good"][number % 2]} for number in range(60)]
    (tmp_path / "tweets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_command_that_reads_texts_is_tested_here():
    commands = typer.main.get_command(app).commands
    found = {name for name, command in commands.items() if "dataset" in {each.name for each in command.params}}
    found |= {
        f"concepts {name}"
        for name, command in commands["concepts"].commands.items()
        if "dataset" in {each.name for each in command.params}
    }
    assert found == set(WITH_TEXTS)


@pytest.mark.parametrize("name", WITH_TEXTS)
def test_columns_are_named_by_options(name):
    command = (*WITH_TEXTS[name], "--dataset", "tweets.jsonl")
    assert "set --text-column to one of ['tweet', 'mood']" in refuse(*command)
    assert "set --label-column to one of" in refuse(*command, "--text-column", "tweet", "--label-column", "stars")
    assert "no subset 'plain'" in refuse(*command, "--text-column", "tweet", "--subset", "plain")


def test_a_missing_label_column_is_named_by_its_option():
    message = refuse("demo", "--quick", "--dataset", "tweets.jsonl", "--text-column", "tweet")
    assert "name it with --label-column" in message


def test_splits_of_a_file_are_refused():
    command = ("concepts", "build", "nowhere", "--output-dir", "table", "--dataset", "tweets.jsonl")
    for split in ((), ("--split", "nonsense")):
        assert "it has ['train', 'tweets']" in refuse(*command, *split)


def test_arguments_that_the_command_lacks_stay_as_they_are(monkeypatch):
    def describe(source):
        raise ValueError("set text_column=… here, revision=… there")

    monkeypatch.setattr("clvq_hf.models.checkpoints.describe", describe)
    assert refuse("info", "folder") == "Error: set text_column=… here, --revision there"


def test_a_grid_names_columns():
    texts = DatasetSpec("moods", "tweets.jsonl", text_column="tweet", label_column="mood").load("train[:2]")
    assert texts["text"][:] == ["t0", "t1"] and texts["label"][:] == [0, 1]
