"""Judges: what their names mean, what they send and what not, what they make of servers that misbehave."""

import json
import os
import socket
import time

import pytest
from helpers.stub_judge import StubJudge, completion
from huggingface_hub import close_session

from clvq_hf.judging.language_models import EndpointJudge, JudgeError, LocalJudge, open_judge, open_judges
from clvq_hf.judging.language_models.judges import RefusedError, TemporaryError

TOKEN = "hf_" + "secret" * 5
CHAT = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def ask(behave, **options):
    with StubJudge(behave) as stub:
        return EndpointJudge("stub", url=stub.url, **options).answer(CHAT, 20), stub


class TestNames:
    def test_kinds(self, tmp_path, token):
        (tmp_path / "config.json").write_text("{}")
        assert isinstance(open_judge("http://127.0.0.1:1/v1#model"), EndpointJudge)
        assert isinstance(open_judge(str(tmp_path)), LocalJudge)
        assert isinstance(open_judge("local:org/name"), LocalJudge)
        assert isinstance(open_judge("org/name"), EndpointJudge)

    def test_a_model_of_a_server_is_named_in_the_fragment(self):
        with StubJudge(lambda number, body: "yes") as stub:
            open_judge(f"{stub.url}#some/model").answer(CHAT, 20)
            open_judge(stub.url).answer(CHAT, 20)
        assert stub.requests[0]["model"] == "some/model" and stub.requests[0]["temperature"] == 0.0
        assert stub.requests[0]["max_tokens"] == 20 and stub.requests[0]["messages"] == CHAT

    @pytest.mark.parametrize("name", ["http://me:password@host/v1", "https://host/v1?key=abc"])
    def test_addresses_with_secrets(self, name):
        with pytest.raises(ValueError, match="HF_TOKEN"):
            open_judge(name)

    def test_what_is_no_judge(self, tmp_path, monkeypatch):
        monkeypatch.setattr("clvq_hf.judging.language_models.judges.get_token", lambda: None)
        with pytest.raises(JudgeError, match="not logged in"):
            open_judge("org/name")
        with pytest.raises(ValueError, match="org/name"):
            open_judge("no such thing!")
        with pytest.raises(ValueError, match=r"config.json"):
            open_judge(str(tmp_path))
        with pytest.raises(ValueError, match="--judge"):
            open_judges([])
        with pytest.raises(ValueError, match="twice"):
            open_judges(["http://a/v1", "http://a/v1/"])
        with pytest.raises(ValueError, match="twice"):
            open_judges(["local:org/name#", "local:org/name#"])


class TestToken:
    def test_it_stays_here(self, token):
        _, stub = ask(lambda number, body: "yes")
        assert "authorization" not in stub.headers[0]

    def test_it_is_sent_if_asked_for(self, token):
        _, stub = ask(lambda number, body: "yes", send_token=True)
        assert stub.headers[0]["authorization"] == f"Bearer {TOKEN}"

    @pytest.mark.parametrize(
        ("url", "sent"),
        [
            ("https://router.huggingface.co/v1", True),
            ("https://x.eu-west-1.aws.endpoints.huggingface.cloud/v1", False),
            ("http://router.huggingface.co/v1", False),
            ("https://huggingface.co.evil.org/v1", False),
            ("https://evilhuggingface.co/v1", False),
        ],
    )
    def test_who_gets_it(self, url, sent):
        assert EndpointJudge("x", url=url)._sends_token == sent

    @pytest.mark.parametrize("status", [200, 400, 401, 429])
    def test_servers_that_repeat_it(self, token, status):
        def echo(number, body):
            return status, {}, completion(TOKEN) if status == 200 else json.dumps({"error": f"bad {TOKEN}"}).encode()

        try:
            said = repr(ask(echo, send_token=True)[0])
        except (JudgeError, RefusedError, TemporaryError) as error:
            said = repr(error) + repr(error.__cause__)
        assert TOKEN not in said


class TestMisbehaviour:
    def test_an_answer(self):
        reply, _ = ask(lambda number, body: "yes")
        assert (reply.text, reply.model, reply.input_tokens, reply.output_tokens) == ("yes", "stub", 7, 3)

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
    def test_busy(self, status):
        with pytest.raises(TemporaryError, match=str(status)):
            ask(lambda number, body: (status, {}, b"busy"))

    @pytest.mark.parametrize(
        ("value", "low", "high"), [("3", 3, 3), ("Wed, 21 Oct 2099 07:28:00 GMT", 1e6, 1e11), ("soon", None, None)]
    )
    def test_retry_after(self, value, low, high):
        with pytest.raises(TemporaryError) as caught:
            ask(lambda number, body: (429, {"retry-after": value}, b""))
        seconds = caught.value.retry_after
        assert seconds is None if low is None else low <= seconds <= high

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b'{"choices": [{"mess', b"{}", b'{"choices": []}', b"[1]", b"\xff\xfe"]
    )
    def test_no_chat_completion(self, body):
        with pytest.raises(TemporaryError, match="no chat completion"):
            ask(lambda number, request: body)

    def test_no_content(self):
        body = json.loads(completion(""))
        body["choices"][0]["message"]["content"] = None
        assert ask(lambda number, request: json.dumps(body).encode())[0].text == ""

    def test_too_slow(self):
        with pytest.raises(TemporaryError, match="no answer"):
            ask(lambda number, body: time.sleep(1) or "late", timeout=0.2)

    def test_nobody_there(self):
        with StubJudge(lambda number, body: "yes") as stub:
            pass
        with pytest.raises(TemporaryError, match="no answer"):
            EndpointJudge("gone", url=stub.url, timeout=2).answer(CHAT, 20)

    def test_no_proxy_comes_between(self, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
            monkeypatch.delenv(name.lower(), raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "example.org")
        close_session()
        assert ask(lambda number, body: "yes")[0].text == "yes"
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,localhost,127.0.0.1,::1"
        monkeypatch.undo()
        close_session()  # others get a client that knows nothing of this proxy

    def test_refused(self):
        with pytest.raises(RefusedError, match=r"too long.*URL#MODEL"):
            ask(lambda number, body: (400, {}, b'{"error": "too long"}'))

    @pytest.mark.parametrize(("status", "remedy"), [(401, "--send-token"), (403, "--send-token"), (404, "URL#MODEL")])
    def test_wrong(self, status, remedy):
        with pytest.raises(JudgeError, match=remedy):
            ask(lambda number, body: (status, {}, b"{}"))

    def test_offline(self, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(JudgeError, match="HF_HUB_OFFLINE"):
            ask(lambda number, body: "yes")


class TestLocal:
    @pytest.fixture
    def folder(self, tmp_path, causal_host, tokenizer):
        causal_host.save_pretrained(tmp_path)
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    def test_the_likeliest_tokens(self, folder, causal_host, tokenizer):
        judge = LocalJudge(str(folder), device="cpu")
        reply = judge.answer(CHAT, 4)
        inputs = tokenizer("Hello? ", return_tensors="pt", add_special_tokens=False)
        for _ in range(4):
            chosen = causal_host(input_ids=inputs["input_ids"]).logits[0, -1].argmax()
            inputs["input_ids"] = __import__("torch").cat([inputs["input_ids"], chosen.view(1, 1)], 1)
        assert reply.text == tokenizer.decode(inputs["input_ids"][0, -4:], skip_special_tokens=True)
        assert reply.output_tokens == 4 and judge.answer(CHAT, 4) == reply

    def test_without_a_chat_template(self, tmp_path, causal_host, tokenizer):
        causal_host.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(JudgeError, match="chat template"):
            LocalJudge(str(tmp_path)).answer(CHAT, 4)
