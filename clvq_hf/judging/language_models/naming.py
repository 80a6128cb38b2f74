"""Names for concepts: a judge reads words and sentences, another one tells whether the name says enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from transformers.utils import logging

from ...tables.concept_table import ConceptTable
from ...tables.concepts import Example
from ...tables.names import ConceptName
from ..exhibits import NUM_WORDS, SENTENCE_LENGTH
from .answers import AnswerCache
from .judges import Judge
from .parsing import parse_choice, parse_name
from .prompts import MARK, PROMPT_VERSION, detection_prompt, naming_prompt
from .requests import Budget, Estimate, Outcome, Question, ask_all, cached_outcome, estimate_requests

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class NamingSettings:
    """How concepts are named.

    Args:
        num_concepts (`int`): How many, the most frequent first, if no codes are given.
        num_sentences (`int`): At most so many sentences to read, so many to detect, and so many among them without the
            concept.
        max_tokens (`int`): Of an answer. More for judges that think aloud first.
        concurrency (`int`): How many questions each judge is asked at the same time.
        seed (`int`): Of the sentences without the concept and of the order.

    Raises:
        ValueError: If one of them makes no sense.
    """

    num_concepts: int = 50
    num_sentences: int = 5
    max_tokens: int = 256
    concurrency: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_concepts", "num_sentences", "max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Evidence:
    """What is known of a concept, in two parts that share no text.

    Attributes:
        code (`int`): The concept.
        words (`list[str]`): Its most frequent words, those of the held-out texts not counted.
        sentences (`list[str]`): Sentences with its words marked.
        held_out (`list[str]`): Sentences with and without it, shuffled, nothing marked; none if it occurs in one text.
        belongs (`list[bool]`): Which of these have it.
    """

    code: int
    words: list[str]
    sentences: list[str]
    held_out: list[str]
    belongs: list[bool]


def name_concepts(
    table: ConceptTable,
    judge: Judge,
    cache_file: str | Path,
    *,
    detector: Judge | None = None,
    codes: Sequence[int] | None = None,
    settings: NamingSettings | None = None,
    max_requests: int | None = None,
    confirm: Callable[[list[Estimate]], None] | None = None,
) -> dict[int, ConceptName]:
    """Let a judge name concepts, and another one detect them by their names.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the concepts. It is not changed: assign `table.names`, or see
            [`write_names`][clvq_hf.tables.names.write_names].
        judge ([`Judge`][clvq_hf.judging.language_models.Judge]): Who names.
        cache_file (`str` or `Path`): For the answers; what is there is not asked again.
        detector ([`Judge`][clvq_hf.judging.language_models.Judge], *optional*): Who detects; the same if not given, which flatters it.
        codes (`Sequence[int]`, *optional*): Which concepts; the most frequent ones if not given.
        settings ([`NamingSettings`][clvq_hf.judging.language_models.NamingSettings], *optional*): How.
        max_requests (`int`, *optional*): At most so many requests.
        confirm (`Callable`, *optional*): Is told what it will take before anything is sent, and raises to prevent it.

    Returns:
        `dict[int, ConceptName]`: By code; without those whose answers were malformed or failed: a warning counts them.

    Raises:
        LimitReached: At `max_requests`; run it again to go on.
        JudgeError: If a judge cannot be used; what was answered is kept.
        ValueError: If a code occurs nowhere in the table.
    """
    settings = settings or NamingSettings()
    detector = detector or judge
    if codes is None:
        frequent = sorted(table.active_codes.tolist(), key=lambda code: -table.concept(code, 0, 0).num_tokens)
        codes = frequent[: settings.num_concepts]
    if absent := sorted(set(codes) - set(table.active_codes.tolist())):
        raise ValueError(f"The concept {absent[0]} occurs nowhere in this table.")
    evidence = [gather_evidence(table, code, settings) for code in dict.fromkeys(codes)]
    questions = [
        Question(judge, naming_prompt(found.words, found.sentences), parse_name, settings.max_tokens)
        for found in evidence
    ]

    def detection(found: Evidence, name: str) -> Question:
        parse = partial(parse_choice, number=len(found.held_out))
        return Question(detector, detection_prompt(name, found.held_out), parse, settings.max_tokens)

    with AnswerCache(cache_file) as cache:
        if confirm is not None:
            known = [cached_outcome(question, cache) for question in questions]
            # A name that is not known yet will be about this long.
            guessed = ["a name of some words" if outcome is None else outcome.value for outcome in known]
            pairs = [pair for pair in zip(evidence, guessed, strict=True) if _testable(*pair)]
            confirm(estimate_requests([*questions, *(detection(*pair) for pair in pairs)], cache))
        budget = Budget(max_requests)
        named = ask_all(questions, cache, budget, settings.concurrency, "Naming")
        tested = [
            (found, outcome.value) for found, outcome in zip(evidence, named, strict=True) if outcome.value is not None
        ]
        detections = [pair for pair in tested if _testable(*pair)]
        picked = ask_all([detection(*pair) for pair in detections], cache, budget, settings.concurrency, "Detecting")
    _warn(named, judge, "have no name")
    _warn(picked, detector, "have a name without a score")
    choices = {found.code: outcome.value for (found, _), outcome in zip(detections, picked, strict=True)}
    return {
        found.code: ConceptName(
            name=name,
            judge=judge.name,
            prompt_version=PROMPT_VERSION,
            detector=detector.name,
            score=balanced_accuracy(choices.get(found.code), found.belongs),
            trials=len(found.held_out),
        )
        for found, name in tested
    }


def gather_evidence(table: ConceptTable, code: int, settings: NamingSettings) -> Evidence:
    """Words and sentences to name a concept by, and others to test the name on."""
    number, longest = settings.num_sentences, SENTENCE_LENGTH[1]
    generator = np.random.default_rng([settings.seed, code])
    # Every other one of the best is held out, so that both parts are as good.
    held_out = table.examples(code, 2 * number, num_words=SENTENCE_LENGTH)[1::2]
    hidden = [example.text_id for example in held_out]
    words = table.top_words(code, NUM_WORDS, stop_words=False, without=hidden)
    words = words or table.top_words(code, NUM_WORDS, without=hidden)
    sentences = table.examples(code, number, num_words=SENTENCE_LENGTH, without=hidden)
    mixed = [(example.excerpt(longest).text, True) for example in held_out]
    if held_out:
        mixed += [(example.excerpt(longest).text, False) for example in _others(table, code, len(held_out), generator)]
    mixed = [mixed[place] for place in generator.permutation(len(mixed))]
    return Evidence(
        code=code,
        words=[word for word, _ in words],
        sentences=[example.excerpt(longest).marked(MARK, MARK) for example in sentences],
        held_out=[text for text, _ in mixed],
        belongs=[belongs for _, belongs in mixed],
    )


def balanced_accuracy(chosen: Sequence[int] | None, belongs: Sequence[bool]) -> float | None:
    """Mean of the share of sentences with the concept that were picked and of those without that were not.

    Args:
        chosen (`Sequence[int]`, *optional*): The numbers that were picked, from 1.
        belongs (`Sequence[bool]`): Which sentences have the concept.

    Returns:
        `float` or `None`: 0.5 by chance; `None` if nothing was picked from, or all or none belong.
    """
    truth = np.asarray(belongs, dtype=bool)
    if chosen is None or truth.all() or not truth.any():
        return None
    picked = np.isin(np.arange(1, len(truth) + 1), chosen)
    return float((picked[truth].mean() + (~picked[~truth]).mean()) / 2)


def _testable(found: Evidence, name: str | None) -> bool:
    return name is not None and any(found.belongs) and not all(found.belongs)


def _warn(outcomes: Sequence[Outcome], judge: Judge, what: str) -> None:
    lost = [outcome for outcome in outcomes if outcome.value is None]
    errors = [outcome.error for outcome in lost if outcome.error is not None]
    if lost:
        last = f" (the last: {errors[-1]})" if errors else ""
        logger.warning(
            f"{len(lost)} of {len(outcomes)} concepts {what}: {len(lost) - len(errors)} answers of {judge.name} were "
            f"malformed, {len(errors)} questions failed{last}."
        )


def _others(table: ConceptTable, code: int, number: int, generator: np.random.Generator) -> list[Example]:
    """Texts without the concept, cut around a random word as the others are around theirs."""
    having = [table.text_row(example.text_id) for example in table.examples(code, len(table.texts))]
    # Of equal texts one is enough, and none if another one has the concept.
    seen = set(table.same_text[having].tolist())
    texts, found = table.texts, []
    for row in generator.permutation(len(texts)).tolist():
        text, same = texts[row], int(table.same_text[row])
        if same not in seen and text["text"].strip():
            seen.add(same)
            start = int(generator.integers(len(text["text"])))
            found.append(Example(text["text_id"], text["text"], [(start, start + 1)], None, None))
        if len(found) == number:
            break
    return found


__all__ = ["Evidence", "NamingSettings", "balanced_accuracy", "gather_evidence", "name_concepts"]
