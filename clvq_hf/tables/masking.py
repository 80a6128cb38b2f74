"""Masked words, for pages that people see without having asked for such words.

A masked text shows only its stop words; the words of a concept are shown only if a text that is not masked has them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from ..hosts.readout import label_number

if TYPE_CHECKING:
    from .concept_table import ConceptTable

_STEMS = "toxi|hate|hateful|offens|obscen|insult|threat|abus|profan|nsfw|sexis|racis|slur|harass"
_TOXIC = re.compile(_STEMS, re.IGNORECASE)
_NEGATED = re.compile(rf"\s*(non|not|no|in|un)[\s_-]*({_STEMS})", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def masked_labels(
    label_names: Iterable[str], mask_toxic: bool = True, mask_label: Iterable[str] = ()
) -> frozenset[str | None]:
    """Names of the labels whose texts are masked; empty if nothing is, with `None` if all texts are.

    Args:
        label_names (`Iterable[str]`): All labels.
        mask_toxic (`bool`): Mask the labels that are called toxic or the like. Where labels have only numbers, nobody
            can tell which ones these are: then all are masked, unless `mask_label` says which.
        mask_label (`Iterable[str]`): Mask these labels.

    Raises:
        ValueError: If a label of `mask_label` does not exist.
    """
    names, chosen = list(label_names), frozenset(mask_label)
    if unknown := sorted(chosen - set(names)):
        raise ValueError(
            f"There is no label {unknown[0]!r} that could be masked; set mask_label=… to some of {names}."
        )
    if not mask_toxic:
        return chosen
    masked = chosen | called_toxic(names)
    unnamed = bool(names) and all(label_number(name) is not None for name in names)
    return frozenset({None, *names}) if unnamed and not masked else masked


def called_toxic(label_names: Iterable[str]) -> frozenset[str]:
    """Those of the labels that are called toxic, hateful, offensive or the like."""
    return frozenset(name for name in label_names if _TOXIC.search(name) and not _NEGATED.match(name))


@dataclass(frozen=True)
class ToxicMask:
    """Masks words but the lower-case `shown_words`: only first letters stay, and the length of every string."""

    labels: frozenset[str | None]
    shown_words: frozenset[str] = frozenset()

    @property
    def note(self) -> str:
        """What is masked, in a sentence."""
        if None in self.labels:
            return "All texts are masked, since the labels have no names that could tell which ones are toxic."
        return f"Texts with these labels are masked: {', '.join(sorted(map(str, self.labels)))}."

    def hides(self, label: str | None, prediction: str | None = None) -> bool:
        """Whether a text is masked: its label or prediction is, or it has no label."""
        return label is None or label in self.labels or (prediction is not None and prediction in self.labels)

    def mask_text(self, text: str, label: str | None, prediction: str | None) -> str:
        """Mask all words but stop words if the text's label or prediction is masked, or it has no label."""
        return _mask(text, frozenset()) if self.hides(label, prediction) else text

    def mask_words(self, words: str, label: str | None) -> str:
        """Mask words of a concept, or its name: all of a masked label, else those that only masked texts have."""
        return _mask(words, frozenset() if self.hides(label) else self.shown_words)


def _mask(text: str, shown: frozenset[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        word = match[0]
        is_shown = word.lower() in ENGLISH_STOP_WORDS or word.lower() in shown
        return word if is_shown else word[0] + "•" * (len(word) - 1)

    return _WORD.sub(replace, text)


def mask_of(table: "ConceptTable", mask_toxic: bool = True, mask_label: Iterable[str] = ()) -> ToxicMask | None:
    """The mask for the texts of a table, by [`masked_labels`]; `None` if none of its labels is masked."""
    labels = masked_labels(table.label_names, mask_toxic, mask_label)
    if not labels:
        return None
    mask = ToxicMask(labels)
    words: set[str] = set()
    for row in table.texts.select_columns(["text", "label", "prediction"]):
        if not mask.hides(table.label_name(row["label"]), table.prediction_name(row["prediction"])):
            words.update(word.lower() for word in _WORD.findall(row["text"]))
    return ToxicMask(labels, frozenset(words))


__all__ = ["ToxicMask", "called_toxic", "mask_of", "masked_labels"]
