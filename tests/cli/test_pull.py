"""`clvq-hf pull`; and that no command runs code of a repository."""

import json

import huggingface_hub
import pytest
import torch
from helpers.command_line import invoke, refuse, succeed
from helpers.hub_commands import REPO, folder, table  # noqa: F401
from huggingface_hub import HfApi

from clvq_hf import CLVQModel
from clvq_hf.files import locked


@pytest.mark.slow
def test_pull_and_push_again(hub, shared_model, table, tmp_path, monkeypatch):
    shared_model.push_to_hub(REPO, concepts=table)
    HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="checkpoint-9/optimizer.pt", repo_id=REPO)
    HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="pytorch_model.bin", repo_id=REPO)
    monkeypatch.chdir(tmp_path)
    assert "clvq-bert/" in succeed("pull", REPO)
    pulled = {file.name for file in (tmp_path / "clvq-bert").iterdir()}
    assert {"config.json", "model.safetensors", "reference.json", "concepts", "README.md"} <= pulled
    assert not {"checkpoint-9", "pytorch_model.bin"} & pulled
    model = CLVQModel.from_pretrained("clvq-bert")
    assert len(model.concepts) == len(table) and model.reference == shared_model.reference
    succeed("push", "clvq-bert", "me/private-texts")
    assert not any(name.startswith("concepts/") for name in hub.files("me/private-texts"))
    succeed("push", "clvq-bert", "me/copy", "--table", "clvq-bert/concepts")
    before, after = hub.files(REPO), hub.files("me/copy")
    for name in ("model.safetensors", "reference.json", "concepts/tokens.parquet"):
        assert before[name] == after[name]
    # Again into the same folder, and elsewhere without the table.
    succeed("pull", REPO)
    succeed("pull", REPO, "--output-dir", "other", "--no-concepts")
    assert not (tmp_path / "other" / "concepts").exists()


def test_mistakes(hub, hub_host, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "was not made by `clvq-hf pull`" in refuse("pull", REPO, "--output-dir", tmp_path / "full")
    assert "not found" in refuse("pull", REPO, "--output-dir", tmp_path / "new")
    assert "not a concept model" in refuse("pull", "org/host", "--output-dir", tmp_path / "host")
    assert not (tmp_path / "host").exists()


def test_one_process_at_a_time(hub, shared_model, tmp_path):
    shared_model.push_to_hub(REPO)
    with locked(tmp_path / "out"):
        assert "Another run is at work in" in refuse("pull", REPO, "--output-dir", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".lock"]
    succeed("pull", REPO, "--output-dir", tmp_path / "out")  # the lock is nobody's model


@pytest.mark.slow
def test_pull_over_an_earlier_one(hub, shared_model, table, tmp_path):
    shared_model.push_to_hub(REPO, concepts=table)
    succeed("pull", REPO, "--output-dir", tmp_path / "out")
    with torch.no_grad():
        shared_model.encoder.mix_logit.add_(1)
    shared_model.push_to_hub(REPO, max_shard_size="10KB")
    succeed("pull", REPO, "--output-dir", tmp_path / "out")
    assert CLVQModel.from_pretrained(tmp_path / "out").fingerprint() == shared_model.fingerprint()
    left = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert "model.safetensors" not in left and not any(name.startswith("concepts/") for name in left)


def test_a_model_of_ones_own_is_not_overwritten(hub, shared_model, folder):
    shared_model.push_to_hub(REPO)
    assert "was not made by `clvq-hf pull`" in refuse("pull", REPO, "--output-dir", folder)


@pytest.mark.parametrize(
    "arrived", [(), ("README.md",), ("config.json",), ("concepts/tokens.parquet", "model.safetensors")]
)
def test_an_interrupted_one_goes_on(hub, shared_model, table, tmp_path, monkeypatch, arrived):
    shared_model.push_to_hub(REPO, concepts=table)
    inner = huggingface_hub.snapshot_download

    def interrupt(repo_id, *, allow_patterns, local_dir=None, **options):
        if local_dir is None:  # the small files that are looked at first
            return inner(repo_id, allow_patterns=allow_patterns, **options)
        inner(repo_id, allow_patterns=list(arrived), local_dir=local_dir, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", interrupt)
        assert invoke("pull", REPO, "--output-dir", tmp_path / "out").exit_code != 0
    succeed("pull", REPO, "--output-dir", tmp_path / "out")
    model = CLVQModel.from_pretrained(tmp_path / "out")
    assert model.fingerprint() == shared_model.fingerprint() and len(model.concepts) == len(table)


@pytest.mark.parametrize("command", ["pull", "info", "push"])
def test_code_of_a_repository_is_not_run(hub, folder, tmp_path, command):
    marker = tmp_path / "it-ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    HfApi().create_repo("me/evil")
    HfApi().upload_folder(repo_id="me/evil", folder_path=folder)
    arguments = {
        "pull": ("me/evil", "--output-dir", tmp_path / "out"),
        "info": ("me/evil",),
        "push": (folder, REPO),
    }
    result = invoke(command, *arguments[command], input="y\ny\n")
    assert result.exit_code == 1 and "not a concept model" in " ".join(result.output.split())
    assert not marker.exists()
