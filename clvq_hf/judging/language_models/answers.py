"""The answers of judges on disk, one JSON line each, so that nothing is asked, or paid for, twice."""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...files import held
from .judges import Judge, Message, Reply

logger = logging.get_logger(__name__)


class AnswerCache:
    """Answers by judge and question, in a JSON Lines file.

    Each line is written in one piece as soon as the answer arrives, so a killed process loses only the answers that
    were still pending. Lines that are truncated, or not what was written, are skipped, and their questions asked again.
    Neither questions nor tokens are written. One process at a time has the file open: two would both ask, and pay for,
    the same questions.

    Args:
        file (`str` or `Path`): The file; it is created if needed.

    Raises:
        OSError: If it cannot be written.
        ValueError: If another process has it open.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._open = ExitStack()
        self._open.enter_context(held(self.file.with_name(f".{self.file.name}.lock"), self.file))
        content = self.file.read_bytes() if self.file.exists() else b""
        lines = content.splitlines()
        for line in lines:
            self._add_line(line)
        if damaged := len(lines) - len(self._replies):
            logger.warning(f"{self.file}: skipped {damaged} damaged or repeated lines.")
        self._descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if content and not content.endswith(b"\n"):
            os.write(self._descriptor, b"\n")

    def __len__(self) -> int:
        return len(self._replies)

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._open.close()

    def get(self, judge: Judge, messages: Sequence[Message], max_tokens: int, attempt: int) -> Reply | None:
        """Look up the answer to exactly this question, asked `attempt` times before."""
        return self._replies.get(_key(judge, messages, max_tokens, attempt))

    def put(self, judge: Judge, messages: Sequence[Message], max_tokens: int, attempt: int, reply: Reply) -> None:
        """Write an answer to the file."""
        key = _key(judge, messages, max_tokens, attempt)
        row = {"key": key, "judge": judge.name, **asdict(reply)}
        line = json.dumps({**row, "checksum": _digest(row)}) + "\n"
        with self._lock:
            os.write(self._descriptor, line.encode("ascii"))
            self._replies[key] = reply

    def _add_line(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            noted = row.pop("checksum", None)  # earlier versions wrote none
            if noted not in (None, _digest(row)):
                return
            reply = Reply(row["text"], row["model"], row["input_tokens"], row["output_tokens"])
            if isinstance(reply.text, str):
                self._replies[row["key"]] = reply
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            pass


def _digest(row: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def _key(judge: Judge, messages: Sequence[Message], max_tokens: int, attempt: int) -> str:
    request = json.dumps([judge.identity, list(messages), max_tokens, attempt], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()


__all__ = ["AnswerCache"]
