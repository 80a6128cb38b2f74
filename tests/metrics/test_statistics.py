"""Hand-computed values, and simulations of what each statistic promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from clvq_hf.metrics.ablation_drop import statistics
from clvq_hf.metrics.ablation_drop.statistics import (
    holm,
    mcnemar_p_value,
    sign_flip_p_value,
)


def sampling_error(rate: float, simulations: int) -> float:
    """Three standard errors of a simulated rate."""
    return 3 * np.sqrt(rate * (1 - rate) / simulations)


class TestStudentized:
    def test_by_hand(self):
        # Of two values, a resample holds both once (t = 0) or one twice: no spread, infinitely far off.
        assert statistics.studentized_interval([0.0, 2.0]) == (-np.inf, np.inf)
        assert statistics.studentized_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
        assert statistics.studentized_interval([1.0]) == (None, None)

    def test_normal_values_give_the_interval_of_student(self):
        values = np.random.default_rng(0).normal(size=200)
        low, high = statistics.studentized_interval(values)
        half = t.ppf(0.975, 199) * values.std(ddof=1) / np.sqrt(200)
        assert (low, high) == (
            pytest.approx(values.mean() - half, abs=0.05 * half),
            pytest.approx(values.mean() + half, abs=0.05 * half),
        )

    @given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.1, 10))
    @settings(max_examples=20, deadline=None)
    def test_moves_and_grows_with_the_values(self, seed, shift, scale):
        values = np.random.default_rng(seed).exponential(size=30)
        low, high = statistics.studentized_interval(values, num_bootstrap=500)
        moved = statistics.studentized_interval(shift + scale * values, num_bootstrap=500)
        # Rounding may swap two resamples at a bound.
        assert moved == pytest.approx((shift + scale * low, shift + scale * high), rel=1e-3, abs=1e-3)

    def test_the_seed_hardly_matters(self):
        values = np.random.default_rng(0).exponential(size=120)
        bounds = np.array([statistics.studentized_interval(values, seed=seed) for seed in range(6)])
        assert bounds.std(axis=0).max() < 0.01 * np.diff(bounds, axis=1).mean()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "size"),
        [("normal", 50), ("normal", 120), ("exponential", 50), ("exponential", 120), ("zeros", 50), ("zeros", 120)],
    )
    def test_coverage(self, kind, size):
        generator = np.random.default_rng(0)

        def draw():
            if kind == "normal":
                return generator.normal(1, 1, size)
            kept = generator.random(size) < (0.3 if kind == "zeros" else 1)
            return generator.exponential(size=size) * kept

        mean = 0.3 if kind == "zeros" else 1.0
        intervals = [statistics.studentized_interval(draw(), num_bootstrap=600) for _ in range(800)]
        # Three points, and three standard errors of 800 simulations at 95 %.
        assert np.mean([low <= mean <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.03 + 0.023)


class TestSignFlip:
    def test_by_hand(self):
        # 1 + 2 - 4 = -1. The sums of all patterns are ±1, ±3, ±5 and ±7: all at least as far from 0.
        assert sign_flip_p_value([1, 2, -4]) == 1
        # 1 + 2 + 4 = 7: only itself and its mirror image of 8 patterns.
        assert sign_flip_p_value([1, 2, 4]) == 2 / 8
        # -1 + 2 + 4 = 5: ±5 and ±7.
        assert sign_flip_p_value([-1, 2, 4]) == 4 / 8

    def test_zeros_change_nothing(self):
        assert sign_flip_p_value([1, 2, 4, 0, 0]) == 2 / 8
        assert sign_flip_p_value([0, 0]) == 1
        assert sign_flip_p_value([0] * 20) == 1

    def test_ends(self):
        assert sign_flip_p_value([]) is None
        assert sign_flip_p_value([5]) == 1
        # No random pattern of 60 equal signs is as extreme: the smallest value is 1 / (draws + 1).
        assert sign_flip_p_value([1.5] * 60, num_permutations=999) == 1 / 1000

    def test_rounding_does_not_break_ties(self):
        # 0.1 + 0.2 + 0.3 - 0.6 is 0, as extreme as nothing, but 1.1e-16 in floating point.
        assert sign_flip_p_value([0.1, 0.2, 0.3, -0.6]) == 1
        # As extreme are the patterns with 11 or 12 of the 12 signs alike: 2 · (12 + 1) of 4,096.
        assert sign_flip_p_value([0.1] * 11 + [-0.1]) == 26 / 4096

    def test_brute_force(self):
        generator = np.random.default_rng(0)
        for size in range(1, 10):
            differences = generator.standard_t(2, size=size)
            signs = np.array(list(itertools.product([1, -1], repeat=size)))
            extreme = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
            assert sign_flip_p_value(differences) == extreme.mean()

    def test_drawn_patterns_agree_with_all_patterns(self, monkeypatch):
        differences = np.random.default_rng(0).normal(0.3, 1, size=12)
        exact = sign_flip_p_value(differences)
        monkeypatch.setattr(statistics, "MAX_EXACT", 0)
        drawn = sign_flip_p_value(differences, num_permutations=20_000)
        assert drawn != exact and drawn == pytest.approx(exact, abs=sampling_error(exact, 20_000))

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=30), st.integers(-8, 8))
    def test_two_sided_and_free_of_units(self, differences, exponent):
        value = sign_flip_p_value(differences, num_permutations=200)
        assert sign_flip_p_value([-difference for difference in differences], num_permutations=200) == value
        # A power of two scales without rounding.
        scaled = [difference * 2.0**exponent for difference in differences]
        assert sign_flip_p_value(scaled, num_permutations=200) == value

    def test_memory_is_bounded(self, monkeypatch):
        differences = np.random.default_rng(0).normal(0.2, 1, size=40)
        at_once = sign_flip_p_value(differences)
        monkeypatch.setattr(statistics, "_MAX_NUMBERS", 4000)
        assert sign_flip_p_value(differences) == pytest.approx(at_once, abs=0.03)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        # Ten differences have 1,024 patterns in mirrored pairs, of which 5 % is no whole number: 25 of 512 are met.
        # 199 draws and the observed pattern meet 5 %.
        ("size", "level"),
        [(10, 25 / 512), (40, 0.05)],
    )
    def test_level_under_the_null(self, size, level):
        # Symmetric differences with heavy tails, and spreads that differ from text to text. The first 3,000 of size 10
        # lie 3.6 standard errors below the level by chance: brute force gives the same p-values.
        generator = np.random.default_rng(size)
        spreads = generator.uniform(0.1, 5, size=size)
        simulations = 20_000
        rejected = sum(
            sign_flip_p_value(generator.standard_t(2, size=size) * spreads, num_permutations=199, seed=seed) <= 0.05
            for seed in range(simulations)
        )
        assert rejected / simulations == pytest.approx(level, abs=sampling_error(level, simulations))


class TestMcNemar:
    def test_by_hand(self):
        # Five texts flip under the first treatment only, none under the second only: 2 / 2^5.
        first = [True] * 5 + [True] * 3 + [False] * 4
        second = [False] * 5 + [True] * 3 + [False] * 4
        assert mcnemar_p_value(first, second) == pytest.approx(2 / 32)
        assert mcnemar_p_value(second, first) == pytest.approx(2 / 32)
        # One against three: 2 · (1 + 4) / 2^4.
        assert mcnemar_p_value([True, False, False, False], [False, True, True, True]) == pytest.approx(10 / 16)

    def test_ends(self):
        assert mcnemar_p_value([True, False], [True, False]) == 1
        assert mcnemar_p_value(np.array([], dtype=bool), np.array([], dtype=bool)) is None

    @pytest.mark.slow
    @pytest.mark.parametrize("rates", [(0.1, 0.1), (0.6, 0.6)])
    def test_conservative_under_the_null(self, rates):
        generator = np.random.default_rng(0)
        simulations = 2000
        rejected = sum(
            mcnemar_p_value(generator.random(60) < rates[0], generator.random(60) < rates[1]) <= 0.05
            for _ in range(simulations)
        )
        assert rejected / simulations <= 0.05


class TestHolm:
    def test_by_hand(self):
        # Sorted .01, .02, .03, .04, times 4, 3, 2, 1: .04, .06, .06, .04; no value below the one before it.
        assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
        assert holm([0.5, 0.9]) == pytest.approx([1, 1])
        assert holm([0.2]) == pytest.approx([0.2])
        assert holm([]).shape == (0,)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
    def test_between_plain_and_bonferroni_in_any_order(self, p_values, random):
        adjusted = holm(p_values)
        assert (adjusted >= p_values).all()
        assert (adjusted <= np.minimum(1, np.array(p_values) * len(p_values))).all()
        order = random.sample(range(len(p_values)), len(p_values))
        assert holm(np.array(p_values)[order]).tolist() == adjusted[order].tolist()

    @pytest.mark.parametrize("correlation", [0, 0.8])
    def test_family_wise_error_rate(self, correlation):
        # Three tests, of which the third has something to find; an error is to reject one of the other two.
        generator = np.random.default_rng(0)
        simulations = 4000
        shared = generator.normal(size=(simulations, 1))
        scores = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * generator.normal(size=(simulations, 3))
        p_values = 2 * norm.sf(np.abs(scores + np.array([0, 0, 4])))
        errors = sum((holm(row)[:2] <= 0.05).any() for row in p_values)
        assert errors / simulations <= 0.05 + sampling_error(0.05, simulations)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.studentized_interval([1, float("nan")]), "one finite number per text"),
        (lambda: statistics.studentized_interval([[1, 2]]), "one finite number per text"),
        (lambda: statistics.studentized_interval([1, 2], num_bootstrap=0), "num_bootstrap must be at least 1"),
        (lambda: statistics.studentized_interval([1, 2], confidence=95), "confidence must lie between 0 and 1"),
        (lambda: sign_flip_p_value([float("inf")]), "one finite number per text"),
        (lambda: sign_flip_p_value([1], num_permutations=-1), "num_permutations must be at least 1"),
        (lambda: mcnemar_p_value([True], [True, False]), "one value per text for both"),
        (lambda: mcnemar_p_value([0.5], [1.0]), "needs truth values"),
        (lambda: holm([0.1, 1.1]), "between 0 and 1"),
    ],
)
def test_unusable_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
