"""Differences of two methods over texts and training seeds, by hand and by simulation."""

import numpy as np
import pytest
from scipy.stats import t

from clvq_hf.comparison.duels import Difference, Duel, by_method, paired_difference
from clvq_hf.metrics.ablation_drop.statistics import sign_flip_p_value, studentized_interval


def entry(values, unmatched=0):
    """A figure of each text; the last `unmatched` texts have no matched concept."""
    values = [float(value) for value in values]
    matched = values[: len(values) - unmatched] + [None] * unmatched
    return {"text_id": list(range(len(values))), "differences": values, "matched_differences": matched}


def test_a_difference_is_paired_by_text():
    first, second = entry(np.arange(25)), entry(np.zeros(25))
    second["text_id"] = list(range(24, -1, -1))
    second["differences"] = [10.0 * text for text in second["text_id"]]
    found = paired_difference([first], [second], "differences")
    assert found.mean == pytest.approx(np.mean(np.arange(25) - 10 * np.arange(25)))
    low, high = found.interval
    assert low <= found.mean <= high and len(found.values) == 25 and found.seeds == (1, 1)
    # The standard deviation of 0, 9, …, 216 is 9·√(25·26/12), a standard error a fifth of it.
    quantiles = t.ppf(0.975, 24) + t.ppf(0.8, 24)
    assert found.detectable == pytest.approx(quantiles * 9 * np.sqrt(25 * 26 / 12) / 5)
    assert -low > found.margin > -found.mean


def test_matched_draws_are_those_that_both_have():
    first, second = [entry(np.arange(30), unmatched=2)], [entry(np.zeros(30), unmatched=5)]
    assert paired_difference(first, second).mean == pytest.approx(np.mean(np.arange(25)))
    assert paired_difference(first, second, "differences").mean == pytest.approx(np.mean(np.arange(30)))


def test_too_few_texts_give_no_difference():
    assert paired_difference([entry(np.arange(19))], [entry(np.arange(19))]) is None
    assert paired_difference([entry(np.arange(30), unmatched=11)], [entry(np.arange(30))]) is None
    assert paired_difference([], [entry(np.arange(30))]) is None


def test_seeds_are_averaged_text_by_text():
    zeros = entry(np.zeros(20))
    seeds = [entry(np.arange(20)), entry(3 * np.arange(20), unmatched=1)]
    found = paired_difference(seeds, [zeros])
    # The last text has no match with the second seed: only the first counts.
    assert found.values.tolist() == [*(2.0 * np.arange(19)), 19.0] and found.seeds == (2, 1)


def test_a_difference_of_one_seed_knows_only_texts():
    values = np.random.default_rng(0).exponential(size=(1, 30))
    found = Difference(values, np.zeros((1, 30)))
    assert found.interval == studentized_interval(values[0])
    assert found.p_value == sign_flip_p_value(values[0])


def test_what_seeds_differ_by_widens_the_interval_as_a_t_distribution_does():
    texts = np.linspace(-1e-6, 1e-6, 40)
    # Two seeds, 0 and 2: the standard error of their mean is 1, and that of the second method's 0.
    found = Difference(np.stack([texts, texts + 2]), np.zeros((3, 40)))
    low, high = found.interval
    assert found.mean == pytest.approx(1)
    # The 97.5 % quantile of one degree of freedom is 12.71; drawn 20,000 times.
    assert (high - 1, 1 - low) == (pytest.approx(12.71, rel=0.1), pytest.approx(12.71, rel=0.1))
    # Of the same t distribution: 12.71 + 1.38.
    assert found.detectable == pytest.approx(14.08, abs=0.01)
    # P(|t₁| > 1) is 1/2, although no text says anything else than 1.
    assert sign_flip_p_value(found.values) < 0.001 and found.p_value == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_noise_of_texts_is_not_counted_as_noise_of_seeds():
    generator = np.random.default_rng(0)
    same = generator.normal(size=600) + 0.3 * generator.normal(size=(3, 600))
    found = Difference(same, np.zeros((3, 600)))
    alone = studentized_interval(found.values)
    assert np.diff(found.interval) == pytest.approx(np.diff(alone), rel=0.15)


def test_a_duel_counts_once_for_each_side():
    clear = Difference(np.linspace(-3, -2, 24)[None], np.zeros((1, 24)))
    duels = [Duel("bert", "news", "clvq", "kmeans", clear, 0.01), Duel("bert", "film", "clvq", "kmeans", clear, 0.06)]
    assert by_method(duels, ["clvq", "kmeans"]) == {
        "clvq": {"kmeans": {"win": 1, "tie": 1, "loss": 0}},
        "kmeans": {"clvq": {"win": 0, "tie": 1, "loss": 1}},
    }


@pytest.mark.slow
@pytest.mark.parametrize("num_texts", [50, 120, pytest.param(600, marks=pytest.mark.simulation)])
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_intervals_over_texts_and_three_seeds_cover_the_mean(num_texts, spread, monkeypatch):
    """Texts are exponential, seeds normal with this standard deviation; the true difference is 0."""
    monkeypatch.setattr("clvq_hf.comparison.duels.studentized_statistics", _fewer_draws)
    generator = np.random.default_rng([num_texts, int(100 * spread)])
    covered = []
    for _ in range(400):
        texts = generator.exponential(size=num_texts) - 1
        first, second = (
            spread * generator.normal(size=(3, 1)) + share * texts + 0.3 * generator.normal(size=(3, num_texts))
            for share in (1.0, 0.5)
        )
        low, high = Difference(first, second).interval
        covered.append(low <= 0 <= high)
    # Three seeds say little of their spread: the interval errs on the wide side. 400 runs know a share of 95 % to ± 2.
    assert 0.93 <= np.mean(covered) <= 0.995


def _fewer_draws(values):
    from clvq_hf.metrics.ablation_drop.statistics import studentized_statistics

    return studentized_statistics(values, num_bootstrap=2000)
