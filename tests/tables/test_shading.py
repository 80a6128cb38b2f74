"""Colours of concepts: by label and purity, none where purity says nothing."""

import pytest

from clvq_hf.tables.concepts import Concept
from clvq_hf.tables.shading import Shade, shade


def concept(counts, num_texts=10):
    return Concept(code=1, num_tokens=sum(counts.values()), num_texts=num_texts, label_counts=counts)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 10, "b": 0}, Shade(0, 100)),
        ({"a": 5, "b": 5}, Shade(0, 0)),
        ({"a": 1, "b": 3}, Shade(1, 50)),  # three quarters is half way from one half to all
        ({"a": 2, "b": 0, "c": 4}, Shade(2, 50)),  # two thirds is half way from one third to all
    ],
)
def test_the_majority_label_as_strong_as_purity_is_above_chance(counts, expected):
    assert shade(concept(counts), list(counts)) == expected


def test_no_colour_without_labels_or_in_few_texts():
    assert shade(concept({}), []) == Shade(None, 0)
    assert shade(concept({"a": 4, "b": 0}, num_texts=4), ["a", "b"]) == Shade(None, 0)
    assert shade(concept({"a": 5, "b": 0}, num_texts=5), ["a", "b"]) == Shade(0, 100)


def test_one_label_alone():
    assert shade(concept({"a": 10}), ["a"]) == Shade(0, 100)


def test_more_labels_than_colours_use_them_again():
    counts = dict.fromkeys("abcdefghi", 0) | {"i": 10}
    assert shade(concept(counts), list(counts)).colour == 0


def test_without_labels_32_concepts_look_different():
    shades = [shade(concept({}), ["a", "b"], rank) for rank in range(33)]
    assert len({(found.colour, found.line) for found in shades[:32]}) == 32
    assert shades[0] == shades[32] == Shade(0, 100, 0) and shades[9] == Shade(1, 100, 1)
