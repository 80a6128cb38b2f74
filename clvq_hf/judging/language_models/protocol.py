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
# Ratings run from 1; a concept with nothing to show gets it without a question.
EMPTY_RATING = 1
# Draws of a random code, until there is one that occurs in another text.
DRAWS = 20


@dataclass(frozen=True)
class Trial:
    """A text with what every arm shows beside it.

    Attributes:
        item ([`Item`][clvq_hf.judging.exhibits.Item]): The text.
        kind (`str`): `"words"` or `"sentences"`.
        exhibits (`dict[str, Exhibit]`): By arm, in the order in which they are shown.
    """

    item: Item
    kind: Kind
    exhibits: dict[str, Exhibit]

    @property
    def shown(self) -> list[str]:
        """The arms that have something to show."""
        return [arm for arm, shown in self.exhibits.items() if not shown.is_empty]


@dataclass(frozen=True)
class Task:
    """A question with what its answer is about.

    Attributes:
        judge (`str`): Name of the judge.
        trial ([`Trial`][clvq_hf.judging.language_models.protocol.Trial]): The text.
        what (`str`): `"rating"` or `"ranking"`.
        arms (`tuple[str, …]`): The one that is rated, or those that are ranked, in the order in which they are shown.
        backwards (`bool`): Whether this is the reversed order.
        question (`Question` or `None`): `None` if the answer follows from what is empty.
    """

    judge: str
    trial: Trial
    what: Literal["rating", "ranking"]
    arms: tuple[str, ...]
    backwards: bool
    question: Question | None


def make_trials(tables: Mapping[str, ConceptTable], items: Sequence[Item], kind: Kind, seed: int) -> list[Trial]:
    """Set up what is shown beside each text.

    Args:
        tables (`Mapping[str, ConceptTable]`): By method.
        items (`Sequence[Item]`): The texts.
        kind (`str`): How concepts are shown.
        seed (`int`): Of orders and random codes.

    Returns:
        `list[Trial]`: Of the methods' salient concepts, the salient word alone, and a random active code: of one method
            after the other, so that it costs no method more than the others.

    Raises:
        ValueError: If a method is named like a control, or there are too many.
    """
    if clash := set(CONTROLS) & set(tables):
        raise ValueError(f"{clash.pop()!r} is the name of a control: give this table another one, as in name=folder.")
    arms = [*tables, *CONTROLS]
    if len(arms) > len(ascii_uppercase):
        raise ValueError(f"At most {len(ascii_uppercase) - len(CONTROLS)} methods can be ranked, got {len(tables)}.")
    codes = {name: salient_codes(table) for name, table in tables.items()}
    salient = next(iter(tables.values())).salient()
    words = dict(zip(salient["text_id"], salient["word"], strict=True))
    # Of a table with one concept there is no other one.
    several = [name for name, table in tables.items() if len(table.active_codes) > 1]
    generator = np.random.default_rng(seed)
    orders = latin_orders(len(items), len(arms), generator)
    trials = []
    for place, (item, order) in enumerate(zip(items, orders, strict=True)):
        shown = {
            name: exhibit_concept(table, codes[name][item.text_id], kind, item.text_id)
            for name, table in tables.items()
        }
        shown[SALIENT_WORD] = _word(words[item.text_id], kind)
        lender = several[place % len(several)] if several else next(iter(tables))
        shown[RANDOM_CODE] = _random(tables[lender], codes[lender][item.text_id], kind, item, generator)
        trials.append(Trial(item, kind, {arms[number]: shown[arms[number]] for number in order}))
    return trials


def latin_orders(number: int, arms: int, generator: np.random.Generator) -> list[list[int]]:
    """Orders in which every arm is in every place equally often, and after every other one equally often.

    Args:
        number (`int`): How many orders.
        arms (`int`): A.
        generator (`np.random.Generator`): Shuffles.

    Returns:
        `list[list[int]]`: Permutations of `0 … A-1`. Every A of them, from the first, are a Latin square.

    Source: Williams (1949), Experimental designs balanced for the estimation of residual effects of treatments. For odd
    A they follow each other equally often only together with the reversed orders, which are asked too.
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
    """Everything that the judges are asked: a rating of every arm, and two rankings, one in the reversed order.

    Text by text, so that a run that stops early has whole texts.

    Args:
        judges (`Sequence[Judge]`): Who is asked.
        trials (`Sequence[Trial]`): About what.
        classes (`Sequence[str]`): Names of all that the host chooses from.
        max_tokens (`int`): Of an answer.
    """
    tasks = []
    for trial in trials:
        for judge in judges:
            for arm, shown in trial.exhibits.items():
                question = Question(judge, rating_prompt(trial.item, shown, classes), parse_rating, max_tokens)
                tasks.append(Task(judge.name, trial, "rating", (arm,), False, None if shown.is_empty else question))
            for backwards in (False, True):
                arms = trial.shown[::-1] if backwards else trial.shown
                question = None
                if len(arms) > 1:
                    lettered = {
                        letter: trial.exhibits[arm] for letter, arm in zip(ascii_uppercase, arms, strict=False)
                    }
                    parse = partial(parse_ranking, letters=list(lettered))
                    question = Question(judge, ranking_prompt(trial.item, lettered, classes), parse, max_tokens)
                tasks.append(Task(judge.name, trial, "ranking", tuple(arms), backwards, question))
    return tasks


def judgement_row(task: Task, outcome: Outcome | None) -> dict[str, Any]:
    """A task and what became of it as a row of JSON; everything that is scored is read from such rows.

    Returns:
        `dict`: `judge`, `kind`, `text_id`, `task`; of a rating `arm` and `rating` (1 of what is empty, which is not
            asked about), of a ranking `arms` (as shown), `backwards`, `ranking` (best first) and `empty` (the arms that
            were not shown); `asked`, `malformed` (how many answers), `error`, `model`.
    """
    row: dict[str, Any] = {
        "judge": task.judge,
        "kind": task.trial.kind,
        "text_id": task.trial.item.text_id,
        "task": task.what,
    }
    value = outcome.value if outcome else None
    if task.what == "rating":
        row |= {"arm": task.arms[0], "rating": value if outcome else EMPTY_RATING}
    else:
        named = dict(zip(ascii_uppercase, task.arms, strict=False))
        ranking = list(task.arms) if outcome is None else value and [named[letter] for letter in value]
        empty = sorted(set(task.trial.exhibits) - set(task.arms))
        row |= {"arms": list(task.arms), "backwards": task.backwards, "ranking": ranking, "empty": empty}
    replies = outcome.replies if outcome else ()
    return row | {
        "asked": outcome is not None,
        "malformed": outcome.malformed if outcome else 0,
        "error": outcome.error if outcome else None,
        "model": replies[-1].model if replies else None,
    }


def _word(word: str, kind: Kind) -> Exhibit:
    if kind == "words":
        return Exhibit(kind, -1, [(word.lower(), 1)], [])
    return Exhibit(kind, -1, [], [Example(-1, word, [(0, len(word))], None, None)])


def _random(table: ConceptTable, salient: int, kind: Kind, item: Item, generator: np.random.Generator) -> Exhibit:
    for _ in range(DRAWS):
        shown = exhibit_concept(table, random_code(table, salient, generator), kind, item.text_id)
        if not shown.is_empty:
            break
    return shown


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
