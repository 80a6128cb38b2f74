"""The figures of a judging as tables, for terminals and for Markdown."""

from collections.abc import Iterable
from typing import Any

from ...metrics.ablation_drop.statistics import MIN_TEXTS
from ...rendering.text_tables import NOTHING, ReportTable, to_markdown

KINDS = {"words": "shown as words", "sentences": "shown as sentences"}
AGREEMENT = {
    "krippendorff_alpha": "Krippendorff's α of the ratings (ordinal)",
    "pearson": "Pearson, mean over pairs of judges, of the ratings",
    "spearman": "Spearman, the same",
    "kendall_w": "Kendall's W of the rankings, mean over texts",
    "unanimous_first": "all judges rank the same method first",
    "majority_first": "more than half of them do",
}
PERCENT, NUMBER, SIGNED = "{:.0%}", "{:.2f}", "{:+.2f}"
# By header of the column: the field of a record, and its format.
Columns = dict[str, tuple[str, str]]
ARM_COLUMNS: Columns = {
    "concepts of": ("title", "{}"),
    "first": ("first", PERCENT),
    "rating": ("rating", NUMBER),
    "strength": ("strength", SIGNED),
    "won / tied / lost": ("duels", PERCENT),
    "empty": ("empty", PERCENT),
}
PAIR_COLUMNS: Columns = {
    "pair": ("title", "{}"),
    "won / tied / lost": ("duels", PERCENT),
    "net": ("net", SIGNED),
    "p (Holm)": ("p_value", "{:.3f}"),
    "the first has": ("verdict", "{}"),
}
JUDGE_COLUMNS: Columns = {
    "judge": ("title", "{}"),
    "answers": ("answers", "{}"),
    "malformed": ("malformed share", PERCENT),
    "failed": ("failed share", PERCENT),
    "beats random": ("against_random_code", SIGNED),
    "… in ratings": ("rating_above_random_code", SIGNED),
}
POSITION_COLUMNS: Columns = {
    "judge": ("title", "{}"),
    "first shown first": ("first_shown_first", PERCENT),
    "by chance": ("first_shown_first_chance", PERCENT),
    "pairs reversed": ("orders_disagree", PERCENT),
}
AGREEMENT_COLUMNS: Columns = {"": ("title", "{}"), "value": ("value", NUMBER), "by chance": ("chance", NUMBER)}
ARMS_NOTE = (
    "First: share of rankings in which it comes first, 100 % in total. Rating: 1 to 3; a concept that occurs in no "
    "other text gets 1. Strength: Bradley–Terry score, mean 0. Won: against the other methods, counted only if both "
    "orders agree. Intervals: 95 %, bootstrap over texts."
)
PAIRS_NOTE = (
    "Net: share won minus share lost, mean over judges, then over texts, with 95 % interval. p: by sign flips of texts,"
    f" corrected for all pairs (Holm). A verdict other than tie needs p ≤ 0.05 and {MIN_TEXTS} texts; with fewer it is "
    "unknown."
)
JUDGES_NOTE = (
    "Malformed: no valid answer after two reminders; these are left out. Beats random: how much more often the "
    "methods' salient concepts win against a random active code than lose, and how much higher they are rated. A judge "
    "whose intervals include 0 cannot distinguish a concept from a random one: its verdicts on methods mean nothing."
)
POSITIONS_NOTE = (
    "First shown first: how often the concept that is shown first is ranked first; without a bias as often as by "
    "chance. Pairs reversed: pairs that the reversed order ranks the other way, 50 % if answers are random, 100 % if "
    "the position decides. Share of firsts by position, all judges: {positions}."
)


def judging_tables(results: dict[str, Any]) -> list[ReportTable]:
    """Make the tables of what [`judge_tables`][clvq_hf.judging.language_models.judge_tables] returns."""
    tables = [_overview(results)]
    for kind, scores in results["kinds"].items():
        tables += _score_tables(scores, KINDS[kind])
    return tables


def judging_markdown(results: dict[str, Any]) -> str:
    """Write the tables as Markdown, for `results.md`."""
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


def _score_tables(scores: dict[str, Any], shown: str) -> list[ReportTable]:
    """The tables of one kind of exhibit."""
    arms = [
        {**figures, "title": f"{name} (control)" if figures["control"] else name, "duels": figures["against_methods"]}
        for name, figures in scores["arms"].items()
    ]
    pairs = [{**pair, "title": f"{pair['one']} – {pair['other']}", "duels": pair} for pair in scores["pairs"]]
    judges = []
    for name, figures in scores["judges"].items():
        total = figures["questions"]
        shares = {f"{part} share": figures[part] / total if total else None for part in ("malformed", "failed")}
        judges.append({**figures, **shares, "title": name, "answers": f"{figures['answered']} of {total}"})
    positions = ", ".join(f"{row['position']}: {_cell(row['first'], PERCENT)}" for row in scores["positions"])
    tables = [
        _table(f"Concepts {shown}", ARM_COLUMNS, arms, ARMS_NOTE, optional=("empty",)),
        _table(f"Pairs, {shown}", PAIR_COLUMNS, pairs, PAIRS_NOTE),
        _table(f"Can the judges tell? ({shown})", JUDGE_COLUMNS, judges, JUDGES_NOTE, optional=("failed",)),
        _table(f"Position bias, {shown}", POSITION_COLUMNS, judges, POSITIONS_NOTE.format(positions=positions)),
    ]
    if scores["agreement"] is not None:
        agreement = [{"title": title, **scores["agreement"][name]} for name, title in AGREEMENT.items()]
        note = f"{len(judges)} judges; by chance: what as many judges would show who answer at random."
        tables.append(_table(f"Agreement of the judges, {shown}", AGREEMENT_COLUMNS, agreement, note))
    return tables


def _table(
    title: str, columns: Columns, records: Iterable[dict[str, Any]], note: str, optional: tuple[str, ...] = ()
) -> ReportTable:
    rows = [[_cell(record[field], form) for field, form in columns.values()] for record in records]
    return ReportTable(title, list(columns), rows, note, optional)


def _cell(value: Any, form: str) -> str:
    """A figure, a figure with its interval, or the shares of won, tied and lost duels, each number in this format."""
    if value is None or (isinstance(value, dict) and value.get("mean", 0) is None):
        return NOTHING
    if not isinstance(value, dict):
        return form.format(value)
    if "won" in value:
        return " / ".join(_cell(value[name], form) for name in ("won", "tied", "lost"))
    return f"{form} [{form}, {form}]".format(value["mean"], value["low"], value["high"])


__all__ = ["judging_markdown", "judging_tables"]
