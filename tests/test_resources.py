"""What is used does not grow: files, threads and hooks with repetition, memory with the number of texts."""

import gc
import json
import threading
from pathlib import Path

import psutil
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytest.importorskip("resource")
from helpers.faults import CommandServer

pytestmark = pytest.mark.slow
SMALL = ("--codebook-size", 6, "--max-length", 12, "--epochs", 1, "--set", "intermediate_size=32")


def used(host) -> tuple[int, int, int]:
    """Open files, threads, and hooks of a host."""
    gc.collect()
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in host.modules())
    return psutil.Process().num_fds(), threading.active_count(), hooks


@pytest.fixture
def pieces(fitted_model, saved_host):
    host = AutoModelForSequenceClassification.from_pretrained(saved_host).eval()
    return fitted_model, host, AutoTokenizer.from_pretrained(saved_host)


def test_two_hundred_taps_and_ablations(pieces):
    model, host, tokenizer = pieces
    inputs = tokenizer(["a warm and funny film"], return_tensors="pt")

    def once() -> None:
        with model.attach(host):
            host(**inputs)
        with model.ablate(host, codes=[1]):
            host(**inputs)

    once()
    before = used(host)
    for _ in range(200):
        once()
    assert used(host) == before


def test_fifty_tables(pieces, all_texts, tmp_path):
    model, host, tokenizer = pieces

    def once() -> None:
        table = model.concept_table(host, tokenizer, all_texts.select(range(8)), output_dir=tmp_path / "table")
        assert len(table.texts) == 8

    once()
    before = used(host)
    for _ in range(50):
        once()
    assert used(host) == before
    assert [file.name for file in tmp_path.iterdir()] == ["table"]


# Bytes of memory that a text more may cost, whatever a command does with it.
PER_TEXT = 40 * 1024


@pytest.mark.soak
@pytest.mark.parametrize(
    "command",
    [
        ("concepts", "build", "out", "--split", "train", "-o", "table", "--no-salience", "--show", 0),
        ("explain", "out", "texts.jsonl", "-o", "why.jsonl", "--method", "gradient_x_input"),
        ("evaluate", "out", "-o", "results", "--protocol", "code", "--attribution", "gradient_x_input", "--draws", 1),
        ("report", "out"),
    ],
    ids=lambda command: command[0],
)
def test_memory_grows_by_little_more_than_the_texts(saved_host, all_texts, tmp_path, command):
    (tmp_path / "outputs").mkdir()
    server, peaks = CommandServer(tmp_path / "outputs"), []
    for number in (500, 4000):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_texts(folder / "texts.jsonl", all_texts.select(range(number)))
        ended = server.run(["train", saved_host, "--dataset", "texts.jsonl", "-o", "out", *SMALL], folder)
        assert ended.code == 0, ended.output
        ended = server.run(list(command), folder)
        assert ended.code == 0, ended.output
        peaks.append(ended.memory)
    assert peaks[1] - peaks[0] < 3500 * PER_TEXT, peaks


def write_texts(file: Path, texts) -> None:
    rows = zip(texts["text"][:], texts["label"][:], strict=True)
    lines = [json.dumps({"text": text, "label": ["negative", "positive"][label]}) for text, label in rows]
    file.write_text("\n".join(lines))
