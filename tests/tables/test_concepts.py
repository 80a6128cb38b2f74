"""Examples of concepts: marked, cut, and without the text that is in question."""

import pytest
from helpers.made_tables import made_table
from hypothesis import given
from hypothesis import strategies as st

from clvq_hf.tables.concepts import Example

SENTENCE = "one two three four five six seven eight nine ten"


def example(text, *words):
    spans = [(start := text.index(word), start + len(word)) for word in words]
    return Example(text_id=0, text=text, spans=spans, label=None, prediction=None)


class TestExcerpt:
    @pytest.mark.parametrize(
        ("word", "shown"),
        [
            ("one", "[one] two three four …"),
            ("two", "one [two] three four …"),
            ("five", "… three four [five] six …"),
            ("nine", "… seven eight [nine] ten"),
            ("ten", "… seven eight nine [ten]"),
        ],
    )
    def test_words_around_the_first_of_the_concept(self, word, shown):
        assert example(SENTENCE, word).excerpt(4).marked("[", "]") == shown

    def test_a_short_text_stays_as_it_is(self):
        whole = example(SENTENCE, "five")
        assert whole.excerpt(10) is whole

    def test_words_that_are_cut_away_are_not_marked(self):
        assert example(SENTENCE, "two", "nine").excerpt(4).spans == [(4, 7)]

    def test_a_span_over_the_edge_is_cut(self):
        found = Example(0, SENTENCE, [(SENTENCE.index("three"), SENTENCE.index(" nine"))], None, None).excerpt(4)
        assert found.marked("[", "]") == "one two [three four] …"

    @pytest.mark.parametrize("place", [0, 700, 1399])
    def test_a_text_without_white_space_is_cut_too(self, place):
        text = "".join(chr(0x4E00 + number) for number in range(1400))
        found = Example(0, text, [(place, place + 1)], None, None).excerpt(30, 100)
        ((start, end),) = found.spans
        assert found.text[start:end] == text[place]
        assert found.text.strip("… ") in text and len(found.text.strip("… ")) == 100

    def test_line_breaks_inside_stay(self):
        assert example("a\nb  c d e", "b").excerpt(3).text == "a\nb  c …"

    def test_a_text_without_a_marked_word_begins_at_its_begin(self):
        assert example(SENTENCE).excerpt(2).text == "one two …"

    @pytest.mark.slow
    @given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=30), st.data())
    def test_always_short_enough_and_with_its_first_word(self, words, data):
        text = " ".join(words)
        place = data.draw(st.integers(0, len(words) - 1))
        start = len(" ".join(words[:place])) + (place > 0)
        length = data.draw(st.integers(1, 12))
        cut = Example(0, text, [(start, start + len(words[place]))], None, None).excerpt(length)
        assert len([word for word in cut.text.split() if word != "…"]) == min(length, len(words))
        ((first, last),) = cut.spans
        assert cut.text[first:last] == words[place]


@pytest.fixture(scope="module")
def table():
    texts = ["a warm film", "A  ＷARM film", "a warm and warm plot of it", "the cold cold plot"]
    return made_table(
        texts, [0, 0, 1, 1], {"warm": 1, "ｗarm": 1, "cold": 2, "film": 3, "plot": 3}, labels=[0, 0, 1, 1]
    )


class TestWithout:
    """`top_words` and `examples` beside a text leave it out, and its equals."""

    def test_words(self, table):
        assert table.top_words(1) == [("warm", 3), ("ｗarm", 1)]
        assert table.top_words(1, without=0) == [("warm", 2)], (
            "text 1 is the same but for case, space and a wide letter"
        )
        assert table.top_words(3, without=2) == [("film", 2), ("plot", 1)]
        assert table.top_words(2, without=3) == []

    def test_examples(self, table):
        assert {found.text_id for found in table.examples(3)} == {0, 2, 3}, "text 1 is the same as text 0"
        assert [found.text_id for found in table.examples(1, without=0)] == [2]
        assert [found.text_id for found in table.examples(1, without=2)] == [0]
        assert table.examples(2, without=3) == []
        assert table.examples(1, label=0, without=0) == []

    def test_a_text_that_the_table_does_not_have(self, table):
        with pytest.raises(ValueError, match="no text 9"):
            table.top_words(1, without=9)


class TestClosenessAndSpread:
    """The concept 1 is the word "x"; the distance of text i's closest token is 10 · i."""

    @pytest.fixture
    def table(self):
        order = [3, 0, 9, 6, 1, 8, 2, 7, 5, 4]
        texts = [f"x is here with number {number} x" for number in order]
        far = [[10.0 * number + 5, 0, 0, 0, 0, 0, 10.0 * number] for number in order]
        # A copy that is closer, a short text that is closest, a long one that is farthest.
        texts += ["X is  here with number 3 x".replace("  ", " "), "x x", "x " + "is " * 40]
        far += [[2.0, 0, 0, 0, 0, 0, 90.0], [1.0, 1.0], [999.0, *[0] * 41]]
        return made_table(texts, [0] * 13, {"x": 1}, distances=far, labels=[*[0, 1] * 5, 0, 0, 0])

    def test_closest_first(self, table):
        found = table.examples(1, 4, by="closeness")
        assert [example.distance for example in found] == [0.0, 2.0, 10.0, 20.0]
        assert found[1].text_id == 10, "the closer one of two equal texts"

    def test_texts_of_unreadable_length_come_last(self, table):
        found = table.examples(1, 20, by="closeness")
        assert [example.distance for example in found[-2:]] == [1.0, 999.0] and len(found) == 12

    def test_spread_is_even_over_the_quantiles(self, table):
        # Of 10 readable texts at 0, 2, 10, 20, 40, …, 90: those in the middle of each fifth, rounded up.
        assert [example.distance for example in table.examples(1, 5, by="spread")] == [2.0, 20.0, 50.0, 70.0, 90.0]
        assert [example.distance for example in table.examples(1, 1, by="spread")] == [50.0]
        # All, if there are no more.
        assert [example.distance for example in table.examples(1, 20, by="spread")] == [
            *(0.0, 1.0, 2.0, 10.0, 20.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 999.0)
        ]

    def test_of_one_label_and_without_a_text(self, table):
        assert {example.label for example in table.examples(1, 3, label=1, by="closeness")} == {"good"}
        closest = table.examples(1, 1, by="closeness")[0].text_id
        assert closest not in {example.text_id for example in table.examples(1, 20, without=closest, by="spread")}

    def test_there_may_be_none(self, table):
        for by in ("share", "closeness", "spread"):
            assert table.examples(7, by=by) == [] and table.examples(1, 0, by=by) == []

    def test_an_unknown_order(self, table):
        with pytest.raises(ValueError, match="by must be 'share', 'closeness' or 'spread', got 'random'"):
            table.examples(1, by="random")
