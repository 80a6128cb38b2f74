"""Colours of concepts: of the majority label, stronger for purer ones; without labels, a colour and a line."""

from collections.abc import Sequence
from dataclasses import dataclass

from .concepts import Concept

# `--label-0` … `--label-7` in base.css; further labels reuse them.
NUM_COLOURS = 8
# Underlines of tokens.css that tell concepts of one colour apart if there are no labels.
NUM_LINES = 4
# Concepts in fewer texts have no colour, because they may be pure by chance.
MIN_TEXTS = 5


@dataclass(frozen=True)
class Shade:
    """The colour of a concept's tokens.

    Attributes:
        colour (`int` or `None`): Number of the colour; `None` for no colour.
        strength (`int`): Strength of the colour in percent: 0 if the concept is as pure as equal shares of all labels,
            100 if all of its tokens have the same label, or without labels.
        line (`int`): Number of the line below the tokens, another cue besides the colour: 0 for a solid one.
    """

    colour: int | None
    strength: int
    line: int = 0


def shade(concept: Concept, label_names: Sequence[str], rank: int | None = None) -> Shade:
    """The colour of a concept; none if it has no labels, or occurs in fewer than five texts.

    Args:
        concept ([`Concept`][clvq_hf.tables.Concept]): The concept.
        label_names (`Sequence[str]`): Names of all labels, in order.
        rank (`int`, *optional*): For texts without labels: how many concepts are more frequent. Each of the first 32
            has a colour and a line that no other of them has; then they repeat.
    """
    if rank is not None:
        return Shade(rank % NUM_COLOURS, 100, rank // NUM_COLOURS % NUM_LINES)
    if concept.label is None or concept.purity is None or concept.num_texts < MIN_TEXTS:
        return Shade(None, 0)
    chance = 1 / len(label_names)
    strength = (concept.purity - chance) / (1 - chance) if chance < 1 else 1.0
    return Shade(list(label_names).index(concept.label) % NUM_COLOURS, round(100 * strength))


__all__ = ["MIN_TEXTS", "NUM_COLOURS", "NUM_LINES", "Shade", "shade"]
