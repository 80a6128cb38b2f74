"""How far people or judges agree, and what their comparisons of pairs say: pure functions of arrays."""

from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
import scipy.stats

from ..extras import require

# Of the prior on Bradley–Terry scores.
PRIOR_DEVIATION = 3.0
MAX_NEWTON_STEPS = 100


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' κ: agreement beyond chance of raters who each choose one category.

    Args:
        counts (`np.ndarray` of shape `(N, C)`): How many raters put each item into each category; as many raters for
            every item.

    Returns:
        `float`: At most 1; NaN if all ratings are of one category.

    Raises:
        ValueError: If the items have different numbers of raters, or fewer than two.

    Source: Fleiss (1971), Measuring nominal scale agreement among many raters.
    """
    counts = np.asarray(counts, dtype=float)
    raters = counts.sum(1)
    if len(counts) == 0 or not (raters == raters[0]).all() or raters[0] < 2:
        raise ValueError("Fleiss' kappa needs the same number of raters, two or more, for every item.")
    observed = ((counts**2).sum(1) - raters) / (raters * (raters - 1))
    chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return float((observed.mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def krippendorff_alpha(ratings: np.ndarray, level: Literal["nominal", "ordinal", "interval"]) -> float:
    """Krippendorff's α: agreement beyond chance, ratings may be missing.

    Args:
        ratings (`np.ndarray` of shape `(raters, N)`): Numbers, NaN where a rater has not rated an item.
        level (`str`): How far two ratings are from each other.

    Returns:
        `float`: At most 1; NaN if no item has two ratings, or all are the same.

    Source: Krippendorff (2011), Computing Krippendorff's alpha-reliability.
    """
    require("Agreement", "judging")
    import krippendorff

    ratings = np.asarray(ratings, dtype=float)
    paired = ratings[:, (~np.isnan(ratings)).sum(0) >= 2]
    if paired.size == 0 or len(np.unique(paired[~np.isnan(paired)])) < 2:
        return float("nan")
    return float(krippendorff.alpha(reliability_data=paired, level_of_measurement=level))


def kendall_w(ranks: np.ndarray) -> float:
    """Kendall's W: from 0, no agreement of the rankings, to 1, all the same. Ties count as mean ranks.

    Args:
        ranks (`np.ndarray` of shape `(raters, N)`): Each rater's ranks, or scores, of the same N things.

    Returns:
        `float`: NaN if everybody has everything tied.

    Raises:
        ValueError: If there are fewer than two raters or things.

    Source: Kendall & Babington Smith (1939), The problem of m rankings, with the correction for ties.
    """
    ranks = np.apply_along_axis(scipy.stats.rankdata, 1, np.asarray(ranks, dtype=float))
    raters, things = ranks.shape
    if raters < 2 or things < 2:
        raise ValueError("Kendall's W needs two raters and two things to rank, or more.")
    ties = sum((sizes**3 - sizes).sum() for sizes in (np.unique(row, return_counts=True)[1] for row in ranks))
    most = raters**2 * (things**3 - things) - raters * ties
    return float(12 * ((ranks.sum(0) - ranks.sum(0).mean()) ** 2).sum() / most) if most else float("nan")


def pairwise_correlation(ratings: np.ndarray, kind: Literal["pearson", "spearman"]) -> float:
    """Mean correlation over the pairs of raters.

    Args:
        ratings (`np.ndarray` of shape `(raters, N)`): NaN where there is no rating.
        kind (`str`): Of the numbers, or of their ranks.

    Returns:
        `float`: Over pairs that share three items or more and of whom neither always says the same; NaN without one.
    """
    correlate = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}[kind]
    found = []
    for one, other in combinations(np.asarray(ratings, dtype=float), 2):
        both = ~np.isnan(one) & ~np.isnan(other)
        if both.sum() >= 3 and np.ptp(one[both]) > 0 and np.ptp(other[both]) > 0:
            found.append(correlate(one[both], other[both]).statistic)
    return float(np.mean(found)) if found else float("nan")


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Bradley–Terry scores: `P(i beats j) = σ(s_i - s_j)`, by penalised maximum likelihood.

    Args:
        wins (`np.ndarray` of shape `(…, M, M)`): How often the row won against the column; a tie is half a win for
            both.

    Returns:
        `np.ndarray` of shape `(…, M)`: Log-strengths with mean 0. A weak Gaussian prior (standard deviation 3) keeps
            one that won every time finite.

    Source: Bradley & Terry (1952), Rank analysis of incomplete block designs.
    """
    wins = np.asarray(wins, dtype=float)
    precision = np.eye(wins.shape[-1]) / PRIOR_DEVIATION**2
    games = wins + wins.swapaxes(-1, -2)
    scores = np.zeros(wins.shape[:-1])
    for _ in range(MAX_NEWTON_STEPS):
        likely = 1 / (1 + np.exp(scores[..., None, :] - scores[..., :, None]))
        gradient = (games * likely - wins).sum(-1) + scores / PRIOR_DEVIATION**2
        weights = games * likely * (1 - likely)
        curvature = weights.sum(-1)[..., None] * np.eye(wins.shape[-1]) - weights + precision
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        # Whole steps may overshoot where one won nearly every time.
        scores = scores - step / np.maximum(np.abs(step).max(-1, keepdims=True), 1)
        if np.abs(step).max(initial=0) < 1e-9:
            break
    return scores - scores.mean(-1, keepdims=True)


def chance_agreement(num_judges: int, num_methods: int) -> dict[str, float]:
    """What agreement judges would show who rank at random.

    Returns:
        `dict`: `unanimous_first` and `majority_first`, the share of items on which all judges, or more than half, put
            the same method first; `kendall_w`, its mean, `1 / num_judges`; `krippendorff_alpha`, 0.
    """
    first = 1 / num_methods
    majority = sum(
        comb(num_judges, agreeing) * first**agreeing * (1 - first) ** (num_judges - agreeing)
        for agreeing in range(num_judges // 2 + 1, num_judges + 1)
    )
    return {
        "unanimous_first": num_methods * first**num_judges,
        "majority_first": num_methods * majority,
        "kendall_w": 1 / num_judges,
        "krippendorff_alpha": 0.0,
    }


__all__ = [
    "bradley_terry",
    "chance_agreement",
    "fleiss_kappa",
    "kendall_w",
    "krippendorff_alpha",
    "pairwise_correlation",
]
