"""What a concept table knows of one concept, for whoever shows it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Example:
    """A text in which a concept occurs.

    Attributes:
        text_id (`int`): Its row in the dataset that the table was made from.
        text (`str`): The text.
        spans (`list[tuple[int, int]]`): Start and end characters of the concept's words, in order.
        label (`str` or `None`): Name of its label.
        prediction (`str` or `None`): Name of what the host predicts.
    """

    text_id: int
    text: str
    spans: list[tuple[int, int]]
    label: str | None
    prediction: str | None

    def marked(self, before: str = "*", after: str = "*", escape: Callable[[str], str] = str) -> str:
        """The text with the concept's words between two marks; `escape` is applied to every piece of text."""
        pieces, last = [], 0
        for start, end in self.spans:
            pieces += [escape(self.text[last:start]), before, escape(self.text[start:end]), after]
            last = end
        return "".join([*pieces, escape(self.text[last:])])

    def excerpt(self, num_words: int = 30, num_characters: int = 300) -> "Example":
        """The part of the text around the concept's first word, with `…` where something was cut.

        Args:
            num_words (`int`): At most so many words, which are what white space parts.
            num_characters (`int`): At most so many characters: some scripts have no white space.

        Returns:
            `Example`: With the spans of this part; the example itself if it is short enough.
        """
        words = [match.span() for match in re.finditer(r"\S+", self.text)]
        if len(words) <= num_words and len(self.text) <= num_characters:
            return self
        marked = self.spans[0][0] if self.spans else 0
        here = next((number for number, (_, end) in enumerate(words) if end > marked), 0)
        first = max(min(here - num_words // 2, len(words) - num_words), 0)
        start, end = (words[first][0], words[: first + num_words][-1][1]) if words else (0, len(self.text))
        if end - start > num_characters:
            # The end of a long text has as much before it as the begin has after it.
            start = max(min(marked - num_characters // 2, end - num_characters), start)
            end = min(start + num_characters, end)
        before = "… " if self.text[:start].strip() else ""
        after = " …" if self.text[end:].strip() else ""
        shift = len(before) - start
        spans = [(max(a, start) + shift, min(b, end) + shift) for a, b in self.spans if a < end and b > start]
        return replace(self, text=before + self.text[start:end] + after, spans=spans)


@dataclass(frozen=True)
class Concept:
    """What a table knows of one concept.

    Attributes:
        code (`int`): Its number.
        num_tokens (`int`): Tokens that have it.
        num_texts (`int`): Texts in which it occurs.
        label_counts (`dict[str, int]`): Its tokens by the label of their text; empty without labels.
        top_words (`list[tuple[str, int]]`): Its most frequent words and how often they have it.
        examples (`list[Example]`): Texts that show it best.
        name (`str` or `None`): What a language model calls it, if one was asked; machine-made, from data.
    """

    code: int
    num_tokens: int
    num_texts: int
    label_counts: dict[str, int]
    top_words: list[tuple[str, int]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    name: str | None = None

    @property
    def label(self) -> str | None:
        """The most frequent label, the first of them if several are."""
        return max(self.label_counts, key=self.label_counts.get, default=None)

    @property
    def purity(self) -> float | None:
        """Share of the tokens that have that label."""
        total = sum(self.label_counts.values())
        return max(self.label_counts.values()) / total if total else None


__all__ = ["Concept", "Example"]
