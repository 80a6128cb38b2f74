"""Options that every command with texts has, and messages that name them."""

import errno
import json
import shutil
from unittest.mock import Mock

import pytest
import typer
from helpers.command_line import refuse, succeed
from safetensors import SafetensorError

from clvq_hf import ConceptTable
from clvq_hf.cli import app
from clvq_hf.cli.options import find_texts
from clvq_hf.comparison.grid import DatasetSpec
from clvq_hf.hosts.readout import Readout

WITH_TEXTS = {
    "demo": ("demo", "--quick"),
    "train": ("train", "nowhere", "--output-dir", "out"),
    "concepts build": ("concepts", "build", "nowhere", "--output-dir", "table", "--split", "train"),
    "audit": ("audit", "nowhere", "--output-dir", "audit", "--split", "train"),
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
    assert "it has ['test', 'train', 'tweets']" in refuse(*command, "--split", "nonsense", "--text-column", "tweet")


def test_arguments_that_the_command_lacks_stay_as_they_are(monkeypatch):
    def describe(source):
        raise ValueError("set text_column=… here, revision=… there")

    monkeypatch.setattr("clvq_hf.models.checkpoints.describe", describe)
    assert refuse("info", "folder") == "Error: set text_column=… here, --revision there"


def test_a_full_disk(monkeypatch):
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 81792 vs 81684"),
    ):
        monkeypatch.setattr("clvq_hf.models.checkpoints.describe", Mock(side_effect=error))
        assert "No space left on device. Make room, and run the same command again" in refuse("info", "folder")


def test_a_grid_names_columns():
    texts = DatasetSpec("moods", "tweets.jsonl", text_column="tweet", label_column="mood").load("train[:2]")
    assert texts["text"][:] == ["t0", "t1"] and texts["label"][:] == ["bad", "good"]


NAMES = ["negative", "positive"]


@pytest.fixture
def build(fitted_model, saved_host, all_texts, tmp_path):
    """Arguments that build a table of 20 texts with given labels, with a host of given names of classes."""

    def build(label, names):
        rows = [{"text": row["text"], "label": label(row["label"])} for row in all_texts.select(range(20))]
        (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        shutil.copytree(saved_host, tmp_path / "host", dirs_exist_ok=True)
        config = json.loads((tmp_path / "host" / "config.json").read_text())
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
        (tmp_path / "host" / "config.json").write_text(json.dumps(config))
        fitted_model.save_pretrained(tmp_path / "model")
        texts = ("--dataset", tmp_path / "texts.jsonl", "--split", "texts", "--output-dir", tmp_path / "table")
        return ("concepts", "build", tmp_path / "model", "--host", tmp_path / "host", *texts)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
@pytest.mark.parametrize(
    ("label", "options"),
    [(NAMES.__getitem__, ()), (lambda number: number, ("--label", "negative", "--label", "positive"))],
)
def test_one_text_has_one_class(build, tmp_path, all_texts, names, label, options):
    succeed(*build(label, names), *options)
    table = ConceptTable.load_from_disk(tmp_path / "table")
    assert table.label_names == names
    assert [names[number] for number in table.texts["label"]] == [NAMES[n] for n in all_texts[:20]["label"]]


@pytest.mark.slow
def test_a_host_without_names(build, tmp_path):
    command = build(["bad", "good"].__getitem__, ["LABEL_0", "LABEL_1"])
    output = refuse(*command)
    assert "bad, good" in output and "LABEL_0, LABEL_1" in output and "--label negative" in output
    assert "are bad, good; the names given for them are 0 (a), 1 (b)" in refuse(
        *command, "--label", "a", "--label", "b"
    )
    succeed(*command, "--label", "good", "--label", "bad")
    assert ConceptTable.load_from_disk(tmp_path / "table").label_names == ["good", "bad"]


@pytest.mark.parametrize("values", [[0, 4], [1, 2], [-1, 1], [0.2, 0.9], [[0], [1]], ["ham", "spam"]])
def test_what_is_none_of_the_hosts_classes(build, values):
    assert "The labels in the column 'label' are" in refuse(*build(values.__getitem__, NAMES))


def test_columns_of_training_are_found_in_another_file(tmp_path):
    """They come before the usual names, and need not be there."""
    training = {"dataset": "elsewhere", "split": "train", "text_column": "tweet", "label_column": "mood"}
    config = {"model_type": "clvq", "training": training}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "both.csv").write_text("text,label,tweet,mood\nold,1,new,good\nold,0,newer,bad\n")
    (tmp_path / "usual.csv").write_text("text,label\nold,1\nolder,0\n")
    both, usual, tweets = (
        find_texts("model", name, None, None, None, None).load(None)
        for name in ("both.csv", "usual.csv", "tweets.jsonl")
    )
    assert both["text"][:] == ["new", "newer"] and both["label"][:] == ["good", "bad"]
    assert usual["text"][:] == ["old", "older"] and tweets["label"][:2] == ["bad", "good"]
    named = find_texts("model", "both.csv", None, "text", "label", None)
    assert named.load(None)["text"][:] == ["old", "old"] and "usual_columns" not in named.to_dict()
    # Of a label that is asked about, not every column is the answer.
    question = Readout("multi_label", outputs=("rude", "kind"), target=1)
    assert find_texts("model", "both.csv", None, None, None, None).load(None, question)["label"][:] == [1, 0]
