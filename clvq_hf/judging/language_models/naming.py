"""Names for concepts: one judge reads words and sentences, another tests whether the name is informative."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from transformers.utils import logging

from ...tables.concept_table import ConceptTable
from ...tables.concepts import Example
from ...tables.names import ConceptName
from ..exhibits import SENTENCE_LENGTH, concept_words
from .answers import AnswerCache
from .judges import Judge
from .parsing import parse_choice, parse_name
from .prompts import MARK, PROMPT_VERSION, detection_prompt, naming_prompt
from .requests import Budget, Estimate, Outcome, Question, ask_all, cached_outcome, estimate_requests

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class NamingSettings:
    """Settings for naming concepts.

    Args:
        num_concepts (`int`): Number of concepts, the most frequent first, if no codes are given.
        num_sentences (`int`): Maximum number of sentences to read, of sentences to detect the concept in, and of
            sentences without the concept among these.
        max_tokens (`int`): Maximum number of tokens of an answer. Judges that reason first need more.
        concurrency (`int`): Number of questions that each judge is asked at the same time.
        seed (`int`): Random seed of the sentences without the concept and of the order.

    Raises:
        ValueError: If a number is less than 1.
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
    """Words and sentences of a concept, in two parts that share no text.

    `held_out` are sentences with and without it, shuffled, nothing marked; `belongs` says which of them have it.
    """

    code: int
    words: list[str]
    sentences: list[str]
    held_out: list[str]
    belongs: list[bool]

    def can_test(self, name: str | None) -> bool:
        """Whether there are sentences with and without the concept to test a name on."""
        return name is not None and len(set(self.belongs)) == 2


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
        table ([`ConceptTable`][clvq_hf.ConceptTable]): The table of the concepts. It is not changed: assign
            `table.names`, or see [`write_names`][clvq_hf.tables.names.write_names].
        judge ([`Judge`][clvq_hf.judging.language_models.Judge]): The judge that names.
        cache_file (`str` or `Path`): File for the answers; questions answered there are not asked again.
        detector ([`Judge`][clvq_hf.judging.language_models.Judge], *optional*): The judge that detects. By default the
            same one, which flatters the score.
        codes (`Sequence[int]`, *optional*): The concepts to name; by default the most frequent ones.
        settings ([`NamingSettings`][clvq_hf.judging.language_models.NamingSettings], *optional*): The settings.
        max_requests (`int`, *optional*): Maximum number of requests.
        confirm (`Callable`, *optional*): Called with the cost before anything is sent; it raises to prevent that.

    Returns:
        `dict[int, ConceptName]`: Names by code. Concepts whose answers were malformed or failed are missing, and a
            warning counts them.

    Raises:
        LimitReached: At `max_requests`; run it again to continue.
        JudgeError: If a judge cannot be used; answers so far are kept.
        ValueError: If a code occurs nowhere in the table.
    """
    settings = settings or NamingSettings()
    detector = detector or judge
    active = table.active_codes.tolist()
    if codes is None:
        codes = sorted(active, key=lambda code: -table.concept(code, 0, 0).num_tokens)[: settings.num_concepts]
    shown = table.by_hand.shown_codes  # merged concepts get one name
    codes = [int(shown[code]) if 0 <= code < len(shown) else code for code in codes]
    if absent := sorted(set(codes) - set(active)):
        raise ValueError(f"The concept {absent[0]} occurs nowhere in this table.")
    evidence = [gather_evidence(table, code, settings) for code in dict.fromkeys(codes)]
    namings = [
        Question(judge, naming_prompt(part.words, part.sentences), parse_name, settings.max_tokens)
        for part in evidence
    ]

    def detections(names: Sequence[str | None]) -> dict[int, Question]:
        return {
            part.code: Question(
                detector,
                detection_prompt(name, part.held_out),
                partial(parse_choice, number=len(part.held_out)),
                settings.max_tokens,
            )
            for part, name in zip(evidence, names, strict=True)
            if part.can_test(name)
        }

    with AnswerCache(cache_file) as cache:
        if confirm is not None:
            known = [cached_outcome(question, cache) for question in namings]
            # A name that is not known yet will have about this length.
            guesses = ["a name of some words" if outcome is None else outcome.value for outcome in known]
            confirm(estimate_requests([*namings, *detections(guesses).values()], cache))
        budget = Budget(max_requests)
        outcomes = ask_all(namings, cache, budget, settings.concurrency, "Naming")
        names = [outcome.value for outcome in outcomes]
        tests = detections(names)
        choices = ask_all(list(tests.values()), cache, budget, settings.concurrency, "Detecting")
    _warn(outcomes, judge, "have no name")
    _warn(choices, detector, "have a name without a score")
    chosen = {code: outcome.value for code, outcome in zip(tests, choices, strict=True)}
    return {
        part.code: ConceptName(
            name=name,
            judge=judge.name,
            prompt_version=PROMPT_VERSION,
            detector=detector.name,
            score=balanced_accuracy(chosen.get(part.code), part.belongs),
            trials=len(part.held_out),
        )
        for part, name in zip(evidence, names, strict=True)
        if name is not None
    }


def gather_evidence(table: ConceptTable, code: int, settings: NamingSettings) -> Evidence:
    """Collect words and sentences to name a concept by, and others to test the name on."""
    number, longest = settings.num_sentences, SENTENCE_LENGTH[1]
    generator = np.random.default_rng([settings.seed, code])
    # Every second one of the best is held out, so that both parts are equally good.
    held_out = table.examples(code, 2 * number, num_words=SENTENCE_LENGTH)[1::2]
    hidden = [example.text_id for example in held_out]
    sentences = table.examples(code, number, num_words=SENTENCE_LENGTH, without=hidden)
    mixed = [(example, True) for example in held_out]
    if held_out:
        mixed += [(example, False) for example in _examples_without(table, code, len(held_out), generator)]
    mixed = [mixed[place] for place in generator.permutation(len(mixed))]
    return Evidence(
        code=code,
        words=[word for word, _ in concept_words(table, code, hidden)],
        sentences=[example.excerpt(longest).marked(MARK, MARK) for example in sentences],
        held_out=[example.excerpt(longest).text for example, _ in mixed],
        belongs=[belongs for _, belongs in mixed],
    )


def balanced_accuracy(chosen: Sequence[int] | None, belongs: Sequence[bool]) -> float | None:
    """Mean share of sentences with the concept that were picked, by number from 1, and of those without that were not.

    `None` without a choice, or if all or none of the sentences belong; 0.5 by chance.
    """
    truth = np.asarray(belongs, dtype=bool)
    if chosen is None or truth.all() or not truth.any():
        return None
    picked = np.isin(np.arange(1, len(truth) + 1), chosen)
    return float((picked[truth].mean() + (~picked[~truth]).mean()) / 2)


def _warn(outcomes: Sequence[Outcome], judge: Judge, what: str) -> None:
    lost = [outcome for outcome in outcomes if outcome.value is None]
    errors = [outcome.error for outcome in lost if outcome.error is not None]
    if lost:
        last = f" (the last: {errors[-1]})" if errors else ""
        logger.warning(
            f"{len(lost)} of {len(outcomes)} concepts {what}: {len(lost) - len(errors)} answers of {judge.name} were "
            f"malformed, {len(errors)} questions failed{last}."
        )


def _examples_without(table: ConceptTable, code: int, number: int, generator: np.random.Generator) -> list[Example]:
    """Texts without the concept, cut around a random word as the others are around theirs."""
    rows = [table.text_row(example.text_id) for example in table.examples(code, len(table.texts))]
    # A text equal to another is used once, and never if one of its equals has the concept.
    seen = set(table.same_text[rows].tolist())
    examples = []
    for row in generator.permutation(len(table.texts)).tolist():
        text, same = table.texts[row], int(table.same_text[row])
        if same not in seen and text["text"].strip():
            seen.add(same)
            start = int(generator.integers(len(text["text"])))
            examples.append(Example(text["text_id"], text["text"], [(start, start + 1)], None, None))
        if len(examples) == number:
            break
    return examples


__all__ = ["Evidence", "NamingSettings", "balanced_accuracy", "gather_evidence", "name_concepts"]
