"""The design of a study: how each group of annotators sees each text, and how many texts are needed."""

import numpy as np

from ...metrics.ablation_drop.statistics import MIN_TEXTS
from .intervals import crossed_error, half_width

# Accuracies of people in the paper, with the concepts of CLVQ-VAE and of clustering.
PAPER_ACCURACIES = (0.78, 0.54)
# Simulated studies: a power of 80 % is found within 0.6 points.
NUM_STUDIES = 5_000


def items_needed(
    p1: float, p0: float, power: float = 0.8, alpha: float = 0.05, num_groups: int = 4, num_comparisons: int = 1
) -> int:
    """Number of items that each of two methods needs for a verdict.

    Simulates studies of one annotator per group, and counts how often
    [`score_study`][clvq_hf.judging.people.score_study] has a verdict on the difference in one kind. Answers are
    independent of each other: a difference hardly depends on items that are hard with both methods, or on annotators
    who are good with both.

    Items count, not answers: a second annotator makes the answers more reliable but does not add items.

    Args:
        p1 (`float`): Accuracy with one method.
        p0 (`float`): Accuracy with the other.
        power (`float`): Probability of finding the difference.
        alpha (`float`): Probability of finding one where there is none; 1 minus the confidence of the interval.
        num_groups (`int`): Groups of annotators, 2 or more: as many as there are methods × kinds. Fewer annotators
            need more items.
        num_comparisons (`int`): Pairs of methods × kinds that p-values are corrected for; the difference is taken for
            the clearest of them.

    Returns:
        `int`: Number of items per method, exact within about 2 %; at least 20, below which there is no verdict.

    Raises:
        ValueError: If a figure is not between 0 and 1, the accuracies are equal, or there are fewer than two groups.

    Example:
        ```python
        >>> items_needed(0.78, 0.54)
        79

        ```
    """
    if not all(0 < figure < 1 for figure in (p1, p0, power, alpha)):
        raise ValueError("Accuracies, power and alpha must be between 0 and 1.")
    if p1 == p0:
        raise ValueError("No number of items shows a difference between two equal accuracies.")
    if num_groups < 2:
        raise ValueError(f"Two methods need two groups of annotators or more, got num_groups={num_groups}.")
    alpha /= num_comparisons
    too_few, enough = MIN_TEXTS - 1, MIN_TEXTS
    while share_of_verdicts(enough, p1, p0, alpha, num_groups) < power:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if share_of_verdicts(middle, p1, p0, alpha, num_groups) < power:
            too_few = middle
        else:
            enough = middle
    return enough


def share_of_verdicts(num_items: int, p1: float, p0: float, alpha: float, num_groups: int) -> float:
    """How often simulated studies end in a verdict; see [`items_needed`]."""
    outcomes = [p1 * p0, p1 * (1 - p0), (1 - p1) * p0, (1 - p1) * (1 - p0)]
    # Each group sees a block of the items with the first method, and the next block with the second one.
    sizes = (num_items + np.arange(num_groups)) // num_groups
    # Items by study and block, and by whether the answers with the first and the second method are right.
    counts = np.random.default_rng(0).multinomial(sizes, outcomes, (NUM_STUDIES, num_groups)).astype(float)
    counts = counts.reshape(NUM_STUDIES, num_groups, 2, 2)
    right = np.stack([counts[..., 0, :].sum(axis=-1), counts[..., :, 0].sum(axis=-1)])
    accuracy = right.sum(axis=-1, keepdims=True) / num_items
    of_block = (right - sizes * accuracy) / num_items
    by_annotator = ((of_block[0] - np.roll(of_block[1], -1, axis=-1)) ** 2).sum(axis=-1)
    # What right and wrong answers contribute to the difference, `(2, studies)`.
    first, second = (np.stack([1 - each[:, 0], -each[:, 0]]) / num_items for each in accuracy)
    both = np.moveaxis(counts.sum(axis=1), 0, -1)
    by_text = (both * (first[:, None] - second[None]) ** 2).sum(axis=(0, 1))
    by_answer = (both * (first[:, None] ** 2 + second[None] ** 2)).sum(axis=(0, 1))
    errors = crossed_error(by_annotator, by_text, by_answer, num_groups, num_items)
    return float((np.abs(accuracy[0, :, 0] - accuracy[1, :, 0]) > half_width(*errors, 1 - alpha)).mean())


def group_of(annotator: int, num_groups: int, raters: int) -> int:
    """The group of an annotator, from 0: numbers 1 to `raters` form the first group, the next as many the second.

    After the last group the first one follows again. Members of a group see the same texts under the same conditions;
    agreement is computed from them.
    """
    return (annotator - 1) // raters % num_groups


def condition_of(place: int, group: int, num_conditions: int) -> int:
    """The condition under which a group sees the text at a place: a Latin square, shifted by one per group."""
    return (place + group) % num_conditions


__all__ = ["PAPER_ACCURACIES", "condition_of", "group_of", "items_needed"]
