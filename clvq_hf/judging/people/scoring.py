"""Scores of answers: how often people recover the model's prediction per method, and how far they agree."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ...version import __version__
from ..agreement import fleiss_kappa, krippendorff_alpha
from .answers import AnswerFile
from .key import StudyKey

NUM_BOOTSTRAP = 2_000
# Name of the kinds taken together.
ALL_KINDS = "all"


def score_study(
    files: Sequence[AnswerFile],
    key: StudyKey,
    *,
    max_missed: int = 1,
    include_failed: bool = False,
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the answers of a study.

    Annotators who fail the attention checks are left out: those who missed more than `max_missed`, or passed none.

    Args:
        files (`Sequence[AnswerFile]`): The answers, from [`read_answers`][clvq_hf.judging.people.read_answers].
        key ([`StudyKey`][clvq_hf.judging.people.StudyKey]): The key of the study.
        max_missed (`int`): Number of attention checks that an annotator may miss.
        include_failed (`bool`): Whether annotators who fail them count.
        num_bootstrap (`int`): Number of resamples of annotators and texts, crossed.
        seed (`int`): Random seed of the resamples.

    Returns:
        `dict`: `chance` (one divided by the labels) and `majority` (always the most frequent prediction); `methods`, a
            list by method and kind (`"all"`: together) with accuracy, interval, agreement and times; `comparisons`, by
            pair of methods and kind, with `winner` (`None`: a tie, the interval includes 0); `annotators`. Figures
            that cannot be computed are `None`.

    Raises:
        ValueError: If no answer is left, or an argument is out of range.
    """
    if max_missed < 0 or num_bootstrap < 1:
        raise ValueError("max_missed must be 0 or more, and num_bootstrap 1 or more.")
    annotators = [_annotator(file, key, max_missed, include_failed) for file in files]
    counted = [file for file, row in zip(files, annotators, strict=True) if row["counted"]]
    answers = _frame(counted)
    if answers.empty:
        raise ValueError(
            "No answer is left to score: "
            + "; ".join(
                f"annotator {row['annotator']}: {row['num_answers']} answers, {row['checks_missed']} checks missed"
                for row in annotators
            )
            + ". To count annotators who fail the checks: --include-failed."
        )
    resamples = _Resamples(answers, num_bootstrap, seed)
    kinds = [*key.kinds, ALL_KINDS] if len(key.kinds) > 1 else key.kinds
    methods, comparisons = [], []
    for kind in kinds:
        of_kind = answers if kind == ALL_KINDS else answers[answers["kind"] == kind]
        draws = {method: resamples.accuracies(of_kind[of_kind["method"] == method]) for method in key.methods}
        for method in key.methods:
            own = of_kind[of_kind["method"] == method]
            methods.append({"method": method, "kind": kind, **_figures(own, key, draws[method])})
        accuracy = {row["method"]: row["accuracy"] for row in methods if row["kind"] == kind}
        for first, second in combinations(key.methods, 2):
            compared = _compare(first, second, accuracy, draws)
            comparisons.append({"first": first, "second": second, "kind": kind, **compared})
    predictions = {question.text_id: question.answer for question in key.questions if not question.is_check}
    return {
        "study": key.study,
        "clvq_version": __version__,
        "num_texts": key.num_texts,
        "num_answers": len(answers),
        "show_text": key.show_text,
        "settings": {
            "max_missed": max_missed,
            "include_failed": include_failed,
            "num_bootstrap": num_bootstrap,
            "seed": seed,
        },
        "chance": 1 / len(key.label_names),
        "majority": Counter(predictions.values()).most_common(1)[0][1] / len(predictions),
        "methods": methods,
        "comparisons": comparisons,
        "annotators": annotators,
    }


class _Resamples:
    """Annotators and texts drawn with replacement, independently of each other.

    Source: Owen (2007), The pigeonhole bootstrap; its intervals are conservative.
    """

    def __init__(self, answers: pd.DataFrame, number: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.annotators = np.unique(answers["annotator"])
        self.texts = np.unique(answers["text_id"])
        self.annotator_counts, self.text_counts = (
            generator.multinomial(len(units), np.full(len(units), 1 / len(units)), size=number)
            for units in (self.annotators, self.texts)
        )

    def accuracies(self, answers: pd.DataFrame) -> np.ndarray:
        """Accuracy in each resample; NaN where it has none of these answers."""
        rows = np.searchsorted(self.annotators, answers["annotator"])
        columns = np.searchsorted(self.texts, answers["text_id"])
        given, right = np.zeros((2, len(self.annotators), len(self.texts)))
        np.add.at(given, (rows, columns), 1)
        np.add.at(right, (rows, columns), answers["is_right"].to_numpy(dtype=float))
        with np.errstate(invalid="ignore"):
            return self._total(right) / self._total(given)

    def _total(self, cells: np.ndarray) -> np.ndarray:
        return ((self.annotator_counts @ cells) * self.text_counts).sum(1)


def _frame(files: Sequence[AnswerFile]) -> pd.DataFrame:
    """One row per answer that counts."""
    rows = [
        {
            "annotator": file.annotator,
            "id": answer.question.id,
            "text_id": answer.question.text_id,
            "method": answer.question.method,
            "kind": answer.question.kind,
            "choice": answer.choice,
            "is_right": answer.is_right,
            "model_is_right": answer.question.correct,
            "is_empty": answer.question.is_empty,
            "seconds": answer.seconds,
        }
        for file in files
        for answer in file.items
    ]
    return pd.DataFrame(rows)


def _annotator(file: AnswerFile, key: StudyKey, max_missed: int, include_failed: bool) -> dict[str, Any]:
    missed = sum(not check.is_right for check in file.checks)
    num_checks = sum(question.is_check for question in key.of_group(file.group))
    # One check must be passed, however many may be missed; otherwise a single check would have no effect.
    passed = not num_checks or (missed <= max_missed and missed < len(file.checks))
    return {
        "annotator": file.annotator,
        "file": file.file,
        "group": file.group + 1,
        "num_answers": len(file.answers),
        "num_questions": file.num_questions,
        "is_complete": file.is_complete,
        "checks_answered": len(file.checks),
        "checks_missed": missed,
        "passed": passed,
        "counted": passed or include_failed,
        "accuracy": _number(np.mean([answer.is_right for answer in file.items])) if file.items else None,
        "median_seconds": _number(np.median([answer.seconds for answer in file.items])) if file.items else None,
    }


def _figures(answers: pd.DataFrame, key: StudyKey, draws: np.ndarray) -> dict[str, Any]:
    """The figures of a method for one kind or all kinds."""
    low, high = _interval(draws)
    kappa, kappa_items, kappa_raters = _kappa(answers, key.label_names)
    known = answers[answers["model_is_right"].notna()]
    by_model = known.groupby(known["model_is_right"].astype(bool))["is_right"].mean()
    return {
        "num_answers": len(answers),
        "num_texts": answers["text_id"].nunique(),
        "num_empty": int(answers["is_empty"].sum()),
        "accuracy": _number(answers["is_right"].mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_where_model_is_right": _number(by_model.get(True, np.nan)),
        "accuracy_where_model_is_wrong": _number(by_model.get(False, np.nan)),
        "fleiss_kappa": kappa,
        "fleiss_items": kappa_items,
        "fleiss_raters": kappa_raters,
        "krippendorff_alpha": _alpha(answers, key.label_names),
        "median_seconds": _number(answers["seconds"].median()),
    }


def _kappa(answers: pd.DataFrame, labels: list[str]) -> tuple[float | None, int, int]:
    """Fleiss' κ over the items with the most frequent number of raters, two or more; their number; the raters'."""
    counts = pd.crosstab(answers["id"], answers["choice"]).reindex(columns=labels, fill_value=0).to_numpy()
    raters = counts.sum(1)
    frequent = Counter(raters[raters >= 2].tolist())
    if not frequent:
        return None, 0, 0
    # Among equally frequent numbers, the larger one.
    number = max(frequent, key=lambda raters: (frequent[raters], raters))
    return _number(fleiss_kappa(counts[raters == number])), frequent[number], number


def _alpha(answers: pd.DataFrame, labels: list[str]) -> float | None:
    if answers.empty:
        return None
    numbers = answers.assign(choice=answers["choice"].map(labels.index))
    return _number(krippendorff_alpha(numbers.pivot(index="annotator", columns="id", values="choice"), "nominal"))


def _compare(
    first: str, second: str, accuracy: dict[str, float | None], draws: dict[str, np.ndarray]
) -> dict[str, Any]:
    if accuracy[first] is None or accuracy[second] is None:
        return {"difference": None, "difference_low": None, "difference_high": None, "winner": None}
    low, high = _interval(draws[first] - draws[second])
    winner = None if low is None or low <= 0 <= high else first if low > 0 else second
    difference = accuracy[first] - accuracy[second]
    return {"difference": difference, "difference_low": low, "difference_high": high, "winner": winner}


def _interval(draws: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    draws = draws[~np.isnan(draws)]
    return tuple(np.quantile(draws, (0.025, 0.975)).tolist()) if len(draws) else (None, None)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


__all__ = ["ALL_KINDS", "NUM_BOOTSTRAP", "score_study"]
