"""`clvq-hf push`, `pull` and `info`, and the whole way of a codebook from one machine to another."""

import json

import pytest
import torch
from helpers.loopback_hub import run_client
from huggingface_hub import HfApi
from transformers import BertForSequenceClassification
from typer.testing import CliRunner

from clvq_hf import CLVQModel, ConceptTable
from clvq_hf.cli import app

REPO = "org/clvq-bert"


def clvq(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    return " ".join(result.output.split())


@pytest.fixture
def folder(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def table(shared_model, hub_host, tokenizer, texts, tmp_path):
    return shared_model.concept_table(
        hub_host, tokenizer, texts, dataset_name="org/reviews", output_dir=tmp_path / "table"
    )


class TestPush:
    def test_everything(self, hub, folder, table, shared_model):
        output = clvq("push", folder, REPO, "--table", folder.parent / "table", "--license", "mit", "--private")
        assert f"/{REPO}/commit/" in output.replace(" ", "")
        assert hub.repos["model", REPO].private
        assert b"license: mit" in hub.files(REPO)["README.md"]
        assert len(CLVQModel.from_pretrained(REPO).concepts) == len(table)
        assert not (folder / "README.md").exists(), "the folder is left as it was"

    def test_a_codebook_keeps_what_lies_beside_it(self, hub, folder, tokenizer):
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text("# Mine\n")
        clvq("push", folder, REPO, "--codebook-only")
        assert {"tokenizer.json", "reference.json"} < set(hub.files(REPO))
        assert hub.files(REPO)["README.md"] == b"# Mine\n"
        assert CLVQModel.from_pretrained(REPO).decoder is None

    def test_a_codebook_to_a_branch_with_its_table_elsewhere(self, hub, folder, table):
        clvq("push", folder, REPO, "--codebook-only", "--revision", "small")
        assert CLVQModel.from_pretrained(REPO, revision="small").decoder is None
        clvq("push", folder, REPO, "--table", folder.parent / "table", "--concepts-repo", "org/concepts")
        assert len(CLVQModel.from_pretrained(REPO).concepts) == len(table)
        output = clvq("push", folder, REPO, "--create-pr")
        assert "discussions/1" in output.replace(" ", "")

    def test_what_an_earlier_version_saved(self, hub, shared_model, folder):
        config = json.loads((folder / "config.json").read_text())
        for name in ("fingerprint", "host_architecture", "training", "library_versions"):
            del config[name]
        (folder / "config.json").write_text(json.dumps(config))
        clvq("push", folder, REPO)
        assert json.loads(hub.files(REPO)["config.json"])["fingerprint"] == shared_model.fingerprint()

    def test_mistakes(self, hub, folder, table, tmp_path, monkeypatch):
        assert "There is no folder" in refused("push", tmp_path / "nothing", REPO)
        assert "holds no concept model" in refused("push", tmp_path / "table", REPO)
        assert "holds no concept table" in refused("push", folder, REPO, "--table", folder)
        assert "holds no results" in refused("push", folder, REPO, "--evaluation", folder)
        assert "nor the name of a repository" in refused("push", folder, "not a name")
        (folder / "model.safetensors").write_bytes(b"broken")
        assert "weights of" in (told := refused("push", folder, REPO)) and "are damaged" in told
        assert ("model", REPO) not in hub.repos

    def test_results_of_another_model(self, hub, folder, tmp_path):
        (tmp_path / "results.json").write_text(json.dumps({"model_fingerprint": "0" * 64, "texts": {}}))
        assert "belongs to another model" in refused("push", folder, REPO, "--evaluation", tmp_path)
        assert ("model", REPO) not in hub.repos


class TestPull:
    def test_and_pushed_again(self, hub, shared_model, table, tmp_path, monkeypatch):
        shared_model.push_to_hub(REPO, concepts=table)
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="checkpoint-9/optimizer.pt", repo_id=REPO)
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="pytorch_model.bin", repo_id=REPO)
        monkeypatch.chdir(tmp_path)
        assert "clvq-bert/" in clvq("pull", REPO)
        pulled = {file.name for file in (tmp_path / "clvq-bert").iterdir()}
        assert {"config.json", "model.safetensors", "reference.json", "concepts", "README.md"} <= pulled
        assert not {"checkpoint-9", "pytorch_model.bin"} & pulled
        model = CLVQModel.from_pretrained("clvq-bert")
        assert len(model.concepts) == len(table) and model.reference == shared_model.reference
        clvq("push", "clvq-bert", "me/private-texts")
        assert not any(name.startswith("concepts/") for name in hub.files("me/private-texts"))
        clvq("push", "clvq-bert", "me/copy", "--table", "clvq-bert/concepts")
        before, after = hub.files(REPO), hub.files("me/copy")
        for name in ("model.safetensors", "reference.json", "concepts/tokens.parquet"):
            assert before[name] == after[name]
        # Again into the same folder, and elsewhere without the table.
        clvq("pull", REPO)
        clvq("pull", REPO, "--output-dir", "other", "--no-concepts")
        assert not (tmp_path / "other" / "concepts").exists()

    def test_mistakes(self, hub, hub_host, tmp_path):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "notes.txt").write_text("mine")
        assert "was not made by `clvq-hf pull`" in refused("pull", REPO, "--output-dir", tmp_path / "full")
        assert "not found" in refused("pull", REPO, "--output-dir", tmp_path / "new")
        assert "not a concept model" in refused("pull", "org/host", "--output-dir", tmp_path / "host")
        assert not (tmp_path / "host").exists()

    def test_over_an_earlier_one(self, hub, shared_model, table, tmp_path):
        shared_model.push_to_hub(REPO, concepts=table)
        clvq("pull", REPO, "--output-dir", tmp_path / "out")
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)
        shared_model.push_to_hub(REPO, max_shard_size="10KB")
        clvq("pull", REPO, "--output-dir", tmp_path / "out")
        assert CLVQModel.from_pretrained(tmp_path / "out").fingerprint() == shared_model.fingerprint()
        left = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
        assert "model.safetensors" not in left and not any(name.startswith("concepts/") for name in left)

    def test_a_model_of_ones_own_is_not_overwritten(self, hub, shared_model, folder):
        shared_model.push_to_hub(REPO)
        assert "was not made by `clvq-hf pull`" in refused("pull", REPO, "--output-dir", folder)

    @pytest.mark.parametrize("command", ["pull", "info", "push"])
    def test_code_of_a_repository_is_not_run(self, hub, folder, tmp_path, command):
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
        result = CliRunner().invoke(app, [command, *map(str, arguments[command])], input="y\ny\n")
        assert result.exit_code == 1 and "not a concept model" in " ".join(result.output.split())
        assert not marker.exists()


class TestInfo:
    def test_of_a_repository(self, hub, shared_model, table):
        shared_model.config.training = {
            **{"dataset": "org/reviews", "num_texts": 60, "num_tokens": 1234},
            "figures": {"explained_variance": 0.5},
        }
        shared_model.push_to_hub(REPO, concepts=table)
        output = clvq("info", REPO)
        host = "org/host (BertForSequenceClassification)"
        for told in ("clvq, 12 concepts", host, "1 → 3", "org/reviews", "60, 1,234"):
            assert told in output
        assert "0.5" in output and "60, 1,586 texts, tokens" in output and "MiB" in output
        asked = [path for method, path, _ in hub.requests if method == "GET"]
        assert not [path for path in asked if "/storage/" in path and REPO in path], "no weights, no tables"
        told = json.loads(CliRunner().invoke(app, ["info", REPO, "--json"]).output)
        assert told["files"]["model.safetensors"] == len(hub.files(REPO)["model.safetensors"])
        assert told["concepts"]["num_texts"] == 60 and told["results"] is None and told["has_reference"]

    def test_of_a_folder_and_a_codebook(self, hub, shared_model, tmp_path):
        shared_model.codebook_only().save_pretrained(tmp_path)
        assert "codebook alone" in clvq("info", tmp_path)

    def test_of_checkpoints_and_strange_values(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        whole = len(hub.files(REPO)["model.safetensors"]) / 2**20
        for name in ("last-checkpoint/model.safetensors", "last-checkpoint/reference.json"):
            HfApi().upload_file(path_or_fileobj=bytes(10**6), path_in_repo=name, repo_id=REPO)
        assert f"{whole:.1f} MiB" in clvq("info", REPO)
        config = json.loads(hub.files(REPO)["config.json"])
        for training in ({"num_texts": "a", "num_tokens": [], "figures": "none"}, {}):
            content = json.dumps({**config, "training": training}).encode()
            HfApi().upload_file(path_or_fileobj=content, path_in_repo="config.json", repo_id=REPO)
            assert "12 concepts" in clvq("info", REPO)

    def test_of_figures(self, shared_model, tmp_path):
        shared_model.save_pretrained(tmp_path)
        (tmp_path / "evaluation").mkdir()
        specificity = {"": -0.5, "_low": -0.6, "_high": -0.4}
        results = {
            "ablation": {"code": {f"token_specificity{end}": value for end, value in specificity.items()}},
            "table": {"label_purity": {"cross_fitted_purity": 0.75, "null_purity": 0.5}},
        }
        (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
        output = clvq("info", tmp_path)
        assert "-0.500 [-0.600, -0.400]" in output and "0.750 (labels permuted: 0.500)" in output

    def test_mistakes(self, hub, hub_host, tmp_path):
        assert "not a concept model" in refused("info", "org/host")
        assert "not found" in refused("info", "org/missing")
        assert "no config.json" in refused("info", tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "clvq", "clvq_version": "9.0.0", "lower_layer": 1}')
        assert "pip install 'clvq-hf>=9'" in refused("info", tmp_path)


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
