"""Figures of an audit by hand."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from clvq_hf.auditing import effects as effects_module
from clvq_hf.auditing.effects import effect_figures, matched_controls, mean_interval, p_values


def rows_of(effects, word=None, tokens=None):
    """Rows of texts × codes × classes, with removals of one size."""
    effects = np.asarray(effects, dtype=float)
    texts, codes, classes = effects.shape
    flat = effects.reshape(-1, classes)
    return {
        "text_id": np.repeat(np.arange(texts), codes),
        "code": np.tile(np.arange(codes), texts),
        "num_tokens": np.ones(len(flat)) if tokens is None else np.asarray(tokens),
        "removed_norm": np.ones(len(flat)),
        "flips": np.zeros(len(flat), dtype=bool),
        "effect": flat,
        "word_effect": np.full_like(flat, np.nan)
        if word is None
        else np.asarray(word, dtype=float).reshape(flat.shape),
    }


class TestControls:
    def test_the_others_that_are_alike_are_averaged(self):
        text = np.asarray([0, 0, 0, 0, 1])
        effect = np.asarray([[1.0], [2.0], [4.0], [8.0], [5.0]])
        controls, matched = matched_controls(text, np.asarray([2, 2, 3, 9, 1]), np.asarray([1, 1, 1.2, 1, 1]), effect)
        # 2 and 3 tokens are within 1.5, lengths within 1.25; nine tokens are like nothing, so the nearest is taken.
        assert controls[:, 0].tolist()[:4] == [3.0, 2.5, 1.5, 4.0]
        assert matched.tolist() == [True, True, True, False, False]
        assert np.isnan(controls[4, 0]), "a text with one concept has no control"

    def test_at_most_five(self):
        effect = np.arange(8.0)[:, None]
        controls, _ = matched_controls(np.zeros(8), np.ones(8), np.ones(8), effect)
        assert controls[7, 0] == np.mean([0, 1, 2, 3, 4]), "of equally near ones the first"


class TestFigures:
    def test_means_shares_and_excess(self):
        effects = [[[2, -2], [1, -1]], [[4, -4], [-1, 1]]]
        frame = effect_figures(rows_of(effects), np.asarray([2, 2])).set_index(["code", "class"])
        assert frame.loc[(0, 0), "effect"] == 3 and frame.loc[(0, 0), "control"] == 0
        assert frame.loc[(0, 0), "excess"] == np.mean([2 - 1, 4 + 1])
        # Of class 0 the positive effects are 2, 4 and 1.
        assert frame.loc[(0, 0), "share"] == pytest.approx(6 / 7)
        assert frame.loc[(1, 0), "share"] == pytest.approx(1 / 7)
        assert frame.loc[(1, 1), "share"] == 1.0
        assert frame["p"].isna().all() and frame["q"].isna().all(), "two texts prove nothing"

    def test_measured_texts_stand_for_all(self):
        frame = effect_figures(rows_of([[[2.0], [1.0]]]), np.asarray([1, 3])).set_index("code")
        assert frame.loc[0, "share"] == pytest.approx(2 / 5)
        assert frame.loc[1, "share"] == pytest.approx(3 / 5)

    def test_p_and_q(self):
        generator = np.random.default_rng(0)
        effects = generator.normal(size=(40, 3, 2)) + np.asarray([3.0, 0.0, 0.0])[None, :, None]
        frame = effect_figures(rows_of(effects), np.full(3, 40))
        strong = frame[frame["code"] == 0]
        assert (strong["p"] < 1e-3).all() and (strong["q"] < 1e-2).all()
        assert frame["q"].tolist() == pytest.approx(false_discovery_control(frame["p"]).tolist())
        assert (frame["q"] >= frame["p"]).all()
        assert (frame["effect_low"] < frame["effect"]).all() and (frame["effect"] < frame["effect_high"]).all()

    def test_small_p_values_survive_thousands_of_tests(self):
        """The smallest one of 10,000 flips, corrected for 1,500 tests, would be 0.15."""
        strong = np.linspace(1, 2, 20)
        assert p_values([strong], 10) == pytest.approx(1e-4, rel=0.2)
        assert 1500 * p_values([strong], 1500)[0] < 0.05
        weak = np.random.default_rng(0).normal(size=20)
        assert p_values([weak], 1500) == p_values([weak], 1)

    @pytest.mark.parametrize("num_strong", [1, 300, 30_000])
    def test_tens_of_thousands_of_tests_take_no_hours(self, monkeypatch, num_strong):
        """Of 30,000 tests: 100 million flips of 100 values take about a minute, and all strong ones are found."""
        flips = []

        def count(excess, num_permutations):
            flips.append(num_permutations)
            return 1 / (num_permutations + 1) if excess[0] else 0.5

        monkeypatch.setattr(effects_module, "sign_flip_p_value", count)
        excesses = [np.asarray([number < num_strong]) for number in range(30_000)]
        found = p_values(excesses)
        assert sum(flips) < 1e8
        assert (false_discovery_control(found)[:num_strong] <= 0.05).all()

    def test_only_texts_with_a_control_count(self):
        """A concept in 30 texts, in 19 of which no other one was measured."""
        rows = rows_of(np.full((30, 2, 1), [[2.0], [1.0]]))
        kept = (rows["code"] == 0) | (rows["text_id"] < 11)
        rows = {name: values[kept] for name, values in rows.items()}
        rows["num_tokens"][1] = 9
        frame = effect_figures(rows, np.asarray([30, 11])).set_index("code")
        assert frame.loc[0, "effect"] == 2 and frame.loc[0, "excess"] == 1
        assert frame["num_controlled"].tolist() == [11, 11]
        assert frame["matched"].tolist() == pytest.approx([10 / 11, 10 / 11]), "one control is nine times as large"
        assert frame["p"].isna().all(), "although 30 texts have it"

    def test_the_order_of_texts_does_not_matter(self):
        excess = np.random.default_rng(0).normal(0.4, size=(25, 1, 1))
        effects = np.concatenate([excess, np.zeros_like(excess)], axis=1)
        first, second = (effect_figures(rows_of(each), np.full(2, 25)) for each in (effects, effects[::-1]))
        assert first["p"].tolist() == second["p"].tolist()

    def test_shares_of_what_speaks_against_a_class(self):
        frame = effect_figures(rows_of([[[-3.0], [1.0]], [[-1.0], [-4.0]]]), np.asarray([2, 2])).set_index("code")
        assert frame["share"].tolist() == [0, 1]
        assert frame["share_against"].tolist() == [0.5, 0.5]

    def test_false_discoveries_are_rare(self):
        """Without any effect, fewer than one audit in ten finds one at q < 0.05."""
        generator = np.random.default_rng(1)
        found = [
            (effect_figures(rows_of(generator.normal(size=(25, 6, 1))), np.full(6, 25))["q"] < 0.05).any()
            for _ in range(30)
        ]
        assert np.mean(found) <= 0.1

    def test_the_share_of_the_word(self):
        effects = [[[2.0], [1.0]], [[4.0], [0.0]]]
        word = [[[1.0], [1.0]], [[2.0], [np.nan]]]
        frame = effect_figures(rows_of(effects, word), np.asarray([2, 2])).set_index("code")
        assert frame.loc[0, "lexical"] == 0.5
        assert frame.loc[1, "lexical"] == 1.0, "only where the word's mean state is known"


def test_interval():
    low, high = mean_interval(np.asarray([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert np.isnan(mean_interval(np.asarray([1.0]))).all()
