"""Predictions before and after an edit: accuracy, margin and calibration, with paired intervals over texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..hosts.readout import margins
from ..metrics.ablation_drop.statistics import (
    ALPHA,
    MIN_TEXTS,
    NUM_BOOTSTRAP,
    NUM_STUDENTIZED,
    holm,
    sign_flip_p_value,
    studentized_interval,
)

# Groups of texts that every retest has.
ALL, WITH, WITHOUT = "all texts", "with the concept", "without the concept"
FAVOURED, BROKEN = "with the concept, the label that it favours", "with the concept, another label"
GROUPS = (ALL, WITH, WITHOUT, FAVOURED, BROKEN)
# Figures that are means over texts, and so have intervals; and the one that is not.
MEANS = ("accuracy", "margin", "brier", "log_loss", "changed")
# Those that count texts.
COUNTS = ("accuracy", "changed")
FIGURES = (*MEANS, "ece")
# Those of which more is worse.
ERRORS = ("brier", "log_loss", "ece")
NUM_BINS = 15
# A probability of 0 has no logarithm.
LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Outcome:
    """What a host answers to N texts under one condition.

    Attributes:
        rows (`np.ndarray` of shape `(N, C)`): What the readout reads.
        has_probabilities (`bool`): Whether the softmax of a row means something.
    """

    rows: np.ndarray
    has_probabilities: bool = True

    @property
    def predictions(self) -> np.ndarray:
        """`np.ndarray` of shape `(N,)`, int64."""
        return self.rows.argmax(-1)

    def scores(self, labels: np.ndarray, before: "Outcome") -> dict[str, np.ndarray]:
        """The figures of each text by name, each `(N,)`; NaN for a text without a label, which is -1, or an answer.

        - `accuracy`: 1 if the prediction is the label, else 0.
        - `margin`: logit of the label minus the largest other one.
        - `brier`: `Σ_c (p_c - y_c)²`, from 0 to 2 (Brier 1950), where `y` is 1 at the label and else 0.
        - `log_loss`: `-log p` of the label, in nats.
        - `changed`: 1 if the prediction is another one than that of `before`.
        """
        is_answered = np.isfinite(self.rows).all(-1)
        known = is_answered & (labels >= 0)
        own = np.where(known, labels, 0)
        rows, numbers = torch.from_numpy(self.rows), torch.from_numpy(own)
        scores = {
            "accuracy": (self.predictions == own).astype(float),
            "margin": margins(rows, numbers).numpy(),
        }
        if self.has_probabilities:
            probabilities = self.probabilities
            of_label = probabilities[np.arange(len(own)), own]
            scores["brier"] = (probabilities**2).sum(-1) - 2 * of_label + 1
            scores["log_loss"] = -np.log(np.maximum(of_label, LEAST_PROBABILITY))
        scores = {name: np.where(known, values, np.nan) for name, values in scores.items()}
        is_changed = (self.predictions != before.predictions).astype(float)
        return scores | {"changed": np.where(is_answered, is_changed, np.nan)}

    def same_as(self, other: "Outcome") -> np.ndarray:
        """`np.ndarray` of shape `(N,)`, bool: Which texts have exactly the same answer."""
        return (self.rows == other.rows).all(-1)

    @property
    def probabilities(self) -> np.ndarray:
        """`np.ndarray` of shape `(N, C)`."""
        return torch.from_numpy(self.rows).double().softmax(-1).numpy()

    def calibration_error(self, labels: np.ndarray, where: np.ndarray) -> float | None:
        """See [`calibration_error`], of the texts `where` `(N,)` that have a label."""
        chosen = where & (labels >= 0) & np.isfinite(self.rows).all(-1)
        if not self.has_probabilities or not chosen.any():
            return None
        probabilities = self.probabilities[chosen]
        return calibration_error(probabilities.max(-1), probabilities.argmax(-1) == labels[chosen])


def calibration_error(confidences: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error: how far confidence and accuracy are apart (Guo et al. 2017, arXiv 1706.04599).

    Predictions are sorted into bins of equal width by the probability of the predicted class; the figure is the mean
    over texts of the distance between the accuracy and the mean confidence of their bin. It is biased upwards for few
    texts, so it has no interval here: the Brier score and the log loss, which have one, fall with calibration too.

    Args:
        confidences (`np.ndarray` of shape `(N,)`): From 0 to 1.
        is_right (`np.ndarray` of shape `(N,)`, bool): Whether each prediction is the label.
        num_bins (`int`): Number of bins.
    """
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=is_right.astype(float) - confidences, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


@dataclass(frozen=True)
class Figure:
    """A figure of one group of texts, before and after.

    Attributes:
        group (`str`): The texts.
        condition (`str`): What was done to the host or the texts: `"edit"` or a control; `"edit - CONTROL"` compares
            the edit (`after`) with a control (`before`).
        figure (`str`): Its name.
        num_texts (`int`): Texts that have it.
        before, after, change (`float` or `None`): Means over these texts; `change` is `after - before`.
        low, high (`float` or `None`): 95 % interval of the change, paired by text (`studentized_interval`).
        p_value (`float` or `None`): By sign flips; of `"edit"` and `"accuracy"` corrected for all groups (Holm).
    """

    group: str
    condition: str
    figure: str
    num_texts: int
    before: float | None
    after: float | None
    change: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None

    @property
    def sign(self) -> int:
        """`int`: 1 if it rose, -1 if it fell, 0 if that cannot be told from these texts."""
        if self.num_texts < MIN_TEXTS or self.low is None or self.high is None or self.change is None:
            return 0
        if self.p_value is not None and self.p_value > ALPHA:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def compare(
    group: str,
    condition: str,
    where: np.ndarray,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    is_same: np.ndarray,
) -> list[Figure]:
    """The figures of the texts `where` `(N,)`, from the scores of each text under two conditions.

    `is_same` `(N,)` says which texts have the same answer under both: if all have, so would others.
    Verdicts rest on the accuracy, whose interval must not depend on the seed: it takes ten times as many resamples.
    """
    figures = []
    for name in (name for name in MEANS if name in after):
        pairs = np.stack([before[name][where], after[name][where]])
        is_known = np.isfinite(pairs).all(0)
        pairs = pairs[:, is_known]
        if not pairs.size:
            continue
        # In an order of their own, because resamples depend on it.
        differences = np.sort(pairs[1] - pairs[0])
        number = NUM_STUDENTIZED if name == "accuracy" else NUM_BOOTSTRAP
        low, high = _interval(differences, number, may_change=name in COUNTS and not is_same[where][is_known].all())
        first, second = (float(values.mean()) for values in pairs)
        figures.append(
            Figure(
                *(group, condition, name, pairs.shape[1], first, second, second - first),
                *(low, high),
                sign_flip_p_value(differences) if name == "accuracy" else None,
            )
        )
    return figures


def corrected(figures: list[Figure], condition: str) -> list[Figure]:
    """The figures, with the p-values of the accuracy under one condition corrected for all groups (Holm)."""
    places = [
        place
        for place, figure in enumerate(figures)
        if (figure.condition, figure.figure) == (condition, "accuracy") and figure.p_value is not None
    ]
    found = list(figures)
    for place, p_value in zip(places, holm([figures[place].p_value for place in places]), strict=True):
        found[place] = Figure(**{**figures[place].to_dict(), "p_value": float(p_value)})
    return found


def _interval(differences: np.ndarray, num_bootstrap: int, may_change: bool) -> tuple[float | None, float | None]:
    """The interval of their mean; `None` for what is infinite, which JSON does not have.

    Where all texts change alike, or none does, resamples do, too. If another text `may_change` otherwise, up to
    `1 - 0.025^(1 ÷ n)` of all texts do (Clopper and Pearson 1934): 10 % if none of 36 did.
    """
    if len(differences) > 1 and differences[0] == differences[-1]:
        others = 1 - (ALPHA / 2) ** (1 / len(differences)) if may_change else 0.0
        return float(max(differences[0] - others, -1)), float(min(differences[0] + others, 1))
    ends = studentized_interval(differences, num_bootstrap=num_bootstrap)
    low, high = (None if end is None or not np.isfinite(end) else float(end) for end in ends)
    return low, high


__all__ = [
    "ALL",
    "BROKEN",
    "ERRORS",
    "FAVOURED",
    "FIGURES",
    "GROUPS",
    "MEANS",
    "WITH",
    "WITHOUT",
    "Figure",
    "Outcome",
    "calibration_error",
    "compare",
    "corrected",
]
