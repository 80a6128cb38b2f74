"""The design of a study: how each group of annotators sees each text, and how many texts are needed."""

from math import ceil, sqrt

from scipy.stats import norm

# Accuracies of people in the paper, with the concepts of CLVQ-VAE and of clustering.
PAPER_ACCURACIES = (0.78, 0.54)


def items_needed(p1: float, p0: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Number of items that each of two methods needs to show a difference, by a two-sided z-test of two proportions.

    Items count, not answers: a second annotator makes the answers more reliable but does not add items.

    Args:
        p1 (`float`): Accuracy with one method.
        p0 (`float`): Accuracy with the other.
        power (`float`): Probability of finding the difference.
        alpha (`float`): Probability of finding one where there is none.

    Returns:
        `int`: Number of items per method, rounded up.

    Raises:
        ValueError: If a figure is not between 0 and 1, or the accuracies are equal.

    Source: Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, section 4.2.

    Example:
        ```python
        >>> items_needed(0.78, 0.54)
        60

        ```
    """
    if not all(0 < figure < 1 for figure in (p1, p0, power, alpha)):
        raise ValueError("Accuracies, power and alpha must be between 0 and 1.")
    if p1 == p0:
        raise ValueError("No number of items shows a difference between two equal accuracies.")
    mean = (p1 + p0) / 2
    under_null = norm.ppf(1 - alpha / 2) * sqrt(2 * mean * (1 - mean))
    under_difference = norm.ppf(power) * sqrt(p1 * (1 - p1) + p0 * (1 - p0))
    return ceil(((under_null + under_difference) / (p1 - p0)) ** 2)


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
