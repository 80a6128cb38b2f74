"""Real processes: what one of them learns, two must learn too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
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


def train(
    inputs: Path, output: Path, processes: int, batch: int, *extra: str, multi_gpu: bool = True
) -> dict[str, torch.Tensor]:
    arguments = {
        "host": inputs / "host",
        "dataset": inputs / "texts",
        "eval_split": "test",
        "lower_layer": 1,
        "upper_layer": 3,
        "codebook_size": 10,
        "top_k": 1,
        "dropout": 0.0,
        "num_decoder_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    launch([str(SCRIPT), *flags], output, processes, batch, *extra, multi_gpu=multi_gpu)
    return load_file(output / "model.safetensors")


def train_sparse(
    inputs: Path, output: Path, processes: int, batch: int, *extra: str, **fields: object
) -> list[dict[str, torch.Tensor]]:
    """What each process ends with."""
    launch(
        [str(SPARSE_SCRIPT), str(inputs), json.dumps({"codebook_size": 40, **fields})],
        output,
        processes,
        batch,
        *extra,
    )
    return [load_file(output / f"process-{number}.safetensors") for number in range(processes)]


def launch(command: list[str], output: Path, processes: int, batch: int, *extra: str, multi_gpu: bool = True) -> None:
    # Without --multi_gpu accelerate starts one process on a machine without GPUs, whatever --num_processes says.
    launcher = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--num_processes", str(processes), "--main_process_port", "0", "--dynamo_backend", "no"]
    launcher += ["--multi_gpu"] if processes > 1 and multi_gpu else []
    arguments = {
        "output_dir": output,
        "per_device_train_batch_size": batch,
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
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    result = subprocess.run(
        [sys.executable, *launcher, *command, *flags, *extra],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone")
    return train(inputs, output, 1, 8), history(output)


def history(output: Path) -> list[dict]:
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


def assert_same(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    assert set(expected) == set(got)
    for name, tensor in expected.items():
        assert torch.allclose(tensor.float(), got[name].float(), atol=3e-5, rtol=1e-4), name


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2)])
def test_two_processes_learn_what_one_does(inputs, alone, tmp_path, batch, accumulation):
    got = train(inputs, tmp_path, 2, batch, "--gradient_accumulation_steps", str(accumulation))
    expected, expected_history = alone
    assert_same(expected, got)
    assert got["quantizer.initialized"]
    # Figures too: each is a sum over both processes before it becomes a ratio, and no text counts twice.
    for one, two in zip(expected_history, history(tmp_path), strict=True):
        # Half of it if each process had trained on its own; not equal, for the rest of the epoch is split otherwise.
        assert two["epoch"] == pytest.approx(one["epoch"], rel=0.1)
        for name in set(one) & {
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
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=1e-4), name


def test_two_processes_train_the_sparse_dictionary_that_one_does(inputs, tmp_path):
    (tmp_path / "one").mkdir()
    [expected] = train_sparse(inputs, tmp_path / "one", 1, 8)
    assert expected["encoder.initialized"] and expected["encoder.input_scale"] != 1
    (tmp_path / "two").mkdir()
    first, second = train_sparse(inputs, tmp_path / "two", 2, 2, "--gradient_accumulation_steps", "2")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert_same(expected, first)
    for one, two in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        for name in set(one) & {"loss", "reconstruction_loss", "num_active", "explained_variance", "perplexity"}:
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=1e-4), name


def test_two_processes_revive_the_same_neurons(inputs, tmp_path):
    fields = {"codebook_size": 300, "activation": "topk", "num_active": 1, "revive_after": 2}
    first, second = train_sparse(inputs, tmp_path, 2, 4, **fields)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    revived = [log["revived_codes"] for log in history(tmp_path) if "revived_codes" in log]
    assert len(revived) == STEPS and revived[0] == 0 and sum(revived) > 0
    assert torch.allclose(first["decoder.weight"].norm(dim=-1), torch.ones(300), atol=1e-5)
    assert (first["encoder.weight"].norm(dim=-1) > 0).all()


def test_two_processes_resume_in_the_middle_of_an_epoch(inputs, tmp_path):
    # Of the second one: there the order of texts depends on the epoch having reached the sampler.
    # Dropout and sampling on: every process gets its own generator's state back.
    fields = (
        "--top_k",
        "3",
        "--dropout",
        "0.1",
        "--save_strategy",
        "steps",
        "--save_steps",
        "10",
        "--max_steps",
        "13",
    )
    # So is revival: if the processes had other codebooks, the resumed run, which starts from one, would differ.
    fields += ("--codebook_size", "60", "--revive_after", "1")
    whole = train(inputs, tmp_path / "whole", 2, 4, *fields)
    (tmp_path / "resumed").mkdir()
    (tmp_path / "whole" / "checkpoint-10").rename(tmp_path / "resumed" / "checkpoint-10")
    got = train(inputs, tmp_path / "resumed", 2, 4, *fields, "--resume_from_checkpoint", "True")
    assert_same(whole, got)


def test_one_process_in_place_of_two_is_refused(inputs, tmp_path):
    with pytest.raises(AssertionError, match=r"asked for several processes and started one"):
        train(inputs, tmp_path, 2, 4, multi_gpu=False)


def test_fsdp_is_refused_with_the_command_that_works(inputs, tmp_path):
    with pytest.raises(AssertionError, match="FSDP and DeepSpeed split parameters"):
        train(inputs, tmp_path, 2, 4, "--fsdp", "full_shard")
