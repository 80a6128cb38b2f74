"""What a classifier loses when a concept is removed: effects per condition, contrasts between them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .accuracies import balanced_accuracy, macro_auc, mean_or_none, rate_matched_accuracy
from .conditions import CONDITIONS, CONTRASTS
from .outcomes import Condition, Outcomes, read_outcomes
from .statistics import NUM_BOOTSTRAP, NUM_PERMUTATIONS, holm, mcnemar_p_value, sign_flip_p_value, studentized_interval


def ablation_drop(
    columns: Mapping[str, Any],
    num_bootstrap: int = NUM_BOOTSTRAP,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
    details: bool = False,
) -> dict[str, Any]:
    """Effects of an ablation experiment on a classifier, with contrasts and references.

    The unit is the text: draws are averaged within it first. Intervals are 95 % bootstrap-t intervals over texts. The
    primary endpoint is the change of the margin, the logit of the plain prediction minus the best other logit.

    Args:
        columns (`Mapping[str, array-like]`): The outcome dataset, one row per text, condition and draw. A metric takes
            each column by its name:

            - **text_id** (`int`), **condition** (`str`), **draw** (`int`): The text, what was removed, and the number
              of the random draw, 0 where nothing is drawn. `salient` is required; `other_code`, `other_text_same` and
              `other_text_opposite` (the salient code of another text with the same or the opposite prediction) enter
              the contrasts; any other name is a reference, such as `random_direction`, `random_active_code`,
              `mean_direction`, `class_ceiling`, `class_residual`, `leace`, `word_ceiling`, `word_residual` and
              `word_random`. A text may lack a condition.
            - **label** (`int`): Class of the text; -1 if it is missing.
            - **prediction_plain**, **prediction** (`int`): Predicted class without and with removal. All columns that
              end in `_plain`, and the label, repeat in every row of a text.
            - **margin_plain**, **margin** (`float`): In logits, of the plain prediction: negative once it has flipped.
            - **probability_plain**, **probability** (`float`): Of the plain prediction. They, the next two and `kl` are
              None in all rows if the outputs are no probabilities (a regression's), and so are the figures of them.
            - **gold_probability_plain**, **gold_probability** (`float`): Of the label; -1 if it is missing.
            - **kl** (`float`): KL(plain ‖ ablated) over all classes, in nats.
            - **probabilities_plain**, **probabilities** (`list[float]`): Of all classes. All empty if they are too many
              to store; macro-AUC and rate-matched accuracy are None then.
            - **num_positions** (`int`): Number of positions at which something was removed.
            - **removed_norm** (`float`): Root of the summed squared norm of what was removed.
            - **matched** (`bool`): Whether the draw met the matching caliper; true where there is nothing to match,
              false if the experiment does not match at all.
        num_bootstrap (`int`, defaults to 2,000): Draws of texts for each interval.
        num_permutations (`int`, defaults to 10,000): Random sign flips of each test; up to 12 texts all are counted.
        seed (`int`, defaults to 0): Of all draws.
        details (`bool`, defaults to `False`): Whether to add `flip_matrix`, `strata` and `differences`.

    Returns:
        `dict[str, Any]`: None stands for what is undefined, and for intervals that would be infinite. Label-based
        figures use the texts that have a label.

        The model without removal:

        - **accuracy**, **balanced_accuracy**, **macro_auc**, **majority_accuracy** (`float`): The last is the share of
          the most frequent label.
        - **num_texts**, **num_unlabelled** (`int`).

        For each condition, each name with the condition in front (`salient_margin_change`), on the texts that have it:

        - **margin_change**, **margin_change_low**, **margin_change_high** (`float`): Mean of margin - margin_plain.
        - **flip_rate** (`float`): Share of predictions that changed.
        - **accuracy**, **balanced_accuracy**, **macro_auc** (`float`).
        - **rate_matched_accuracy** (`float`): Accuracy if every class is predicted as often as without removal.
        - **kl**, **probability_change**, **gold_probability_change** (`float`): Means.
        - **num_positions**, **removed_norm**, **matched_share** (`float`): Means: how much was removed.
        - **num_texts**, **num_labelled** (`int`).
        - **text_share** (`float`): Share of the texts that have it.
        - **position_share** (`float`): Its number of positions divided by that of `salient`, mean over its texts: for
          conditions that change some of the same positions only (`word_residual`) the share that they cover.

        For each contrast, `token_specificity` (salient - other_code, the primary one; negative if the salient code
        matters more), `text_specificity` (salient - other_text_same) and `class_specificity` (other_text_same -
        other_text_opposite), on the texts that have both; each name with the contrast and `_` in front:

        - the contrast itself, **low**, **high** (`float`): Mean difference in margin change.
        - **verdict** (`str`): "lower" or "higher" if the interval excludes 0, else "tie".
        - **p_value**, **p_holm** (`float`): Of a two-sided sign-flip test; adjusted for the contrasts that could be
          tested.
        - **flip_change**, **flip_change_low**, **flip_change_high** (`float`): Mean difference in the share of flips.
        - **mcnemar_p_value** (`float`): Exact, on the first draw of each text.
        - **num_texts** (`int`).

        `token_specificity_matched` is the primary contrast on matched draws only, without flips and `p_holm`.

        With details:

        - **flip_matrix** (`dict[str, list[dict]]`): Per condition the number of texts `from` a class `to` another one.
        - **strata** (`dict[str, dict]`): Per condition and contrast margin change, flip rate and number of texts, by
          plain `prediction` and by whether it was `correct`. For contrasts these are differences.
        - **differences** (`dict[str, dict]`): Per contrast the differences of each text.

    Raises:
        ValueError: If the outcomes are unusable (see `read_outcomes`: no rows, none is `salient`, a row occurs twice,
            plain outcomes differ within a text, a number is not finite, the numbers of classes differ), a number of
            resamples is not positive, or the name of a condition makes two figures share a name.
    """
    outcomes = read_outcomes(columns)
    present = {*outcomes.columns["condition"].tolist()}
    names = [name for name in CONDITIONS if name in present] + sorted(present - {*CONDITIONS})
    conditions = {name: outcomes.condition(name) for name in names}

    result = _plain_figures(outcomes)
    for name, condition in conditions.items():
        figures = _condition_figures(outcomes, condition, conditions["salient"], num_bootstrap, seed)
        _add(result, {f"{name}_{figure}": value for figure, value in figures.items()})

    differences = {}
    p_values = {}
    for name, (first, second) in CONTRASTS.items():
        pair = outcomes.condition(first), outcomes.condition(second)
        differences[name] = _Differences(*pair)
        figures = differences[name].margin_figures(name, num_bootstrap, num_permutations, seed)
        p_values[name] = figures[f"{name}_p_value"]
        _add(result, figures | differences[name].flip_figures(name, num_bootstrap, seed))
    tested = [name for name, p_value in p_values.items() if p_value is not None]
    adjusted = dict(zip(tested, holm([p_values[name] for name in tested]).tolist(), strict=True))
    _add(result, {f"{name}_p_holm": adjusted.get(name) for name in CONTRASTS})
    matched = _Differences(*(outcomes.condition(name, matched_only=True) for name in CONTRASTS["token_specificity"]))
    _add(result, matched.margin_figures("token_specificity_matched", num_bootstrap, num_permutations, seed))

    if details:
        effects = {name: (c.texts, _margin_change(c), c.mean(_flipped(c))) for name, c in conditions.items()}
        effects |= {name: (d.texts, d.margin, d.flips) for name, d in differences.items()}
        nested = {
            "flip_matrix": {name: _flip_matrix(condition) for name, condition in conditions.items()},
            "strata": {name: _strata(outcomes, *effect) for name, effect in effects.items()},
            "differences": {name: d.as_lists(outcomes) for name, d in differences.items()},
        }
        _add(result, nested)
    return result


def _add(result: dict[str, Any], figures: dict[str, Any]) -> None:
    if taken := sorted(result.keys() & figures.keys()):
        raise ValueError(f"Two figures would be called {taken[0]}; rename the condition that it begins with.")
    result.update(figures)


def _plain_figures(outcomes: Outcomes) -> dict[str, Any]:
    """The model without ablation, on all texts; label-based figures on those with a label."""
    labelled = outcomes.labelled
    labels = outcomes.plain["label"][labelled]
    correct = outcomes.plain["prediction_plain"][labelled] == labels
    probabilities = outcomes.plain["probabilities_plain"][labelled]
    label_counts = np.unique(labels, return_counts=True)[1]
    return {
        "accuracy": mean_or_none(correct),
        "balanced_accuracy": balanced_accuracy(correct, labels),
        "macro_auc": macro_auc(probabilities, labels) if outcomes.num_classes else None,
        "majority_accuracy": float(label_counts.max() / len(labels)) if len(labels) else None,
        "num_texts": len(labelled),
        "num_unlabelled": int((~labelled).sum()),
    }


def _condition_figures(
    outcomes: Outcomes, condition: Condition, salient: Condition, num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """The figures of one condition, on the texts that have it."""
    columns = condition.columns
    labelled = outcomes.labelled[condition.texts]
    labels = outcomes.plain["label"][condition.texts[labelled]]
    correct = condition.mean(columns["prediction"] == columns["label"])[labelled]
    gold_change = condition.mean(columns["gold_probability"] - columns["gold_probability_plain"])[labelled]

    def mean(values: np.ndarray) -> float | None:
        return None if np.isnan(values).all() else mean_or_none(condition.mean(values))

    return {
        **_with_interval("margin_change", _margin_change(condition), num_bootstrap, seed),
        "flip_rate": mean(_flipped(condition)),
        "accuracy": mean_or_none(correct),
        "balanced_accuracy": balanced_accuracy(correct, labels),
        **_run_figures(outcomes, condition),
        "kl": mean(columns["kl"]),
        "probability_change": mean(columns["probability"] - columns["probability_plain"]),
        "gold_probability_change": None if np.isnan(gold_change).all() else mean_or_none(gold_change),
        "num_positions": mean(columns["num_positions"]),
        "removed_norm": mean(columns["removed_norm"]),
        "matched_share": mean(columns["matched"]),
        "num_texts": len(condition.texts),
        "num_labelled": int(labelled.sum()),
        "text_share": len(condition.texts) / len(outcomes.labelled),
        "position_share": _position_share(condition, salient),
    }


def _position_share(condition: Condition, salient: Condition) -> float | None:
    """Mean over the texts that have both of the number of positions relative to that of the salient code."""
    _, *rows = np.intersect1d(condition.texts, salient.texts, assume_unique=True, return_indices=True)
    own, whole = (
        each.mean(each.columns["num_positions"])[row] for each, row in zip((condition, salient), rows, strict=True)
    )
    return mean_or_none(own[whole > 0] / whole[whole > 0])


def _run_figures(outcomes: Outcomes, condition: Condition) -> dict[str, float | None]:
    """Figures of all texts at once, which no text has alone: one per run through the draws, then their mean."""
    labelled = outcomes.labelled[condition.texts]
    aucs, accuracies = [], []
    if outcomes.num_classes and labelled.any():
        texts = condition.texts[labelled]
        labels, plain = outcomes.plain["label"][texts], outcomes.plain["prediction_plain"][texts]
        for index in range(condition.num_runs):
            probabilities = condition.columns["probabilities"][condition.run(index)[labelled]]
            aucs.append(macro_auc(probabilities, labels))
            accuracies.append(rate_matched_accuracy(probabilities, labels, plain))
    # Whether there are two classes to tell apart depends on the texts, which are the same in every run.
    return {
        "macro_auc": None if None in aucs else mean_or_none(aucs),
        "rate_matched_accuracy": mean_or_none(accuracies),
    }


def _margin_change(condition: Condition) -> np.ndarray:
    """Per text `(n,)`, in logits: negative if the plain prediction became less certain."""
    return condition.mean(condition.columns["margin"] - condition.columns["margin_plain"])


def _flipped(condition: Condition) -> np.ndarray:
    """Per row: whether the prediction is another one than without ablation."""
    return condition.columns["prediction"] != condition.columns["prediction_plain"]


class _Differences:
    """The effect of one condition minus that of another, on the texts that have both.

    Attributes:
        texts (`np.ndarray` of shape `(n,)`): Positions of these texts.
        margin (`np.ndarray` of shape `(n,)`): Differences in margin change.
        flips (`np.ndarray` of shape `(n,)`): Differences in the share of draws that flipped.
        first_draws (`tuple` of two `np.ndarray` of shape `(n,)`): Whether the first draw flipped, under each of them.
    """

    def __init__(self, first: Condition, second: Condition) -> None:
        self.texts, *rows = np.intersect1d(first.texts, second.texts, assume_unique=True, return_indices=True)
        both = list(zip((first, second), rows, strict=True))
        margins = [_margin_change(condition)[row] for condition, row in both]
        flips = [condition.mean(_flipped(condition))[row] for condition, row in both]
        self.margin, self.flips = margins[0] - margins[1], flips[0] - flips[1]
        self.first_draws = tuple(_flipped(condition)[condition.starts[row]] for condition, row in both)

    def margin_figures(self, name: str, num_bootstrap: int, num_permutations: int, seed: int) -> dict[str, Any]:
        figures = _with_interval(name, self.margin, num_bootstrap, seed)
        return {
            **figures,
            f"{name}_p_value": sign_flip_p_value(self.margin, num_permutations=num_permutations, seed=seed),
            f"{name}_verdict": _verdict(figures, name) if len(self.texts) > 1 else None,
            f"{name}_num_texts": len(self.texts),
        }

    def flip_figures(self, name: str, num_bootstrap: int, seed: int) -> dict[str, float | None]:
        return {
            **_with_interval(f"{name}_flip_change", self.flips, num_bootstrap, seed, limit=1),
            f"{name}_mcnemar_p_value": mcnemar_p_value(*self.first_draws),
        }

    def as_lists(self, outcomes: Outcomes) -> dict[str, list]:
        return {
            "text_id": outcomes.plain["text_id"][self.texts].tolist(),
            "margin_change": self.margin.tolist(),
            "flip_rate": self.flips.tolist(),
        }


def _with_interval(
    name: str, values: np.ndarray, num_bootstrap: int, seed: int, limit: float = np.inf
) -> dict[str, float | None]:
    """The mean of one value per text, and its interval; None if a bound is infinite: the texts say nothing of it."""
    low, high = studentized_interval(values, num_bootstrap=num_bootstrap, seed=seed)
    if low is not None and high is not None:
        low, high = max(low, float(-limit)), min(high, float(limit))
        if not np.isfinite([low, high]).all():
            low, high = None, None
    return {name: mean_or_none(values), f"{name}_low": low, f"{name}_high": high}


def _verdict(figures: Mapping[str, float | None], name: str) -> str:
    """A difference counts only if it has an interval that excludes 0."""
    low, high = figures[f"{name}_low"], figures[f"{name}_high"]
    if low is None or high is None:
        return "tie"
    if high < 0:
        return "lower"
    return "higher" if low > 0 else "tie"


def _flip_matrix(condition: Condition) -> list[dict[str, int | float]]:
    """Texts by plain and ablated prediction, each text shared among its draws. Cells without texts are left out."""
    weights = np.repeat(1 / condition.counts, condition.counts)
    pairs = np.stack([condition.columns["prediction_plain"], condition.columns["prediction"]], axis=1)
    cells, cell = np.unique(pairs, axis=0, return_inverse=True)
    counts = np.bincount(cell.ravel(), weights=weights)  # NumPy 2.0 gives it a second axis
    return [
        {"from": plain, "to": ablated, "count": count}
        for (plain, ablated), count in zip(cells.tolist(), counts.tolist(), strict=True)
    ]


def _strata(
    outcomes: Outcomes, texts: np.ndarray, margin_change: np.ndarray, flip_rate: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Means by plain predicted class and, for texts with a label, by whether the plain prediction was correct."""
    predictions, labels = outcomes.plain["prediction_plain"][texts], outcomes.plain["label"][texts]
    correct = np.where(labels >= 0, predictions == labels, -1)

    def group(name: str, value: int | bool, chosen: np.ndarray) -> dict[str, Any]:
        return {
            name: value,
            "margin_change": mean_or_none(margin_change[chosen]),
            "flip_rate": mean_or_none(flip_rate[chosen]),
            "num_texts": int(chosen.sum()),
        }

    return {
        "prediction": [group("prediction", value, predictions == value) for value in np.unique(predictions).tolist()],
        "correct": [group("correct", value, correct == value) for value in (True, False)],
    }
