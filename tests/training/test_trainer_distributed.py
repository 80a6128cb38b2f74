"""Real processes: what one of them learns, two must learn too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clvq_hf.hub.repositories import DISTANCES_NAME
from clvq_hf.models import DistanceQuantiles

SEVERAL = Path(__file__).parents[1] / "fixtures" / "train_several.py"
SPARSE_SCRIPT = Path(__file__).parents[1] / "fixtures" / "train_sparse.py"
STEPS = 7

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, all_texts, minilm_dir):
    """A tiny host and 60 texts on disk: 7 full global batches of 8, and a rest."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder / "host")
    tokenizer.save_pretrained(folder / "host")
    for split, rows in (("train", all_texts.select(range(60))), ("test", all_texts.select(range(60, 77)))):
        (folder / "texts").mkdir(exist_ok=True)
        rows.to_json(folder / "texts" / f"{split}.jsonl")
    return folder


COMMON = {
    # The same for all: the codebook's sample is read in batches of this size.
    "per_device_eval_batch_size": 6,
    "max_steps": STEPS,
    "optim": "sgd",
    "learning_rate": 0.1,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}
CLVQ = {
    "codebook_size": 10,
    "top_k": 1,
    "dropout": 0.0,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
# An encoder that starts from a sample of the host's gradients, and then learns.
FUNCTIONAL = {"encoder": "linear", "codebook_space": "functional"}
# In the middle of the second epoch: there the order of texts depends on the epoch having reached the sampler.
# Dropout and sampling on: every process gets its own generator's state back. So is revival: if the processes had other
# codebooks, the resumed run, which starts from one, would differ.
RESUMED = {
    "top_k": 3,
    "dropout": 0.1,
    "save_strategy": "steps",
    "save_steps": 10,
    "save_total_limit": 3,
    "max_steps": 13,
    "codebook_size": 60,
    "revive_after": 1,
}


def clvq(inputs: Path, output: Path, batch: int, **settings: object) -> list[str]:
    """A run of `clvq-hf train`."""
    command = [
        "-m",
        "clvq_hf.cli",
        "train",
        str(inputs / "host"),
        "--dataset",
        str(inputs / "texts"),
        "-o",
        str(output),
    ]
    command += ["--lower-layer", "1", "--upper-layer", "3", "--eval-split", "test"]
    settings = COMMON | CLVQ | {"per_device_train_batch_size": batch} | settings
    return command + [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def sparse(
    inputs: Path, output: Path, batch: int, config: dict[str, object] | None = None, **arguments: object
) -> list[str]:
    """A run that trains a sparse dictionary."""
    arguments = {"output_dir": output} | COMMON | {"per_device_train_batch_size": batch} | arguments
    return [
        str(SPARSE_SCRIPT),
        str(inputs),
        json.dumps({"codebook_size": 40, **(config or {})}),
        *flags(arguments),
    ]


def flags(arguments: dict[str, object]) -> list[str]:
    return [part for name, value in arguments.items() for part in (f"--{name}", str(value))]


def start(folder: Path, runs: list[list[str]], *launcher: str) -> None:
    file = folder / "runs.json"
    file.write_text(json.dumps(runs))
    result = subprocess.run(
        [sys.executable, *launcher, str(SEVERAL), str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]


def launch(folder: Path, runs: list[list[str]], *options: str) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--num_processes", "2", "--main_process_port", "0", "--dynamo_backend", "no", *options]
    start(folder, runs, *launcher)


@pytest.fixture(scope="module")
def one(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learns."""
    folder = tmp_path_factory.mktemp("one")
    runs = [
        clvq(inputs, folder / "clvq", 8),
        clvq(inputs, folder / "functional", 8, **FUNCTIONAL),
        sparse(inputs, folder / "sparse", 8),
    ]
    start(folder, runs)
    return folder


@pytest.fixture(scope="module")
def two(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes learn, from one start of both."""
    folder = tmp_path_factory.mktemp("two")
    reviving = {"codebook_size": 300, "activation": "topk", "num_active": 1, "revive_after": 2}
    checkpoint = folder / "whole" / "checkpoint-10"
    runs = [
        clvq(inputs, folder / "4-1", 4),
        clvq(inputs, folder / "2-2", 2, gradient_accumulation_steps=2),
        # One process splits its batch into more passes than the other.
        clvq(inputs, folder / "split", 4, max_forward_tokens=60),
        clvq(inputs, folder / "functional", 4, **FUNCTIONAL),
        sparse(inputs, folder / "sparse", 2, gradient_accumulation_steps=2),
        sparse(inputs, folder / "reviving", 4, reviving),
        clvq(inputs, folder / "whole", 4, **RESUMED),
        clvq(inputs, folder / "resumed", 4, **RESUMED, resume_from_checkpoint=checkpoint),
        clvq(inputs, folder / "functional-whole", 4, **RESUMED, **FUNCTIONAL),
        clvq(
            inputs,
            folder / "functional-resumed",
            4,
            **RESUMED,
            **FUNCTIONAL,
            resume_from_checkpoint=folder / "functional-whole" / "checkpoint-10",
        ),
        clvq(inputs, folder / "fsdp", 4, fsdp="full_shard"),
    ]
    launch(folder, runs, "--multi_gpu")
    return folder


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def processes_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    """What each process ended with."""
    return [load_file(file) for file in sorted(folder.glob("process-*.safetensors"))]


def history(output: Path) -> list[dict]:
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


def assert_same(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    assert set(expected) == set(got)
    for name, tensor in expected.items():
        assert torch.allclose(tensor.float(), got[name].float(), atol=3e-5, rtol=1e-4), name


@pytest.mark.parametrize("batch_and_accumulation", ["4-1", "2-2", "split"])
def test_two_processes_learn_what_one_does(one, two, batch_and_accumulation):
    got = model_of(two / batch_and_accumulation)
    assert_same(model_of(one / "clvq"), got)
    assert got["quantizer.initialized"]
    # Only the first process measures distances to the codes.
    alone, several = (DistanceQuantiles.load(f / DISTANCES_NAME) for f in (one / "clvq", two / batch_and_accumulation))
    assert several.counts.sum() == alone.counts.sum() > 0
    np.testing.assert_allclose(several.overall, alone.overall, rtol=0.05)
    # Figures too: each is a sum over both processes before it becomes a ratio, and no text counts twice.
    for expected, log in zip(history(one / "clvq"), history(two / batch_and_accumulation), strict=True):
        # Half of it if each process had trained on its own; not equal, for the rest of the epoch is split otherwise.
        assert log["epoch"] == pytest.approx(expected["epoch"], rel=0.1)
        for name in set(expected) & {
            "loss",
            "reconstruction_loss",
            "explained_variance",
            "perplexity",
            "active_codes",
            "eval_loss",
            "eval_explained_variance",
            "eval_perplexity",
            "eval_active_codes",
        }:
            assert log[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-4), name


def test_two_processes_start_in_the_space_that_one_does_and_learn_the_same(one, two):
    expected, got = model_of(one / "functional"), model_of(two / "functional")
    assert_same(expected, got)
    assert not torch.equal(expected["encoder.weight"], torch.eye(32))


def test_two_processes_train_the_sparse_dictionary_that_one_does(one, two):
    [expected] = processes_of(one / "sparse")
    assert expected["encoder.initialized"] and expected["encoder.input_scale"] != 1
    first, second = processes_of(two / "sparse")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert_same(expected, first)
    for alone, log in zip(history(one / "sparse"), history(two / "sparse"), strict=True):
        for name in set(alone) & {"loss", "reconstruction_loss", "num_active", "explained_variance", "perplexity"}:
            assert log[name] == pytest.approx(alone[name], rel=2e-3, abs=1e-4), name


def test_two_processes_revive_the_same_neurons(two):
    first, second = processes_of(two / "reviving")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    revived = [log["revived_codes"] for log in history(two / "reviving") if "revived_codes" in log]
    assert len(revived) == STEPS and revived[0] == 0 and sum(revived) > 0
    assert torch.allclose(first["decoder.weight"].norm(dim=-1), torch.ones(300), atol=1e-5)
    assert (first["encoder.weight"].norm(dim=-1) > 0).all()


@pytest.mark.parametrize("encoder", ["", "functional-"])
def test_two_processes_resume_in_the_middle_of_an_epoch(two, encoder):
    whole, resumed = two / f"{encoder}whole", two / f"{encoder}resumed"
    assert_same(model_of(whole), model_of(resumed))
    # It began behind the step at which the other saved.
    assert (whole / "checkpoint-10").exists() and not (resumed / "checkpoint-10").exists()


def test_fsdp_is_refused_with_the_command_that_works(two):
    for rank in (0, 1):
        assert "FSDP and DeepSpeed split parameters" in (two / "fsdp" / f"error-{rank}.txt").read_text()


def test_one_process_in_place_of_two_is_refused(inputs, tmp_path):
    # Without --multi_gpu accelerate starts one process on a machine without GPUs, whatever --num_processes says.
    launch(tmp_path, [clvq(inputs, tmp_path / "out", 4)])
    assert "asked for several processes and started one" in (tmp_path / "out" / "error-0.txt").read_text()
