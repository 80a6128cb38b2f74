"""Word clouds: the words of a concept, none on another, the same every time."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from clvq_hf.report.word_clouds import HEIGHT, WIDTH, _font_file, concept_cloud, placed_words, word_cloud

WORDS = [("largest", 30), ("größer", 20), ("кошка", 20), *((f"word{number}", 10 - number) for number in range(9))]


def ink(word, size, x, y):
    """Where a word is drawn as the report draws it, from the left end of its baseline."""
    image = Image.new("1", (WIDTH + 40, HEIGHT + 40))
    font = ImageFont.truetype(_font_file(), size)
    ImageDraw.Draw(image).text((x + 20, y + 20), word, fill=1, font=font, anchor="ls")
    return np.asarray(image)


def test_words_are_inside_and_apart():
    placed = placed_words(word_cloud(WORDS))
    assert {word for word, *_ in placed} == {word for word, _ in WORDS}
    drawn = sum(ink(*word[:4]).astype(int) for word in placed)
    assert drawn.max() == 1, "a word is drawn on another"
    assert drawn.sum() == drawn[20:-20, 20:-20].sum(), "a word is drawn over the edge"


def test_frequent_words_are_larger():
    sizes = {word: size for word, size, *_ in placed_words(word_cloud(WORDS))}
    assert sizes["largest"] == max(sizes.values())
    assert sizes["word0"] >= sizes["word8"]


def test_the_same_words_give_the_same_cloud():
    assert placed_words(word_cloud(WORDS)) == placed_words(word_cloud(WORDS))


def test_the_cloud_of_a_concept(table):
    assert set(concept_cloud(table, 1).words_) == {"warm", "funny", "bright"}
    assert concept_cloud(table, 1).to_image().size == (WIDTH, HEIGHT)
    assert "the" not in concept_cloud(table, 0).words_, "stop words are left out where there are others"


def test_white_space_is_no_word():
    assert set(word_cloud([("", 3), (" \n", 2), ("two\n words", 1), ("two words", 1)]).words_) == {"two words"}
    with pytest.raises(ValueError, match="no word"):
        word_cloud([(" ", 2)])


def test_a_concept_that_does_not_occur(table):
    with pytest.raises(ValueError, match="No token of this table has concept 20"):
        concept_cloud(table, 20)
