"""Scores of answers: how often people recover the model's prediction per method, and how far they agree."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ...metrics.ablation_drop.statistics import ALPHA, MIN_TEXTS, holm
from ...version import __version__
from ..agreement import fleiss_kappa, krippendorff_alpha
from .answers import AnswerFile
from .intervals import crossed_error, half_width, p_value
from .key import StudyKey

# Name of the kinds taken together.
ALL_KINDS = "all"


def score_study(
    files: Sequence[AnswerFile],
    key: StudyKey,
    *,
    max_missed: int = 1,
    include_failed: bool = False,
) -> dict[str, Any]:
    """Score the answers of a study.

    Annotators who fail the attention checks are left out: those who missed more than `max_missed`, or passed none.

    Args:
        files (`Sequence[AnswerFile]`): The answers, from [`read_answers`][clvq_hf.judging.people.read_answers].
        key ([`StudyKey`][clvq_hf.judging.people.StudyKey]): The key of the study.
        max_missed (`int`): Number of attention checks that an annotator may miss.
        include_failed (`bool`): Whether annotators who fail them count.

    Returns:
        `dict`: `chance` (one divided by the labels) and `majority` (always the most frequent prediction); `methods`, a
            list by method and kind (`"all"`: together) with accuracy, interval, agreement and times; `comparisons`, by
            pair of methods and kind, with `p_value` (corrected for all comparisons by Holm's method; `None` with fewer
            than 20 texts) and `winner` (`None`: a tie, the p-value is above 0.05 or there is none); `annotators`.
            Figures that cannot be computed are `None`.

    Raises:
        ValueError: If no answer is left, or an argument is out of range.
    """
    if max_missed < 0:
        raise ValueError(f"max_missed must be 0 or more, got {max_missed}.")
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
    kinds = [*key.kinds, ALL_KINDS] if len(key.kinds) > 1 else key.kinds
    methods, comparisons = [], []
    for kind in kinds:
        of_kind = answers if kind == ALL_KINDS else answers[answers["kind"] == kind]
        own = {method: of_kind[of_kind["method"] == method] for method in key.methods}
        methods += [{"method": method, "kind": kind, **_figures(own[method], key)} for method in key.methods]
        for first, second in combinations(key.methods, 2):
            comparisons.append({"first": first, "second": second, "kind": kind, **_compare(own[first], own[second])})
    _decide(comparisons)
    predictions = {question.text_id: question.answer for question in key.questions if not question.is_check}
    return {
        "study": key.study,
        "clvq_version": __version__,
        "num_texts": key.num_texts,
        "num_answers": len(answers),
        "show_text": key.show_text,
        "settings": {"max_missed": max_missed, "include_failed": include_failed},
        "chance": 1 / len(key.label_names),
        "majority": Counter(predictions.values()).most_common(1)[0][1] / len(predictions),
        "methods": methods,
        "comparisons": comparisons,
        "annotators": annotators,
    }


def _deviations(answers: pd.DataFrame) -> pd.Series:
    """What each answer adds to the accuracy, less the mean."""
    return (answers["is_right"] - answers["is_right"].mean()) / len(answers)


def _error(answers: pd.DataFrame, deviations: pd.Series) -> tuple[float, float] | None:
    """Standard error and degrees of freedom of a figure that is a sum over answers; `None` for a single text."""
    if answers["text_id"].nunique() < 2:
        return None
    error, freedom = crossed_error(
        *((deviations.groupby(answers[unit]).sum() ** 2).sum() for unit in ("annotator", "text_id")),
        (deviations**2).sum(),
        answers["annotator"].nunique(),
        answers["text_id"].nunique(),
    )
    return float(error), float(freedom)


def _interval(figure: float, error: tuple[float, float] | None) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of a figure."""
    if error is None:
        return None, None
    half = float(half_width(*error))
    return figure - half, figure + half


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


def _figures(answers: pd.DataFrame, key: StudyKey) -> dict[str, Any]:
    """The figures of a method for one kind or all kinds."""
    low, high = _interval(answers["is_right"].mean(), _error(answers, _deviations(answers)))
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


def _compare(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """The difference of two methods, its interval, and its p-value if there are enough texts for a verdict."""
    names = ("difference", "difference_low", "difference_high", "p_value")
    if first.empty or second.empty:
        return dict.fromkeys(names)
    difference = float(first["is_right"].mean() - second["is_right"].mean())
    error = _error(pd.concat([first, second]), pd.concat([_deviations(first), -_deviations(second)]))
    enough = min(first["text_id"].nunique(), second["text_id"].nunique()) >= MIN_TEXTS
    p = p_value(difference, *error) if enough and error is not None else None
    return dict(zip(names, (difference, *_interval(difference, error), p), strict=True))


def _decide(comparisons: list[dict[str, Any]]) -> None:
    """Correct the p-values for all comparisons, and name the winners."""
    tested = [row for row in comparisons if row["p_value"] is not None]
    for row, corrected in zip(tested, holm([row["p_value"] for row in tested]).tolist(), strict=True):
        row["p_value"] = corrected
    for row in comparisons:
        won = row["p_value"] is not None and row["p_value"] <= ALPHA
        row["winner"] = row["first" if row["difference"] > 0 else "second"] if won else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


__all__ = ["ALL_KINDS", "score_study"]
