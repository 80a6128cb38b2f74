"""Which commit of which host: told by the cache, asked of the Hub, or not known."""

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel, BertForSequenceClassification

from clvq_hf.hub.provenance import (
    cached_commit,
    describe_host,
    is_hub_id,
    name_beside,
    public_name,
    resolve_commit,
    tokenizer_fingerprint,
)


def test_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "folder").mkdir(parents=True)
    for name in ("org/model", "gpt2", "org/a.b-c_d"):
        assert is_hub_id(name)
    for name in (None, "", "org/folder", "./org", "/abs/path", "a/b/c", "../up", "has space", "org/--x"):
        assert not is_hub_id(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("org/host", "org/host"),
        ("gpt2", "gpt2"),
        ("movie reviews", "movie reviews"),
        ("/home/somebody/hosts/minilm", "./minilm"),
        ("C:\\Users\\somebody\\hosts\\minilm", "./minilm"),
        ("https://example.com/secret/texts.jsonl", "./texts.jsonl"),
        ("hosts/minilm", "./minilm"),
        (None, None),
        ("", ""),
    ],
)
def test_folders_are_shown_without_their_parents(name, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts" / "minilm").mkdir(parents=True)
    assert public_name(name) == shown


class TestCommit:
    def test_of_the_revision_that_was_loaded(self, hub_host, hub):
        first = HfApi().model_info("org/host").sha
        assert describe_host(hub_host)["host_revision"] == cached_commit("org/host") == first
        # The branch moves on without this machine.
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="org/host")
        assert resolve_commit("org/host", None) == first != HfApi().model_info("org/host").sha

    def test_of_branches_and_tags(self, hub_host, hub):
        first = HfApi().model_info("org/host").sha
        HfApi().create_tag("org/host", tag="v1")
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="org/host")
        assert resolve_commit("org/host", "v1") == first
        assert resolve_commit("org/host", first) == first
        AutoModel.from_pretrained("org/host", revision="v1")
        assert cached_commit("org/host", "v1") == first

    def test_of_which_of_several_is_not_known(self, hub_host, hub, caplog):
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="org/host")
        AutoModel.from_pretrained("org/host", revision="main", force_download=True)
        assert describe_host(hub_host)["host_revision"] is None
        assert resolve_commit("org/host", None) is None and "host_revision=…" in caplog.text

    def test_of_what_was_never_loaded(self, hub, caplog):
        assert cached_commit("org/unknown") is None and resolve_commit("org/unknown", None) is None
        hub.fail_next(9, status=500)
        assert resolve_commit("org/unknown", "v2") == "v2"
        assert "could not be asked" in caplog.text

    def test_folders_have_none(self, host, tmp_path, monkeypatch):
        host.save_pretrained(tmp_path / "bert")
        monkeypatch.chdir(tmp_path)
        told = describe_host(BertForSequenceClassification.from_pretrained("bert", dtype=torch.bfloat16))
        assert told == {
            "host_name_or_path": str(tmp_path / "bert"),
            "host_revision": None,
            "host_architecture": "BertForSequenceClassification",
            "host_dtype": "bfloat16",
            "host_gguf_file": None,
        }
        assert resolve_commit(str(tmp_path / "bert"), None) is None

    def test_a_model_that_was_never_saved(self, host):
        assert describe_host(host)["host_name_or_path"] is None


@pytest.mark.parametrize("change", ["add", None])
def test_tokenizers(tokenizer, change):
    before = tokenizer_fingerprint(tokenizer)
    tokenizer("some text", padding="max_length", truncation=True, max_length=9)
    tokenizer.pad_token = "[SEP]"
    if change == "add":
        tokenizer.add_tokens(["clvq"])
    assert (tokenizer_fingerprint(tokenizer) == before) == (change is None)
    assert len(before) == 64


def test_names_beside_a_folder(tmp_path, monkeypatch):
    for name in ("out", "results", "a/deep"):
        (tmp_path / name).mkdir(parents=True)
    assert name_beside(str(tmp_path / "out"), tmp_path / "results") == "../out"
    assert name_beside(str(tmp_path / "results" / ".." / "a" / "deep"), tmp_path) == "./a/deep"
    assert name_beside(str(tmp_path), tmp_path) == "."
    assert name_beside("org/name", tmp_path) == "org/name" and name_beside(None, tmp_path) is None
    monkeypatch.chdir(tmp_path)
    assert name_beside("out", "results") == "../out"
    # Nothing in common but the root: the way would lead through the folders of somebody's machine.
    assert name_beside("/usr/lib", tmp_path) == "./lib"
