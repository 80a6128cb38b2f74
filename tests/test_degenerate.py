"""Data and hosts at their limits: every command gives a result that is defined, or an error that says what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.command_line import invoke, refuse, succeed
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clvq_hf import ConceptTable

pytestmark = pytest.mark.slow
SMALL = ("--max-length", 12, "--epochs", 1, "--set", "intermediate_size=32")
QUICK = ("--protocol", "code", "--attribution", "gradient_x_input", "--draws", 1)
ORDINARY = [(f"a {word} film number {number}", number % 2) for number, word in enumerate(["great", "dull"] * 30)]


def write(file: Path, rows: list[tuple[str, int]]) -> Path:
    lines = (json.dumps({"text": text, "label": ["negative", "positive"][label]}) for text, label in rows)
    file.write_text("\n".join(lines))
    return file


def train(host: Path, folder: Path, rows: list[tuple[str, int]], size: int = 6) -> tuple:
    texts = write(folder / "texts.jsonl", rows)
    return ("train", host, "--dataset", texts, "-o", folder / "out", "--codebook-size", size, *SMALL)


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        ([("the only text", 0)], 6, "The split 'test' of"),
        ([("the very same text", number % 2) for number in range(50)], 6, "The split 'test' of"),
        (ORDINARY[:20], 5000, "smaller --codebook-size or give more text"),
        ([("  ", 0), ("", 1), ("\n", 0)] * 10, 6, "text"),
    ],
    ids=["one text", "equal texts", "more codes than tokens", "empty texts"],
)
def test_what_cannot_be_trained_on_is_refused(saved_host, tmp_path, rows, size, message):
    assert message in refuse(*train(saved_host, tmp_path, rows, size))
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("rows", "evaluated"),
    [
        ([(text, 0) for text, _ in ORDINARY], "have one label"),
        ([(f"text {number} is dull", 0) for number in range(999)] + [("this one is great", 1)], "have one label"),
        ([("the very same text", 0)] * 50 + [(f"other {number}", 1) for number in range(10)], None),
    ],
    ids=["one class", "999 to 1", "one text fifty times"],
)
def test_labels_and_texts_that_say_little(saved_host, tmp_path, rows, evaluated):
    succeed(*train(saved_host, tmp_path, rows))
    command = ("evaluate", tmp_path / "out", "-o", tmp_path / "results", *QUICK)
    if evaluated is None:
        succeed(*command)
        json.loads((tmp_path / "results" / "results.json").read_text(), parse_constant=pytest.fail)
    else:
        assert evaluated in refuse(*command)
        assert not (tmp_path / "results").exists(), "it is told before anything is measured"
    succeed("report", tmp_path / "out", "-o", tmp_path / "report.html")
    assert "concept" in succeed("explain", tmp_path / "out", "a great film")


def broken(saved_host: Path, folder: Path, change) -> Path:
    host = AutoModelForSequenceClassification.from_pretrained(saved_host)
    with torch.no_grad():
        change(host)
    host.save_pretrained(folder)
    AutoTokenizer.from_pretrained(saved_host).save_pretrained(folder)
    return folder


def poison(host) -> None:
    host.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")


def overflow(host) -> None:
    for layer in host.bert.encoder.layer:
        layer.output.LayerNorm.weight.fill_(1e30)


def silence(host) -> None:
    for layer in host.bert.encoder.layer:
        layer.output.LayerNorm.weight.zero_()


@pytest.mark.parametrize("change", [poison, overflow, silence], ids=lambda change: change.__name__)
def test_hosts_whose_states_are_no_numbers_or_all_the_same(saved_host, tmp_path, change):
    host = broken(saved_host, tmp_path / "host", change)
    result = invoke(*train(host, tmp_path, ORDINARY))
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    assert "Error: " in result.output and not (tmp_path / "out" / "config.json").exists()


def test_a_host_in_training_mode_is_read_as_in_evaluation_mode(fitted_model, saved_host, tmp_path):
    host = AutoModelForSequenceClassification.from_pretrained(saved_host, hidden_dropout_prob=0.5).train()
    tokenizer = AutoTokenizer.from_pretrained(saved_host)
    from datasets import Dataset

    texts = Dataset.from_dict({"text": [text for text, _ in ORDINARY[:8]], "label": [row[1] for row in ORDINARY[:8]]})
    tables = [fitted_model.concept_table(mode, tokenizer, texts) for mode in (host, host.eval())]
    assert tables[0].tokens["code"] == tables[1].tokens["code"]
    assert isinstance(tables[0], ConceptTable)


def test_half_precision_is_refused_or_finite(saved_host, tmp_path):
    host = AutoModelForSequenceClassification.from_pretrained(saved_host).half()
    host.save_pretrained(tmp_path / "host")
    AutoTokenizer.from_pretrained(saved_host).save_pretrained(tmp_path / "host")
    result = invoke(*train(tmp_path / "host", tmp_path, ORDINARY))
    assert "Traceback" not in result.output, result.output
    if result.exit_code == 0:
        assert "concept" in succeed("explain", tmp_path / "out", "a great film")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
