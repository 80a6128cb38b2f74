"""Pushes that fail on the way, and codebooks that are found; over real HTTP, with the real clients."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from clvq_hf import CLVQModel, list_codebooks
from clvq_hf.hub import requests as hub_requests
from clvq_hf.hub.repositories import Source, checkpoint_files, commit_files
from clvq_hf.hub.requests import HubError, readable_errors

REPO = "org/clvq-bert"


def uploads(hub) -> int:
    return sum(method == "PUT" and REPO in path and status == 200 for method, path, status in hub.requests)


class TestFailures:
    """500 on commit, on create, on large files; connections dropped: the push succeeds, or can be repeated."""

    @pytest.mark.parametrize("status", [500, 503, 429, "drop", "lost"])
    @pytest.mark.parametrize("place", ["/api/repos/create", "/commit/", "/lfs/objects/batch", "/storage/", "/tree/"])
    def test_one_failure_is_no_failure(self, hub, shared_model, place, status):
        hub.fail_next(1, path_contains=place, status=status)
        shared_model.push_to_hub(REPO)
        assert CLVQModel.from_pretrained(REPO).fingerprint() == shared_model.fingerprint()
        # A commit whose answer was lost is not made again.
        assert len(list(HfApi().list_repo_commits(REPO))) == 2

    @pytest.mark.parametrize("place", ["/api/repos/create", "/commit/"])
    def test_a_hub_that_stays_down(self, hub, shared_model, place):
        hub.fail_next(100, path_contains=place, status=500)
        with pytest.raises(HubError, match=r"busy or down \(it answered 500\).*later") as caught:
            shared_model.push_to_hub(REPO)
        assert caught.value.temporary
        sent = uploads(hub)
        hub._failures.clear()
        shared_model.push_to_hub(REPO)
        assert CLVQModel.from_pretrained(REPO).fingerprint() == shared_model.fingerprint()
        # What had arrived before the commit failed is not sent a second time.
        assert uploads(hub) == 1 and sent == (place == "/commit/")

    def test_a_connection_that_keeps_breaking(self, hub, shared_model):
        hub.fail_next(100, path_contains="/commit/", status="drop")
        with pytest.raises(HubError, match="connection to the Hub broke") as caught:
            shared_model.push_to_hub(REPO)
        assert caught.value.temporary
        hub._failures.clear()
        assert shared_model.push_to_hub(REPO)

    def test_a_pull_request_is_not_opened_twice(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)
        hub.fail_next(1, path_contains="/commit/", status="lost")
        with pytest.raises(HubError, match="connection"):
            shared_model.push_to_hub(REPO, create_pr=True)
        assert [ref for ref in hub.repos["model", REPO].refs if "pr" in ref] == ["refs/pr/1"]
        hub.fail_next(1, path_contains="/commit/", status=503)
        assert shared_model.push_to_hub(REPO, create_pr=True).pr_num == 2

    @pytest.mark.parametrize("status", [500, "drop", "cut"])
    @pytest.mark.parametrize("place", ["/api/models/", "/tree/", "/resolve/", "/storage/"])
    def test_downloads(self, hub, shared_model, place, status):
        shared_model.push_to_hub(REPO)
        hub.fail_next(1, path_contains=place, status=status)
        assert CLVQModel.from_pretrained(REPO).fingerprint() == shared_model.fingerprint()

    def test_downloads_from_a_hub_that_stays_down(self, hub, shared_model, tmp_path):
        shared_model.push_to_hub(REPO)
        hub.fail_next(100, path_contains="/storage/", status=503)
        with pytest.raises(HubError, match=r"busy or down"):
            CLVQModel.from_pretrained(REPO, cache_dir=tmp_path / "mine")
        hub._failures.clear()
        assert CLVQModel.from_pretrained(REPO, cache_dir=tmp_path / "mine").fingerprint() == shared_model.fingerprint()


class TestWords:
    @pytest.mark.parametrize(
        ("error", "temporary"),
        [
            # What hf_xet raises is no HTTP error.
            (ConnectionError("Network error: request middleware"), True),
            (TimeoutError("timed out"), True),
            (RuntimeError("Data processing error"), True),
            (OfflineModeIsEnabled("Offline mode is enabled."), False),
            (PermissionError("No access token for this store"), False),
        ],
    )
    def test_errors_from_beneath_the_client(self, error, temporary):
        with pytest.raises(HubError) as caught, readable_errors("org/x"):
            raise error
        assert caught.value.temporary == temporary and str(error).rstrip(".") in str(caught.value)

    def test_broken_connections_are_tried_again(self, monkeypatch):
        monkeypatch.setattr(hub_requests, "BACK_OFF", (0.0, 0.0))
        answers = iter([ConnectionError("broke"), ConnectionError("broke"), "arrived"])

        def request() -> str:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert hub_requests.with_retries(request, "sending") == "arrived"
        answers = iter([ConnectionError("broke"), "arrived"])
        with pytest.raises(ConnectionError):
            hub_requests.with_retries(request, "sending", repeatable=False)

    def test_what_was_to_be_private(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        before = hub.files(REPO)
        shared_model.config.training = {"dataset": "secret"}
        with pytest.raises(ValueError, match="exists and is public"):
            shared_model.push_to_hub(REPO, private=True)
        assert hub.files(REPO) == before


class TestTokens:
    @pytest.fixture(autouse=True)
    def no_login(self, shared_model, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")

    def test_missing(self, hub, shared_model):
        with pytest.raises(HubError, match=r"not be written to without a token.*hf auth login.*HF_TOKEN") as caught:
            shared_model.push_to_hub(REPO)
        assert not caught.value.temporary

    def test_wrong(self, hub, shared_model):
        wrong = "hf_" + "x" * 34
        for call in (
            lambda: shared_model.push_to_hub(REPO, token=wrong),
            lambda: CLVQModel.from_pretrained(REPO, token=wrong),
            lambda: list_codebooks(token=wrong),
        ):
            with pytest.raises(HubError, match="does not accept this token") as caught:
                call()
            chain = [caught.value, caught.value.__cause__]
            assert wrong not in "".join(f"{error} {error!r}" for error in chain)

    def test_read_only(self, hub, shared_model):
        token = hub.add_user("me", ("org",), read_only=True)
        with pytest.raises(HubError, match=r"may not write to org/clvq-bert: it is read-only"):
            shared_model.push_to_hub(REPO, token=token)
        shared_model.push_to_hub(REPO, token=hub.token, private=True)
        assert CLVQModel.from_pretrained(REPO, token=token).fingerprint() == shared_model.fingerprint()

    def test_nothing_that_was_written_holds_one(self, hub, shared_model, caplog, capfd):
        hub.fail_next(2, path_contains="/commit/", status=500)
        shared_model.push_to_hub(REPO, token=hub.token)
        for name, content in hub.files(REPO).items():
            assert hub.token.encode() not in content, name
        printed = capfd.readouterr()
        assert hub.token not in caplog.text + printed.out + printed.err


class TestStaleFiles:
    def test_shards_make_way_and_other_files_stay(self, hub, shared_model):
        shared_model.push_to_hub(REPO, max_shard_size="10KB")
        assert sum(name.startswith("model-") for name in hub.files(REPO)) > 1
        for name in ("pytorch_model.bin", "training_args.bin", "notes.txt", "last-checkpoint/model.safetensors"):
            HfApi().upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id=REPO)
        before = len(list(HfApi().list_repo_commits(REPO)))
        shared_model.push_to_hub(REPO)
        assert set(hub.files(REPO)) == {
            *(".gitattributes", "README.md", "config.json", "model.safetensors", "reference.json"),
            *("notes.txt", "last-checkpoint/model.safetensors"),
        }
        assert len(list(HfApi().list_repo_commits(REPO))) == before + 1
        assert CLVQModel.from_pretrained(REPO).fingerprint() == shared_model.fingerprint()

    def test_what_is_said_of_the_codes_goes_with_them(self, hub, shared_model, hub_host, tokenizer, texts):
        table = shared_model.concept_table(hub_host, tokenizer, texts)
        shared_model.push_to_hub(REPO, concepts=table)
        shared_model._reference = None
        shared_model.push_to_hub(REPO)
        # The same codes: table and reference are still true, and the card still shows them.
        assert {"reference.json", "concepts/tokens.parquet"} < set(hub.files(REPO))
        assert b"## Concepts" in hub.files(REPO)["README.md"] and b"model.verify" in hub.files(REPO)["README.md"]
        with torch.no_grad():
            shared_model.quantizer.ema_sums.add_(1)
        shared_model.push_to_hub(REPO)
        assert not {name for name in hub.files(REPO) if name.startswith(("reference", "concepts/"))}
        assert b"## Concepts" not in hub.files(REPO)["README.md"]


class TestDisk:
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

    def test_the_error_that_the_system_gives(self):
        with pytest.raises(HubError, match="No space is left on the disk for /cache/x"), readable_errors("org/x"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/x")


class TestListing:
    def test_by_host_dataset_and_name(self, hub, shared_model, make_model):
        for name in ("org/reviews", "org/news"):
            HfApi().create_repo(name, repo_type="dataset")
        shared_model.config.training = {"dataset": "org/reviews"}
        shared_model.push_to_hub(REPO)
        shared_model.config.training = {"dataset": "org/news"}
        shared_model.push_to_hub("me/clvq-news", private=True)
        make_model(host_name_or_path="org/other").push_to_hub("org/clvq-other")

        def names(**filters) -> list[str]:
            return sorted(info.repo_id for info in list_codebooks(**filters))

        assert names() == ["me/clvq-news", REPO, "org/clvq-other"]
        assert names(host="org/host") == ["me/clvq-news", REPO]
        assert names(host="org/host", dataset="org/reviews") == [REPO]
        assert names(author="me") == names(search="news") == ["me/clvq-news"]
        assert names(host="org/none") == []
        assert names(token=False) == [REPO, "org/clvq-other"]
        hub.fail_next(1, path_contains="/api/models", status=503)
        [found] = list_codebooks(dataset="org/news")
        assert (found.host, found.datasets, found.private) == ("org/host", ("org/news",), True)

    def test_models_of_other_libraries_are_not_shown(self, hub_host):
        assert list_codebooks(host="org/host") == []
        assert list_codebooks() == []


def test_only_what_belongs_into_a_repository(tmp_path):
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "reference.json", "LICENSE"}
    others = {"optimizer.pt", "training_args.bin", "training_args.json", "trainer_state.json", "notes.html", ".env"}
    for name in wanted | others:
        (tmp_path / name).write_text("x")
    for folder in ("checkpoint-5", "runs", "concepts", "evaluation"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.json").write_text("x")
    assert set(checkpoint_files(tmp_path)) == wanted


def test_files_of_any_kind_of_repository(hub):
    commit_files({"a.txt": b"a"}, "org/data", repo_type="dataset", commit_message="A")
    commit_files({"b.txt": b"b"}, "org/data", repo_type="dataset", stale=("*.txt",), commit_message="B")
    assert set(hub.files("org/data", "dataset")) == {".gitattributes", "b.txt"}
    source = Source("org/data", repo_type="dataset")
    assert (source.fetch("b.txt") / "b.txt").read_text() == "b" and len(source.revision) == 40


@pytest.mark.slow
def test_an_address_where_nobody_answers(tmp_path):
    # A process of its own: the client reads its address once. It tries for half a minute by itself.
    code = (
        "from clvq_hf import CLVQModel\n"
        "from clvq_hf.hub.requests import HubError\n"
        "try: CLVQModel.from_pretrained('org/clvq-bert')\n"
        "except HubError as error: print(error.temporary, error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    environment["HF_HUB_CACHE"] = str(tmp_path / "hub")
    root = Path(hub_requests.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert "True org/clvq-bert is not in the cache, and the Hub is out of reach" in done.stdout
