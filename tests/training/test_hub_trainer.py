"""Training that pushes: what arrives, and that a Hub which is down costs nothing."""

import importlib.metadata
import json
import threading
from pathlib import Path

import pytest
import torch
from helpers.command_line import succeed
from huggingface_hub import HfApi, ModelCard, snapshot_download
from transformers.utils import logging

from clvq_hf import CLVQConfig, CLVQModel, CLVQTrainer, CLVQTrainingArguments
from clvq_hf.hub.requests import HubError

REPO = "org/clvq-bert"


@pytest.fixture
def make_trainer(hub_host, tokenizer, texts, tmp_path):
    def make(seed: int = 0, **arguments) -> CLVQTrainer:
        torch.manual_seed(seed)
        config = CLVQConfig.from_host(
            hub_host, 1, 3, codebook_size=12, num_decoder_layers=1, num_attention_heads=4, intermediate_size=48
        )
        defaults = {"push_to_hub": True, "hub_model_id": REPO, "num_train_epochs": 2, "report_to": "none"}
        args = CLVQTrainingArguments(
            str(tmp_path / "out"),
            **{**defaults, "save_strategy": "epoch", "dataset_name": "org/reviews", "seed": seed, **arguments},
        )
        return CLVQTrainer(
            CLVQModel(config), hub_host, args, train_dataset=texts, eval_dataset=texts, processing_class=tokenizer
        )

    return make


class TestPushes:
    def test_a_run_arrives_with_all_that_is_known(self, hub, make_trainer, caplog):
        HfApi().create_repo("org/reviews", repo_type="dataset")
        trainer = make_trainer()
        trainer.train()
        trainer.evaluate()
        trainer.push_to_hub(tags=["reviews"])
        model = CLVQModel.from_pretrained(REPO)
        assert model.fingerprint() == trainer.model.fingerprint()
        assert model.verify(model.load_host(), model.load_tokenizer())
        assert "does not know the fields" not in caplog.text, "the Trainer adds fields of its own"
        config = model.config
        assert config.host_revision == HfApi().model_info("org/host").sha
        assert config.training["dataset"] == "org/reviews" and config.training["num_texts"] == 60
        assert config.training["settings"]["optimizer"].startswith("adamw_torch")
        assert config.training["settings"]["epochs"] == 2 and config.training["settings"]["texts_per_step"] == 32
        assert config.training["num_tokens"] > 0 and "explained_variance" in config.training["figures"]
        assert config.library_versions["torch"] == importlib.metadata.version("torch")
        assert config.tokenizer_fingerprint is not None
        card = ModelCard.load(REPO)
        assert "reviews" in card.data.tags and card.data.datasets == ["org/reviews"]
        assert "explained variance, held-out texts" in card.text
        names = set(hub.files(REPO))
        assert {"config.json", "model.safetensors", "reference.json", "tokenizer.json", "README.md"} < names
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl")) or "checkpoint" in name]
        titles = [commit.title for commit in HfApi().list_repo_commits(REPO)]
        assert titles[0] == "End of training" and "Training in progress, epoch 1" in titles

    @pytest.mark.parametrize(
        ("strategy", "place"), [("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-2")]
    )
    def test_checkpoints_can_be_resumed_elsewhere(self, hub, make_trainer, tmp_path, strategy, place):
        trainer = make_trainer(hub_strategy=strategy, num_train_epochs=1, hub_always_push=True)
        trainer.train()
        trainer._finish_current_push()
        assert {f"{place}/optimizer.pt", f"{place}/trainer_state.json", f"{place}/model.safetensors"} < set(
            hub.files(REPO)
        )
        copy = snapshot_download(REPO, allow_patterns=f"{place}/*", local_dir=tmp_path / "copy")
        again = make_trainer(push_to_hub=False, num_train_epochs=2)
        again.train(resume_from_checkpoint=str(Path(copy) / place))
        assert again.state.global_step == 4
        # The pickles of the checkpoint are in a folder that loading never looks at.
        assert CLVQModel.from_pretrained(REPO).fingerprint() == trainer.model.fingerprint()

    def test_only_at_the_end(self, hub, make_trainer):
        trainer = make_trainer(hub_strategy="end")
        trainer.train()
        assert set(hub.files(REPO)) == {".gitattributes"}
        trainer.save_model()
        assert "model.safetensors" in hub.files(REPO)
        assert next(iter(HfApi().list_repo_commits(REPO))).title == "Model save"

    def test_to_a_private_branch(self, hub, make_trainer):
        trainer = make_trainer(hub_revision="seed-0", hub_private_repo=True, num_train_epochs=1)
        trainer.train()
        trainer.push_to_hub()
        assert hub.repos["model", REPO].private
        assert "model.safetensors" not in hub.files(REPO)
        assert "model.safetensors" in hub.files(REPO, revision="seed-0")

    def test_without_waiting(self, hub, make_trainer):
        trainer = make_trainer(push_to_hub=False, num_train_epochs=1)
        trainer.train()
        future = trainer.push_to_hub(blocking=False, concepts=None, license="mit")
        assert future.result(60).commit_url
        assert ModelCard.load(REPO).data.license == "mit"

    def test_the_token_is_nowhere(self, hub, make_trainer, tmp_path, monkeypatch, capfd, caplog):
        monkeypatch.delenv("HF_TOKEN")
        logging.enable_propagation()
        trainer = make_trainer(hub_token=hub.token, num_train_epochs=1)
        hub.fail_next(3, path_contains="/commit/", status=500)
        trainer.train()
        trainer.push_to_hub()
        found = [file for file in tmp_path.rglob("*") if file.is_file() and "hub-cache" not in str(file)]
        # The optimizer's files too; but not the pickled arguments of transformers, which are not written.
        assert not [file for file in found if hub.token.encode() in file.read_bytes()]
        assert not [name for name, content in hub.files(REPO).items() if hub.token.encode() in content]
        printed = capfd.readouterr()
        assert hub.token not in printed.out + printed.err + caplog.text


def test_the_card_of_the_folder(hub, make_trainer, tmp_path):
    trainer = make_trainer(push_to_hub=False, num_train_epochs=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(license="mit", tags="reviews")
    text = (tmp_path / "out" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.license == "mit" and "reviews" in card.data.tags and card.data.library_name == "clvq_hf"
    assert f'CLVQModel.from_pretrained("{REPO}")' in text and "| number of texts | 60 |" in text
    # It is ours, so a push writes it anew.
    trainer.push_to_hub()
    assert ModelCard.load(REPO).data.license is None


class TestOutages:
    @pytest.mark.slow
    def test_down_from_the_beginning(self, hub, make_trainer, caplog, tmp_path):
        hub.fail_next(1000, path_contains=REPO.split("/")[1], status=503)
        hub.fail_next(1000, path_contains="/api/repos/create", status=503)
        trainer = make_trainer()
        assert "Training starts anyway" in caplog.text
        trainer.train()
        trainer.save_model()
        command = f"clvq-hf push {tmp_path / 'out'} {REPO}"
        assert command in caplog.text
        with pytest.raises(HubError, match="The model is kept in"):
            trainer.push_to_hub()
        # The command that was printed works when the Hub is back.
        hub._failures.clear()
        succeed(*command.split()[1:])
        assert CLVQModel.from_pretrained(REPO).fingerprint() == trainer.model.fingerprint()

    def test_down_in_the_middle(self, hub, make_trainer, caplog):
        trainer = make_trainer(hub_always_push=True)
        hub.fail_next(1000, path_contains="/commit/", status=500)
        trainer.train()
        trainer._finish_current_push()
        assert "training continues" in caplog.text and trainer.state.epoch == 2
        hub._failures.clear()
        trainer.push_to_hub()
        assert CLVQModel.from_pretrained(REPO).fingerprint() == trainer.model.fingerprint()

    @pytest.mark.parametrize("token", ["", "hf_" + "x" * 34, "read"])
    def test_no_access_is_told_before_training(self, hub, make_trainer, token, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        token = hub.add_user("me", ("org",), read_only=True) if token == "read" else token
        with pytest.raises(HubError, match=r"token|logged in"):
            make_trainer(hub_token=token or None)

    def test_pushes_come_one_after_the_other(self, hub, make_trainer):
        trainer = make_trainer(hub_always_push=True, save_strategy="steps", save_steps=1, num_train_epochs=3)
        publish, under_way, most = trainer._publish, [], []

        def counted(*arguments, **keywords):
            under_way.append(1)
            most.append(len(under_way))
            result = publish(*arguments, **keywords)
            under_way.pop()
            return result

        trainer._publish = counted
        trainer.train()
        trainer._finish_current_push()
        assert max(most) == 1 and len(most) == 6
        titles = [commit.title for commit in HfApi().list_repo_commits(REPO)]
        assert titles[0] == "Training in progress, step 6"

    def test_whatever_a_background_job_meets_is_told(self, hub, make_trainer, caplog):
        trainer = make_trainer(num_train_epochs=1)

        def broken(*arguments, **keywords):
            raise RuntimeError("the transfer library broke")

        trainer._publish = broken
        trainer.train()
        trainer._finish_current_push()
        assert "the transfer library broke" in caplog.text and trainer.state.global_step == 2

    def test_a_push_under_way_is_not_joined_by_another(self, hub, make_trainer):
        release = threading.Event()
        trainer = make_trainer()
        publish, started = trainer._publish, []

        def slow(*arguments, **keywords):
            started.append(arguments)
            release.wait(60)
            return publish(*arguments, **keywords)

        trainer._publish = slow
        threading.Timer(20, release.set).start()
        original = trainer._finish_current_push

        def finish():
            release.set()
            original()

        trainer._finish_current_push = finish
        trainer.train()
        assert len(started) == 1
        trainer._publish = publish
        trainer.push_to_hub()
        assert CLVQModel.from_pretrained(REPO).fingerprint() == trainer.model.fingerprint()


def test_a_host_whose_head_fails_costs_no_result(make_trainer, tmp_path, caplog):
    trainer = make_trainer(push_to_hub=False, num_train_epochs=1)

    def broken(host, tokenizer):
        raise IndexError("something deep inside")

    trainer.model.record_host = broken
    trainer.train()
    assert "saved without reference texts: IndexError" in caplog.text
    assert CLVQModel.from_pretrained(tmp_path / "out" / "checkpoint-2").fingerprint() == trainer.model.fingerprint()


def test_figures_are_of_the_weights_that_are_saved(make_trainer, texts, tmp_path):
    trainer = make_trainer(push_to_hub=False, num_train_epochs=1)
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    saved = CLVQModel.from_pretrained(tmp_path / "out").config.training
    assert saved["figures"]["loss"] > 0 and saved["figures_of"] == trainer.model.fingerprint()
    # Other texts than the held-out ones are not told as such.
    before = dict(trainer.model.config.training["figures"])
    trainer.evaluate(texts.select(range(5)))
    assert trainer.model.config.training["figures"] == before
    with torch.no_grad():
        trainer.model.quantizer.ema_sums.add_(1)
    trainer.save_model()
    assert "figures" not in CLVQModel.from_pretrained(tmp_path / "out").config.training


def test_a_codebook_without_decoder_is_not_trained(make_model, host, tokenizer, texts, tmp_path):
    bare = make_model().codebook_only()
    args = CLVQTrainingArguments(str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match="without its decoder"):
        CLVQTrainer(bare, host, args, train_dataset=texts, processing_class=tokenizer)


def test_checkpoints_hold_no_pickled_arguments(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=1, push_to_hub=False)
    trainer.train()
    [checkpoint] = (tmp_path / "out").glob("checkpoint-*")
    assert not (checkpoint / "training_args.bin").exists()
    assert json.loads((checkpoint / "training_args.json").read_text())["dataset_name"] == "org/reviews"
    assert CLVQModel.from_pretrained(checkpoint).reference is not None
