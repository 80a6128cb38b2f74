"""How a study is laid out: which group of annotators sees which text how, and how many texts it takes."""

from math import ceil, sqrt

from scipy.stats import norm

# What people reached in the paper: with the concepts of CLVQ-VAE, and with those of clustering.
PAPER_ACCURACIES = (0.78, 0.54)


def items_needed(p1: float, p0: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """How many items each of two methods needs for a difference to be seen: a two-sided z-test of two proportions.

    Items count, not answers: a second annotator on the same items makes their answers surer, and no more of them.

    Args:
        p1 (`float`): Accuracy with one method.
        p0 (`float`): Accuracy with the other.
        power (`float`): How likely the difference is to be found.
        alpha (`float`): How likely one is to be found where there is none.

    Returns:
        `int`: Items for each method, rounded up.

    Raises:
        ValueError: If a figure does not lie between 0 and 1, or the accuracies are the same.

    Source: Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, section 4.2.

    Example:
        ```python
        >>> items_needed(0.78, 0.54)
        60

        ```
    """
    if not all(0 < figure < 1 for figure in (p1, p0, power, alpha)):
        raise ValueError("Accuracies, power and alpha must lie between 0 and 1.")
    if p1 == p0:
        raise ValueError("No number of items shows a difference between two equal accuracies.")
    mean = (p1 + p0) / 2
    under_null = norm.ppf(1 - alpha / 2) * sqrt(2 * mean * (1 - mean))
    under_difference = norm.ppf(power) * sqrt(p1 * (1 - p1) + p0 * (1 - p0))
    return ceil(((under_null + under_difference) / (p1 - p0)) ** 2)


def group_of(annotator: int, num_groups: int, raters: int) -> int:
    """The group of an annotator: 1 to `raters` are the first one, the next so many the second, and so on, round.

    Members of a group see the same texts under the same conditions; from them comes the agreement.

    Args:
        annotator (`int`): Number, from 1.
        num_groups (`int`): G.
        raters (`int`): Annotators of a group before the next one begins.

    Returns:
        `int`: From 0 to G - 1.
    """
    return (annotator - 1) // raters % num_groups


def condition_of(place: int, group: int, num_conditions: int) -> int:
    """The condition under which a group sees the text at a place: a Latin square, one on for each."""
    return (place + group) % num_conditions


__all__ = ["PAPER_ACCURACIES", "condition_of", "group_of", "items_needed"]
