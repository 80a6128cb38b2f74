import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from clvq_hf import CLVQModel, __version__
from clvq_hf.cli import app

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


def clvq(*arguments, cwd=None, timeout=500) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from clvq_hf.cli import app; app(prog_name='clvq-hf')", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)


def test_version_and_help():
    runner = CliRunner()
    assert runner.invoke(app, ["--version"]).output.strip() == f"clvq-hf {__version__}"
    text = runner.invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).output
    for option in ("--host", "--dataset", "--lower-layer", "--upper-layer", "--output-dir", "--quick"):
        assert option in text


def test_importing_the_package_is_quiet_and_lazy():
    # But config and model are registered at once: AutoModel would not know "clvq" else.
    code = (
        "import clvq_hf, sys; from transformers import AutoConfig; AutoConfig.for_model('clvq');"
        "print([m for m in ('clvq_hf.training.trainer', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


@pytest.mark.slow
def test_the_demo_end_to_end(tmp_path):
    result = clvq("demo", "--quick", "--output-dir", "mine", cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    for expected in ("host accuracy", "explained variance", "perplexity", "active codes", "the codes are the same"):
        assert expected in result.stdout
    model = CLVQModel.from_pretrained(tmp_path / "mine")
    assert (model.config.lower_layer, model.config.upper_layer, model.config.codebook_size) == (3, 6, 50)
    assert model.is_initialized


@pytest.mark.slow
def test_the_demo_on_another_host_and_dataset(tmp_path, causal_host, tokenizer, all_texts):
    # A decoder without a classification head, and texts of three classes from a file.
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    causal_host.config.pad_token_id = None
    causal_host.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    rows = all_texts.select(range(300)).add_column("sentiment", [["bad", "fine", "good"][n % 3] for n in range(300)])
    rows.remove_columns("label").to_json(tmp_path / "texts.jsonl")
    layers = ("--lower-layer", "1", "--upper-layer", "3")
    result = clvq("demo", "--quick", "--host", "llama", "--dataset", "texts.jsonl", *layers, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    model = CLVQModel.from_pretrained(tmp_path / "clvq-demo")
    assert model.config.is_causal and (model.config.lower_layer, model.config.upper_layer) == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lower-layer", "9"), "6 blocks"),
        (("--lower-layer", "4", "--upper-layer", "2"), "swap"),
        (("--dataset", "texts.pkl"), "texts.pkl"),
        (("--output-dir", "foreign"), "holds a checkpoint of a model of the type 'bert'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tmp_path, arguments, message):
    (tmp_path / "texts.pkl").write_bytes(b"")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    result = clvq("demo", "--quick", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr
