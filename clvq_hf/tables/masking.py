"""Masked words, for pages that people see without having asked for such words.

A toxic text shows only its stop words; the words of a concept are shown only if a text that is not toxic has them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from ..hosts.readout import label_number

if TYPE_CHECKING:
    from .concept_table import ConceptTable

_STEMS = "toxi|hate|hateful|offens|obscen|insult|threat|abus|profan|nsfw|sexis|racis|slur|harass|jigsaw"
_TOXIC = re.compile(_STEMS, re.IGNORECASE)
_NEGATED = re.compile(rf"\s*(non|not|no|in|un)[\s_-]*({_STEMS})", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def toxic_labels(label_names: Iterable[str], about: str) -> frozenset[str | None]:
    """Names of the labels whose texts are masked; empty if nothing is.

    If labels have only numbers, `about` (names of dataset and host) decides: then all are masked.
    """
    names = list(label_names)
    named = [name for name in names if label_number(name) is None]
    if not named:
        return frozenset({None, *names}) if _TOXIC.search(about) else frozenset()
    return frozenset(name for name in named if _TOXIC.search(name) and not _NEGATED.match(name))


@dataclass(frozen=True)
class ToxicMask:
    """Masks words but the lower-case `shown_words`: only first letters stay, and the length of every string."""

    labels: frozenset[str | None]
    shown_words: frozenset[str] = frozenset()

    def hides(self, label: str | None, prediction: str | None = None) -> bool:
        """Whether a text is masked: its label or prediction is toxic, or it has no label."""
        return label is None or label in self.labels or (prediction is not None and prediction in self.labels)

    def mask_text(self, text: str, label: str | None, prediction: str | None) -> str:
        """Mask all words but stop words if the text's label or prediction is toxic, or it has no label."""
        return _mask(text, frozenset()) if self.hides(label, prediction) else text

    def mask_words(self, words: str, label: str | None) -> str:
        """Mask words of a concept, or its name: those of no shown text, and all if its most frequent label is toxic."""
        return _mask(words, frozenset() if self.hides(label) else self.shown_words)


def _mask(text: str, shown: frozenset[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        word = match[0]
        is_shown = word.lower() in ENGLISH_STOP_WORDS or word.lower() in shown
        return word if is_shown else word[0] + "•" * (len(word) - 1)

    return _WORD.sub(replace, text)


def mask_of(table: "ConceptTable") -> ToxicMask | None:
    """The mask for the texts of a table; `None` if none of its labels is toxic."""
    datasets = dict.fromkeys(name for name in table.texts["dataset"][:] if name)
    labels = toxic_labels(table.label_names, " ".join([*datasets, str(table.metadata["host_name_or_path"])]))
    if not labels:
        return None
    mask = ToxicMask(labels)
    words: set[str] = set()
    for row in table.texts.select_columns(["text", "label", "prediction"]):
        if not mask.hides(table.label_name(row["label"]), table.prediction_name(row["prediction"])):
            words.update(word.lower() for word in _WORD.findall(row["text"]))
    return ToxicMask(labels, frozenset(words))


__all__ = ["ToxicMask", "mask_of", "toxic_labels"]
