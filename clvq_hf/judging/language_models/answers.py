"""The answers that judges gave, on disk: one JSON line each, so that nothing is asked, or paid for, twice."""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from transformers.utils import logging

from .judges import Judge, Message, Reply

logger = logging.get_logger(__name__)


class AnswerCache:
    """Answers by what was asked of whom.

    A line is written at once, as a whole, after the answer arrived; a process that is killed loses none but the ones on
    their way. What is cut off is passed over. Neither questions nor tokens are written.

    Args:
        file (`str` or `Path`): JSON lines; made if needed.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = self.file.read_bytes() if self.file.exists() else b""
        lines = content.splitlines()
        for line in lines:
            self._read(line)
        if damaged := len(lines) - len(self._replies):
            logger.warning(f"{self.file}: {damaged} lines are cut off or come twice, and are passed over.")
        self._descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if content and not content.endswith(b"\n"):
            os.write(self._descriptor, b"\n")

    def __len__(self) -> int:
        return len(self._replies)

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def get(self, judge: Judge, messages: Sequence[Message], max_tokens: int, attempt: int) -> Reply | None:
        """The answer to this very question, if there is one.

        Args:
            judge ([`Judge`][clvq_hf.judging.language_models.Judge]): Who was asked.
            messages (`Sequence[dict[str, str]]`): What was asked.
            max_tokens (`int`): How long the answer could be.
            attempt (`int`): How often the question was asked before.
        """
        return self._replies.get(_key(judge, messages, max_tokens, attempt))

    def put(self, judge: Judge, messages: Sequence[Message], max_tokens: int, attempt: int, reply: Reply) -> None:
        """Keep an answer."""
        key = _key(judge, messages, max_tokens, attempt)
        line = json.dumps({"key": key, "judge": judge.name, **asdict(reply)}, ensure_ascii=True) + "\n"
        with self._lock:
            os.write(self._descriptor, line.encode("ascii"))
            self._replies[key] = reply

    def _read(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            reply = Reply(row["text"], row["model"], row["input_tokens"], row["output_tokens"])
            if isinstance(reply.text, str):
                self._replies[row["key"]] = reply
        except (ValueError, TypeError, KeyError):
            pass


def _key(judge: Judge, messages: Sequence[Message], max_tokens: int, attempt: int) -> str:
    asked = json.dumps([judge.identity, list(messages), max_tokens, attempt], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


__all__ = ["AnswerCache"]
