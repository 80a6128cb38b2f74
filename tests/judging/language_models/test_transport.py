"""Servers that nobody vouches for: endless, huge, compressed and redirecting answers; and Ctrl-C."""

import contextlib
import gzip
import signal
import socket
import threading

import pytest
from helpers.stub_judge import StubJudge

from clvq_hf.judging.language_models import AnswerCache, EndpointJudge, JudgeError, LocalJudge, requests, transport
from clvq_hf.judging.language_models.judges import RefusedError, TemporaryError
from clvq_hf.judging.language_models.requests import Budget, Question, ask_all

CHAT = [{"role": "user", "content": "Hello?"}]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Server:
    """Accepts connections, reads the start of a request, and hands the socket over to `behave`."""

    def __init__(self, behave):
        self.behave = behave
        self.asked = threading.Event()
        self._over = threading.Event()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection):
        with connection:
            connection.recv(65536)
            self.asked.set()
            with contextlib.suppress(OSError):  # the client has had enough
                self.behave(connection, self._over)


def drip(first, one):
    """Sends something every 20 ms for as long as anybody listens, so that no single read takes long."""

    def behave(connection, over):
        connection.sendall(first)
        while not over.wait(0.02):
            connection.sendall(one)

    return behave


def silent(connection, over):
    over.wait()


@pytest.mark.parametrize(
    ("first", "one"),
    [
        (b"HTTP/1.1 200 OK\r\nx-pad: ", b"x"),
        (HEAD + b"content-length: 1000000\r\n\r\n", b" "),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 1000000\r\n\r\n", b" "),
    ],
    ids=["headers", "body", "chunks", "error"],
)
def test_a_server_that_drips_without_end(first, one):
    with Server(drip(first, one)) as server, pytest.raises(TemporaryError, match="no answer"):
        EndpointJudge("drip", url=server.url, timeout=0.3).answer(CHAT, 20)


@pytest.mark.parametrize("status", [b"200 OK", b"404 No", b"429 Busy"])
def test_an_answer_without_end_is_not_kept_in_memory(status):
    sent = 0

    def flood(connection, over):
        nonlocal sent
        connection.sendall(b"HTTP/1.1 " + status + b"\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            sent += 65536

    with Server(flood) as server, pytest.raises(TemporaryError, match="more than 4194304 bytes"):
        EndpointJudge("flood", url=server.url).answer(CHAT, 20)
    # What is under way in the buffers of the system comes on top.
    assert sent < 8 * transport.MAX_BYTES


@pytest.mark.parametrize("status", [200, 400, 404, 429])
def test_compressed_answers_are_not_unpacked(status):
    bomb = gzip.compress(b" " * 10_000_000)
    with StubJudge(lambda number, body: (status, {"content-encoding": "gzip"}, bomb)) as stub:
        with pytest.raises(TemporaryError, match="compressed"):
            EndpointJudge("bomb", url=stub.url).answer(CHAT, 20)
        assert stub.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_is_sent_to_where_a_server_redirects(status, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with (
        StubJudge(lambda number, body: "yes") as other,
        StubJudge(lambda number, body: (status, {"location": other.url}, b"")) as stub,
        pytest.raises(JudgeError, match=rf"answers {status}.*redirects to {other.url}"),
    ):
        EndpointJudge("redirect", url=stub.url, send_token=True).answer(CHAT, 20)
    assert other.requests == [] and len(stub.requests) == 1


def test_lone_surrogates_are_sent():
    with StubJudge(lambda number, body: "yes") as stub:
        EndpointJudge("stub", url=stub.url).answer([{"role": "user", "content": "a\ud83d"}], 20)
    assert stub.requests[0]["messages"][0]["content"] == "a\ud83d"


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://host", "http://host/v1/chat/completions"),
        ("http://host/v1", "http://host/v1/chat/completions"),
        ("http://host/some/v1", "http://host/some/v1/chat/completions"),
        ("http://host/some", "http://host/some/v1/chat/completions"),
        ("http://host/v1/chat/completions", "http://host/v1/chat/completions"),
    ],
)
def test_where_a_server_is_asked(url, asked):
    assert EndpointJudge("x", url=url)._url == asked


@pytest.mark.parametrize(
    "usage", ['{"prompt_tokens": "7"}', '{"prompt_tokens": -1}', '{"prompt_tokens": 1e400}', "[7]", "7",
              '{"prompt_tokens": ' + "9" * 4000 + "}", '{"prompt_tokens": true}', '{"prompt_tokens": {}}']
)  # fmt: skip
def test_a_usage_that_is_none(usage, tmp_path):
    body = b'{"choices": [{"message": {"content": "yes"}}], "model": 5, "usage": ' + usage.encode() + b"}"
    with StubJudge(lambda number, _: body) as stub, AnswerCache(tmp_path / "a.jsonl") as cache:
        reply = EndpointJudge("stub", url=stub.url).answer(CHAT, 20)
        cache.put(EndpointJudge("stub", url=stub.url), CHAT, 20, 0, reply)
    assert (reply.text, reply.model, reply.input_tokens, reply.output_tokens) == ("yes", None, None, None)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"choices": ' * 100_000, b'{"n": ' + b"9" * 5000 + b"}",
             b'{"choices": [{"message": {"content": {"a": 1}}}]}', b'{"choices": {"0": 1}}', b'"choices"', b"null"]
)  # fmt: skip
def test_bodies_that_are_no_completion(body):
    with StubJudge(lambda number, _: body) as stub, pytest.raises(TemporaryError, match="no chat completion"):
        EndpointJudge("stub", url=stub.url).answer(CHAT, 20)


def test_an_error_is_quoted_in_short():
    with (
        StubJudge(lambda number, _: (400, {}, b"\xff" + b"x" * 10_000)) as stub,
        pytest.raises(RefusedError) as caught,
    ):
        EndpointJudge("stub", url=stub.url).answer(CHAT, 20)
    assert len(str(caught.value)) < 400


def interrupt_when(event):
    """What Ctrl-C does, as soon as the event is set."""

    def wait():
        event.wait()
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    threading.Thread(target=wait, daemon=True).start()


def ask(judge, tmp_path, number=3):
    asked = [Question(judge, [{"role": "user", "content": str(n)}], str, 20) for n in range(number)]
    with AnswerCache(tmp_path / "a.jsonl") as cache:
        ask_all(asked, cache, Budget())


def test_control_c_does_not_wait_for_answers(tmp_path):
    with Server(silent) as server:
        interrupt_when(server.asked)
        # Without cutting them off, this takes longer than a test may.
        with pytest.raises(KeyboardInterrupt):
            ask(EndpointJudge("silent", url=server.url, timeout=10_000.0), tmp_path)


def test_control_c_does_not_wait_for_the_next_try(tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "LONGEST_WAIT", 10_000.0)
    asked = threading.Event()

    def busy(number, body):
        asked.set()
        return 429, {"retry-after": "10000"}, b""

    with StubJudge(busy) as stub:
        interrupt_when(asked)
        with pytest.raises(KeyboardInterrupt):
            ask(EndpointJudge("busy", url=stub.url), tmp_path)


def test_control_c_ends_a_local_judge_at_its_next_token(tmp_path, causal_host, tokenizer, monkeypatch):
    causal_host.generation_config.eos_token_id = None
    causal_host.save_pretrained(tmp_path / "judge")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "judge")
    judge, begun, tokens = LocalJudge(str(tmp_path / "judge"), device="cpu"), threading.Event(), []
    is_cancelled = judge._is_cancelled

    def count(*arguments, **options):
        tokens.append(1)
        if len(tokens) == 2:
            begun.set()
            judge._cancelled.wait()
        return is_cancelled(*arguments, **options)

    monkeypatch.setattr(judge, "_is_cancelled", count)
    interrupt_when(begun)
    with pytest.raises(KeyboardInterrupt):
        ask(judge, tmp_path, number=1)
    assert len(tokens) == 2 and (tmp_path / "a.jsonl").read_bytes() == b"", "half an answer is not kept"
