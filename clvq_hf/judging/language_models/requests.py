"""Asking many questions at once: with back-off, with a limit, and again where an answer is malformed."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
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
# So many questions in a row without an answer, and the judge is out of order.
GIVE_UP = 5
# So many refused questions, and never an answer: something else is wrong than the one text that may be too long. There
# are fewer questions about one text.
GIVE_UP_REFUSED = 30
# Of a malformed answer that a judge is shown again, in characters.
SHOWN = 1000
REMINDER = "That was not what I asked for. Answer with the JSON object alone, in exactly the form that I described."


@dataclass(frozen=True)
class Question:
    """What a judge is asked.

    Attributes:
        judge ([`Judge`][clvq_hf.judging.language_models.Judge]): Who is asked.
        messages (`list[dict[str, str]]`): The chat.
        parse (`Callable[[str], Any]`): What an answer says; raises
            [`MalformedAnswer`][clvq_hf.judging.language_models.parsing.MalformedAnswer].
        max_tokens (`int`): Of the answer.
    """

    judge: Judge
    messages: list[Message]
    parse: Callable[[str], Any]
    max_tokens: int

    @property
    def key(self) -> str:
        """What equal questions to one judge share: two methods may show the same words."""
        return json.dumps([self.judge.identity, self.messages, self.max_tokens])


@dataclass(frozen=True)
class Outcome:
    """What became of a question.

    Attributes:
        value (`Any`): What the answer says; `None` without a valid one.
        malformed (`int`): How many answers were malformed.
        error (`str` or `None`): Why there is no answer at all.
        replies (`tuple[Reply, …]`): The answers.
    """

    value: Any
    malformed: int
    error: str | None = None
    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What it takes to ask a judge everything that it has not answered yet.

    Attributes:
        judge (`str`): Its name.
        questions (`int`): All of them.
        requests (`int`): Different ones without an answer on disk; malformed answers make for more.
        input_tokens (`int`): Of these, about: four characters each.
        output_tokens (`int`): Of their answers at most.
    """

    judge: str
    questions: int
    requests: int
    input_tokens: int
    output_tokens: int


class LimitReached(OSError):
    """The limit of requests was reached; answers so far are on disk."""


class _Stopped(Exception):
    """No request was made, since the run has ended for another reason."""


class Budget:
    """How many requests may be made.

    Args:
        limit (`int`, *optional*): None if not given.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count a request before it is made.

        Raises:
            LimitReached: If it would be one too many.
        """
        with self._lock:
            if self.limit is not None and self.used >= self.limit:
                raise LimitReached
            self.used += 1


def estimate_requests(questions: Iterable[Question], cache: AnswerCache) -> list[Estimate]:
    """What it takes to ask these questions, by judge."""
    by_judge: dict[str, list[Question]] = {}
    for question in questions:
        by_judge.setdefault(question.judge.name, []).append(question)
    found = []
    for name, asked in by_judge.items():
        different = {question.key: question for question in asked}.values()
        new = [question for question in different if cached_outcome(question, cache) is None]
        characters = sum(len(message["content"]) for question in new for message in question.messages)
        longest = sum(question.max_tokens for question in new)
        found.append(Estimate(name, len(asked), len(new), characters // 4, longest))
    return found


def cached_outcome(question: Question, cache: AnswerCache) -> Outcome | None:
    """What became of a question that needs no request any more."""
    judge, max_tokens = question.judge, question.max_tokens
    return _settle(question, lambda messages, attempt: cache.get(judge, messages, max_tokens, attempt))


def ask_all(
    questions: Sequence[Question],
    cache: AnswerCache,
    budget: Budget,
    concurrency: int = 4,
    description: str = "Judging",
) -> list[Outcome]:
    """Ask everything that is not answered yet, several questions of every judge at a time.

    Args:
        questions (`Sequence[Question]`): In any order, of any judges. Equal ones are asked once.
        cache ([`AnswerCache`][clvq_hf.judging.language_models.AnswerCache]): Where answers come from, and go.
        budget (`Budget`): Of requests.
        concurrency (`int`): How many questions a judge is asked at the same time, if it takes so many.
        description (`str`): Of the progress bar.

    Returns:
        `list[Outcome]`: In the order of the questions.

    Raises:
        LimitReached: If the budget is used up.
        JudgeError: If a judge cannot be used, did not answer several times in a row, or refuses all that it is asked.
    """
    stop = threading.Event()
    different = {question.key: question for question in questions}
    outcomes: dict[str, Outcome] = {}
    with ExitStack() as pools:
        lanes: dict[int, tuple[_Lane, ThreadPoolExecutor]] = {}
        for judge in {id(question.judge): question.judge for question in questions}.values():
            workers = max(1, min(concurrency, judge.concurrency or concurrency))
            lanes[id(judge)] = (
                _Lane(judge, cache, budget, stop),
                pools.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="judge")),
            )
        futures = {}
        for key, question in different.items():
            lane, pool = lanes[id(question.judge)]
            futures[pool.submit(lane.ask, question)] = key
        bar = pools.enter_context(tqdm(total=len(different), desc=description, unit="question"))
        try:
            for future in as_completed(futures):
                outcomes[futures[future]] = future.result()
                bar.update()
        except BaseException as error:
            # What is on its way is waited for, and kept.
            stop.set()
            for future in futures:
                future.cancel()
            wait(futures)
            if isinstance(error, LimitReached):
                answered = sum(cached_outcome(question, cache) is not None for question in questions)
                raise LimitReached(
                    f"Stopped at the limit of {budget.limit} requests; {answered} of {len(questions)} questions are "
                    f"answered, and kept in {cache.file}. Run the same command again to go on."
                ) from None
            raise
    return [outcomes[question.key] for question in questions]


class _Lane:
    """The questions of one judge: a pause that it asks for holds for all of them."""

    def __init__(self, judge: Judge, cache: AnswerCache, budget: Budget, stop: threading.Event) -> None:
        self.judge = judge
        self.cache = cache
        self.budget = budget
        self.stop = stop
        self.resume_at = 0.0
        self.failed_in_a_row = 0
        self.num_refused = 0
        self.has_replied = False

    def ask(self, question: Question) -> Outcome | None:
        try:
            return self._ask(question)
        except BaseException:
            # Here, not where it is met: by then the next question would be on its way.
            self.stop.set()
            raise

    def _ask(self, question: Question) -> Outcome | None:
        def reply_to(messages: list[Message], attempt: int) -> Reply | None:
            kept = self.cache.get(self.judge, messages, question.max_tokens, attempt)
            if kept is None:
                kept = self._request(messages, question.max_tokens)
                self.cache.put(self.judge, messages, question.max_tokens, attempt, kept)
            self.has_replied = True
            return kept

        try:
            outcome = _settle(question, reply_to)
        except _Stopped:
            # Nobody reads it: whoever stopped the run raises.
            return Outcome(None, 0, error="stopped")
        except TemporaryError as error:
            self.failed_in_a_row += 1
            if self.failed_in_a_row >= GIVE_UP:
                raise JudgeError(
                    f"{self.judge.name} did not answer {self.failed_in_a_row} questions in a row; the last time: "
                    f"{error}. What it answered before is kept in {self.cache.file}: run the same command again to go "
                    "on."
                ) from None
            return Outcome(None, 0, error=str(error))
        except RefusedError as error:
            # The judge works: it is the question that does not.
            self.failed_in_a_row = 0
            self.num_refused += 1
            if not self.has_replied and self.num_refused >= GIVE_UP_REFUSED:
                raise JudgeError(
                    f"{self.judge.name} refused {self.num_refused} questions and answered none; the last time: {error}."
                ) from None
            return Outcome(None, 0, error=str(error))
        self.failed_in_a_row = 0
        return outcome

    def _request(self, messages: list[Message], max_tokens: int) -> Reply:
        for attempt in range(TRIES):
            self.stop.wait(max(self.resume_at - time.monotonic(), 0))
            if self.stop.is_set():
                raise _Stopped
            self.budget.take()
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


def _settle(question: Question, reply_to: Callable[[list[Message], int], Reply | None]) -> Outcome | None:
    messages, replies = question.messages, []
    for attempt in range(ATTEMPTS):
        reply = reply_to(messages, attempt)
        if reply is None:
            return None
        replies.append(reply)
        try:
            return Outcome(question.parse(reply.text), attempt, replies=tuple(replies))
        except MalformedAnswer:
            # The last one alone, however often: a judge that rambles would fill its own context.
            messages = [
                *question.messages,
                {"role": "assistant", "content": reply.text[:SHOWN]},
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
