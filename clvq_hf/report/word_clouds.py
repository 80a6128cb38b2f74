"""Word clouds of concepts, for notebooks and for the report, which draws them as text."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from matplotlib.font_manager import findfont
from PIL import ImageFont
from wordcloud import WordCloud

from ..tables.concept_table import ConceptTable
from ..tables.concepts import MAX_WORD, short_word

MAX_WORDS = 40
WIDTH, HEIGHT = 360, 220
FONT_SIZES = (9, 54)
# Longer words are cut: in the smallest font they would not fit, and drawing one of a million letters takes minutes.
MAX_LETTERS = 30


def concept_cloud(table: ConceptTable, code: int, width: int = WIDTH, height: int = HEIGHT) -> WordCloud:
    """The word cloud of a concept, as the paper shows them.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Where it is.
        code (`int`): The concept.
        width (`int`): In pixels.
        height (`int`): In pixels.

    Returns:
        `wordcloud.WordCloud`: `.to_image()` shows it in a notebook, `.to_file("cloud.png")` saves it. Stop words are
        left out unless there are no others.

    Raises:
        ValueError: If the model has no such concept, or no token of the table has it.
    """
    words = table.top_words(code, MAX_WORDS, stop_words=False) or table.top_words(code, MAX_WORDS)
    if not words:
        raise ValueError(f"No token of this table has concept {code}: there is nothing to draw.")
    return word_cloud(words, width, height)


def word_cloud(words: Sequence[tuple[str, int]], width: int = WIDTH, height: int = HEIGHT) -> WordCloud:
    """A word cloud of words with their counts; the same words give the same cloud.

    Args:
        words (`Sequence[tuple[str, int]]`): One or more. White space in one is drawn as a space. Those of more than 30
            characters are cut.
        width (`int`): In pixels.
        height (`int`): In pixels.

    Returns:
        `wordcloud.WordCloud`: All words horizontal, in one colour, on no background.

    Raises:
        ValueError: If there is no word.
    """
    drawn: Counter[str] = Counter()
    for word, count in words:
        drawn[short_word(" ".join(word[:MAX_WORD].split()), MAX_LETTERS)] += count
    del drawn[""]
    if not drawn:
        raise ValueError("There is no word to draw.")
    cloud = WordCloud(
        font_path=_font_file(),
        width=width,
        height=height,
        max_words=MAX_WORDS,
        min_font_size=FONT_SIZES[0],
        max_font_size=FONT_SIZES[1],
        prefer_horizontal=1,
        random_state=0,
        mode="RGBA",
        background_color=None,
        color_func=lambda *_, **__: "#0072b2",
    )
    return cloud.generate_from_frequencies(drawn)


def placed_words(cloud: WordCloud) -> list[list[Any]]:
    """Where a cloud's words are: `[word, font size, x, y, width]`, with x and y of the left end of its baseline."""
    placed = []
    for (word, _), size, (row, column), _, _ in cloud.layout_:
        font = _font(size)
        # A cloud places the ink, and text is drawn from its baseline.
        left, top, _, _ = font.getbbox(word, anchor="ls")
        placed.append([word, size, round(column - left), round(row - top), round(font.getlength(word))])
    return placed


@cache
def _font_file() -> str:
    # The font that comes with matplotlib has more letters than the one of wordcloud.
    return findfont("DejaVu Sans")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(), size)


__all__ = ["concept_cloud", "placed_words", "word_cloud"]
