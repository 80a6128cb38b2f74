"""The scores of a study as tables: for Markdown files and for terminals."""

from collections.abc import Mapping
from typing import Any

from ...metrics.ablation_drop.statistics import MIN_TEXTS
from ...rendering.text_tables import NOTHING, ReportTable, number, percent
from .scoring import ALL_KINDS

METHODS_NOTE = (
    "Accuracy: how often people choose the model's prediction, with 95 % intervals for fresh "
    "annotators and texts. Chance is {chance} (one of {labels} labels), always the most frequent "
    "prediction {majority}; above: the interval is above both. κ: Fleiss', over the items with the most frequent "
    "number of raters. α: Krippendorff's, over all items with two raters or more."
)
COMPARISONS_NOTE = (
    "p is corrected for all comparisons of the table (Holm). A win needs p ≤ 0.05; otherwise it is a tie. Below "
    f"{MIN_TEXTS} texts there is no p-value, and no win."
)


def score_tables(scores: dict[str, Any]) -> list[ReportTable]:
    """Make the tables of [`score_study`][clvq_hf.judging.people.score_study]: methods, comparisons, annotators."""
    tables = [_methods(scores)]
    if scores["comparisons"]:
        tables.append(_comparisons(scores))
    return [*tables, _annotators(scores)]


def _methods(scores: dict[str, Any]) -> ReportTable:
    baseline = max(scores["chance"], scores["majority"])

    def against_chance(row: Mapping[str, Any]) -> str:
        low, high = row["accuracy_low"], row["accuracy_high"]
        if low is None or low <= baseline:
            return NOTHING if low is None or high >= scores["chance"] else "below"
        return "above"

    def kappa(row: Mapping[str, Any]) -> str | None:
        if row["fleiss_kappa"] is None:
            return None
        return f"{number(row['fleiss_kappa'])} ({row['fleiss_items']} × {row['fleiss_raters']})"

    columns = {
        "method": "method",
        "shown as": _kind,
        "answers": "num_answers",
        "texts": "num_texts",
        "accuracy [95 %]": lambda row: _interval(row, "accuracy"),
        "chance": against_chance,
        "model right": lambda row: percent(row["accuracy_where_model_is_right"]),
        "model wrong": lambda row: percent(row["accuracy_where_model_is_wrong"]),
        "κ (items × raters)": kappa,
        "α": lambda row: number(row["krippendorff_alpha"]),
        "seconds": lambda row: number(row["median_seconds"], 1),
        "nothing shown": "num_empty",
    }
    note = METHODS_NOTE.format(
        chance=percent(scores["chance"]),
        labels=round(1 / scores["chance"]),
        majority=percent(scores["majority"]),
    )
    if sum(row["counted"] for row in scores["annotators"]) < 2:
        note += " One annotator: the intervals do not include differences between people."
    optional = ("texts", "model right", "model wrong", "nothing shown")
    return ReportTable.from_rows(
        "Do people recover the model's prediction?", scores["methods"], columns, note, optional
    )


def _comparisons(scores: dict[str, Any]) -> ReportTable:
    columns = {
        "methods": lambda row: f"{row['first']} − {row['second']}",
        "shown as": _kind,
        "accuracy, difference [95 %]": lambda row: _interval(row, "difference", "+"),
        "p (Holm)": lambda row: number(row["p_value"], 3),
        "winner": lambda row: None if row["difference"] is None else row["winner"] or "tie",
    }
    return ReportTable.from_rows("Methods compared", scores["comparisons"], columns, COMPARISONS_NOTE)


def _annotators(scores: dict[str, Any]) -> ReportTable:
    columns = {
        "annotator": "annotator",
        "group": "group",
        "answers": lambda row: f"{row['num_answers']} of {row['num_questions']}",
        "checks passed": lambda row: f"{row['checks_answered'] - row['checks_missed']} of {row['checks_answered']}",
        "accuracy": lambda row: percent(row["accuracy"]),
        "seconds": lambda row: number(row["median_seconds"], 1),
        "remarks": _remarks,
    }
    settings = scores["settings"]
    note = (
        f"Annotators who miss more than {settings['max_missed']} attention checks, or pass none, fail them and are "
        + ("counted anyway." if settings["include_failed"] else "not counted.")
    )
    return ReportTable.from_rows("Annotators", scores["annotators"], columns, note)


def _remarks(row: Mapping[str, Any]) -> str:
    remarks = [] if row["is_complete"] else ["unfinished"]
    if not row["passed"]:
        remarks.append("fails the checks" + (", counted anyway" if row["counted"] else ", not counted"))
    return "; ".join(remarks) or NOTHING


def _kind(row: Mapping[str, Any]) -> str:
    return "either" if row["kind"] == ALL_KINDS else row["kind"]


def _interval(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None:
        return percent(value)
    return f"{100 * value:{sign}.1f} % [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


__all__ = ["score_tables"]
