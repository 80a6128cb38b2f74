"""A checkpoint that was broken off or damaged is passed over, and the run that goes on is the undisturbed one."""

import json
import shutil
from itertools import count

import pytest
import torch
from safetensors.torch import load_file

from clvq_hf.hub.repositories import newest_checkpoint
from clvq_hf.training.checkpoints import finish_checkpoint, newest_complete

FIELDS = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-2}


@pytest.fixture
def run(make_trainer, tmp_path):
    """A finished run with the checkpoints 4, 8, 12 and 16."""
    make_trainer(output_dir=str(tmp_path / "out"), **FIELDS).train()
    return tmp_path / "out"


def test_wherever_it_was_broken_off(run, make_trainer, caplog):
    last = run / "checkpoint-16"
    # The quantiles of distances come at the end of training.
    files = [file for file in last.iterdir() if file.name != "distance_quantiles.safetensors"]
    files.sort(key=lambda file: (file.stat().st_mtime_ns, file.name))
    assert files[-1].name == "checksums.json" and files[-2].name == "trainer_state.json"
    content = {file.name: file.read_bytes() for file in files}
    for number, file in enumerate(files[:-1]):  # the checksums say something of the others only
        shutil.rmtree(last)
        last.mkdir()
        (last / ".unfinished").touch()
        for other in files[:number]:
            (last / other.name).write_bytes(content[other.name])
        (last / file.name).write_bytes(content[file.name][: len(content[file.name]) // 2])
        caplog.clear()
        assert newest_complete(run) == str(run / "checkpoint-12")
        assert f"passed over. The checkpoint {last} is incomplete" in caplog.text or file.name in caplog.text
        assert newest_checkpoint(run) == run / "checkpoint-12"
        if number % 4 == 0:  # a folder in which it lies is ours
            make_trainer(output_dir=str(run), **FIELDS)
    shutil.rmtree(last)
    last.mkdir()
    assert newest_complete(run) == str(run / "checkpoint-12")


def test_the_run_goes_on_from_the_one_before(run, make_trainer):
    expected = load_file(run / "checkpoint-16" / "model.safetensors")
    (run / "checkpoint-16" / "trainer_state.json").unlink()
    (run / "checkpoint-16" / ".unfinished").touch()
    resumed = make_trainer(output_dir=str(run), **FIELDS)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 16
    found = load_file(run / "checkpoint-16" / "model.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert newest_complete(run) == str(run / "checkpoint-16")
    assert not list(run.rglob(".unfinished")) and not list(run.glob(".*"))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json"])
def test_a_flipped_bit(run, make_trainer, name, caplog):
    file = run / "checkpoint-16" / name
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    assert newest_complete(run) == str(run / "checkpoint-12")
    assert f"{name} is damaged" in caplog.text
    with pytest.raises(ValueError, match=rf"{name} is damaged.*Resume another checkpoint"):
        make_trainer(output_dir=str(run.parent / "other"), **FIELDS).train(resume_from_checkpoint=str(file.parent))


def test_one_of_an_earlier_version_is_resumed(run):
    (run / "checkpoint-16" / "checksums.json").unlink()
    assert newest_complete(run) == str(run / "checkpoint-16")


def test_there_is_none(run, make_trainer):
    for folder in run.glob("checkpoint-*"):
        (folder / "trainer_state.json").write_text(json.dumps([]))
    assert newest_complete(run) is None
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        make_trainer(output_dir=str(run), **FIELDS).train(resume_from_checkpoint=True)


def test_an_older_one_goes_when_the_new_one_is_there(make_trainer, tmp_path):
    make_trainer(output_dir=str(tmp_path / "out"), save_total_limit=1, **FIELDS).train()
    [folder] = (tmp_path / "out").glob("checkpoint-*")
    assert newest_complete(tmp_path / "out") == str(folder)
    assert json.loads((folder / "training_args.json").read_text())["save_total_limit"] == 1


def test_an_older_one_stays_until_the_new_one_is_complete(make_trainer, tmp_path, monkeypatch, caplog):
    calls = count()

    def break_off_the_second(folder):
        if next(calls):
            raise OSError("No space left on device")
        finish_checkpoint(folder)

    fields = FIELDS | {"save_total_limit": 1, "save_steps": 8}
    make_trainer(output_dir=str(tmp_path / "out"), **fields).train()
    expected = load_file(tmp_path / "out" / "checkpoint-16" / "model.safetensors")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr("clvq_hf.training.trainer.finish_checkpoint", break_off_the_second)
    with pytest.raises(OSError, match="No space left"):
        make_trainer(output_dir=str(tmp_path / "out"), **fields).train()
    monkeypatch.undo()
    assert (tmp_path / "out" / "checkpoint-16" / "trainer_state.json").is_file()
    assert newest_complete(tmp_path / "out") == str(tmp_path / "out" / "checkpoint-8")
    assert "its writing was broken off" in caplog.text
    make_trainer(output_dir=str(tmp_path / "out"), **fields).train(resume_from_checkpoint=True)
    [folder] = (tmp_path / "out").glob("checkpoint-*")
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert not (folder / ".unfinished").exists() and newest_complete(tmp_path / "out") == str(folder)


def test_an_older_one_whose_deletion_was_broken_off_is_passed_over(run, make_trainer):
    (run / "checkpoint-8" / "config.json").unlink()
    trainer = make_trainer(output_dir=str(run), **FIELDS)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 16
