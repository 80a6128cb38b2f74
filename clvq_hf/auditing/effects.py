"""Figures of rows per text and concept: effects on classes, beside controls, with intervals and p-values over texts."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from ..metrics.ablation_drop.statistics import MIN_TEXTS, NUM_PERMUTATIONS, sign_flip_p_value

# As in `ablate_texts`: a control has about as many tokens, and as large a removed part; up to so many are averaged.
POSITION_CALIPER, NORM_CALIPER, NUM_CONTROLS = 1.5, 1.25, 5
# Of 10,000 flips no p-value is below 0.0001, which is nothing among thousands of tests: a p-value of which fewer than
# so many flips are as extreme is computed again with more, up to so many for each test there is.
FEW_EXTREME, FLIPS_PER_TEST = 10, 40
# Flips of all tests of a first look; 10,000 of 30,000 tests would take minutes.
FIRST_FLIPS, FEWEST_FLIPS = 20_000_000, 1_000
# Words explain nothing of an effect that is hardly there, in units of the effect.
SMALLEST_EFFECT = 0.01


def matched_controls(
    text: np.ndarray, num_tokens: np.ndarray, norm: np.ndarray, effect: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What removing other concepts of the same text does, beside each removal.

    If other concepts of the text meet both calipers, the nearest of them (at most 5) are averaged; else the nearest one
    is taken. Near is the sum of the absolute logarithms of both ratios.

    Args:
        text (`np.ndarray` of shape `(N,)`): Text of each row, ascending.
        num_tokens (`np.ndarray` of shape `(N,)`): Tokens from which the concept was removed.
        norm (`np.ndarray` of shape `(N,)`): Length of what was removed.
        effect (`np.ndarray` of shape `(N, C)`): On each class.

    Returns:
        `tuple` of the controls' effects `(N, C)`, NaN in texts with one concept, and whether both calipers are met
        `(N,)`, bool.
    """
    controls, matched = np.full(effect.shape, np.nan), np.zeros(len(text), dtype=bool)
    bounds = np.flatnonzero(np.diff(text, prepend=-1, append=np.iinfo(np.int64).max))
    sizes = np.log(np.stack([num_tokens, np.maximum(norm, 1e-12)], axis=1))
    calipers = np.log([POSITION_CALIPER, NORM_CALIPER]) + 1e-9
    for first, last in pairwise(bounds):
        if last - first < 2:
            continue
        ratios = np.abs(sizes[first:last, None] - sizes[None, first:last])
        distance = ratios.sum(-1)
        np.fill_diagonal(distance, np.inf)
        fits = (ratios <= calipers).all(-1) & np.isfinite(distance)
        nearest = np.argsort(distance, axis=1, kind="stable")
        for row, order in enumerate(nearest):
            good = order[fits[row, order]][:NUM_CONTROLS]
            matched[first + row] = len(good) > 0
            controls[first + row] = effect[first:last][good if len(good) else order[:1]].mean(0)
    return controls, matched


def effect_figures(rows: Mapping[str, np.ndarray], num_texts: np.ndarray) -> pd.DataFrame:
    """One row per concept and class.

    Args:
        rows (`Mapping[str, np.ndarray]`): `text_id` (ascending), `code`, `num_tokens`, `removed_norm`, `flips` of shape
            `(N,)`; `effect` `(N, C)`, and `word_effect` `(N, C)` with NaN where it is not known.
        num_texts (`np.ndarray` of shape `(K,)`): Number of texts that have each concept, also those without rows.

    Returns:
        `pandas.DataFrame`: `code`, `class`, `effect` (mean over the concept's texts) with its interval `effect_low` and
        `effect_high`; `num_controlled` (texts that have another measured concept; all that follows up to `q` is of
        these), `matched` (the share of them in which controls are as large as the concept), `control` (mean effect of
        controls), `excess` over it with `excess_low` and `excess_high`, `p` (sign flips of the excess; null in fewer
        than 20 texts), `q` (of Benjamini and Hochberg, over all concepts and classes); `share` and `share_against` (of
        the sums of all positive and of all negative effects on the class), `lexical` (the part of the effect that the
        mean states of the words have; null if there is none). Intervals are of Student's t, 95 %.
    """
    effect, word = rows["effect"].astype(np.float64), rows["word_effect"].astype(np.float64)
    controls, matched = matched_controls(rows["text_id"], rows["num_tokens"], rows["removed_norm"], effect)
    codes, place, counts = np.unique(rows["code"], return_inverse=True, return_counts=True)
    # Each measured text stands for as many as have the concept.
    weighted = effect * (num_texts[codes] / counts)[place][:, None]
    parts = {"share": np.maximum(weighted, 0), "share_against": np.maximum(-weighted, 0)}
    sums = {name: part.sum(0) for name, part in parts.items()}
    found: list[dict[str, Any]] = []
    excesses = []
    for code in codes:
        own = rows["code"] == code
        for number in range(effect.shape[1]):
            of_class = effect[own, number]
            control = controls[own, number]
            has_control = np.isfinite(control)
            # Sorted, because flips are drawn value by value.
            excess = np.sort((of_class - control)[has_control])
            excesses.append(excess)
            has_word = np.isfinite(word[own, number])
            whole = of_class[has_word].mean() if has_word.any() else 0.0
            low, high = mean_interval(of_class)
            excess_low, excess_high = mean_interval(excess)
            found.append(
                {
                    "code": int(code),
                    "class": number,
                    "effect": of_class.mean(),
                    "effect_low": low,
                    "effect_high": high,
                    "num_controlled": len(excess),
                    "matched": matched[own][has_control].mean() if len(excess) else np.nan,
                    "control": control[has_control].mean() if len(excess) else np.nan,
                    "excess": excess.mean() if len(excess) else np.nan,
                    "excess_low": excess_low,
                    "excess_high": excess_high,
                    **{
                        name: part[own, number].sum() / sums[name][number] if sums[name][number] > 0 else 0.0
                        for name, part in parts.items()
                    },
                    "lexical": word[own, number][has_word].mean() / whole if abs(whole) >= SMALLEST_EFFECT else np.nan,
                }
            )
    frame = pd.DataFrame(found)
    tested = np.asarray([len(excess) >= MIN_TEXTS for excess in excesses])
    frame[["p", "q"]] = np.nan
    if tested.any():
        frame.loc[tested, "p"] = p_values([excess for excess in excesses if len(excess) >= MIN_TEXTS])
        frame.loc[tested, "q"] = false_discovery_control(frame.loc[tested, "p"])
    return frame


def p_values(excesses: Sequence[np.ndarray], num_tests: int | None = None) -> np.ndarray:
    """Of the mean of each excess `(n,)`, by sign flips: so many that small ones survive a correction for all tests.

    If M of T tests have the smallest p-value, `1 / (flips + 1)`, their q is T / M of it: `40 T / M` flips are enough.
    All flips together are bounded by a multiple of T: 30,000 tests of 100 texts take less than a minute.

    Args:
        excesses (`Sequence[np.ndarray]`): Of at least one text each, in an order that does not depend on that of rows.
        num_tests (`int`, *optional*): For how many tests they are corrected; default: as many as there are.
    """
    num_tests = num_tests or len(excesses)
    num_flips = int(np.clip(FIRST_FLIPS // num_tests, FEWEST_FLIPS, NUM_PERMUTATIONS))
    found = np.asarray([sign_flip_p_value(excess, num_permutations=num_flips) for excess in excesses], dtype=float)
    most = max(num_flips, num_tests * FLIPS_PER_TEST)
    small = np.flatnonzero(found * (num_flips + 1) < FEW_EXTREME)
    while len(small) * num_flips < num_tests * FLIPS_PER_TEST and num_flips < most and len(small):
        num_flips = min(10 * num_flips, most)
        for number in small:
            found[number] = sign_flip_p_value(excesses[number], num_permutations=num_flips)
        small = small[found[small] * (num_flips + 1) < FEW_EXTREME]
    return found


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of values `(n,)` by Student's t; NaN for fewer than two."""
    if len(values) < 2:
        return np.nan, np.nan
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    reach = error * student.ppf(0.975, len(values) - 1)
    return float(mean - reach), float(mean + reach)


__all__ = ["effect_figures", "matched_controls", "mean_interval", "p_values"]
