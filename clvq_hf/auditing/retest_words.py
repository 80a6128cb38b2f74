"""A retest in words and tables."""

from collections.abc import Iterable
from typing import Any

from ..metrics.ablation_drop.statistics import MIN_TEXTS
from ..rendering.text_tables import NOTHING, ReportTable, number, percent, signed
from .retest_figures import ALL, ERRORS, FIGURES, WITHOUT, Figure
from .retest_run import CONTROLS, EDIT, FOLDED

TITLES = {
    "accuracy": "Accuracy",
    "margin": "Margin of the label (logits)",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "ece": "Expected calibration error",
    "changed": "Other predictions",
}
SHARES = ("accuracy", "changed")
HOW = {
    "mean": "its mean state made way for that of all tokens",
    "project": "its direction was projected out",
    "interchange": "its mean state made way for that of another concept",
}


def retest_verdict(retest: Any) -> list[str]:
    """Say of each group whether accuracy was repaired or lost; where the interval contains 0, there is no evidence."""
    facts = retest.facts
    codes = ", ".join(map(str, facts["forbid"]))
    several = len(facts["forbid"]) > 1
    sentences = [
        f"{'Each of the concepts' if several else 'Concept'} {codes} at layer {facts['layer']}: {HOW[facts['how']]}. "
        f"{percent(facts['coverage'])} of {facts['num_texts']:,} texts have {'one of them' if several else 'it'}"
        + (f", which there favours the label {facts['favoured_label']}." if facts["favoured_label"] else ".")
    ]
    accuracies = [each for each in retest.figures if (each.figure, each.condition) == ("accuracy", EDIT)]
    if not accuracies:
        changed = [each for each in retest.figures if (each.figure, each.condition) == ("changed", EDIT)]
        share = percent(changed[0].after) if changed else NOTHING
        return [*sentences, f"The texts have no labels. {share} of the predictions are others."]
    num_classes = len(facts["readout"].get("class_names") or ())
    # A shortcut that is broken may make it so, but only in the texts that have it.
    asked = [each for each in accuracies if each.group in (ALL, WITHOUT) and each.num_texts >= MIN_TEXTS]
    if num_classes and asked and all(each.before < 1 / num_classes for each in asked):
        sentences.append(
            "Before the edit, accuracy is below chance. Do the labels mean the host's classes? Give them names, in the "
            "order of their numbers (--label, or a column of ClassLabel)."
        )
    for figure in accuracies:
        sentences.append(_sentence(figure, list(_beside(retest, figure.group))) + _folded(retest, figure.group))
    return sentences


def judged(figure: Figure) -> str:
    """`"repaired"`, `"cost"`, `"no evidence"`, or `"too few texts"`, of a figure of which more is better or worse."""
    if figure.num_texts < MIN_TEXTS:
        return "too few texts"
    better = figure.sign * (-1 if figure.figure in ERRORS else 1)
    return {1: "repaired", -1: "cost", 0: "no evidence"}[better]


def _sentence(figure: Figure, beside: list[str]) -> str:
    told = f"Accuracy, {figure.group} ({figure.num_texts:,}): {percent(figure.before)} → {percent(figure.after)}"
    change = f"{_points(figure.change)} points, 95 % interval {_interval(figure, 100, 1)}"
    word = judged(figure)
    if word == "too few texts":
        return f"{told}: too few texts to tell ({MIN_TEXTS} are needed)."
    if word == "no evidence":
        # A p-value for many groups may be larger than an interval for one of them shows.
        corrected = ", because p-values are corrected for the number of groups" if _excludes_0(figure) else ""
        return f"{told} ({change}): no evidence of a change{corrected}."
    more = f" Controls: {'; '.join(beside)}." if beside else ""
    return f"{told} ({change}): {word}.{more}"


def _folded(retest: Any, group: str) -> str:
    """What the folded model does to the accuracy of a group, in a sentence."""
    figure = _find(retest, "accuracy", group, FOLDED)
    return "" if figure is None else f" Folded: {_points(figure.change)} points {_interval(figure, 100, 1)}."


def _beside(retest: Any, group: str) -> Iterable[str]:
    for control in CONTROLS:
        own = _find(retest, "accuracy", group, control)
        versus = _find(retest, "accuracy", group, f"{EDIT} - {control}")
        if own is None or versus is None:
            continue
        # Of these, p-values are not corrected for the number of groups: the interval alone is read.
        apart = "" if _excludes_0(versus) else ", not told apart from the edit"
        yield f"{control}: {_points(own.change)} points{apart}"


def _excludes_0(figure: Figure) -> bool:
    return figure.low is not None and figure.high is not None and (figure.low > 0 or figure.high < 0)


def _find(retest: Any, name: str, group: str, condition: str) -> Figure | None:
    try:
        return retest.figure(name, group, condition)
    except KeyError:
        return None


def retest_tables(retest: Any) -> list[ReportTable]:
    """A table per figure of the edit, by groups, and one of the controls."""
    tables = []
    for name in FIGURES:
        figures = [each for each in retest.figures if (each.figure, each.condition) == (name, EDIT)]
        if name == "changed":
            figures = [each for each in figures if each.after]
        if figures:
            notes = {
                "accuracy": "Intervals are 95 % intervals of the change, paired by text; p-values (sign flips) are "
                "corrected for the number of groups (Holm).",
                "ece": "15 bins. It has no interval, and is biased upwards for few texts.",
            }
            header = ["texts", "number", "before", "after", "change", "95 % interval"]
            rows = [
                [
                    *(each.group, f"{each.num_texts:,}", _value(name, each.before), _value(name, each.after)),
                    *(_change(each), NOTHING if name == "ece" else _interval(each, *_scale(name))),
                    *((number(each.p_value, 3), judged(each)) if name == "accuracy" else ()),
                ]
                for each in figures
            ]
            header += ["p", "verdict"] if name == "accuracy" else []
            tables.append(ReportTable(TITLES[name], header, rows, notes.get(name, "")))
    return [*tables, *_controls(retest)]


def _controls(retest: Any) -> Iterable[ReportTable]:
    rows = []
    for group in dict.fromkeys(each.group for each in retest.figures):
        for condition in (EDIT, FOLDED, *CONTROLS):
            own, margin = (_find(retest, name, group, condition) for name in ("accuracy", "margin"))
            versus = _find(retest, "accuracy", group, f"{EDIT} - {condition}")
            if own is not None and margin is not None:
                rows.append(
                    [
                        *(group, condition, _change(own), _interval(own, 100, 1), _change(margin)),
                        NOTHING if versus is None else f"{_points(versus.change)} {_interval(versus, 100, 1)}",
                    ]
                )
    if rows:
        facts = retest.facts
        other = ", ".join(map(str, facts["other_codes"])) or "none"
        header = ["texts", "condition", "accuracy", "95 % interval", "margin", "edit minus it (accuracy)"]
        note = (
            f"Changes. Another concept: {other}, in {percent(facts['other_coverage'])} of the texts. Random direction: "
            "as long a vector as the edit removes, at the same tokens. Words deleted: the words with the concept, from "
            "the text."
        )
        yield ReportTable("Controls", header, rows, note)


def _scale(name: str) -> tuple[float, int]:
    return (100, 1) if name in SHARES else (1, 3)


def _value(name: str, value: float | None) -> str:
    return percent(value) if name in SHARES else number(value, 3)


def _change(figure: Figure) -> str:
    if figure.change is None:
        return NOTHING
    return _points(figure.change) if figure.figure in SHARES else signed(figure.change, 3)


def _points(value: float | None) -> str:
    return NOTHING if value is None else signed(100 * value, 1)


def _interval(figure: Figure, factor: float, digits: int) -> str:
    if figure.low is None or figure.high is None:  # of one changed text nobody knows how many there could be
        return "unknown, too few texts change"
    return f"[{signed(factor * figure.low, digits)}, {signed(factor * figure.high, digits)}]"


__all__ = ["TITLES", "judged", "retest_tables", "retest_verdict"]
