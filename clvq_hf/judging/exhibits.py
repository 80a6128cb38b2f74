"""Exhibits of concepts for judges, people or models: words or sentences, never the text in question."""

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
# Minimum and maximum number of words of a sentence that is shown.
SENTENCE_LENGTH = (5, 30)
# Names that datasets and transformers give to labels without one.
_NAMELESS = re.compile(r"(LABEL_)?\d+")


@dataclass(frozen=True)
class Item:
    """A text whose salient concepts are judged.

    Attributes:
        text_id (`int`): Its id in every table.
        text (`str`): The text.
        label (`str` or `None`): Name of its label.
        prediction (`str`): Name of the label that the host predicts.
        correct (`bool` or `None`): Whether the host is right; `None` without a label.
    """

    text_id: int
    text: str
    label: str | None
    prediction: str
    correct: bool | None


@dataclass(frozen=True)
class Exhibit:
    """The words or sentences that represent a concept.

    Attributes:
        kind (`str`): `"words"` or `"sentences"`.
        code (`int`): The concept; -1 for a control that is not a concept of a table.
        words (`list[tuple[str, int]]`): Its most frequent words with their counts, or empty.
        sentences (`list[Example]`): Its sentences with its words marked, or empty.
    """

    kind: Kind
    code: int
    words: list[tuple[str, int]]
    sentences: list[Example]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show, since the concept does not occur outside the item."""
        return not self.words and not self.sentences


def open_tables(sources: Sequence[str | Path]) -> dict[str, ConceptTable]:
    """Open the concept tables of several methods on the same texts.

    Args:
        sources (`Sequence[str | Path]`): Folders, each with or without a name, as in `name=folder`. By default the
            name is that of the folder, or of its parent if the folder is called `concept_table`.

    Returns:
        `dict[str, ConceptTable]`: Tables by the name of the method, in this order.

    Raises:
        ValueError: If a name occurs twice, a table cannot be opened, or the tables do not belong together.
    """
    tables: dict[str, ConceptTable] = {}
    for source in map(str, sources):
        # The path of a folder may contain an equals sign.
        name, _, folder = source.partition("=") if "=" in source and not Path(source).exists() else ("", "", source)
        path = Path(folder)
        name = name or (path.parent.resolve().name if path.name == "concept_table" else path.resolve().name)
        if name in tables:
            raise ValueError(f"Two tables are named {name!r}: give them different names, as in clvq={folder}.")
        tables[name] = ConceptTable.load_from_disk(path)
    check_tables(tables)
    return tables


def check_kinds(kinds: Sequence[str]) -> None:
    """Check kinds of exhibits.

    Raises:
        ValueError: If there is none, or one is unknown or repeated.
    """
    if not kinds or set(kinds) - set(KINDS) or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, each once, got {', '.join(kinds) or 'none'}.")


def check_tables(tables: Mapping[str, ConceptTable]) -> None:
    """Check that tables have the same texts, predictions and salient tokens.

    Raises:
        ValueError: If they do not.
    """
    if not tables:
        raise ValueError("There is no concept table.")
    first_name, first = next(iter(tables.items()))
    for name, table in tables.items():
        if table.metadata.get("salience") is None:
            raise ValueError(
                f"The concept table of {name!r} has no salience, so its texts have no salient concept. Make it with "
                "`clvq-hf evaluate`, or with model.concept_table(…, salience=salient_tokens(…))."
            )
        if not table.label_names or not table.predicts_labels or min(table.texts["prediction"][:]) < 0:
            raise ValueError(f"The concept table of {name!r} has no predictions: its host has no classification head.")
        for column in ("text", "text_id", "label", "prediction", "salient_position"):
            if table.texts[column][:] != first.texts[column][:]:
                raise ValueError(
                    f"The concept tables of {first_name!r} and {name!r} differ in the column {column!r}: methods are "
                    "compared on the same texts, host, layer and settings of salience."
                )
        if table.label_names != first.label_names:
            raise ValueError(f"The concept tables of {first_name!r} and {name!r} have different names of labels.")


def readable_labels(tables: Mapping[str, ConceptTable], replacements: Sequence[str] | None = None) -> dict[str, str]:
    """Map the names of labels in the tables to names for readers.

    Args:
        tables (`Mapping[str, ConceptTable]`): Of [`open_tables`][clvq_hf.judging.exhibits.open_tables].
        replacements (`Sequence[str]`, *optional*): Names to use instead of those in the tables, in the same order.

    Returns:
        `dict[str, str]`: Readable names by the names in the tables.

    Raises:
        ValueError: If their number is wrong, two are the same, or one is only a number.
    """
    names = next(iter(tables.values())).label_names
    readable = [" ".join(name.split()) for name in (replacements or names)]
    if len(readable) != len(names):
        raise ValueError(f"The model has {len(names)} labels ({', '.join(names)}), but got {len(readable)} names.")
    if len(set(readable)) < len(readable) or not all(readable) or len(readable) < 2:
        raise ValueError(f"There must be at least two labels with different names, got {', '.join(readable)}.")
    if any(_NAMELESS.fullmatch(name) for name in readable):
        raise ValueError(
            f"The labels are called {', '.join(readable)}, which means nothing to a reader. Name them in this order: "
            "--label negative --label positive, or label_names=[…]."
        )
    return dict(zip(names, readable, strict=True))


def draw_items(tables: Mapping[str, ConceptTable], n: int, seed: int = 0) -> list[Item]:
    """Draw texts in equal parts from every prediction, correct and wrong.

    Args:
        tables (`Mapping[str, ConceptTable]`): Of [`open_tables`][clvq_hf.judging.exhibits.open_tables].
        n (`int`): Number of texts; all if there are fewer. Texts without a salient token in some table are left out,
            equal texts count once.
        seed (`int`): Random seed of the draw and of the order.

    Returns:
        `list[Item]`: Texts in random order. Where a stratum runs out, the others fill up.
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
    # Each round takes one text from each stratum, in a fixed order, while there are any.
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
    """Collect what is shown of a concept next to a text.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): The table of its method.
        code (`int`): The concept.
        kind (`str`): `"words"`: its ten most frequent ones, stop words only if there are no others; `"sentences"`: five
            of 5 to 30 words, longer ones cut.
        without (`int`): `text_id` of the text in question. Neither it nor its duplicates are counted or shown.

    Returns:
        [`Exhibit`][clvq_hf.judging.exhibits.Exhibit]: Empty if the concept occurs nowhere else.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind == "words":
        return Exhibit(kind, code, concept_words(table, code, without), [])
    if kind == "sentences":
        examples = table.examples(code, NUM_SENTENCES, num_words=SENTENCE_LENGTH, without=without)
        return Exhibit(kind, code, [], [example.excerpt(SENTENCE_LENGTH[1]) for example in examples])
    raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")


def concept_words(table: ConceptTable, code: int, without: int | Sequence[int]) -> list[tuple[str, int]]:
    """The ten most frequent words of a concept outside of some texts; stop words only if there are no others."""
    words = table.top_words(code, NUM_WORDS, stop_words=False, without=without)
    return words or table.top_words(code, NUM_WORDS, without=without)


def random_code(table: ConceptTable, not_code: int, generator: np.random.Generator) -> int:
    """Draw another concept than `not_code` uniformly from those that occur in the table: the control.

    Raises:
        ValueError: If there is no other one.
    """
    others = table.active_codes[table.active_codes != table.by_hand.shown_codes[not_code]]
    if not len(others):
        raise ValueError("This table has only one concept, so there is no other one to show as a control.")
    return int(generator.choice(others))


__all__ = [
    "KINDS",
    "Exhibit",
    "Item",
    "check_kinds",
    "check_tables",
    "concept_words",
    "draw_items",
    "exhibit_concept",
    "open_tables",
    "random_code",
    "readable_labels",
    "salient_codes",
]
