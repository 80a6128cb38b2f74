"""Intervals of figures over annotators and texts, where answers of one annotator, or about one text, go together."""

import numpy as np
from scipy.stats import t


def crossed_error(
    by_annotator: np.ndarray,
    by_text: np.ndarray,
    by_answer: np.ndarray,
    num_annotators: int,
    num_texts: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of a figure for fresh annotators and texts, and its degrees of freedom.

    The variance is that of sums over annotators, plus that of sums over texts, minus that of single answers, which
    both contain. The degrees of freedom are Satterthwaite's: few if annotators differ, many if texts do. Of Student's t
    with these are intervals and p-values.

    For 50 to 600 texts differences of methods are covered by 93–98 % with 12 annotators and by 90–98 % with 2 to 4;
    accuracies by 92–96 % with 12, and by 82–98 % with 2 to 4, the less the more these differ. One annotator alone says
    nothing of others.

    Args:
        by_annotator (`np.ndarray` of shape `(…)`): Sum over annotators of the squares of each one's summed deviations
            (an answer's contribution to the figure, minus its mean).
        by_text (`np.ndarray` of shape `(…)`): The same over texts.
        by_answer (`np.ndarray` of shape `(…)`): Sum of squared deviations.
        num_annotators (`int`): Number of annotators.
        num_texts (`int`): Number of texts.

    Returns:
        `tuple` of two `np.ndarray` of shape `(…)`: NaN for a single text.

    Source: Cameron, Gelbach & Miller (2011), Robust inference with multiway clustering.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        of_texts = np.asarray(by_text) * np.divide(num_texts, num_texts - 1)
        of_annotators = np.maximum(by_annotator * np.divide(num_annotators, num_annotators - 1) - by_answer, 0)
        if num_annotators == 1:
            of_annotators = np.zeros_like(of_texts)
        # Rounding, or answers that differ as much as they can, may leave less than the answers' own.
        variance = np.maximum(of_texts + of_annotators, by_answer)
        slack = of_annotators**2 / max(num_annotators - 1, 1) + of_texts**2 / (num_texts - 1)
        freedom = np.where(variance > 0, np.maximum(variance**2 / slack, 1), 1)
    return np.sqrt(variance), freedom


def half_width(error: np.ndarray, freedom: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Half the width of the interval that covers the figure with this probability."""
    return t.ppf((1 + confidence) / 2, freedom) * error


def p_value(figure: float, error: float, freedom: float) -> float:
    """Two-sided p-value of a figure against 0; 1 if nothing differs."""
    return float(2 * t.sf(abs(figure) / error, freedom)) if error > 0 else float(figure == 0)


__all__ = ["crossed_error", "half_width", "p_value"]
