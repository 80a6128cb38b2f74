"""Simulations of what the intervals of this library cover: the expected figure of as many fresh texts.

Each data set is drawn anew from a population, with its own texts; the truth is the mean figure of many, or known. What
misses 95 % by more than three points is said in the docstring or the card of the figure, with the same numbers. Those
that learn anew for each data set, or have many texts, take minutes: `make simulations` runs them.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from clvq_hf.evaluation.bottleneck import bottleneck_figures
from clvq_hf.judging.language_models.scores import bootstrap_mean, bootstrap_rating
from clvq_hf.judging.people.scoring import _compare, _deviations, _error, _interval
from clvq_hf.metrics.ablation_drop.statistics import studentized_interval
from clvq_hf.metrics.codebook_overlap.numerics import codebook_overlap
from clvq_hf.metrics.label_purity.numerics import NUM_SPLITS, Rules, jackknife_interval
from clvq_hf.metrics.label_purity.token_table import draw_halves, mean, read_token_table
from clvq_hf.metrics.routing_divergence import numerics as routing

pytestmark = pytest.mark.slow

POPULATION = np.random.default_rng(5)
VOCABULARY, NUM_CODES = 60, 24
FREQUENCY = 1 / np.arange(1, VOCABULARY + 1)
# Words that are more frequent under one label, the usual code of each word, and codes that only one label has.
ODDS = np.exp(POPULATION.normal(0, 0.7, (2, VOCABULARY))) * FREQUENCY
USUAL = POPULATION.integers(NUM_CODES // 2, size=VOCABULARY)


def draw_columns(size: int, share: float, generator: np.random.Generator) -> dict[str, list]:
    """Texts of 4 to 24 words, `share` of them with label 1; of the codes 30 % tell the label, in some texts more."""
    labels = (generator.random(size) < share).astype(int)
    columns = {"texts": [str(generator.integers(2**62)) for _ in labels], "labels": labels.tolist()}
    columns |= {"codes": [], "tokens": []}
    for label in labels:
        words = generator.choice(VOCABULARY, size=generator.integers(4, 25), p=ODDS[label] / ODDS[label].sum())
        shown = label if generator.random() < 0.9 else 1 - label
        telling = NUM_CODES // 2 + 3 * shown + generator.integers(3, size=len(words))
        tells = generator.random(len(words)) < 0.6 * generator.beta(2, 2)
        columns["codes"].append(np.where(tells, telling, USUAL[words]).tolist())
        columns["tokens"].append(words.astype(str).tolist())
    return columns


def purity_figures(columns: dict[str, list], full: bool) -> list[tuple[float, float, float]]:
    """Purity and lexical gain, with their intervals if they are asked for."""
    table = read_token_table(**columns)
    halves = draw_halves(table.text_names, NUM_SPLITS if full else 4, 0)
    rules = Rules.of(table, [table.code, table.type], halves, 10, 5)
    (own, common), _ = rules.score(np.ones(len(table.label), bool))
    figures = own[0], common[0] - common[1]
    if not full:
        return [(mean(values), np.nan, np.nan) for values in figures]
    parts = rules.score_parts()
    left_out = parts[:, 0, 0], parts[:, 1, 0] - parts[:, 1, 1]
    return [
        (mean(values), *jackknife_interval(values, each, share=row == 0))
        for row, (values, each) in enumerate(zip(figures, left_out, strict=True))
    ]


def routing_figures(columns: dict[str, list], full: bool) -> list[tuple[float, float, float]]:
    """Excess divergence without its test, which takes most of the time."""
    table = read_token_table(**columns)
    occurrences = routing.count_occurrences(table)
    eligible = routing.eligible_types(table, occurrences, table.label, 10, 5)
    contexts = routing.find_contexts(occurrences, table.label, eligible)
    counts = routing.count_codes(contexts, contexts.pair_label[:, None])
    generator = np.random.default_rng(0)
    chance = mean(routing._null(contexts, 20, generator)[0])
    excess = mean(routing.divergences(contexts, counts)[:, 0]) - chance
    if not full:
        return [(excess, np.nan, np.nan)]
    draws = routing._bootstrap(contexts, len(table.label), 300, generator)
    return [(excess, *routing.interval(draws - mean(draws) + excess))]


def overlap_figures(columns: dict[str, list], full: bool) -> list[tuple[float, float, float]]:
    settings = {"num_bootstrap": 300 if full else 1, "num_permutations": 1, "num_pairs": 1000}
    found = codebook_overlap(**columns, **settings)
    values = [found[name] for name in ("ratio", "ratio_low", "ratio_high")]
    return [tuple(np.nan if value is None else value for value in values)]


def coverage(
    measure: Callable, size: int, share: float, num_sets: int, num_truths: int, row: int = 0
) -> tuple[float, float]:
    """Share of intervals that cover the mean figure, and its standard error."""
    generator = np.random.default_rng(size)
    truths = [measure(draw_columns(size, share, generator), False)[row][0] for _ in range(num_truths)]
    found = np.array([measure(draw_columns(size, share, generator), True)[row] for _ in range(num_sets)])
    found = found[~np.isnan(found).any(axis=1)]
    truth = np.nanmean(truths)
    return float(np.mean((found[:, 1] <= truth) & (truth <= found[:, 2]))), len(found)


def close(covered: float, number: int, expected: float = 0.95, points: float = 0.03) -> bool:
    """Whether a coverage is within three points of what is promised, and two standard errors of the simulation."""
    return abs(covered - expected) <= points + 2 * np.sqrt(expected * (1 - expected) / number)


# Texts, data sets with an interval, data sets for the truth.
SIZES = [(50, 150, 500), (120, 80, 200), (600, 40, 60)]
# Many texts, where intervals are easiest and simulations take longest.
MANY = pytest.param(600, marks=pytest.mark.simulation)


@pytest.mark.simulation
@pytest.mark.parametrize(("size", "num_sets", "num_truths"), SIZES)
@pytest.mark.parametrize("row", [0, 1], ids=["purity", "lexical gain"])
def test_purity(size, num_sets, num_truths, row):
    covered, number = coverage(purity_figures, size, 0.5, num_sets, num_truths, row)
    assert close(covered, number)


@pytest.mark.simulation
@pytest.mark.parametrize(("size", "num_sets", "num_truths"), SIZES)
def test_purity_of_unbalanced_labels(size, num_sets, num_truths):
    covered, number = coverage(purity_figures, size, 0.2, num_sets, num_truths)
    assert close(covered, number)


@pytest.mark.simulation
@pytest.mark.parametrize(("size", "num_sets", "num_truths"), SIZES)
def test_routing(size, num_sets, num_truths):
    covered, number = coverage(routing_figures, size, 0.5, num_sets, num_truths)
    assert close(covered, number)


@pytest.mark.simulation
@pytest.mark.parametrize(("size", "num_sets", "num_truths"), SIZES)
def test_overlap(size, num_sets, num_truths):
    covered, number = coverage(overlap_figures, size, 0.5, num_sets, num_truths)
    assert close(covered, number)


@pytest.mark.parametrize("size", [50, 120, MANY])
def test_ablations(size):
    # Margins: half of the texts lose an exponential amount. Flips: 15 % against five draws of 5 %.
    generator = np.random.default_rng(size)

    def margins() -> np.ndarray:
        return generator.normal(0, 0.3, size) - generator.exponential(1, size) * (generator.random(size) < 0.5)

    def flips() -> np.ndarray:
        return (generator.random(size) < 0.15) - generator.binomial(5, 0.05, size) / 5

    for draw, truth in ((margins, -0.5), (flips, 0.1)):
        bounds = [studentized_interval(draw(), num_bootstrap=1000) for _ in range(400)]
        assert close(np.mean([low <= truth <= high for low, high in bounds]), 400)


@pytest.mark.parametrize(("size", "rate", "expected"), [(50, 0.02, 0.61), (50, 0.05, 0.90), (120, 0.02, 0.90)])
def test_rare_flips_are_covered_less(size, rate, expected):
    generator = np.random.default_rng(0)
    draws = [(generator.random(size) < rate).astype(float) for _ in range(400)]
    bounds = [studentized_interval(values, num_bootstrap=1000) for values in draws]
    assert close(np.mean([low <= rate <= high for low, high in bounds]), 400, expected)


@pytest.mark.parametrize(
    ("size", "heavy"), [(50, 0.89), (120, 0.93), pytest.param(600, 0.95, marks=pytest.mark.simulation)]
)
def test_splice(size, heavy):
    # What a text loses with the mean state, and the share of it that it loses with the splice, plus some noise.
    def draw(size: int, spread: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        reference = generator.lognormal(0, spread, size)
        return reference * generator.beta(1, 6, size) + generator.exponential(0.02, size), reference

    zeros = {name: [0] * size for name in ("label", "prediction_plain", "prediction_splice", "prediction_mean")}
    ones = {name: [1.0] * size for name in ("residual", "variance", "num_active", "num_tokens", "kl_permuted")}
    for spread, expected in ((0.7, 0.95), (1.5, heavy)):
        values, reference = draw(10**6, spread, np.random.default_rng(1))
        truth = 1 - values.sum() / reference.sum()
        covered = []
        for seed in range(200):
            values, reference = draw(size, spread, np.random.default_rng(100 + seed))
            columns = {"kl_splice": values, "kl_mean": reference, **zeros, **ones}
            figures = bottleneck_figures(Dataset.from_dict(columns))
            covered.append(figures["splice_fidelity_low"] <= truth <= figures["splice_fidelity_high"])
        assert close(np.mean(covered), 200, expected)


@pytest.mark.parametrize("size", [50, 120, MANY])
def test_language_models(size):
    # Wins minus losses, ties most frequent; ratings, with a tenth of the exhibits empty and a tenth unanswered.
    generator = np.random.default_rng(size)
    covered, rated = [], []
    for _ in range(300):
        figures = bootstrap_mean(generator.choice([-1.0, 0, 0, 0, 1, 1], size), 0)
        covered.append(figures["low"] <= 1 / 6 <= figures["high"])
        shown = generator.random(size) < 0.9
        ratings = np.where(shown, generator.choice([1.0, 2, 3], size, p=[0.2, 0.3, 0.5]), np.nan)
        figures = bootstrap_rating(np.where(generator.random(size) < 0.9, ratings, np.nan), shown, 0)
        rated.append(figures["low"] <= 0.9 * 2.3 + 0.1 <= figures["high"])
    assert close(np.mean(covered), 300) and close(np.mean(rated), 300)


@pytest.mark.parametrize("size", [50, 120, MANY])
def test_studies(size):
    # Two methods, twelve annotators in two groups, who differ by 0.3 logits, as texts do by 1.
    def difference(size: int, annotators: int, generator: np.random.Generator) -> list[pd.DataFrame]:
        people, texts = generator.normal(0, 0.3, (annotators, 1)), generator.normal(0, 1, size)
        first = (np.arange(size) + np.arange(annotators)[:, None]) % 2 == 0
        right = generator.random(first.shape) < 1 / (1 + np.exp(-(np.where(first, 1.5, 0.5) + people + texts)))
        rows = []
        for name, seen in (("good", first), ("bad", ~first)):
            annotator, text = np.nonzero(seen)
            rows.append(
                pd.DataFrame({"method": name, "annotator": annotator, "text_id": text, "is_right": right[seen]})
            )
        return rows

    big = difference(4000, 200, np.random.default_rng(0))
    accuracies = [float(answers["is_right"].mean()) for answers in big]
    covered, alone = [], []
    for seed in range(200):
        good, bad = difference(size, 12, np.random.default_rng(1000 + seed))
        compared = _compare(good, bad)
        covered.append(compared["difference_low"] <= accuracies[0] - accuracies[1] <= compared["difference_high"])
        low, high = _interval(good["is_right"].mean(), _error(good, _deviations(good)))
        alone.append(low <= accuracies[0] <= high)
    assert close(np.mean(covered), 200) and close(np.mean(alone), 200)
