"""Colours of concepts: the colour of the majority label, stronger for purer concepts."""

from collections.abc import Sequence
from dataclasses import dataclass

from .concepts import Concept

# `--label-0` … `--label-7` in base.css; further labels reuse them.
NUM_COLOURS = 8
# Concepts in fewer texts have no colour, because they may be pure by chance.
MIN_TEXTS = 5


@dataclass(frozen=True)
class Shade:
    """The colour of a concept's tokens.

    Attributes:
        colour (`int` or `None`): Number of the label's colour; `None` for no colour.
        strength (`int`): Strength of the colour in percent: 0 if the concept is as pure as equal shares of all labels,
            100 if all of its tokens have the same label.
    """

    colour: int | None
    strength: int


def shade(concept: Concept, label_names: Sequence[str]) -> Shade:
    """The colour of a concept; none without labels, or if it occurs in fewer than five texts."""
    if concept.label is None or concept.purity is None or concept.num_texts < MIN_TEXTS:
        return Shade(None, 0)
    chance = 1 / len(label_names)
    strength = (concept.purity - chance) / (1 - chance) if chance < 1 else 1.0
    return Shade(list(label_names).index(concept.label) % NUM_COLOURS, round(100 * strength))


__all__ = ["MIN_TEXTS", "NUM_COLOURS", "Shade", "shade"]
