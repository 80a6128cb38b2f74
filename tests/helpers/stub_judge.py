"""An OpenAI-compatible server on 127.0.0.1 that answers, or misbehaves, as it is told."""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubJudge:
    """A server whose answer to each request is what `behave(number, body)` returns.

    That is a text (a chat completion that says it), bytes (a whole body), or status, headers and bytes.
    """

    def __init__(self, behave: Callable[[int, dict[str, Any]], Any]) -> None:
        self.behave = behave
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "StubJudge":
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with stub._lock:
                    stub.requests.append(body)
                    stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                    number = len(stub.requests)
                    stub._now += 1
                    stub.most_at_once = max(stub.most_at_once, stub._now)
                try:
                    answer = stub.behave(number, body)
                finally:
                    with stub._lock:
                        stub._now -= 1
                if isinstance(answer, str):
                    answer = completion(answer)
                status, headers, content = answer if isinstance(answer, tuple) else (200, {}, answer)
                try:
                    self.send_response(status)
                    for name, value in {"content-type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it had no time to wait

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # Every 10 ms it looks whether it shall end; by default twice a second.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(text: str) -> bytes:
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "stub",
            "system_fingerprint": "",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
    ).encode()


def material(body: dict[str, Any]) -> dict[str, Any]:
    """What a judge is shown: the JSON object of the question."""
    question = body["messages"][1]["content"]
    return json.loads(re.search(r"Material:\n(\{.*\})\n\nAnswer", question, flags=re.DOTALL)[1])


def good_judge(number: int, body: dict[str, Any]) -> str:
    """Prefers concepts with words that the text has; rates them 3, others 1."""
    shown = material(body)
    words = set(re.findall(r"\w+", shown["text"].lower()))

    def overlap(lines: list[str]) -> float:
        found = re.findall(r"\w+", " ".join(lines).lower())
        return len(words & set(found)) / len(found)

    if "concept" in shown:
        return json.dumps({"rating": 3 if overlap(shown["concept"]) > 0 else 1})
    ranking = sorted(shown["concepts"], key=lambda letter: -overlap(shown["concepts"][letter]))
    return "Let me see.\n```json\n" + json.dumps({"ranking": ranking}) + "\n```"


def namer(number, body):
    """Names a concept by its first marked word; detects by that word."""
    shown = material(body)
    if "words" in shown:
        return json.dumps({"name": re.search(r"\*\*(.+?)\*\*", shown["sentences"][0])[1]})
    return json.dumps(
        {"belong": [int(n) for n, text in shown["sentences"].items() if shown["concept"] in text.split()]}
    )
