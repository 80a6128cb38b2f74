"""The loopback Hub, asked by the real clients: what the other tests of pushes and downloads stand on."""

import importlib.util
import json
from pathlib import Path

import httpx2
import pytest
from helpers.loopback_hub import LoopbackHub, run_client
from huggingface_hub import CommitOperationDelete, HfApi, close_session, constants
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def connect(hub, tmp_path, monkeypatch):
    """Makes a real `HfApi` in this process, of a given token; nothing is cached before."""
    here = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in here.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # it may know a proxy
    return lambda token=None: HfApi(endpoint=hub.endpoint, token=hub.token if token is None else token)


@pytest.fixture
def api(connect) -> HfApi:
    return connect()


@pytest.fixture
def model_repo(api) -> str:
    repo_id = str(api.create_repo("me/model").repo_id)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=repo_id)
    return repo_id


def log(hub, method: str, part: str) -> list[int]:
    """The answers to the requests of one kind."""
    return [status for asked, path, status in hub.requests if asked == method and part in path]


class TestRepositories:
    def test_whoami(self, api):
        assert api.whoami()["name"] == "me"
        assert [organization["name"] for organization in api.whoami()["orgs"]] == ["org"]

    @pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
    def test_made_and_deleted(self, api, repo_type):
        arguments = {"repo_id": "org/thing", "repo_type": repo_type}
        sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
        url = api.create_repo(**arguments, **sdk)
        assert (url.repo_id, url.repo_type) == ("org/thing", repo_type)
        with pytest.raises(HfHubHTTPError, match="409"):
            api.create_repo(**arguments, **sdk)
        assert api.create_repo(**arguments, **sdk, exist_ok=True) == url
        assert api.repo_info(**arguments).id == "org/thing"
        assert api.list_repo_files(**arguments) == [".gitattributes"]
        api.delete_repo(**arguments)
        assert not api.repo_exists(**arguments)

    def test_private_is_hidden(self, hub, api, connect):
        api.create_repo("me/secret", private=True)
        api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="me/secret")
        stranger = connect(hub.add_user("stranger"))
        for client, status in ((connect(False), 401), (stranger, 404)):
            with pytest.raises(RepositoryNotFoundError) as asked:
                client.list_repo_files("me/secret")
            with pytest.raises(RepositoryNotFoundError) as downloaded:
                client.hf_hub_download("me/secret", "a.txt")
            assert {caught.value.response.status_code for caught in (asked, downloaded)} == {status}
        assert list(stranger.list_models()) == []
        assert [info.id for info in api.list_models()] == ["me/secret"]

    def test_only_owners_write(self, hub, api, connect, model_repo):
        stranger = connect(hub.add_user("stranger"))
        new = {"path_or_fileobj": b"x", "path_in_repo": "a.txt", "repo_id": model_repo}
        with pytest.raises(HfHubHTTPError, match="no write access"):
            stranger.upload_file(**new)
        with pytest.raises(RepositoryNotFoundError):
            connect(False).upload_file(**new)
        with pytest.raises(HfHubHTTPError, match="403"):
            stranger.create_repo("org/theirs")
        assert stranger.upload_file(**new, create_pr=True).pr_num == 1
        assert "a.txt" not in hub.files(model_repo)

    def test_wrong_token(self, connect):
        with pytest.raises(HfHubHTTPError, match="Invalid"):
            connect("hf_wrong").whoami()

    def test_listing(self, api):
        cards = {
            "me/clvq-gpt2": {"tags": ["concepts"], "library_name": "clvq-hf", "base_model": "gpt2"},
            "org/clvq-bert": {"tags": ["concepts", "bert"], "language": "en", "license": "mit"},
            "org/other": {"pipeline_tag": "text-classification"},
        }
        for repo_id, card in cards.items():
            api.create_repo(repo_id)
            # JSON is YAML.
            text = f"---\n{json.dumps(card)}\n---\n# A model\n".encode()
            api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=repo_id)
        api.upload_file(path_or_fileobj=b'{"model_type": "clvq"}', path_in_repo="config.json", repo_id="org/other")

        def found(**filters) -> list[str]:
            return sorted(info.id for info in api.list_models(**filters))

        assert found() == sorted(cards)
        assert found(filter="concepts") == ["me/clvq-gpt2", "org/clvq-bert"]
        assert found(filter=["concepts", "license:mit", "en"]) == ["org/clvq-bert"]
        assert found(filter="base_model:gpt2") == found(filter="clvq-hf") == ["me/clvq-gpt2"]
        assert found(filter="clvq") == ["org/other"]
        assert found(pipeline_tag="text-classification") == ["org/other"]
        assert found(author="org", search="CLVQ") == ["org/clvq-bert"]
        assert list(api.list_datasets()) == list(api.list_spaces()) == []
        [info] = api.list_models(search="bert", full=True)
        assert {"README.md"} < {sibling.rfilename for sibling in info.siblings}
        assert api.model_info("org/clvq-bert").card_data.license == "mit"


class TestFiles:
    def test_regular_and_large(self, hub, api, model_repo, tmp_path):
        (tmp_path / "w.safetensors").write_bytes(WEIGHTS)
        api.upload_file(
            path_or_fileobj=tmp_path / "w.safetensors", path_in_repo="sub/w.safetensors", repo_id=model_repo
        )
        assert Path(api.hf_hub_download(model_repo, "config.json")).read_bytes() == b"{}"
        assert Path(api.hf_hub_download(model_repo, "sub/w.safetensors")).read_bytes() == WEIGHTS
        assert log(hub, "HEAD", "/resolve/main/sub/w.safetensors") == [302]
        small, large = api.get_paths_info(model_repo, ["config.json", "sub/w.safetensors", "missing"])
        assert small.lfs is None and small.size == 2
        assert large.lfs.size == len(WEIGHTS)
        assert [entry.path for entry in api.list_repo_tree(model_repo)] == [".gitattributes", "config.json", "sub"]
        assert [entry.path for entry in api.list_repo_tree(model_repo, "sub")] == ["sub/w.safetensors"]
        # The same content again: no commit, and nothing sent.
        head = api.model_info(model_repo).sha
        again = api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="sub/w.safetensors", repo_id=model_repo)
        assert again.oid == head

    def test_range(self, hub, api, model_repo):
        api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="w.bin", repo_id=model_repo)
        url = f"{hub.endpoint}/{model_repo}/resolve/main/w.bin"

        def ask(asked: str) -> httpx2.Response:
            return httpx2.get(url, headers={"Range": asked}, follow_redirects=True, trust_env=False)

        part = ask("bytes=2-5")
        assert (part.status_code, part.content) == (206, WEIGHTS[2:6])
        assert part.headers["Content-Range"] == f"bytes 2-5/{len(WEIGHTS)}"
        assert ask("bytes=100-").content == WEIGHTS[100:]
        assert ask(f"bytes={len(WEIGHTS)}-").status_code == 416

    def test_folder_replaces_what_it_says(self, hub, api, model_repo, tmp_path):
        (tmp_path / "first").mkdir()
        for name in ("model-1.safetensors", "model-2.safetensors", "notes.txt"):
            (tmp_path / "first" / name).write_bytes(name.encode())
        api.upload_folder(repo_id=model_repo, folder_path=tmp_path / "first")
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "model.safetensors").write_bytes(WEIGHTS)
        api.upload_folder(repo_id=model_repo, folder_path=tmp_path / "second", delete_patterns="*.safetensors")
        assert list(hub.files(model_repo)) == [".gitattributes", "config.json", "model.safetensors", "notes.txt"]
        assert hub.files(model_repo)["model.safetensors"] == WEIGHTS
        titles = [commit.title for commit in api.list_repo_commits(model_repo)]
        assert len(titles) == 4 and titles[-1] == "initial commit"

    def test_deleted(self, hub, api, model_repo):
        for path in ("logs/a.txt", "logs/deep/b.txt", "log.txt"):
            api.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id=model_repo)
        operations = [CommitOperationDelete("logs/"), CommitOperationDelete("config.json")]
        api.create_commit(model_repo, operations, commit_message="Clean")
        assert list(hub.files(model_repo)) == [".gitattributes", "log.txt"]
        with pytest.raises(EntryNotFoundError, match="doesn't exist"):
            api.delete_file("config.json", model_repo)

    def test_missing(self, api, model_repo):
        with pytest.raises(EntryNotFoundError):
            api.hf_hub_download(model_repo, "missing.txt")
        with pytest.raises(RevisionNotFoundError):
            api.hf_hub_download(model_repo, "config.json", revision="missing")
        assert not api.file_exists(model_repo, "missing.txt")
        assert api.file_exists(model_repo, "config.json")

    def test_invalid_card(self, hub, api, model_repo):
        with pytest.raises(ValueError, match="Invalid metadata"):
            api.upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id=model_repo)
        assert "README.md" not in hub.files(model_repo)


class TestRevisions:
    @staticmethod
    def write(api, text: str, **arguments):
        return api.upload_file(
            path_or_fileobj=text.encode(), path_in_repo="a.txt", repo_id="me/model", commit_message=text, **arguments
        )

    def test_branch_tag_and_hash(self, hub, api, model_repo):
        first = self.write(api, "first")
        api.create_tag(model_repo, tag="v1", revision=first.oid[:8])
        api.create_branch(model_repo, branch="runs/seed=1", revision="v1")
        self.write(api, "branch", revision="runs/seed=1")
        last = self.write(api, "last")
        wanted = {"main": "last", "v1": "first", "runs/seed=1": "branch", first.oid: "first", last.oid: "last"}
        for revision, text in wanted.items():
            assert Path(api.hf_hub_download(model_repo, "a.txt", revision=revision)).read_text() == text
        refs = api.list_repo_refs(model_repo)
        assert {branch.name for branch in refs.branches} == {"main", "runs/seed=1"}
        assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", first.oid)]
        for make in (api.create_tag, api.create_branch):
            name = {"tag": "v1"} if make == api.create_tag else {"branch": "main"}
            with pytest.raises(HfHubHTTPError, match="409"):
                make(model_repo, **name)
            make(model_repo, **name, exist_ok=True)
        api.delete_tag(model_repo, tag="v1")
        api.delete_branch(model_repo, branch="runs/seed=1")
        with pytest.raises(BadRequestError):
            api.delete_branch(model_repo, branch="main")
        with pytest.raises(RevisionNotFoundError):
            api.model_info(model_repo, revision="v1")

    def test_pull_request(self, hub, api, model_repo):
        self.write(api, "main")
        proposed = self.write(api, "proposed", create_pr=True)
        assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
        self.write(api, "improved", revision="refs/pr/1")
        assert hub.files(model_repo)["a.txt"] == b"main"
        assert Path(api.hf_hub_download(model_repo, "a.txt", revision="refs/pr/1")).read_text() == "improved"
        [pull] = api.list_repo_refs(model_repo, include_pull_requests=True).pull_requests
        assert pull.ref == "refs/pr/1"

    def test_parent_that_is_not_the_head(self, api, model_repo):
        first = self.write(api, "first")
        self.write(api, "second", parent_commit=first.oid)
        with pytest.raises(HfHubHTTPError, match="412"):
            self.write(api, "third", parent_commit=first.oid)


class TestFailures:
    def test_retried_by_the_client(self, hub, api, model_repo):
        hub.fail_next(path_contains="/preupload/")
        api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=model_repo)
        assert log(hub, "POST", "/preupload/")[-2:] == [503, 200]

    def test_not_retried_by_the_client(self, hub, api, model_repo):
        hub.fail_next(path_contains="/commit/", status=500)
        arguments = {"path_or_fileobj": WEIGHTS, "path_in_repo": "w.bin", "repo_id": model_repo}
        with pytest.raises(HfHubHTTPError, match="500"):
            api.upload_file(**arguments)
        assert "w.bin" not in hub.files(model_repo)
        api.upload_file(**arguments)
        assert hub.files(model_repo)["w.bin"] == WEIGHTS
        # What was uploaded before the commit failed isn't sent a second time.
        assert log(hub, "PUT", "/storage/") == [200]

    def test_broken_connection(self, hub, api, model_repo):
        operations = {"repo_id": model_repo, "path_in_repo": "a.txt", "path_or_fileobj": b"x"}
        hub.fail_next(path_contains="/commit/", status="drop")
        with pytest.raises(httpx2.RemoteProtocolError):
            api.upload_file(**operations)
        assert "a.txt" not in hub.files(model_repo)
        hub.fail_next(path_contains="/commit/", status="lost")
        with pytest.raises(httpx2.RemoteProtocolError):
            api.upload_file(**operations)
        assert "a.txt" in hub.files(model_repo)
        assert log(hub, "POST", "/commit/")[-2:] == [0, 0]

    def test_download_is_resumed(self, hub, api, model_repo, monkeypatch):
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # else half of the file is less than it keeps
        api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="w.bin", repo_id=model_repo)
        hub.fail_next(path_contains="/storage/", method="GET", status="cut")
        assert Path(api.hf_hub_download(model_repo, "w.bin")).read_bytes() == WEIGHTS
        assert log(hub, "GET", "/storage/") == [200, 206]

    def test_closed(self, api):
        with LoopbackHub() as other:
            client = HfApi(endpoint=other.endpoint, token=other.token)
            client.create_repo("me/model")
        with pytest.raises(httpx2.TransportError):
            client.repo_info("me/model")

    def test_the_log_holds_no_token(self, hub, api, model_repo):
        api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="w.bin", repo_id=model_repo)
        api.hf_hub_download(model_repo, "w.bin")
        assert hub.requests and hub.token not in repr(hub.requests)


class TestClientProcess:
    @pytest.mark.slow
    def test_its_environment(self, hub, tmp_path):
        code = """
            from huggingface_hub import constants, create_repo, whoami
            create_repo("model")
            print(whoami()["name"], constants.HF_HUB_CACHE)
        """
        name, cache = run_client(hub, code, tmp_path).split()
        assert name == "me" and Path(cache).is_relative_to(tmp_path)
        assert list(hub.files("me/model")) == [".gitattributes"]

    def test_its_error_is_shown_without_the_token(self, hub, tmp_path):
        code = "import os; raise SystemExit('it was ' + os.environ['HF_TOKEN'])"
        with pytest.raises(AssertionError, match=r"it was \*\*\*") as caught:
            run_client(hub, code, tmp_path)
        assert hub.token not in str(caught.value)

    @pytest.mark.slow
    @pytest.mark.skipif(importlib.util.find_spec("evaluate") is None, reason="needs evaluate")
    def test_datasets_and_metrics(self, hub, api, tmp_path):
        script = """
import datasets
import evaluate

from .share_numerics import share


class Share(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"share": share(predictions, references)}
"""
        numerics = "def share(found, wanted):\n    return sum(map(int.__eq__, found, wanted)) / len(wanted)\n"
        folder = tmp_path / "share"
        folder.mkdir()
        (folder / "share.py").write_text(script)
        (folder / "share_numerics.py").write_text(numerics)
        (folder / "README.md").write_text("---\ntitle: Share\nsdk: gradio\ntags: [evaluate, metric]\n---\n")
        api.create_repo("me/share", repo_type="space", space_sdk="gradio")
        api.upload_folder(repo_id="me/share", repo_type="space", folder_path=folder)
        code = """
            import evaluate
            from datasets import Dataset, get_dataset_config_names, load_dataset
            tokens, texts = Dataset.from_dict({"code": [1, 2, 3]}), Dataset.from_dict({"text": ["a", "b"]})
            tokens.push_to_hub("org/table", config_name="tokens", private=True)
            texts.push_to_hub("org/table", config_name="texts")
            texts.select([0]).push_to_hub("org/table", config_name="texts", split="test")
            print(get_dataset_config_names("org/table"))
            print(load_dataset("org/table", "tokens", split="train")["code"][:])
            print(load_dataset("org/table", "texts", split="test")["text"][:])
            print(evaluate.load("me/share").compute(predictions=[1, 2, 3, 4], references=[1, 2, 3, 5]))
            print(evaluate.list_evaluation_modules(module_type="metric", include_community=True))
        """
        found = run_client(hub, code, tmp_path).splitlines()
        assert found == ["['texts', 'tokens']", "[1, 2, 3]", "['a']", "{'share': 0.75}", "['me/share']"]
        assert "tokens/train-00000-of-00001.parquet" in hub.files("org/table", "dataset")
