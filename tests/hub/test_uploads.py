"""Pushes: failures on the way, what makes way for new files, what stays; over real HTTP, with the real clients."""

import pytest
import torch
from huggingface_hub import HfApi

from clvq_hf import CLVQModel
from clvq_hf.hub import HubError, Source
from clvq_hf.hub.uploads import commit_files

REPO = "org/clvq-bert"


def uploads(hub) -> int:
    return sum(method == "PUT" and REPO in path and status == 200 for method, path, status in hub.requests)


class TestFailures:
    """500 on commit, on create, on large files; connections dropped: the push succeeds, or can be repeated."""

    @pytest.mark.parametrize(
        ("place", "status"),
        [
            ("/api/repos/create", 503),
            ("/api/repos/create", "lost"),
            ("/commit/", 500),
            ("/commit/", "drop"),
            ("/commit/", "lost"),
            ("/lfs/objects/batch", 429),
            ("/storage/", "drop"),
            ("/storage/", "lost"),
            ("/tree/", 503),
        ],
    )
    def test_one_failure_is_no_failure(self, hub, shared_model, place, status):
        hub.fail_next(1, path_contains=place, status=status)
        shared_model.push_to_hub(REPO)
        assert CLVQModel.from_pretrained(REPO).fingerprint() == shared_model.fingerprint()
        # A commit whose answer was lost is not made again.
        assert len(list(HfApi().list_repo_commits(REPO))) == 2

    @pytest.mark.parametrize("place", ["/api/repos/create", "/commit/"])
    def test_a_hub_that_stays_down(self, hub, shared_model, place):
        hub.fail_next(100, path_contains=place, status=500)
        with pytest.raises(HubError, match=r"busy or cannot be reached \(500: .*later") as caught:
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
        with pytest.raises(HubError, match="cannot be reached") as caught:
            shared_model.push_to_hub(REPO)
        assert caught.value.temporary
        hub._failures.clear()
        assert shared_model.push_to_hub(REPO)

    @pytest.mark.slow
    def test_a_pull_request_is_not_opened_twice(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)
        hub.fail_next(1, path_contains="/commit/", status="lost")
        with pytest.raises(HubError, match="cannot be reached"):
            shared_model.push_to_hub(REPO, create_pr=True)
        assert [ref for ref in hub.repos["model", REPO].refs if "pr" in ref] == ["refs/pr/1"]
        hub.fail_next(1, path_contains="/commit/", status=503)
        assert shared_model.push_to_hub(REPO, create_pr=True).pr_num == 2


@pytest.mark.slow
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


def test_a_public_repository_is_no_place_for_a_private_model(hub, shared_model):
    shared_model.push_to_hub(REPO)
    before = hub.files(REPO)
    shared_model.config.training = {"dataset": "secret"}
    with pytest.raises(ValueError, match="exists and is public"):
        shared_model.push_to_hub(REPO, private=True)
    assert hub.files(REPO) == before


def test_files_of_any_kind_of_repository(hub):
    commit_files({"a.txt": b"a"}, "org/data", repo_type="dataset", commit_message="A")
    commit_files({"b.txt": b"b"}, "org/data", repo_type="dataset", stale=("*.txt",), commit_message="B")
    assert set(hub.files("org/data", "dataset")) == {".gitattributes", "b.txt"}
    source = Source("org/data", repo_type="dataset")
    assert (source.fetch("b.txt") / "b.txt").read_text() == "b" and len(source.revision) == 40
