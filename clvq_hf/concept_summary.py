"""What a concept table knows of one concept, for whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass, field


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
    """

    code: int
    num_tokens: int
    num_texts: int
    label_counts: dict[str, int]
    top_words: list[tuple[str, int]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

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
