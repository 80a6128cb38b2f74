"""`clvq-hf info`."""

import json

import pytest
from helpers.command_line import invoke, refuse, succeed
from helpers.hub_commands import REPO, table  # noqa: F401
from huggingface_hub import HfApi


@pytest.mark.slow
def test_info_of_a_repository(hub, shared_model, table):
    shared_model.config.training = {
        **{"dataset": "org/reviews", "num_texts": 60, "num_tokens": 1234},
        "figures": {"explained_variance": 0.5},
    }
    shared_model.push_to_hub(REPO, concepts=table)
    output = succeed("info", REPO)
    host = "org/host (BertForSequenceClassification)"
    for told in ("clvq, 12 concepts", host, "1 → 3", "org/reviews", "60, 1,234"):
        assert told in output
    assert "0.5" in output and "60, 1,586 texts, tokens" in output and "MiB" in output
    asked = [path for method, path, _ in hub.requests if method == "GET"]
    assert not [path for path in asked if "/storage/" in path and REPO in path], "no weights, no tables"
    told = json.loads(invoke("info", REPO, "--json").output)
    assert told["files"]["model.safetensors"] == len(hub.files(REPO)["model.safetensors"])
    assert told["concepts"]["num_texts"] == 60 and told["results"] is None and told["has_reference"]


def test_info_of_a_folder_and_a_codebook(hub, shared_model, tmp_path):
    shared_model.codebook_only().save_pretrained(tmp_path)
    assert "codebook only" in succeed("info", tmp_path)


def test_info_of_checkpoints_and_strange_values(hub, shared_model):
    shared_model.push_to_hub(REPO)
    whole = len(hub.files(REPO)["model.safetensors"]) / 2**20
    for name in ("last-checkpoint/model.safetensors", "last-checkpoint/reference.json"):
        HfApi().upload_file(path_or_fileobj=bytes(10**6), path_in_repo=name, repo_id=REPO)
    assert f"{whole:.1f} MiB" in succeed("info", REPO)
    config = json.loads(hub.files(REPO)["config.json"])
    for training in ({"num_texts": "a", "num_tokens": [], "figures": "none"}, {}):
        content = json.dumps({**config, "training": training}).encode()
        HfApi().upload_file(path_or_fileobj=content, path_in_repo="config.json", repo_id=REPO)
        assert "12 concepts" in succeed("info", REPO)


def test_info_of_figures(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path)
    (tmp_path / "evaluation").mkdir()
    specificity = {"": -0.5, "_low": -0.6, "_high": -0.4}
    results = {
        "ablation": {"code": {f"token_specificity{end}": value for end, value in specificity.items()}},
        "table": {"label_purity": {"cross_fitted_purity": 0.75, "null_purity": 0.5}},
    }
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
    output = succeed("info", tmp_path)
    assert "-0.500 [-0.600, -0.400]" in output and "0.750 (labels permuted: 0.500)" in output


def test_mistakes(hub, hub_host, tmp_path):
    assert "not a concept model" in refuse("info", "org/host")
    assert "not found" in refuse("info", "org/missing")
    assert "no config.json" in refuse("info", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clvq", "clvq_version": "9.0.0", "lower_layer": 1}')
    assert "pip install 'clvq-hf>=9'" in refuse("info", tmp_path)
