"""`clvq-hf push`, and the whole way of a codebook from one machine to another."""

import json

import pytest
import torch
from helpers.command_line import refuse, succeed
from helpers.hub_commands import REPO, folder, table  # noqa: F401
from helpers.loopback_hub import run_client
from transformers import BertForSequenceClassification

from clvq_hf import CLVQModel, ConceptTable


@pytest.mark.slow
def test_push_everything(hub, folder, table, shared_model):
    output = succeed("push", folder, REPO, "--table", folder.parent / "table", "--license", "mit", "--private")
    assert f"/{REPO}/commit/" in output.replace(" ", "")
    assert hub.repos["model", REPO].private
    assert b"license: mit" in hub.files(REPO)["README.md"]
    assert len(CLVQModel.from_pretrained(REPO).concepts) == len(table)
    assert not (folder / "README.md").exists(), "the folder is left as it was"


def test_a_codebook_keeps_what_lies_beside_it(hub, folder, tokenizer):
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("# Mine\n")
    succeed("push", folder, REPO, "--codebook-only")
    assert {"tokenizer.json", "reference.json"} < set(hub.files(REPO))
    assert hub.files(REPO)["README.md"] == b"# Mine\n"
    assert CLVQModel.from_pretrained(REPO).decoder is None


@pytest.mark.slow
def test_a_codebook_to_a_branch_with_its_table_elsewhere(hub, folder, table):
    succeed("push", folder, REPO, "--codebook-only", "--revision", "small")
    assert CLVQModel.from_pretrained(REPO, revision="small").decoder is None
    succeed("push", folder, REPO, "--table", folder.parent / "table", "--concepts-repo", "org/concepts")
    assert len(CLVQModel.from_pretrained(REPO).concepts) == len(table)
    output = succeed("push", folder, REPO, "--create-pr")
    assert "discussions/1" in output.replace(" ", "")


def test_what_an_earlier_version_saved(hub, shared_model, folder):
    config = json.loads((folder / "config.json").read_text())
    for name in ("fingerprint", "host_architecture", "training", "library_versions"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    succeed("push", folder, REPO)
    assert json.loads(hub.files(REPO)["config.json"])["fingerprint"] == shared_model.fingerprint()


@pytest.mark.slow
def test_mistakes(hub, folder, table, tmp_path, monkeypatch):
    assert "There is no folder" in refuse("push", tmp_path / "nothing", REPO)
    assert "holds no concept model" in refuse("push", tmp_path / "table", REPO)
    assert "holds no concept table" in refuse("push", folder, REPO, "--table", folder)
    assert "holds no results" in refuse("push", folder, REPO, "--evaluation", folder)
    assert "nor the name of a repository" in refuse("push", folder, "not a name")
    (folder / "model.safetensors").write_bytes(b"broken")
    assert "weights of" in (told := refuse("push", folder, REPO)) and "are damaged" in told
    assert ("model", REPO) not in hub.repos


def test_results_of_another_model(hub, folder, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"model_fingerprint": "0" * 64, "texts": {}}))
    assert "belongs to another model" in refuse("push", folder, REPO, "--evaluation", tmp_path)
    assert ("model", REPO) not in hub.repos


@pytest.mark.slow
def test_from_one_machine_to_another(hub, shared_model, hub_host, tokenizer, texts, table, tmp_path):
    """Pushed here; loaded, attached, verified and read in a fresh process with an empty cache, by a stranger."""
    shared_model.push_to_hub(REPO, concepts=table)
    other = BertForSequenceClassification(hub_host.config)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    other.push_to_hub("org/other-host")
    texts.to_json(tmp_path / "texts.jsonl")
    code = """
        import json
        import torch
        from datasets import load_dataset
        from transformers import AutoModel, AutoModelForSequenceClassification
        import clvq_hf

        model = clvq_hf.CLVQModel.from_pretrained("org/clvq-bert")
        auto = AutoModel.from_pretrained("org/clvq-bert")
        host, tokenizer = model.load_host(), model.load_tokenizer()
        found = model.verify(host, tokenizer)
        other = AutoModelForSequenceClassification.from_pretrained("org/other-host")
        wrong = model.verify(other, tokenizer)
        texts = load_dataset("json", data_files="texts.jsonl", split="train")
        again = model.concept_table(host, tokenizer, texts, dataset_name="org/reviews")
        with model.attach(host) as tap:
            host(**tokenizer("what a wonderful film", return_tensors="pt"))
        model.concepts.save_to_disk("downloaded")
        print(json.dumps({
            "fingerprints": [model.fingerprint(), auto.fingerprint()],
            "weights": float(sum(tensor.double().abs().sum() for tensor in model.state_dict().values())),
            "verified": [bool(found), str(found)],
            "wrong": [bool(wrong), str(wrong)],
            "codes": tap.codes.tolist(),
            "same_table": bool((again.column("code") == model.concepts.column("code")).all()),
            "listed": [each.repo_id for each in clvq_hf.list_codebooks(host="org/host")],
        }))
    """
    told = json.loads(run_client(hub, code, tmp_path, token=False))
    assert told["fingerprints"] == [shared_model.fingerprint()] * 2
    weights = float(sum(tensor.double().abs().sum() for tensor in shared_model.state_dict().values()))
    assert told["weights"] == pytest.approx(weights, rel=1e-12)
    with shared_model.attach(hub_host) as tap:
        hub_host(**tokenizer("what a wonderful film", return_tensors="pt"))
    assert told["codes"] == tap.codes.tolist()
    assert told["same_table"] and told["listed"] == [REPO]
    downloaded = ConceptTable.load_from_disk(tmp_path / "downloaded")
    assert downloaded.tokens.to_dict() == table.tokens.to_dict()
    assert downloaded.texts.to_dict() == table.texts.to_dict()
    assert told["verified"][0] and "verified; 100.0%" in told["verified"][1]
    assert not told["wrong"][0]
    assert "the host has other weights than the one that was trained on (org/host" in told["wrong"][1]
