"""Which other texts are drawn, by hand, and which of their tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from clvq_hf.evaluation.ablation.outcomes import excluded_shares
from clvq_hf.evaluation.ablation.texts import OtherTexts, TextsOfTable

# Salient code, prediction and the code of a random token of each text.
SALIENT = np.array([7, 7, 3, 7, 5])
PREDICTIONS = np.array([0, 0, 0, 1, 1])
RANDOM = np.array([2, 7, 7, 9, 5])


@pytest.fixture
def others():
    texts = SimpleNamespace(salient_code=SALIENT, text_id=np.arange(5))
    return OtherTexts(texts, PREDICTIONS, RANDOM, num_draws=5, seed=0)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        # Of the texts with text 0's prediction, text 2 alone has another code.
        ("other_text_same", {0: {2}, 1: {2}, 2: {0, 1}, 3: {4}, 4: {3}}),
        ("other_text_opposite", {0: {4}, 1: {4}, 2: {3, 4}, 3: {2}, 4: {0, 1, 2}}),
        # Never the text itself: text 0's random token has another code than its salient one.
        ("random_active_code", {0: {3, 4}, 1: {0, 3, 4}, 2: {0, 1, 3, 4}, 3: {0, 4}, 4: {0, 1, 2, 3}}),
    ],
)
def test_drawn_texts(others, condition, expected):
    found = {row: set() for row in range(5)}
    for _, drawn, valid in others.draws(condition, np.arange(5)):
        for row in np.flatnonzero(valid):
            found[row].add(int(drawn[row]))
    assert found == expected


def test_how_many_have_the_same_code():
    columns = {"code": [*SALIENT, 7], "prediction_plain": [*PREDICTIONS, 0], "condition": [*["salient"] * 5, "leace"]}
    outcome = Dataset.from_dict(columns)
    shares = excluded_shares(outcome)
    # Of the texts with the same prediction: 1 of 2, 1 of 2, 0 of 2, 0 of 1, 0 of 1.
    assert shares["other_text_same_excluded_share"] == pytest.approx(1 / 5)
    # With another prediction: 1 of 2, 1 of 2, 0 of 2, 2 of 3, 0 of 3.
    assert shares["other_text_opposite_excluded_share"] == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 5)


class TestPlaces:
    @pytest.fixture
    def texts(self):
        """One text of seven tokens, the first and the last special, the third salient."""
        texts = object.__new__(TextsOfTable)
        texts.text_id, texts.position = np.array([4]), np.array([2])
        texts.codes = [np.array([0, 1, 2, 3, 1, 5, 0])]
        texts.special = [np.array([True, False, False, False, False, False, True])]
        return texts

    def test_sinks_are_never_drawn(self, texts):
        # The batch is padded to nine.
        sinks = np.array([False, True, True, True, True, False, False, False, False])
        assert {texts.random_place(0, seed, sinks) for seed in range(20)} == {5}
        sinks[4] = False
        assert {texts.random_place(0, seed, sinks) for seed in range(20)} == {4, 5}
        sinks[:] = True
        assert texts.random_place(0, 0, sinks) == 2, "nothing else is there"

    def test_a_code_is_where_it_is_no_sink(self, texts):
        sinks = np.zeros(9, dtype=bool)
        codes, firsts = texts.other_codes(0, sinks)
        assert codes.tolist() == [1, 3, 5] and firsts.tolist() == [1, 3, 5]
        sinks[[1, 3]] = True
        codes, firsts = texts.other_codes(0, sinks)
        assert codes.tolist() == [1, 5] and firsts.tolist() == [4, 5]
