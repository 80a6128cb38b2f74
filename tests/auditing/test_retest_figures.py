"""Figures by hand."""

import numpy as np
import pytest

from clvq_hf.auditing.retest_figures import Figure, Outcome, calibration_error, compare, corrected
from clvq_hf.auditing.retest_words import _sentence, judged

LOG = np.log


def outcome(*probabilities):
    """Of the first of two classes, as logits."""
    return Outcome(np.asarray([[LOG(p), LOG(1 - p)] for p in probabilities]))


class TestScores:
    def test_by_hand(self):
        before = outcome(0.8, 0.5, 0.4)
        after = outcome(0.1, 0.75, 0.4)
        scores = after.scores(np.asarray([0, 0, -1]), before)
        assert scores["accuracy"][:2].tolist() == [0, 1]
        # ln 0.1 − ln 0.9, and ln 0.75 − ln 0.25.
        assert scores["margin"][:2] == pytest.approx([LOG(1 / 9), LOG(3)])
        # (0.1 − 1)² + 0.9², and 0.25² + 0.25².
        assert scores["brier"][:2] == pytest.approx([1.62, 0.125])
        assert scores["log_loss"][:2] == pytest.approx([-LOG(0.1), -LOG(0.75)])
        assert all(np.isnan(scores[name][2]) for name in ("accuracy", "margin", "brier", "log_loss"))
        assert scores["changed"].tolist() == [1, 0, 0], "which needs no label"

    def test_brier_of_three_classes(self):
        rows = LOG(np.asarray([[0.5, 0.3, 0.2]]))
        # 0.25 + 0.49 + 0.04.
        assert Outcome(rows).scores(np.asarray([1]), Outcome(rows))["brier"] == pytest.approx([0.78])

    def test_a_text_without_an_answer_counts_nowhere(self):
        rows = np.asarray([[np.nan, np.nan], [1.0, 0.0]])
        scores = Outcome(rows).scores(np.asarray([0, 0]), outcome(0.5, 0.5))
        assert all(np.isnan(values[0]) and np.isfinite(values[1]) for values in scores.values())
        assert Outcome(rows).calibration_error(np.asarray([0, 0]), np.asarray([True, False])) is None

    def test_a_regression_has_no_probabilities(self):
        row = Outcome(np.asarray([[0.0, 2.0]]), has_probabilities=False)
        assert set(row.scores(np.asarray([1]), row)) == {"accuracy", "margin", "changed"}
        assert row.calibration_error(np.asarray([1]), np.asarray([True])) is None

    def test_certainty_of_the_wrong_class_is_finite(self):
        row = Outcome(np.asarray([[0.0, 2000.0]]))
        assert np.isfinite(row.scores(np.asarray([0]), row)["log_loss"]).all()


class TestCalibrationError:
    def test_by_hand(self):
        # Two bins: |0.5·2 − 0.6·2| / 4 + |1·2 − 0.9·2| / 4, confidences 0.6, 0.6 and 0.9, 0.9.
        found = calibration_error(np.asarray([0.6, 0.6, 0.9, 0.9]), np.asarray([True, False, True, True]), num_bins=4)
        assert found == pytest.approx((0.2 + 0.2) / 4)

    def test_within_a_bin_errors_cancel(self):
        assert calibration_error(np.asarray([0.5, 0.5]), np.asarray([True, False]), num_bins=2) == 0

    def test_a_confidence_of_1_is_in_the_last_bin(self):
        assert calibration_error(np.asarray([1.0]), np.asarray([False])) == 1


ALL, NONE = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)


class TestCompare:
    def test_where_no_prediction_changes_some_of_others_may(self):
        right = {"accuracy": np.ones(36), "changed": np.zeros(36), "brier": np.zeros(36)}
        accuracy, brier, changed = compare("all", "edit", ALL[:36], right, right, NONE[:36])
        # (1 - p)³⁶ = 0.025 for p = 0.0974.
        assert (accuracy.low, accuracy.high) == pytest.approx((-0.0974, 0.0974), abs=1e-4) and accuracy.sign == 0
        assert (changed.low, changed.high) == (accuracy.low, accuracy.high) and (brier.low, brier.high) == (0, 0)
        wrong, right = {"accuracy": np.zeros(36)}, {"accuracy": np.ones(36)}
        (all_changed,) = compare("all", "edit", ALL[:36], wrong, right, NONE[:36])
        assert (all_changed.low, all_changed.high) == pytest.approx((0.9026, 1), abs=1e-4) and all_changed.sign == 1

    def test_the_same_answers_do_not_change(self):
        right = {"accuracy": np.asarray([1.0] * 30 + [np.nan])}
        is_same = ALL[:31].copy()
        is_same[30] = False  # it has no answer
        (accuracy,) = compare("all", "edit", ALL[:31], right, right, is_same)
        assert (accuracy.low, accuracy.high) == (0, 0)

    def test_paired(self):
        before = {"accuracy": np.asarray([0.0] * 30 + [1.0] * 10)}
        after = {"accuracy": np.asarray([1.0] * 28 + [0.0] * 2 + [1.0] * 10)}
        (figure,) = compare("all", "edit", ALL[:40], before, after, NONE[:40])
        assert (figure.before, figure.after, figure.change) == (0.25, 0.95, pytest.approx(0.7))
        assert 0.5 < figure.low < 0.7 < figure.high < 0.9 and figure.p_value < 0.001
        assert figure.sign == 1 and judged(figure) == "repaired"

    def test_texts_that_lack_either_are_left_out(self):
        before = {"margin": np.asarray([1.0, np.nan, 3.0])}
        after = {"margin": np.asarray([2.0, 2.0, np.nan])}
        (figure,) = compare("all", "edit", ALL[:3], before, after, NONE[:3])
        assert (figure.num_texts, figure.change) == (1, 1.0) and figure.low is None
        assert compare("all", "edit", NONE[:3], before, after, NONE[:3]) == []

    def test_the_order_of_texts_does_not_matter(self):
        rng = np.random.default_rng(0)
        before, after = rng.normal(size=50), rng.normal(size=50)
        order = rng.permutation(50)
        first = compare("all", "edit", ALL, {"margin": before}, {"margin": after}, NONE)
        second = compare("all", "edit", ALL, {"margin": before[order]}, {"margin": after[order]}, NONE)
        assert first[0].low == second[0].low and first[0].high == second[0].high


class TestJudged:
    def figure(self, **fields):
        values = {"group": "all", "condition": "edit", "figure": "accuracy", "num_texts": 100}
        values |= {"before": 0.5, "after": 0.6, "change": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.01}
        return Figure(**{**values, **fields})

    @pytest.mark.parametrize(
        ("fields", "word"),
        [
            ({}, "repaired"),
            ({"low": -0.15, "high": -0.05}, "cost"),
            ({"low": -0.01}, "no evidence"),
            ({"low": 0.0}, "no evidence"),
            ({"p_value": 0.06}, "no evidence"),
            ({"num_texts": 19}, "too few texts"),
            ({"low": None}, "no evidence"),
            # Of an error more is worse.
            ({"figure": "brier", "p_value": None}, "cost"),
        ],
    )
    def test_words(self, fields, word):
        assert judged(self.figure(**fields)) == word

    def test_an_interval_without_0_is_told_beside_a_corrected_p_value(self):
        told = _sentence(self.figure(p_value=0.06), [])
        assert told.endswith("no evidence of a change, because p-values are corrected for the number of groups.")
        assert _sentence(self.figure(low=-0.01, p_value=0.06), []).endswith("no evidence of a change.")

    def test_p_values_are_corrected_for_all_groups(self):
        figures = [self.figure(group="a", p_value=0.02), self.figure(group="b", p_value=0.04)]
        figures += [self.figure(group="c", condition="words deleted", p_value=0.03)]
        found = corrected(figures, "edit")
        # Holm: 0.02·2, and the larger of 0.04·1 and that.
        assert [each.p_value for each in found] == [0.04, 0.04, 0.03]
