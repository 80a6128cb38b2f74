"""One concept of a table, and the texts that show it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from .names import Called

# Longer words are cut where they stand for a concept: a text without white space is one word.
MAX_WORD = 80


def short_word(word: str, length: int = MAX_WORD) -> str:
    """A word of at most `length` characters, with `…` where it was cut."""
    return word if len(word) <= length else word[: length - 1] + "…"


@dataclass(frozen=True)
class Example:
    """A text in which a concept occurs.

    Attributes:
        text_id (`int`): Row of the text in the dataset that the table was made from.
        text (`str`): The text.
        spans (`list[tuple[int, int]]`): Start and end, in characters, of the concept's words, in order.
        label (`str` or `None`): Name of the text's label.
        prediction (`str` or `None`): Name of the host's prediction.
        distance (`float` or `None`): Distance of the closest of the concept's tokens to the code; see
            [`distances`][clvq_hf.ConceptModel.distances].
    """

    text_id: int
    text: str
    spans: list[tuple[int, int]]
    label: str | None
    prediction: str | None
    distance: float | None = None

    def marked(self, before: str = "*", after: str = "*", escape: Callable[[str], str] = str) -> str:
        """The text with `before` and `after` around the concept's words; `escape` is applied to every piece of text."""
        return "".join(before + escape(text) + after if marked else escape(text) for text, marked in self.pieces())

    def pieces(self) -> list[tuple[str, bool]]:
        """The text in pieces, each with whether it is a word of the concept; empty pieces are left out."""
        bounds = [0, *(place for span in self.spans for place in span), len(self.text)]
        pieces = [(self.text[start:end], bool(number % 2)) for number, (start, end) in enumerate(pairwise(bounds))]
        return [piece for piece in pieces if piece[0]]

    def excerpt(self, num_words: int = 30, num_characters: int = 300) -> "Example":
        """The part of the text around the concept's first word, with `…` where it was cut.

        Args:
            num_words (`int`): Maximum number of words, separated by white space.
            num_characters (`int`): Maximum number of characters, for scripts without white space.

        Returns:
            `Example`: With the spans in this part; the example itself if it is short enough.
        """
        words = [match.span() for match in re.finditer(r"\S+", self.text)]
        if len(words) <= num_words and len(self.text) <= num_characters:
            return self
        marked = self.spans[0][0] if self.spans else 0
        here = next((number for number, (_, end) in enumerate(words) if end > marked), 0)
        first = max(min(here - num_words // 2, len(words) - num_words), 0)
        start, end = (words[first][0], words[: first + num_words][-1][1]) if words else (0, len(self.text))
        if end - start > num_characters:
            # Near the end of the text, the excerpt ends with the text.
            start = max(min(marked - num_characters // 2, end - num_characters), start)
            end = min(start + num_characters, end)
        before = "… " if self.text[:start].strip() else ""
        after = " …" if self.text[end:].strip() else ""
        shift = len(before) - start
        spans = [(max(a, start) + shift, min(b, end) + shift) for a, b in self.spans if a < end and b > start]
        return replace(self, text=before + self.text[start:end] + after, spans=spans)


@dataclass(frozen=True)
class Concept:
    """What a table knows about one concept.

    Attributes:
        code (`int`): Its number.
        num_tokens (`int`): Number of its tokens.
        num_texts (`int`): Number of texts in which it occurs.
        label_counts (`dict[str, int]`): Number of its tokens by label of the text; empty without labels.
        top_words (`list[tuple[str, int]]`): Its most frequent words, with the number of their tokens that have it.
        examples (`list[Example]`): Texts that show it best.
        called (`Called` or `None`): What it is called, and who says so: a person, else a language model.
        members (`tuple[int, ...]`): The concepts that were merged into it by hand, itself included; empty if it is one.
        group (`str` or `None`): The group that it was put into by hand.
    """

    code: int
    num_tokens: int
    num_texts: int
    label_counts: dict[str, int]
    top_words: list[tuple[str, int]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    called: Called | None = None
    members: tuple[int, ...] = ()
    group: str | None = None

    @property
    def name(self) -> str | None:
        """What it is called, if anything; a name is data: escape it, and show `called.by` beside it."""
        return None if self.called is None else self.called.name

    @property
    def number(self) -> str:
        """The numbers of all concepts that are shown as this one: `"31"`, `"31 + 207"`."""
        return " + ".join(map(str, self.members or (self.code,)))

    @property
    def label(self) -> str | None:
        """The most frequent label; the first one if several are equally frequent."""
        return max(self.label_counts, key=self.label_counts.__getitem__, default=None)

    @property
    def purity(self) -> float | None:
        """Share of the tokens with that label."""
        total = sum(self.label_counts.values())
        return max(self.label_counts.values()) / total if total else None


__all__ = ["MAX_WORD", "Concept", "Example", "short_word"]
