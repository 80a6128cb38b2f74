"""The figures of a judging as tables, for terminals and for Markdown."""

from typing import Any

from ...rendering.text_tables import ReportTable, to_markdown
from .scores import MIN_TEXTS

KINDS = {"words": "shown as words", "sentences": "shown as sentences"}
AGREEMENT = {
    "krippendorff_alpha": "Krippendorff's α of the ratings (ordinal)",
    "pearson": "Pearson, mean over pairs of judges, of the ratings",
    "spearman": "Spearman, the same",
    "kendall_w": "Kendall's W of the rankings, mean over texts",
    "unanimous_first": "all judges put the same first",
    "majority_first": "more than half of them do",
}
VERDICTS = {"won": "won", "lost": "lost", "tie": "tie", "unknown": "too few texts"}
NOTE_ARMS = (
    "First: share of rankings that put it first, all together 100 %. Rating: 1 to 3; what occurs in no other text gets "
    "1. Strength: Bradley–Terry score, mean 0. Won: against the other methods, only if both orders agree. Intervals: "
    "95 %, bootstrap over texts."
)
NOTE_PAIRS = (
    "Net: share won minus share lost, mean over judges, then over texts, 95 % interval. A verdict other than tie needs "
    f"an interval without 0 and {MIN_TEXTS} texts. It is not corrected for the number of pairs."
)
NOTE_JUDGES = (
    "Malformed: no valid answer after two reminders; it is left out. Beats random: how much more often the methods' "
    "salient concepts win against a random active code than they lose, and how much higher they are rated. A judge "
    "whose intervals hold 0 does not tell a concept from a random one: what it says of methods means nothing."
)


def judging_tables(results: dict[str, Any]) -> list[ReportTable]:
    """Tables of what [`judge_tables`][clvq_hf.judging.language_models.judge_tables] returns."""
    tables = [_overview(results)]
    for kind, figures in results["kinds"].items():
        tables += [
            _arms(figures["arms"], KINDS[kind]),
            _pairs(figures["pairs"], KINDS[kind]),
            _judges(figures["judges"], KINDS[kind]),
            _positions(figures, KINDS[kind]),
            _agreement(figures["agreement"], KINDS[kind]),
        ]
    return tables


def judging_markdown(results: dict[str, Any]) -> str:
    """`results.md`."""
    return "# Judged concepts\n\n" + to_markdown(judging_tables(results))


def _overview(results: dict[str, Any]) -> ReportTable:
    texts = results["texts"]
    rows = [
        ["methods", ", ".join(results["methods"])],
        ["judges", ", ".join(results["judges"])],
        ["texts", str(texts["num_texts"])],
        *([f"… predicted {name}", str(number)] for name, number in texts["strata"].items()),
    ]
    if results["failed"]:
        rows.append(["questions without an answer", f"{results['failed']}; the same command asks them again"])
    return ReportTable("What was judged", ["", ""], rows)


def _arms(arms: dict[str, Any], shown: str) -> ReportTable:
    rows = [
        [
            f"{name} (control)" if figures["control"] else name,
            _interval(figures["first"], "{:.0%}"),
            _interval(figures["rating"], "{:.2f}"),
            _interval(figures["strength"], "{:+.2f}"),
            " / ".join(_figure(figures["against_methods"][part], "{:.0%}") for part in ("won", "tied", "lost")),
            _figure(figures["empty"], "{:.0%}"),
        ]
        for name, figures in arms.items()
    ]
    header = ["concepts of", "first", "rating", "strength", "won / tied / lost", "empty"]
    return ReportTable(f"Concepts {shown}", header, rows, NOTE_ARMS, optional=("empty",))


def _pairs(pairs: list[dict[str, Any]], shown: str) -> ReportTable:
    rows = [
        [
            f"{pair['one']} – {pair['other']}",
            " / ".join(_figure(pair[part], "{:.0%}") for part in ("won", "tied", "lost")),
            _interval(pair["net"], "{:+.2f}"),
            VERDICTS[pair["verdict"]],
        ]
        for pair in pairs
    ]
    return ReportTable(f"Pairs, {shown}", ["pair", "won / tied / lost", "net", "the first has"], rows, NOTE_PAIRS)


def _judges(judges: dict[str, Any], shown: str) -> ReportTable:
    rows = [
        [
            name,
            f"{figures['answered']} of {figures['questions']}",
            _share(figures["malformed"], figures["questions"]),
            _share(figures["failed"], figures["questions"]),
            _interval(figures["against_random_code"], "{:+.2f}"),
            _interval(figures["rating_above_random_code"], "{:+.2f}"),
        ]
        for name, figures in judges.items()
    ]
    header = ["judge", "answers", "malformed", "failed", "beats random", "… in ratings"]
    return ReportTable(f"Can the judges tell? ({shown})", header, rows, NOTE_JUDGES, optional=("failed",))


def _positions(figures: dict[str, Any], shown: str) -> ReportTable:
    rows = [
        [
            name,
            _figure(judge["first_shown_first"], "{:.0%}"),
            _figure(judge["first_shown_first_chance"], "{:.0%}"),
            _figure(judge["orders_disagree"], "{:.0%}"),
        ]
        for name, judge in figures["judges"].items()
    ]
    places = ", ".join(f"{place['position']}: {_figure(place['first'], '{:.0%}')}" for place in figures["positions"])
    note = (
        "First shown first: how often the concept that is shown first is ranked first; without a bias as often as by "
        "chance. Turned around: pairs that the reversed order ranks the other way, 50 % if answers are random, 100 % "
        f"if the position decides. Share of firsts by position, all judges: {places}."
    )
    header = ["judge", "first shown first", "by chance", "pairs turned around"]
    return ReportTable(f"Position bias, {shown}", header, rows, note)


def _agreement(agreement: dict[str, Any] | None, shown: str) -> ReportTable:
    title = f"Agreement of the judges, {shown}"
    if agreement is None:
        return ReportTable(title, ["", ""], [["one judge", "nobody to agree with"]])
    rows = [
        [AGREEMENT[name], _figure(found["value"], "{:.2f}"), _figure(found["chance"], "{:.2f}")]
        for name, found in agreement.items()
        if name in AGREEMENT
    ]
    note = f"{agreement['num_judges']} judges; by chance: what so many would show who answer at random."
    return ReportTable(title, ["", "value", "by chance"], rows, note)


def _interval(figures: dict[str, Any], form: str) -> str:
    if figures["mean"] is None:
        return "–"
    mean, low, high = (form.format(figures[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


__all__ = ["judging_markdown", "judging_tables"]
