"""What is shown of a concept to whoever judges it, person or model: words or sentences, never the text in question."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..tables.concept_table import ConceptTable
from ..tables.concepts import Example

Kind = Literal["words", "sentences"]
KINDS: tuple[Kind, ...] = ("words", "sentences")
NUM_WORDS = 10
NUM_SENTENCES = 5
# Of a sentence that is shown, in words.
SENTENCE_LENGTH = (5, 30)
# What datasets and transformers call labels that nobody named.
_NAMELESS = re.compile(r"(LABEL_)?\d+")


@dataclass(frozen=True)
class Item:
    """A text whose salient concepts are judged.

    Attributes:
        text_id (`int`): Its number in every table.
        text (`str`): The text.
        label (`str` or `None`): Name of its label.
        prediction (`str`): Name of what the host predicts.
        correct (`bool` or `None`): Whether the host is right; `None` without a label.
    """

    text_id: int
    text: str
    label: str | None
    prediction: str
    correct: bool | None


@dataclass(frozen=True)
class Exhibit:
    """What is shown of a concept.

    Attributes:
        kind (`str`): `"words"` or `"sentences"`.
        code (`int`): The concept; -1 for what is no concept of a table.
        words (`list[tuple[str, int]]`): Its most frequent words with their counts, if they are shown.
        sentences (`list[Example]`): Its sentences with its words marked, if they are shown.
    """

    kind: Kind
    code: int
    words: list[tuple[str, int]]
    sentences: list[Example]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show: outside of the item, the concept does not occur."""
        return not self.words and not self.sentences


def open_tables(sources: Sequence[str | Path]) -> dict[str, ConceptTable]:
    """Open the concept tables of several methods on the same texts.

    Args:
        sources (`Sequence[str | Path]`): Folders, each alone or as `name=folder`; alone it is named by its folder, by
            the one above if that is called `concept_table`.

    Returns:
        `dict[str, ConceptTable]`: By the method's name, in this order.

    Raises:
        ValueError: If a name comes twice, a table cannot be opened, or they do not belong together.
    """
    tables: dict[str, ConceptTable] = {}
    for source in map(str, sources):
        # A folder whose own path has an equals sign is given as it is.
        name, _, folder = source.partition("=") if "=" in source and not Path(source).exists() else ("", "", source)
        path = Path(folder)
        name = name or (path.parent.resolve().name if path.name == "concept_table" else path.resolve().name)
        if name in tables:
            raise ValueError(f"Two tables are named {name!r}: say which is which, as in clvq={folder}.")
        tables[name] = ConceptTable.load_from_disk(path)
    check_tables(tables)
    return tables


def check_tables(tables: Mapping[str, ConceptTable]) -> None:
    """Check that tables are of the same texts with the same predictions and salient tokens.

    Raises:
        ValueError: If not.
    """
    if not tables:
        raise ValueError("There is no concept table to judge.")
    first_name, first = next(iter(tables.items()))
    for name, table in tables.items():
        if table.metadata.get("salience") is None:
            raise ValueError(
                f"The concept table of {name!r} has no salience, so its texts have no salient concept. Make it with "
                "`clvq-hf evaluate`, or with model.concept_table(…, salience=salient_tokens(…))."
            )
        for column, what in (
            ("text", "texts"),
            ("text_id", "numbers of texts"),
            ("label", "labels"),
            ("prediction", "predictions"),
        ):
            if table.texts[column][:] != first.texts[column][:]:
                raise ValueError(
                    f"The concept tables of {first_name!r} and {name!r} have other {what}: methods are compared on the "
                    "same texts and the same host."
                )
        if table.texts["salient_position"][:] != first.texts["salient_position"][:]:
            raise ValueError(
                f"The concept tables of {first_name!r} and {name!r} have other salient tokens: methods are compared on "
                "the same ones. Make both with the same host, layer and settings of salience."
            )
        if table.label_names != first.label_names:
            raise ValueError(f"The concept tables of {first_name!r} and {name!r} have other names for the labels.")
        if min(table.texts["prediction"][:]) < 0 or not table.label_names or not table.predicts_labels:
            raise ValueError(f"The concept table of {name!r} has no predictions: its host has no classification head.")


def readable_labels(tables: Mapping[str, ConceptTable], given: Sequence[str] | None = None) -> dict[str, str]:
    """What people and judges read as names of the labels.

    Args:
        tables (`Mapping[str, ConceptTable]`): Of [`open_tables`][clvq_hf.judging.exhibits.open_tables].
        given (`Sequence[str]`, *optional*): In place of the names in the tables, in their order.

    Returns:
        `dict[str, str]`: By the names in the tables.

    Raises:
        ValueError: If there are more or fewer than labels, two are the same, or one is a mere number.
    """
    names = next(iter(tables.values())).label_names
    shown = [" ".join(name.split()) for name in (given or names)]
    if len(shown) != len(names):
        raise ValueError(f"The model has {len(names)} labels ({', '.join(names)}), and {len(shown)} names are given.")
    if len(set(shown)) < len(shown) or not all(shown) or len(shown) < 2:
        raise ValueError(f"There must be two labels or more, each with a name of its own, got {', '.join(shown)}.")
    if any(_NAMELESS.fullmatch(name) for name in shown):
        raise ValueError(
            f"The labels are called {', '.join(shown)}, and nobody who reads that knows what it means. Name them in "
            "this order: --label negative --label positive, or label_names=[…]."
        )
    return dict(zip(names, shown, strict=True))


def draw_items(tables: Mapping[str, ConceptTable], n: int, seed: int = 0) -> list[Item]:
    """Draw texts in equal parts from every prediction, right and wrong.

    Args:
        tables (`Mapping[str, ConceptTable]`): Of [`open_tables`][clvq_hf.judging.exhibits.open_tables].
        n (`int`): How many texts; all if there are fewer. Texts without a salient token in some table are left out,
            equal texts count once.
        seed (`int`): Of the draw and of the order.

    Returns:
        `list[Item]`: In random order. Where a stratum runs out, the others fill up.
    """
    first = next(iter(tables.values()))
    usable = set.intersection(*(set(table.salient()["text_id"]) for table in tables.values()))
    strata: dict[tuple[str, bool | None], list[Item]] = {}
    seen: set[int] = set()
    generator = np.random.default_rng(seed)
    for row in generator.permutation(len(first.texts)).tolist():
        text = first.texts[row]
        if text["text_id"] in usable and (number := int(first.same_text[row])) not in seen:
            seen.add(number)
            correct = text["label"] == text["prediction"] if text["label"] >= 0 else None
            label = first.label_names[text["label"]] if text["label"] >= 0 else None
            item = Item(text["text_id"], text["text"], label, first.label_names[text["prediction"]], correct)
            strata.setdefault((item.prediction, correct), []).append(item)
    drawn: list[Item] = []
    # A round takes one of each stratum, in a fixed order, as long as there are any.
    queues = [strata[key] for key in sorted(strata, key=str)]
    while len(drawn) < n and any(queues):
        for queue in queues:
            if queue and len(drawn) < n:
                drawn.append(queue.pop())
    return [drawn[place] for place in generator.permutation(len(drawn))]


def salient_codes(table: ConceptTable) -> dict[int, int]:
    """The salient concept of each text that has one, by `text_id`."""
    salient = table.salient()
    return dict(zip(salient["text_id"].tolist(), salient["code"].tolist(), strict=True))


def exhibit_concept(table: ConceptTable, code: int, kind: Kind, without: int) -> Exhibit:
    """What is shown of a concept beside a text.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of its method.
        code (`int`): The concept.
        kind (`str`): `"words"`: its ten most frequent ones, stop words left out unless there are no others;
            `"sentences"`: five of 5 to 30 words, longer ones cut.
        without (`int`): `text_id` of the text in question. Neither it nor its equals are counted or shown.

    Returns:
        [`Exhibit`][clvq_hf.judging.exhibits.Exhibit]: Empty if the concept occurs nowhere else.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind == "words":
        words = table.top_words(code, NUM_WORDS, stop_words=False, without=without)
        return Exhibit(kind, code, words or table.top_words(code, NUM_WORDS, without=without), [])
    if kind == "sentences":
        found = table.examples(code, NUM_SENTENCES, num_words=SENTENCE_LENGTH, without=without)
        return Exhibit(kind, code, [], [example.excerpt(SENTENCE_LENGTH[1]) for example in found])
    raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")


def random_code(table: ConceptTable, not_code: int, generator: np.random.Generator) -> int:
    """A concept that occurs in the table, other than `not_code`, each as likely: the control."""
    others = table.active_codes[table.active_codes != not_code]
    if not len(others):
        raise ValueError("This table has one concept only: there is no other one to show as a control.")
    return int(generator.choice(others))


__all__ = [
    "KINDS",
    "Exhibit",
    "Item",
    "check_tables",
    "draw_items",
    "exhibit_concept",
    "open_tables",
    "random_code",
    "readable_labels",
    "salient_codes",
]
