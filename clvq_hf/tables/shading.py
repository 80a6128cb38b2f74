"""How strongly a concept is coloured: its majority label's colour, the stronger the purer it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from .concepts import Concept

# `--label-0` … `--label-7` of base.css; more labels use them again.
NUM_COLOURS = 8
# Concepts in fewer texts have no colour: chance alone makes them pure.
MIN_TEXTS = 5


@dataclass(frozen=True)
class Shade:
    """The colour of a concept's tokens.

    Attributes:
        colour (`int` or `None`): Number of the label's colour; `None`: no colour.
        strength (`int`): Of the colour, in per cent of the strongest: 0 where purity is what equal shares give, 100
            where all tokens have this label.
    """

    colour: int | None
    strength: int


def shade(concept: Concept, label_names: Sequence[str]) -> Shade:
    """The colour of a concept: none without labels, or where it occurs in fewer than five texts."""
    if concept.label is None or concept.num_texts < MIN_TEXTS:
        return Shade(None, 0)
    chance = 1 / len(label_names)
    strength = (concept.purity - chance) / (1 - chance) if chance < 1 else 1.0
    return Shade(list(label_names).index(concept.label) % NUM_COLOURS, round(100 * strength))


__all__ = ["MIN_TEXTS", "NUM_COLOURS", "Shade", "shade"]
