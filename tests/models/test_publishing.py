"""Pushes keep the card of the user, and publish no path of this machine."""

import json

import pytest
import torch
from helpers.made_audits import made_audit
from huggingface_hub import HfApi

from clvq_hf import ConceptModel
from clvq_hf.hub.repositories import DISTANCES_NAME
from clvq_hf.hub.uploads import MARKER
from clvq_hf.models.publishing import publish

REPO = "org/clvq-bert"


class TestEditedCards:
    def test_an_edited_card_stays(self, hub, shared_model, caplog):
        shared_model.push_to_hub(REPO)
        text = hub.files(REPO)["README.md"].decode()
        edited = text.replace(MARKER, "").replace("# clvq-bert", "# Ours").encode()
        HfApi().upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id=REPO)
        shared_model.config.training = {"dataset": "org/reviews"}
        shared_model.push_to_hub(REPO)
        assert hub.files(REPO)["README.md"] == edited
        assert "written by hand" in caplog.text

    def test_ours_is_written_anew(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        shared_model.config.training = {"dataset": "org/reviews"}
        shared_model.push_to_hub(REPO)
        assert b"org/reviews" in hub.files(REPO)["README.md"]

    def test_a_card_in_the_folder_is_the_users(self, hub, shared_model, tmp_path):
        shared_model.save_pretrained(tmp_path)
        (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
        publish(tmp_path, REPO)
        assert hub.files(REPO)["README.md"].endswith(b"# Mine\n")


class TestQuantilesOfDistances:
    @pytest.fixture
    def measured(self, shared_model):
        shared_model.record_distances(torch.randn(200, 32, generator=torch.Generator().manual_seed(0)))
        return shared_model

    def test_are_pushed_and_loaded(self, hub, measured):
        measured.push_to_hub(REPO, codebook_only=True)
        loaded = ConceptModel.from_pretrained(REPO)
        assert loaded.distance_quantiles.counts.sum() == 200
        # What came with the weights is read offline.
        assert ConceptModel.from_pretrained(REPO, local_files_only=True).distance_quantiles is not None

    def test_of_other_codes_do_not_stay(self, hub, measured, tmp_path, caplog):
        measured.push_to_hub(REPO)
        measured.push_to_hub(REPO)
        assert DISTANCES_NAME in hub.files(REPO)
        measured.save_pretrained(tmp_path)
        quantiles = (tmp_path / DISTANCES_NAME).read_bytes()
        with torch.no_grad():
            measured.quantizer.ema_sums.mul_(2)
        measured.save_pretrained(tmp_path)
        (tmp_path / DISTANCES_NAME).write_bytes(quantiles)
        publish(tmp_path, REPO)
        assert "quantiles of distances" in caplog.text and DISTANCES_NAME not in hub.files(REPO)


@pytest.mark.slow
class TestAudits:
    @pytest.fixture
    def audit(self, shared_model, hub_host, tokenizer, texts, tmp_path):
        table = shared_model.concept_table(hub_host, tokenizer, texts)
        shared_model.audit(hub_host, tokenizer, table, output_dir=tmp_path / "audit")
        return tmp_path / "audit"

    def test_suspects_are_in_the_card_and_stay(self, hub, shared_model, audit):
        shared_model.push_to_hub(REPO, audit=audit)
        assert "audit/summary.json" in hub.files(REPO) and not any("rows" in name for name in hub.files(REPO))
        card = hub.files(REPO)["README.md"].decode()
        assert "## What the host relies on" in card and "### Suspects" in card
        shared_model.push_to_hub(REPO)
        assert "### Suspects" in hub.files(REPO)["README.md"].decode(), "what stays is described, too"

    def test_words_of_masked_labels_are_masked(self, hub, shared_model, tmp_path):
        made_audit(shared_model.fingerprint()).save_to_disk(tmp_path / "audit")
        shared_model.push_to_hub(REPO, audit=tmp_path / "audit", mask_label=["positive"])
        card = hub.files(REPO)["README.md"].decode()
        assert "zebra" not in card and "z••••" in card and "negative" in card

    def test_one_of_another_model_is_refused(self, hub, shared_model, tmp_path):
        made_audit().save_to_disk(tmp_path / "audit")
        with pytest.raises(ValueError, match="belongs to another model"):
            shared_model.push_to_hub(REPO, audit=tmp_path / "audit")


def test_paths_of_this_machine_stay_here(hub, shared_model, hub_host, tokenizer, texts, tmp_path):
    hub_host.save_pretrained(tmp_path / "my-host")
    (tmp_path / "texts.jsonl").write_text("{}")
    config = shared_model.config
    config.host_name_or_path = str(tmp_path / "my-host")
    config.training = {"dataset": str(tmp_path / "texts.jsonl")}
    table = shared_model.concept_table(hub_host, tokenizer, texts, dataset_name=str(tmp_path / "texts.jsonl"))
    shared_model.push_to_hub(REPO, concepts=table)
    for name, content in hub.files(REPO).items():
        assert str(tmp_path).encode() not in content, name
    told = json.loads(hub.files(REPO)["config.json"])
    assert told["host_name_or_path"] == "./my-host" and told["training"]["dataset"] == "./texts.jsonl"
    assert config.host_name_or_path == str(tmp_path / "my-host"), "the model in memory still knows its host"
    # Nor those of another machine, which do not exist here.
    config.host_name_or_path = "/home/alice/secret-project/host"
    shared_model.push_to_hub("me/other")
    assert not [name for name, content in hub.files("me/other").items() if b"secret-project" in content]
