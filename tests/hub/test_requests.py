"""Errors of the Hub in words that help, and requests that are repeated."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from clvq_hf import CLVQModel, list_codebooks
from clvq_hf.hub import HubError
from clvq_hf.hub import requests as hub_requests
from clvq_hf.hub.requests import readable_errors

REPO = "org/clvq-bert"


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        # What hf_xet raises is no HTTP error.
        (ConnectionError("Network error: request middleware"), True),
        (TimeoutError("timed out"), True),
        (RuntimeError("Data processing error"), True),
        (PermissionError("No access token for this store"), False),
    ],
)
def test_errors_from_beneath_the_client(error, temporary):
    with pytest.raises(HubError) as caught, readable_errors("org/x"):
        raise error
    assert caught.value.temporary == temporary and str(error).rstrip(".") in str(caught.value)


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("Offline"), LocalEntryNotFoundError("Cannot find it")])
def test_offline(error):
    with (
        pytest.raises(HubError, match=r"org/x is not in the cache.*HF_HUB_OFFLINE") as caught,
        readable_errors("org/x"),
    ):
        raise error
    assert not caught.value.temporary


def test_offline_nothing_can_be_written():
    with pytest.raises(HubError, match="HF_HUB_OFFLINE") as caught, readable_errors("org/x", writing=True):
        raise OfflineModeIsEnabled("Offline")
    assert "cache" not in str(caught.value)


def test_addresses_are_shown_without_their_parameters():
    error = ConnectionError("Cannot read https://store.example/file?signature=secret now.")
    with pytest.raises(HubError, match=r"\(Cannot read https://store.example/file now\)"), readable_errors("org/x"):
        raise error


def test_the_error_that_the_system_gives():
    with pytest.raises(HubError, match="No space is left on the disk for /cache/x"), readable_errors("org/x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/x")


def test_broken_connections_are_tried_again(monkeypatch):
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


class TestTokens:
    @pytest.fixture(autouse=True)
    def no_login(self, shared_model, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")

    @pytest.mark.slow
    def test_missing(self, hub, shared_model):
        with pytest.raises(HubError, match=r"may not write to org/clvq-bert \(401.*hf auth login.*HF_TOKEN") as caught:
            shared_model.push_to_hub(REPO)
        assert not caught.value.temporary

    def test_wrong(self, hub, shared_model):
        wrong = "hf_" + "x" * 34
        for call in (
            lambda: shared_model.push_to_hub(REPO, token=wrong),
            lambda: CLVQModel.from_pretrained(REPO, token=wrong),
            lambda: list_codebooks(token=wrong),
        ):
            with pytest.raises(HubError, match=r"may not .*Invalid credentials.*hf auth login") as caught:
                call()
            chain = [caught.value, caught.value.__cause__]
            assert wrong not in "".join(f"{error} {error!r}" for error in chain)

    def test_read_only(self, hub, shared_model):
        token = hub.add_user("me", ("org",), read_only=True)
        with pytest.raises(HubError, match=r"may not write to org/clvq-bert \(403.*token that has the right"):
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


@pytest.mark.slow
def test_an_address_where_nobody_answers(tmp_path):
    # A process of its own: the client reads its address once. It waits for half a minute between its own attempts.
    code = (
        "import time; time.sleep = lambda seconds: None\n"
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
    assert "True The Hub is busy or cannot be reached" in done.stdout
