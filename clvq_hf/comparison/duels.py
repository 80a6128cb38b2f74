"""Two methods compared text by text: the difference with its interval, its p-value, and who wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import t

from ..metrics.ablation_drop.statistics import (
    ALPHA,
    MIN_TEXTS,
    NUM_STUDENTIZED,
    sign_flip_p_value,
    studentized_bounds,
    studentized_statistics,
)


@dataclass(frozen=True, eq=False)
class Difference:
    """Difference of two methods on the same texts, each trained with one seed or several.

    With several seeds the mean is uncertain for two reasons: other texts, other seeds. The draws of the interval then
    have two levels: texts by bootstrap-t, and the mean over a method's S seeds by a t distribution with S − 1 degrees
    of freedom, whose variance is what seeds differ by beyond what texts explain (a two-way analysis of variance).
    Three seeds are too few to be drawn with replacement. In simulations with three seeds the 95 % interval covers
    94–99 %: it errs on the wide side.

    Args:
        first, second (`np.ndarray` of shape `(seeds, n)`): A figure of each text; NaN where a seed has none.
    """

    first: np.ndarray
    second: np.ndarray

    @cached_property
    def values(self) -> np.ndarray:
        """`np.ndarray` of shape `(n,)`: first minus second, each averaged over its seeds."""
        return np.nanmean(self.first, axis=0) - np.nanmean(self.second, axis=0)

    @property
    def seeds(self) -> tuple[int, int]:
        """Seeds of the first and of the second method."""
        return len(self.first), len(self.second)

    @property
    def mean(self) -> float:
        """Mean over texts and seeds."""
        return float(self.values.mean())

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean."""
        return self._interval(0.95)

    @cached_property
    def margin(self) -> float:
        """The methods are equal within ± this: the 90 % interval lies inside (two one-sided tests at 5 %)."""
        return max(map(abs, self._interval(0.9)))

    @cached_property
    def p_value(self) -> float:
        """Two-sided p-value of the mean: by sign flips of texts; with several seeds not below that of the draws."""
        flips = sign_flip_p_value(self.values)
        if not self._seed_errors:
            return flips
        below = (self._draws <= 0).mean()
        return max(flips, float(min(1.0, 2 * min(below, 1 - below) + 1 / NUM_STUDENTIZED)))

    @property
    def detectable(self) -> float:
        """A true mean of this size is found in 80 % of the cases, without a correction for several comparisons.

        By Student's t with the degrees of freedom of Satterthwaite: with two or three seeds, they are few.
        """
        number = len(self.values)
        parts = [(self.values.std(ddof=1) / np.sqrt(number), number - 1), *self._seed_errors]
        variance = sum(error**2 for error, _ in parts)
        freedom = variance**2 / sum(error**4 / freedom for error, freedom in parts) if variance else 1
        return float((t.ppf(0.975, freedom) + t.ppf(0.8, freedom)) * np.sqrt(variance))

    def _interval(self, confidence: float) -> tuple[float, float]:
        if not self._seed_errors:
            return studentized_bounds(self.values, self._statistics, confidence)
        low, high = np.quantile(self._draws, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
        return float(low), float(high)

    @cached_property
    def _statistics(self) -> np.ndarray:
        """Of resampled texts; both intervals need them."""
        return studentized_statistics(self.values)

    @cached_property
    def _draws(self) -> np.ndarray:
        """Means that the data allow: over texts and over seeds."""
        draws = self.mean - self.values.std() * self._statistics
        generator = np.random.default_rng(0)
        for error, freedom in self._seed_errors:
            draws = draws + error * generator.standard_t(freedom, size=len(draws))
        return draws

    @cached_property
    def _seed_errors(self) -> list[tuple[float, int]]:
        """Standard error and degrees of freedom of the mean over seeds, of each method with several."""
        return [(_seed_error(side), len(side) - 1) for side in (self.first, self.second) if len(side) > 1]


def _seed_error(values: np.ndarray) -> float:
    """Standard error of the mean over seeds of values `(seeds, n)`, without what texts add to it."""
    seeds, texts = values.shape
    by_text = values - np.nanmean(values, axis=0)
    by_seed = np.nanmean(by_text, axis=1)
    residuals = by_text - by_seed[:, None]
    freedom = np.isfinite(values).sum() - texts - seeds + 1
    noise = np.nansum(residuals**2) / freedom if freedom > 0 else 0.0
    return float(np.sqrt(max(by_seed.var(ddof=1) - noise / texts, 0.0) / seeds))


@dataclass(frozen=True)
class Duel:
    """Token specificity of one method minus that of another, on the same texts; negative: the first's matters more.

    `p_value` is that of the difference after Holm's correction for all duels of the same question.
    """

    host: str
    dataset: str
    first: str
    second: str
    difference: Difference
    p_value: float

    def outcome(self, method: str) -> str:
        """`"win"`, `"tie"` or `"loss"` of one of the two: only a corrected p-value of at most 0.05 decides."""
        if self.p_value > ALPHA:
            return "tie"
        return "win" if (self.difference.mean < 0) == (method == self.first) else "loss"


def paired_difference(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], name: str = "matched_differences"
) -> Difference | None:
    """Compare two methods on the texts that both have; `None` if these are too few for a verdict.

    Args:
        first (`Sequence[dict]`): An entry for each seed: the texts' `text_id`, and a figure of each by `name`, `None`
            where a text has none.
        second (`Sequence[dict]`): The same of the other method.
        name (`str`): Which figure.
    """
    sides = [
        [{t: v for t, v in zip(entry["text_id"], entry[name], strict=True) if v is not None} for entry in entries]
        for entries in (first, second)
    ]
    if not all(sides):
        return None
    common = sorted(set.intersection(*(set().union(*seeds) for seeds in sides)))
    if len(common) < MIN_TEXTS:
        return None
    return Difference(*(np.array([[s.get(text, np.nan) for text in common] for s in seeds]) for seeds in sides))


def by_method(duels: Sequence[Duel], methods: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Wins, ties and losses of each method against each other one."""
    table = {
        first: {second: {"win": 0, "tie": 0, "loss": 0} for second in methods if second != first} for first in methods
    }
    for duel in duels:
        for method, other in ((duel.first, duel.second), (duel.second, duel.first)):
            table[method][other][duel.outcome(method)] += 1
    return table


__all__ = ["Difference", "Duel", "by_method", "paired_difference"]
