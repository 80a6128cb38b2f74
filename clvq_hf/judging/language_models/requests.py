"""Asking many questions at once: with back-off, with a limit, and again where an answer is malformed."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging

from .answers import AnswerCache
from .judges import Judge, JudgeError, Message, RefusedError, Reply, TemporaryError
from .parsing import MalformedAnswer

logger = logging.get_logger(__name__)

# How often a question is asked until its answer is not malformed.
ATTEMPTS = 3
# How often a request is made until there is an answer, and the seconds in between: doubled each time, with jitter.
TRIES = 5
BACK_OFF = 1.0
LONGEST_WAIT = 120.0
# A judge that did not answer this many questions in a row is given up.
GIVE_UP = 5
# A judge that refused this many questions and never answered is given up. The number is larger than the number of
# questions about one text, since a single text may be too long.
GIVE_UP_REFUSED = 30
# How many characters of a malformed answer the judge is shown again.
QUOTED_CHARACTERS = 1000
REMINDER = "That was not what I asked for. Answer with the JSON object alone, in exactly the form that I described."


@dataclass(frozen=True)
class Question:
    """A question for a judge; `parse` reads an answer, and raises a `MalformedAnswer`."""

    judge: Judge
    messages: list[Message]
    parse: Callable[[str], Any]
    max_tokens: int

    @property
    def key(self) -> str:
        """Shared by equal questions to one judge: two methods may show the same words."""
        return json.dumps([self.judge.identity, self.messages, self.max_tokens])


@dataclass(frozen=True)
class Outcome:
    """The parsed answer, `None` without a valid one, the number of malformed ones, or why there is none at all."""

    value: Any
    malformed: int
    error: str | None = None
    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """The cost of asking a judge everything that it has not answered yet.

    Attributes:
        judge (`str`): Its name.
        questions (`int`): Number of all questions.
        requests (`int`): Number of different questions without an answer on disk; malformed answers add to them.
        input_tokens (`int`): Approximate number of tokens of these, four characters each.
        output_tokens (`int`): Maximum number of tokens of their answers.
    """

    judge: str
    questions: int
    requests: int
    input_tokens: int
    output_tokens: int


class LimitReached(OSError):
    """The limit of requests was reached; the answers so far are on disk."""


class Budget:
    """A limit for the number of requests, shared by threads."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()

    def spend(self) -> None:
        """Count a request before it is made.

        Raises:
            LimitReached: If it would exceed the limit.
        """
        with self._lock:
            if self.limit is not None and self.used >= self.limit:
                raise LimitReached
            self.used += 1


def estimate_requests(questions: Iterable[Question], cache: AnswerCache) -> list[Estimate]:
    """Estimate per judge what it takes to ask these questions."""
    by_judge: dict[str, list[Question]] = {}
    for question in questions:
        by_judge.setdefault(question.judge.name, []).append(question)
    estimates = []
    for name, own in by_judge.items():
        different = {question.key: question for question in own}.values()
        new = [question for question in different if cached_outcome(question, cache) is None]
        characters = sum(len(message["content"]) for question in new for message in question.messages)
        longest = sum(question.max_tokens for question in new)
        estimates.append(Estimate(name, len(own), len(new), characters // 4, longest))
    return estimates


def cached_outcome(question: Question, cache: AnswerCache) -> Outcome | None:
    """The outcome of a question according to the answers on disk; `None` if it needs another request."""
    return _resolve(question, lambda messages, i: cache.get(question.judge, messages, question.max_tokens, i))


def ask_all(
    questions: Sequence[Question],
    cache: AnswerCache,
    budget: Budget,
    concurrency: int = 4,
    description: str = "Judging",
) -> list[Outcome]:
    """Ask everything that is not answered yet, several questions per judge at a time.

    Returns:
        `list[Outcome]`: In the order of the questions.

    Raises:
        LimitReached: If the budget is used up.
        JudgeError: If a judge cannot be used, did not answer several times in a row, or refuses every question.
    """
    stop = threading.Event()
    different = {question.key: question for question in questions}
    lanes: dict[int, tuple[ThreadPoolExecutor, _Lane]] = {}
    futures: dict[str, Future[Outcome]] = {}
    with ExitStack() as pools:
        for key, question in different.items():
            judge = question.judge
            if id(judge) not in lanes:
                pool = ThreadPoolExecutor(min(concurrency, judge.concurrency or concurrency))
                lanes[id(judge)] = pools.enter_context(pool), _Lane(judge, cache, budget, stop)
            pool, lane = lanes[id(judge)]
            futures[key] = pool.submit(lane.ask, question)
        pending = as_completed(futures.values())
        try:
            for future in tqdm(pending, total=len(futures), desc=description, unit="question"):
                future.result()
        except BaseException as error:
            stop.set()
            for future in futures.values():
                future.cancel()
            # Pending requests are waited for, and their answers kept; but Ctrl-C ends them. Again and again, since a
            # thread may be about to begin one.
            interrupted = not isinstance(error, Exception)
            while wait(futures.values(), timeout=0.05 if interrupted else None).not_done:
                for _, lane in lanes.values():
                    lane.cancel()
            if isinstance(error, LimitReached):
                answered = sum(cached_outcome(question, cache) is not None for question in questions)
                raise LimitReached(
                    f"Stopped at the limit of {budget.limit} requests; {answered} of {len(questions)} questions are "
                    f"answered, and kept in {cache.file}. Run the same command again to go on."
                ) from None
            raise
    return [futures[question.key].result() for question in questions]


class _Lane:
    """The questions of one judge: a pause that it asks for holds for all of them."""

    def __init__(self, judge: Judge, cache: AnswerCache, budget: Budget, stop: threading.Event) -> None:
        self.judge, self.cache, self.budget, self.stop = judge, cache, budget, stop
        self.resume_at = 0.0
        self.failed_in_a_row = 0
        self.num_refused = 0
        self.has_replied = False

    def cancel(self) -> None:
        """End what the judge is answering, if it can be ended."""
        if cancel := getattr(self.judge, "cancel", None):
            cancel()

    def ask(self, question: Question) -> Outcome:
        try:
            outcome = _resolve(question, lambda messages, i: self._reply_to(messages, question.max_tokens, i))
        except TemporaryError as error:
            self.failed_in_a_row += 1
            outcome = Outcome(None, 0, error=str(error))
        except RefusedError as error:
            # The judge works; only this question does not.
            self.failed_in_a_row = 0
            self.num_refused += 1
            outcome = Outcome(None, 0, error=str(error))
        except CancelledError:
            # Never read: whoever stopped the run raises the reason.
            return Outcome(None, 0, error="stopped")
        except BaseException:
            # Set in the thread itself: before the caller notices, the next question would have been sent.
            self.stop.set()
            raise
        else:
            self.failed_in_a_row = 0
        self._check_usable(outcome.error)
        return outcome

    def _check_usable(self, error: str | None) -> None:
        failed, refused = self.failed_in_a_row, self.num_refused
        if error is None or (failed < GIVE_UP and (self.has_replied or refused < GIVE_UP_REFUSED)):
            return
        self.stop.set()
        if failed >= GIVE_UP:
            raise JudgeError(
                f"{self.judge.name} did not answer {failed} questions in a row; the last time: {error}. Its earlier "
                f"answers are kept in {self.cache.file}: run the same command again to go on."
            )
        raise JudgeError(f"{self.judge.name} refused {refused} questions and answered none; the last time: {error}.")

    def _reply_to(self, messages: list[Message], max_tokens: int, attempt: int) -> Reply:
        reply = self.cache.get(self.judge, messages, max_tokens, attempt)
        if reply is None:
            reply = self._request(messages, max_tokens)
            self.cache.put(self.judge, messages, max_tokens, attempt, reply)
        self.has_replied = True
        return reply

    def _request(self, messages: list[Message], max_tokens: int) -> Reply:
        for attempt in range(TRIES):
            self.stop.wait(max(self.resume_at - time.monotonic(), 0))
            if self.stop.is_set():
                raise CancelledError
            self.budget.spend()
            try:
                return self.judge.answer(messages, max_tokens)
            except TemporaryError as error:
                if attempt == TRIES - 1:
                    raise
                seconds = BACK_OFF * 2**attempt * random.uniform(0.5, 1.5)
                seconds = min(max(seconds, error.retry_after or 0), LONGEST_WAIT)
                logger.info(f"{self.judge.name}: {error}. Trying again in {seconds:.1f} s.")
                self.resume_at = max(self.resume_at, time.monotonic() + seconds)
        raise AssertionError("a try returns or raises")


def _resolve(question: Question, reply_to: Callable[[list[Message], int], Reply | None]) -> Outcome | None:
    """Ask, and remind after a malformed answer; `None` as soon as there is no reply."""
    messages, replies = question.messages, []
    for attempt in range(ATTEMPTS):
        reply = reply_to(messages, attempt)
        if reply is None:
            return None
        replies.append(reply)
        try:
            return Outcome(question.parse(reply.text), attempt, replies=tuple(replies))
        except MalformedAnswer:
            # Only the last answer is quoted: a judge that rambles would fill its own context.
            messages = [
                *question.messages,
                {"role": "assistant", "content": reply.text[:QUOTED_CHARACTERS]},
                {"role": "user", "content": REMINDER},
            ]
    return Outcome(None, ATTEMPTS, replies=tuple(replies))


__all__ = [
    "Budget",
    "Estimate",
    "LimitReached",
    "Outcome",
    "Question",
    "ask_all",
    "cached_outcome",
    "estimate_requests",
]
