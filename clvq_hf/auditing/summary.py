"""The first suspects of an audit as plain data, and as a table and sentences for terminals, reports and cards."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..rendering.text_tables import ReportTable, number, percent, with_range
from ..tables.concept_table import ConceptTable
from ..tables.masking import ToxicMask
from ..tables.names import Called

# The largest p-value, corrected for all concepts and classes, of an effect that is taken for one.
MAX_Q = 0.05
# What a concept's effect speaks for: its class, or anything but that.
FOR, AGAINST = "for", "against"
# From where on a signal is named beside a concept, and how; {} is the value that it has most.
SIGNS = {
    "top_word": (0.8, "one word: {}"),
    "position": (0.5, "position: {}"),
    "layout": (0.5, "layout: {}"),
    "casing": (0.5, "casing: {}"),
    "weak": (0.5, "words without content"),
    "boilerplate": (0.5, "boilerplate"),
    "beyond_content": (0.2, "label beyond the other content"),
    "misleads": (0.2, "misleads"),
    "effect_gap": (1.0, "effect depends on {}"),
}
# Of columns of slices, and of groups, whatever they are called.
SLICE_SIGN, GROUP_SIGN = 0.5, 0.2
_COLUMNS = (
    *("code", "number", "name", "named_by", "words", "class", "direction", "coverage", "share"),
    *("effect", "effect_low", "effect_high", "excess", "excess_low", "excess_high", "num_controlled", "matched"),
    *("q", "lexical", "score", "alarm"),
)


def members_of(number: str) -> list[int]:
    """The concepts of a suspect, of which it shows the numbers: `"31 + 207"`."""
    return [int(each) for each in number.split(" + ")]


def signs_of(concept: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The signals of a concept that stand out: what is said of each, and the value that it has most."""
    signs = [
        (text, str(concept.get(f"{name}_at")))
        for name, (least, text) in SIGNS.items()
        if concept[name] is not None and concept[name] >= least
    ]
    for name in metadata["slices"]:
        if concept[f"slice_{name}"] >= SLICE_SIGN:
            signs.append((name + ": {}", str(concept[f"slice_{name}_at"])))
    return signs + [(name, "") for name in metadata["groups"] if (concept[f"group_{name}"] or 0) >= GROUP_SIGN]


def summarise(suspects: pd.DataFrame, metadata: Mapping[str, Any], num_rows: int, n: int) -> dict[str, Any]:
    """What is told of an audit, as plain data for JSON: the first suspects, and all alarms; no hidden concepts."""
    established = (suspects["q"] <= MAX_Q) & (suspects["excess"] > 0)
    controlled = suspects["num_controlled"]
    shown = suspects[~suspects["hidden"]].reset_index(drop=True)
    chosen = shown[(shown.index < n) | shown["alarm"]]
    records = []
    for concept in chosen.to_dict("records"):
        plain = {name: None if pd.isna(concept[name]) else concept[name] for name in _COLUMNS}
        records.append({**plain, "signs": [list(sign) for sign in signs_of(concept, metadata)]})
    kept = ("model_fingerprint", "num_texts", "max_texts_per_concept", "how", "unit", "classes", "codebook_size")
    return {
        **{name: metadata[name] for name in kept},
        "num_rows": num_rows,
        "num_concepts": len(suspects),
        "num_codes": int(suspects["number"].map(lambda number: len(members_of(number))).sum()),
        "num_established": int(established.sum()),
        "matched": float((suspects["matched"] * controlled).sum() / controlled.sum()) if controlled.sum() else None,
        "num_hidden_alarms": int((suspects["hidden"] & suspects["alarm"]).sum()),
        "suspects": records,
    }


def with_names(summary: Mapping[str, Any], table: ConceptTable) -> dict[str, Any]:
    """The same with the names that a table of the same model gives its concepts now, without those hidden there."""
    suspects, hidden_alarms = [], summary["num_hidden_alarms"]
    for concept in summary["suspects"]:
        # A phrase is of several concepts, unless somebody has merged them since.
        shown = set(table.by_hand.shown_codes[members_of(concept["number"])].tolist())
        if shown <= table.by_hand.hidden:
            hidden_alarms += concept["alarm"]
            continue
        called = table.called(concept["code"]) if len(shown) == 1 else None
        suspects.append(concept if called is None else {**concept, "name": called.name, "named_by": called.by})
    return {**summary, "suspects": suspects, "num_hidden_alarms": hidden_alarms}


def facts_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each fact about an audit."""
    limit = summary["max_texts_per_concept"]
    hidden = summary["num_hidden_alarms"]
    alarms = sum(concept["alarm"] for concept in summary["suspects"]) + hidden
    num_concepts = summary["num_concepts"]
    joined = "" if num_concepts == summary["num_codes"] else f", as {num_concepts:,}: a phrase counts as one"
    return [
        ("Texts", f"{summary['num_texts']:,}"),
        (
            "Removals",
            f"{summary['num_rows']:,}" + ("" if limit is None else f", each concept from at most {limit}"),
        ),
        ("Removed by", summary["how"]),
        ("Classes", ", ".join(summary["classes"])),
        ("Concepts", f"{summary['num_codes']:,} of {summary['codebook_size']:,}{joined}"),
        ("Beyond their controls", f"{summary['num_established']:,}, q ≤ {MAX_Q}"),
        ("Controls as large as the concept", percent(summary["matched"])),
        ("Alarms", f"{alarms:,}" + (f", {hidden:,} of hidden concepts" if hidden else "")),
    ]


def sentences_of(summary: Mapping[str, Any], mask: ToxicMask | None = None) -> list[str]:
    """What was found, in words."""
    told = [
        f"{summary['num_established']:,} of {summary['num_concepts']:,} concepts support a class more than other "
        f"concepts of the same texts (q ≤ {MAX_Q})."
    ]
    if summary["matched"] is not None:
        told[0] += f" {percent(summary['matched'])} of these controls are about as large."
    alarms = [concept for concept in summary["suspects"] if concept["alarm"]]
    for concept in alarms:
        signs = f"; {found}" if (found := _signs(concept, mask)) else ""
        told.append(
            f"Alarm: concept {concept['number']} ({_words(concept, mask)}) carries {percent(concept['share'])} of the "
            f"evidence {concept['direction']} {concept['class']}{signs}. May the host rely on it? Look at its texts."
        )
    if hidden := summary["num_hidden_alarms"]:
        told.append(
            f"{hidden:,} {'alarm is of a concept that was' if hidden == 1 else 'alarms are of concepts that were'} "
            "hidden by hand, so not shown here; see `concepts` of the audit."
        )
    elif not alarms:
        told.append("No concept passes the threshold of an alarm, which is no proof that there is no shortcut.")
    return told


def suspects_table(summary: Mapping[str, Any], mask: ToxicMask | None = None) -> ReportTable:
    """The suspects as text."""
    effect = f"effect ({summary['unit']})"
    return ReportTable.from_rows(
        "Suspects",
        summary["suspects"],
        {
            "concept": lambda row: f"{row['number']}{' !' if row['alarm'] else ''}",
            "words": lambda row: _words(row, mask),
            "class": lambda row: row["class"] if row["direction"] == FOR else f"{AGAINST} {row['class']}",
            "texts": lambda row: percent(row["coverage"]),
            "share of evidence": lambda row: percent(row["share"]),
            effect: lambda row: with_range(row["effect"], row["effect_low"], row["effect_high"], 2),
            "beyond controls": lambda row: with_range(row["excess"], row["excess_low"], row["excess_high"], 2),
            "q": lambda row: number(row["q"], 3),
            "word alone": lambda row: percent(row["lexical"]),
            "signs": lambda row: _signs(row, mask) or None,
        },
        note="! is an alarm. Intervals: 95 %, over texts. Word alone: the part of the effect that the mean state of "
        "the word has.",
        optional=("q", "word alone", effect),
    )


def _words(concept: Mapping[str, Any], mask: ToxicMask | None) -> str:
    def masked(words: str) -> str:
        return words if mask is None else mask.mask_words(words, concept["class"])

    if concept["name"]:
        return Called(masked(concept["name"]), str(concept["named_by"]), "").quoted
    return masked(concept["words"])


def _signs(concept: Mapping[str, Any], mask: ToxicMask | None) -> str:
    at = [value if mask is None else mask.mask_words(value, concept["class"]) for _, value in concept["signs"]]
    return ", ".join(text.replace("{}", value) for (text, _), value in zip(concept["signs"], at, strict=True))


__all__ = [
    "AGAINST",
    "FOR",
    "MAX_Q",
    "SIGNS",
    "SLICE_SIGN",
    "facts_of",
    "members_of",
    "sentences_of",
    "summarise",
    "suspects_table",
    "with_names",
]
