"""Texts of toxic labels, masked: for pages that others see without having asked for such words."""

import re
from collections.abc import Container
from typing import TYPE_CHECKING

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

if TYPE_CHECKING:
    from .concept_table import ConceptTable

_TOXIC = re.compile(r"toxi|hate|hateful|offens|obscen|insult|threat|abus|profan|nsfw|sexis|racis|slur|harass", re.I)
_NEGATED = re.compile(r"^\s*((non|not|no)([\s_-]+|(?=toxi|hate|offens))|(in|un)(?=offens|abus))", re.I)
_WORD = re.compile(r"\w+")
_UNNAMED = re.compile(r"^(LABEL_)?\d+$")


class ToxicMask:
    """Which labels' texts are masked: those whose names say so; all, where only the name of the data does.

    Args:
        label_names (`list[str]`): Of the labels.
        about (`str`): Names of the data and of the host.

    Attributes:
        labels (`set[str | None]`): Names of the labels that are masked; empty if none is toxic.
        shown_words (`set[str]`): In lower case, those of the texts that are not masked; for
            [`word`][clvq_hf.tables.masking.ToxicMask.word].
    """

    shown_words: frozenset[str] | set[str] = frozenset()

    def __init__(self, label_names: list[str], about: str) -> None:
        named = [name for name in label_names if not _UNNAMED.match(name)]
        if named:
            self.labels = {name for name in named if _TOXIC.search(name) and not _NEGATED.match(name)}
        else:
            self.labels = {None, *label_names} if _TOXIC.search(about) or "jigsaw" in about.lower() else set()

    def hides(self, label: str | None) -> bool:
        """Whether texts with this label are masked; where some are, those without a label are too."""
        return label in self.labels or (label is None and bool(self.labels))

    def hides_text(self, label: str | None, prediction: str | None) -> bool:
        """Whether a text is masked: by its label or its prediction. One that was not predicted goes by its label."""
        return self.hides(label) or (prediction is not None and self.hides(prediction))

    def word(self, word: str, label: str | None) -> str:
        """A word, or a name, of a concept with this majority label: masked if the label is toxic, or its words stand in
        no text that is shown."""
        return masked(word) if self.hides(label) else masked(word, ENGLISH_STOP_WORDS | self.shown_words)


def mask_of(table: "ConceptTable") -> ToxicMask | None:
    """The mask of a table's texts; `None` if no label of it is toxic."""
    names = dict.fromkeys(name for name in table.texts["dataset"][:] if name)
    mask = ToxicMask(table.label_names, " ".join([*names, str(table.metadata["host_name_or_path"])]))
    if not mask.labels:
        return None
    mask.shown_words = set()
    for row in table.texts.select_columns(["text", "label", "prediction"]):
        if not mask.hides_text(table.label_name(row["label"]), table.prediction_name(row["prediction"])):
            mask.shown_words.update(word.lower() for word in _WORD.findall(row["text"]))
    return mask


def masked(text: str, but: Container[str] = ENGLISH_STOP_WORDS) -> str:
    """All words but some as their first letter; of the same length, so that places stay.

    Args:
        text (`str`): The text.
        but (`Container[str]`): What is left as it is, in lower case: stop words.
    """
    return _WORD.sub(
        lambda word: word[0] if word[0].lower() in but else word[0][0] + "•" * (len(word[0]) - 1),
        text,
    )


__all__ = ["ToxicMask", "mask_of", "masked"]
