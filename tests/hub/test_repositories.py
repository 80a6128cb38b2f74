"""Downloads that fail on the way, over real HTTP with the real clients; the files that belong in a repository."""

import json
import subprocess

import pytest

from clvq_hf import CLVQModel
from clvq_hf.hub import HubError
from clvq_hf.hub.repositories import Source, checkpoint_files, read_results

REPO = "org/clvq-bert"


class TestDownloads:
    @pytest.mark.parametrize(
        ("place", "status"),
        [("/api/models/", 500), ("/tree/", "drop"), ("/resolve/", "cut"), ("/storage/", 500), ("/storage/", "cut")],
    )
    def test_one_failure_is_no_failure(self, hub, shared_model, place, status):
        shared_model.push_to_hub(REPO)
        hub.fail_next(1, path_contains=place, status=status)
        assert CLVQModel.from_pretrained(REPO).fingerprint() == shared_model.fingerprint()

    def test_a_hub_that_stays_down(self, hub, shared_model, tmp_path):
        shared_model.push_to_hub(REPO)
        hub.fail_next(100, path_contains="/storage/", status=503)
        with pytest.raises(HubError, match="busy or cannot be reached"):
            CLVQModel.from_pretrained(REPO, cache_dir=tmp_path / "mine")
        hub._failures.clear()
        assert CLVQModel.from_pretrained(REPO, cache_dir=tmp_path / "mine").fingerprint() == shared_model.fingerprint()

    def test_a_full_cache_is_named(self, hub, shared_model, tmp_path):
        """The real thing: a file system of a few hundred kilobytes."""
        shared_model.push_to_hub(REPO)
        small = tmp_path / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
            pytest.skip("mounting a file system is not permitted here")
        try:
            with pytest.raises(HubError, match=r"No space is left on the disk.*cache_dir=…"):
                CLVQModel.from_pretrained(REPO, cache_dir=small)
            subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
            loaded = CLVQModel.from_pretrained(REPO, cache_dir=small)
            assert loaded.fingerprint() == shared_model.fingerprint()
            del loaded
        finally:
            subprocess.run(["umount", "--lazy", small], check=True)


def test_only_what_belongs_into_a_repository(tmp_path):
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "reference.json", "LICENSE"}
    others = {"optimizer.pt", "training_args.bin", "training_args.json", "trainer_state.json", "notes.html", ".env"}
    for name in wanted | others:
        (tmp_path / name).write_text("x")
    for folder in ("checkpoint-5", "runs", "concepts", "evaluation"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.json").write_text("x")
    assert set(checkpoint_files(tmp_path)) == wanted


def test_a_folder_without_a_model_stands_for_its_newest_checkpoint(tmp_path, caplog):
    for step in (9, 100, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 100):  # the last one is still being written
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    assert Source(str(tmp_path)).fetch() == tmp_path / "checkpoint-100"
    assert "taking its newest checkpoint, checkpoint-100" in caplog.text
    (tmp_path / "config.json").write_text("{}")
    assert Source(str(tmp_path)).fetch() == tmp_path


class TestResults:
    RESULTS = {
        "texts": {"dataset": "org/reviews", "num_texts": 9},
        "table": {"label_purity": {"purity": 0.5, "examples": [{"word": "x"}], "null_purity": None}},
        "ablation": {"code": {"accuracy": 1, "token_specificity_verdict": "tie"}},
    }

    def test_what_an_evaluation_wrote(self, tmp_path):
        (tmp_path / "results.json").write_text(json.dumps(self.RESULTS))
        assert read_results(tmp_path / "results.json") == self.RESULTS

    @pytest.mark.parametrize(
        "damage",
        [
            *({"texts": 3}, {"table": []}, {"table": {"label_purity": 3}}, {"ablation": {"code": {"accuracy": "x"}}}),
            *({"ablation": {"code": {"accuracy": float("nan")}}}, {"words": None}),
        ],
    )
    def test_what_is_something_else_is_refused_by_name(self, tmp_path, damage):
        (tmp_path / "results.json").write_text(json.dumps({**self.RESULTS, **damage}))
        with pytest.raises(ValueError, match=r"results\.json.* is damaged: .*Run `clvq-hf evaluate` again"):
            read_results(tmp_path / "results.json")
