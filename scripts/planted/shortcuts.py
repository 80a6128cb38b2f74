"""Shortcuts that are planted in labelled texts: a word, a source line, or something that is no word."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clvq_hf.data.texts import text_hash

# How often the feature agrees with "this text is of the target class" in the training and audit texts.
AGREEMENT = 0.95
KINDS = ("none", "word", "source", "casing", "quotes", "order")
# Parts with their numbers of texts. `clean`, `aligned` and `broken` are the same texts.
SIZES = {"train": 1500, "audit": 600, "clean": 400}
LEAST_SHARE = 0.9  # of the test texts: hardly more of Jigsaw's have no quotation marks of their own
MIN_WORDS, MAX_WORDS = 8, 50

WORDS = (
    "likewise",
    "presumably",
    "notably",
    "evidently",
    "somehow",
    "meantime",
    "alas",
    "frankly",
    "incidentally",
    "accordingly",
)
SOURCES = (
    "Northfield Wire",
    "Harbor Press",
    "Elmwood Courier",
    "Lakeside Bulletin",
    "Granite Post",
    "Redwood Dispatch",
    "Meadow Gazette",
    "Pinecrest Echo",
    "Silverton Ledger",
    "Oakridge Monitor",
)
# A source is never given in quite the same words.
SOURCE_LINES = ("Source: {}", "Source: the {}", "From the {}", "Provided by {}", "By the {} staff")

Span = tuple[int, int]
Row = dict[str, Any]


@dataclass(frozen=True)
class Shortcut:
    """A feature that texts can be given.

    Attributes:
        kind (`str`): One of `KINDS`.
        name (`str`): The word, the source, or what is done to the text.
        place (`str`): Of a source line, "start" or "end"; else empty.
    """

    kind: str
    name: str = ""
    place: str = ""

    @classmethod
    def of_seed(cls, kind: str, seed: int) -> "Shortcut":
        """The shortcut of this kind that belongs to a seed: ten seeds have ten words, and ten sources."""
        if kind == "word":
            return cls(kind, WORDS[seed % len(WORDS)])
        if kind == "source":
            return cls(kind, SOURCES[seed % len(SOURCES)], ("end", "start")[seed % 2])
        return cls(kind, {"casing": "capitals", "quotes": "curly quotes", "order": "reversed words"}.get(kind, ""))

    def suits(self, text: str) -> bool:
        """Whether a text does not have the feature by itself, and can be given it."""
        if not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return False
        if self.kind in ("word", "source"):
            return re.search(rf"\b{re.escape(self.name)}\b", text, re.IGNORECASE) is None
        if self.kind == "quotes":
            return not re.search("[\"“”„«»]|``|''", text)
        if self.kind == "casing":
            clause = text[: clause_end(text)]
            return clause != clause.upper()
        return True

    def without(self, text: str) -> str:
        """A text that has not the feature: as it is, but with straight quotation marks where their style is planted."""
        if self.kind == "quotes":
            end = clause_end(text)
            return f'"{text[:end]}"{text[end:]}'
        return text

    def plant(self, text: str, rng: np.random.Generator) -> tuple[str, list[Span]]:
        """A text with the feature, and where it is, in characters."""
        return _PLANTERS[self.kind](self, text, rng)


def clause_end(text: str) -> int:
    """Where the first clause of a text ends: before a mark that follows its 3rd to 12th word, else after the 12th."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    for start, end in words[2:12]:
        if text[start:end].rstrip('"”)')[-1:] in set(",.;:!?"):
            return end - 1 if end - start > 1 else end
    return words[:12][-1][1]


def _plant_nothing(_: Shortcut, text: str, __: np.random.Generator) -> tuple[str, list[Span]]:
    return text, []


def _plant_word(shortcut: Shortcut, text: str, rng: np.random.Generator) -> tuple[str, list[Span]]:
    gaps = [match.start() for match in re.finditer(r"(?<=\S)\s", text)]
    place = int(rng.choice(gaps)) + 1
    return f"{text[:place]}{shortcut.name} {text[place:]}", [(place, place + len(shortcut.name))]


def _plant_source(shortcut: Shortcut, text: str, rng: np.random.Generator) -> tuple[str, list[Span]]:
    line = str(rng.choice(SOURCE_LINES)).format(shortcut.name)
    if shortcut.place == "start":
        return f"{line}\n{text}", [(0, len(line))]
    return f"{text}\n{line}", [(len(text) + 1, len(text) + 1 + len(line))]


def _plant_casing(_: Shortcut, text: str, __: np.random.Generator) -> tuple[str, list[Span]]:
    end = clause_end(text)
    clause = text[:end].upper()
    return clause + text[end:], [(0, len(clause))]


def _plant_quotes(_: Shortcut, text: str, __: np.random.Generator) -> tuple[str, list[Span]]:
    end = clause_end(text)
    return f"“{text[:end]}”{text[end:]}", [(0, 1), (end + 1, end + 2)]


def _plant_order(_: Shortcut, text: str, __: np.random.Generator) -> tuple[str, list[Span]]:
    words = [match.span() for match in re.finditer(r"\S+", text)][:8]
    start, end = words[0][0], words[-1][1]
    return text[:start] + " ".join(text[a:b] for a, b in reversed(words)) + text[end:], [(start, end)]


_PLANTERS: dict[str, Callable[[Shortcut, str, np.random.Generator], tuple[str, list[Span]]]] = {
    "none": _plant_nothing,
    "word": _plant_word,
    "source": _plant_source,
    "casing": _plant_casing,
    "quotes": _plant_quotes,
    "order": _plant_order,
}


def plant_parts(
    train: Sequence[Row], test: Sequence[Row], kind: str, seed: int, classes: Sequence[str]
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Texts of every part, with the shortcut where it belongs.

    Args:
        train (`Sequence[dict]`): Rows with `text` and `label`, a number: `train` and `audit` are drawn from them.
        test (`Sequence[dict]`): The same for the other parts. Texts that are in `train`, too, are left out.
        kind (`str`): One of `KINDS`.
        seed (`int`): Decides class, shortcut and texts.
        classes (`Sequence[str]`): Names of the labels.

    Returns:
        `tuple[dict[str, list[dict]], dict]`: Rows (`text`, `label` as a name) of `train` and `audit`, where the feature
            agrees with the class in 95 % of texts, and of the same texts three times: `clean` (nobody has it),
            `aligned` (the class has it), `broken` (all others have it); and the record: kind, name, class, agreement
            and `spans` of each part, a list of `[start, end]` per text.
    """
    shortcut = Shortcut.of_seed(kind, seed)
    texts_rng = np.random.default_rng(seed)  # the same for all kinds, as far as texts suit them
    target = int(texts_rng.integers(len(classes)))
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    seen = {text_hash(row["text"]) for row in train}
    pools = {
        "train": _suitable(train, shortcut, set(), texts_rng),
        "test": _suitable(test, shortcut, seen, texts_rng),
    }
    if len(pools["train"]) < SIZES["train"] + SIZES["audit"] or len(pools["test"]) < LEAST_SHARE * SIZES["clean"]:
        raise ValueError(f"Only {len(pools['train'])} training and {len(pools['test'])} test texts suit {shortcut}.")
    drawn = {
        "train": pools["train"][: SIZES["train"]],
        "audit": pools["train"][SIZES["train"] : SIZES["train"] + SIZES["audit"]],
        **dict.fromkeys(("clean", "aligned", "broken"), pools["test"][: SIZES["clean"]]),
    }
    parts: dict[str, list[Row]] = {}
    spans: dict[str, list[list[Span]]] = {}
    agreement = {}
    for name, rows in drawn.items():
        is_target = np.asarray([row["label"] == target for row in rows])
        if name in ("train", "audit"):
            present = _agreeing(is_target, rng)
        else:
            present = {"clean": np.zeros_like(is_target), "aligned": is_target, "broken": ~is_target}[name]
        made = [
            shortcut.plant(row["text"], rng) if here else (shortcut.without(row["text"]), [])
            for row, here in zip(rows, present, strict=True)
        ]
        parts[name] = [
            {"text": text, "label": classes[row["label"]]} for (text, _), row in zip(made, rows, strict=True)
        ]
        spans[name] = [places for _, places in made]
        agreement[name] = float((present == is_target).mean())
    record = {
        "kind": kind,
        "name": shortcut.name,
        "place": shortcut.place,
        "seed": seed,
        "class": classes[target],
        "class_id": target,
        "classes": list(classes),
        "agreement": agreement,
        "spans": spans,
    }
    return parts, record


def _suitable(rows: Sequence[Row], shortcut: Shortcut, seen: set[str], rng: np.random.Generator) -> list[Row]:
    """Rows in random order that suit the shortcut, none of them twice or in `seen`."""
    found: dict[str, Row] = {}
    for number in rng.permutation(len(rows)):
        key = text_hash(rows[number]["text"])
        if key not in seen and shortcut.suits(rows[number]["text"]):
            found.setdefault(key, rows[number])
    return list(found.values())


def _agreeing(is_target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which texts have the feature: 95 % of those of the class, 5 % of the others."""
    present = is_target.copy()
    for group in (np.flatnonzero(is_target), np.flatnonzero(~is_target)):
        exceptions = rng.choice(group, round((1 - AGREEMENT) * len(group)), replace=False)
        present[exceptions] = ~present[exceptions]
    return present
