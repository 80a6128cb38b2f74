"""The scores of a study as tables: for Markdown files and for terminals."""

from typing import Any

from ...rendering.text_tables import ReportTable, number, percent
from .scoring import ALL_KINDS

METHODS_NOTE = (
    "Accuracy: how often people choose the model's prediction, with 95 % intervals from {bootstrap} resamples of "
    "annotators and texts, crossed. Chance is {chance} (one of {labels} labels), always the most frequent "
    "prediction {majority}; above: the interval is above both. κ: Fleiss', over the items with the most frequent number "
    "of raters. α: Krippendorff's, over all items with two raters or more."
)
COMPARISONS_NOTE = (
    "A win only if the interval excludes 0; otherwise a tie. There is no correction for several comparisons: of twenty "
    "pairs of equally good methods, one will look like a win."
)


def score_tables(scores: dict[str, Any]) -> list[ReportTable]:
    """Make the tables of [`score_study`][clvq_hf.judging.people.score_study]: methods, comparisons, annotators."""
    tables = [_methods(scores)]
    if scores["comparisons"]:
        tables.append(_comparisons(scores))
    return [*tables, _annotators(scores)]


def _methods(scores: dict[str, Any]) -> ReportTable:
    baseline = max(scores["chance"], scores["majority"])
    rows = []
    for row in scores["methods"]:
        low, high = row["accuracy_low"], row["accuracy_high"]
        against = "–" if low is None else "above" if low > baseline else "below" if high < scores["chance"] else "–"
        agreement = f"{number(row['fleiss_kappa'])} ({row['fleiss_items']} × {row['fleiss_raters']})"
        rows.append(
            [
                row["method"],
                _kind(row["kind"]),
                str(row["num_answers"]),
                str(row["num_texts"]),
                _interval(row["accuracy"], low, high),
                against,
                percent(row["accuracy_where_model_is_right"]),
                percent(row["accuracy_where_model_is_wrong"]),
                "–" if row["fleiss_kappa"] is None else agreement,
                number(row["krippendorff_alpha"]),
                number(row["median_seconds"], 1),
                str(row["num_empty"]),
            ]
        )
    header = [
        *("method", "shown as", "answers", "texts", "accuracy [95 %]", "chance", "model right", "model wrong"),
        *("κ (items × raters)", "α", "seconds", "nothing shown"),
    ]
    note = METHODS_NOTE.format(
        bootstrap=scores["settings"]["num_bootstrap"],
        chance=percent(scores["chance"]),
        labels=round(1 / scores["chance"]),
        majority=percent(scores["majority"]),
    )
    if sum(row["counted"] for row in scores["annotators"]) < 2:
        note += " One annotator: the intervals do not include differences between people."
    return ReportTable(
        "Do people recover the model's prediction?",
        header,
        rows,
        note,
        optional=("texts", "model right", "model wrong", "nothing shown"),
    )


def _comparisons(scores: dict[str, Any]) -> ReportTable:
    rows = [
        [
            f"{row['first']} − {row['second']}",
            _kind(row["kind"]),
            _interval(row["difference"], row["difference_low"], row["difference_high"], signed=True),
            "–" if row["difference"] is None else row["winner"] or "tie",
        ]
        for row in scores["comparisons"]
    ]
    return ReportTable(
        "Methods compared", ["methods", "shown as", "accuracy, difference [95 %]", "winner"], rows, COMPARISONS_NOTE
    )


def _annotators(scores: dict[str, Any]) -> ReportTable:
    rows = []
    for row in scores["annotators"]:
        answered = row["checks_answered"]
        state = [] if row["is_complete"] else ["unfinished"]
        if not row["passed"]:
            state.append("fails the checks" + (", counted anyway" if row["counted"] else ", not counted"))
        rows.append(
            [
                str(row["annotator"]),
                str(row["group"]),
                f"{row['num_answers']} of {row['num_questions']}",
                f"{answered - row['checks_missed']} of {answered}",
                percent(row["accuracy"]),
                number(row["median_seconds"], 1),
                "; ".join(state) or "–",
            ]
        )
    settings = scores["settings"]
    note = (
        f"Annotators who miss more than {settings['max_missed']} attention checks, or pass none, fail them and are "
        + ("counted anyway." if settings["include_failed"] else "not counted.")
    )
    header = ["annotator", "group", "answers", "checks passed", "accuracy", "seconds", "remarks"]
    return ReportTable("Annotators", header, rows, note)


def _kind(kind: str) -> str:
    return "either" if kind == ALL_KINDS else kind


def _interval(value: float | None, low: float | None, high: float | None, signed: bool = False) -> str:
    if value is None or low is None:
        return percent(value)
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f} % [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


__all__ = ["score_tables"]
