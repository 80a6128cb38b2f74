"""`clvq-hf demo`, on the real MiniLM and on another host."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from datasets import is_progress_bar_enabled
from helpers.command_line import refuse, succeed
from transformers.utils import logging

from clvq_hf import CLVQModel


@pytest.fixture
def demo_folder(tmp_path, monkeypatch) -> Iterator[None]:
    """An empty folder to work in; afterwards no trace of the demo's seed and verbosity."""
    monkeypatch.chdir(tmp_path)
    verbosity = logging.get_verbosity()
    with torch.random.fork_rng(devices=[]):
        yield
    logging.set_verbosity(verbosity)
    assert not is_progress_bar_enabled()  # nor before: no test shows any


@pytest.mark.slow
def test_the_demo_end_to_end(tmp_path):
    command = [sys.executable, "-m", "clvq_hf.cli", "demo", "--quick", "--output-dir", "mine"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    for line in ("host accuracy", "explained variance", "perplexity", "active codes", "the codes are the same"):
        assert line in " ".join(result.stdout.split())
    model = CLVQModel.from_pretrained(tmp_path / "mine")
    assert (model.config.lower_layer, model.config.upper_layer, model.config.codebook_size) == (3, 6, 50)
    assert model.is_initialized


@pytest.mark.slow
def test_the_demo_on_another_host_and_dataset(tmp_path, demo_folder, causal_host, tokenizer, all_texts):
    # A decoder without a classification head, and texts of three classes from a file.
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    causal_host.config.pad_token_id = None
    causal_host.save_pretrained("llama")
    tokenizer.save_pretrained("llama")
    rows = all_texts.select(range(120)).add_column("sentiment", [["bad", "fine", "good"][n % 3] for n in range(120)])
    rows.remove_columns("label").to_json("texts.jsonl")
    layers = ("--lower-layer", 1, "--upper-layer", 3)
    succeed("demo", "--quick", "--host", "llama", "--dataset", "texts.jsonl", *layers)
    model = CLVQModel.from_pretrained("clvq-demo")
    assert model.config.is_causal and (model.config.lower_layer, model.config.upper_layer) == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lower-layer", "9"), "6 blocks"),
        (("--lower-layer", "4", "--upper-layer", "2"), "swap"),
        (("--dataset", "texts.pkl"), "texts.pkl"),
        (("--output-dir", "foreign"), "holds a checkpoint of a model of the type 'bert'"),
    ],
)
def test_mistakes_have_no_traceback(tmp_path, demo_folder, arguments, message):
    (tmp_path / "texts.pkl").write_bytes(b"")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    assert message in refuse("demo", "--quick", *arguments)
