"""What judges are shown: the methods' concepts and two controls, without names, in balanced order and in reverse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from ...tables.concept_table import ConceptTable
from ...tables.concepts import Example
from ..exhibits import Exhibit, Item, Kind, exhibit_concept, random_code, salient_codes
from .judges import Judge
from .parsing import parse_ranking, parse_rating
from .prompts import ranking_prompt, rating_prompt
from .requests import Outcome, Question

SALIENT_WORD = "salient word only"
RANDOM_CODE = "random active code"
CONTROLS = (SALIENT_WORD, RANDOM_CODE)
# The lowest rating. A concept with nothing to show gets it without a question.
EMPTY_RATING = 1
# Maximum number of draws of a random code until one occurs in another text.
MAX_DRAWS = 20


@dataclass(frozen=True)
class Trial:
    """A text with the exhibits of every arm, in the order in which they are shown."""

    item: Item
    kind: Kind
    exhibits: dict[str, Exhibit]

    @property
    def shown(self) -> list[str]:
        """The arms that have something to show."""
        return [arm for arm, exhibit in self.exhibits.items() if not exhibit.is_empty]


@dataclass(frozen=True)
class Task:
    """A question with what its answer is about; without a question the answer follows from what is empty.

    `arms` is the rated arm, or the ranked ones in the order in which they are shown.
    """

    judge: str
    trial: Trial
    what: Literal["rating", "ranking"]
    arms: tuple[str, ...]
    backwards: bool
    question: Question | None


def make_trials(tables: Mapping[str, ConceptTable], items: Sequence[Item], kind: Kind, seed: int) -> list[Trial]:
    """Set up what is shown for each text: the methods' salient concepts and two controls.

    The controls are the salient word by itself, and a random active code. Methods take turns in providing the latter,
    so that it disadvantages no method.

    Raises:
        ValueError: If a method is named like a control, or there are too many.
    """
    if clash := set(CONTROLS) & set(tables):
        raise ValueError(f"{clash.pop()!r} is the name of a control: rename this table, as in name=folder.")
    arms = [*tables, *CONTROLS]
    if len(arms) > len(ascii_uppercase):
        raise ValueError(f"At most {len(ascii_uppercase) - len(CONTROLS)} methods can be ranked, got {len(tables)}.")
    codes = {name: salient_codes(table) for name, table in tables.items()}
    salient = next(iter(tables.values())).salient()
    words = dict(zip(salient["text_id"], salient["word"], strict=True))
    # A table with a single concept has no other one.
    lenders = [name for name, table in tables.items() if len(table.active_codes) > 1] or list(tables)[:1]
    generator = np.random.default_rng(seed)
    orders = latin_orders(len(items), len(arms), generator)
    trials = []
    for place, (item, order) in enumerate(zip(items, orders, strict=True)):
        lender = lenders[place % len(lenders)]
        exhibits = {
            **{
                name: exhibit_concept(table, codes[name][item.text_id], kind, item.text_id)
                for name, table in tables.items()
            },
            SALIENT_WORD: _exhibit_word(words[item.text_id], kind),
            RANDOM_CODE: _exhibit_random(tables[lender], codes[lender][item.text_id], kind, item, generator),
        }
        trials.append(Trial(item, kind, {arms[number]: exhibits[arms[number]] for number in order}))
    return trials


def latin_orders(number: int, arms: int, generator: np.random.Generator) -> list[list[int]]:
    """Orders of the arms in which each is equally often in every place, and equally often after every other one.

    Each block of as many orders is a Latin square. Source: Williams (1949), Experimental designs balanced for the
    estimation of residual effects of treatments. An odd number needs the reversed orders as well, which are also asked.
    """
    # 0, 1, A-1, 2, A-2, …: all differences between neighbours are different.
    zigzag = [0, *((step + 1) // 2 if step % 2 else arms - step // 2 for step in range(1, arms))]
    orders: list[list[int]] = []
    while len(orders) < number:
        names = generator.permutation(arms)
        square = [[int(names[(row + step) % arms]) for step in zigzag] for row in range(arms)]
        orders += [square[row] for row in generator.permutation(arms)]
    return orders[:number]


def make_tasks(
    judges: Sequence[Judge], trials: Sequence[Trial], classes: Sequence[str], max_tokens: int
) -> list[Task]:
    """Make all questions for the judges: a rating of every arm, and two rankings, one in reversed order.

    They are in the order of the texts, so that a run that stops early has finished whole texts.
    """
    tasks = []
    for trial in trials:
        for judge in judges:
            for arm, exhibit in trial.exhibits.items():
                question = Question(judge, rating_prompt(trial.item, exhibit, classes), parse_rating, max_tokens)
                tasks.append(Task(judge.name, trial, "rating", (arm,), False, None if exhibit.is_empty else question))
            for backwards in (False, True):
                arms = trial.shown[::-1] if backwards else trial.shown
                lettered = {letter: trial.exhibits[arm] for letter, arm in zip(ascii_uppercase, arms, strict=False)}
                question = None
                if len(arms) > 1:
                    parse = partial(parse_ranking, letters=list(lettered))
                    question = Question(judge, ranking_prompt(trial.item, lettered, classes), parse, max_tokens)
                tasks.append(Task(judge.name, trial, "ranking", tuple(arms), backwards, question))
    return tasks


def judgement_row(task: Task, outcome: Outcome | None) -> dict[str, Any]:
    """Turn a task and its outcome into a row for JSON; all scores are computed from such rows.

    Returns:
        `dict`: `judge`, `kind`, `text_id`, `task`; for a rating `arm` and `rating` (1 for an empty exhibit, which is
            not asked about); for a ranking `arms` (as shown), `backwards`, `ranking` (best first) and `empty` (the
            arms that were not shown); `asked`, `malformed` (number of answers), `error`, `model`.
    """
    value = outcome.value if outcome else None
    if task.what == "rating":
        result = {"arm": task.arms[0], "rating": value if outcome else EMPTY_RATING}
    else:
        by_letter = dict(zip(ascii_uppercase, task.arms, strict=False))
        ranking = list(task.arms) if outcome is None else value and [by_letter[letter] for letter in value]
        empty = sorted(set(task.trial.exhibits) - set(task.arms))
        result = {"arms": list(task.arms), "backwards": task.backwards, "ranking": ranking, "empty": empty}
    return {
        "judge": task.judge,
        "kind": task.trial.kind,
        "text_id": task.trial.item.text_id,
        "task": task.what,
        **result,
        "asked": outcome is not None,
        "malformed": outcome.malformed if outcome else 0,
        "error": outcome.error if outcome else None,
        "model": outcome.replies[-1].model if outcome and outcome.replies else None,
    }


def _exhibit_word(word: str, kind: Kind) -> Exhibit:
    if kind == "words":
        return Exhibit(kind, -1, [(word.lower(), 1)], [])
    return Exhibit(kind, -1, [], [Example(-1, word, [(0, len(word))], None, None)])


def _exhibit_random(
    table: ConceptTable, salient: int, kind: Kind, item: Item, generator: np.random.Generator
) -> Exhibit:
    for _ in range(MAX_DRAWS):
        exhibit = exhibit_concept(table, random_code(table, salient, generator), kind, item.text_id)
        if not exhibit.is_empty:
            break
    return exhibit


__all__ = [
    "CONTROLS",
    "RANDOM_CODE",
    "SALIENT_WORD",
    "Task",
    "Trial",
    "judgement_row",
    "latin_orders",
    "make_tasks",
    "make_trials",
]
