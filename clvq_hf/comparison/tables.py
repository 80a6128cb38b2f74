"""The tables of a comparison: templates that are filled in with figures of cells."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.ablation_drop.statistics import ALPHA, MIN_TEXTS
from ..rendering.text_tables import NOTHING, ReportTable, interval, number, percent, with_range
from .duels import by_method, paired_difference
from .methods import OURS
from .summary import (
    CELL,
    MAX_ACTIVE,
    MIN_EXPLAINED_VARIANCE,
    PURITY,
    SECONDS,
    SETTING,
    SPECIFICITY,
    Record,
    Summary,
    directions,
    section,
    study_cells,
)

# Columns with which the rows of many tables begin.
LABELS = {"host, dataset": "{setting}", "method": "{title}"}
_FIELD = re.compile(r"\{([\w.]+)(?::([^}]*))?\}")


def fill(template: str, figures: Mapping[str, Any], section: str = "") -> str:
    """Fill a template in; a dash stands for each figure that is missing.

    Args:
        template (`str`): `{name}` or `{name:format}`. The format is one of Python's, such as `.3f`; or `%` for a share,
            `[]` for a figure with its interval (`name_low`, `name_high`), `±` for one with its deviation (`name_sd`).
        figures (`Mapping[str, Any]`): By name.
        section (`str`): What precedes each name.

    Example:
        ```python
        >>> fill("{purity:.2f} ({null:.2f}); {share:%}", {"purity": 0.8, "share": 0.25})
        '0.80 (–); 25.0 %'

        ```
    """

    def text(match: re.Match[str]) -> str:
        name, form = section + match[1], match[2] or ""
        value = figures.get(name)
        if pd.isna(value):
            return NOTHING
        if form == "[]":
            return interval(figures, name)
        if form == "±":
            return f"{number(value, 3)} ± {number(figures[f'{name}_sd'], 3)}"
        return percent(value) if form == "%" else format(value, form)

    return _FIELD.sub(text, template)


@dataclass(frozen=True)
class CellTable:
    """A table with a row for each host and dataset, and a column for each method that has a figure.

    Attributes:
        title (`str`): Heading.
        figure (`str`): The figure without which a cell stays empty.
        template (`str`): What a cell shows, for [`fill`]: names of figures of the same section.
        note (`str`): A sentence below the table.
        controls (`bool`): Whether sanity controls have columns too.
    """

    title: str
    figure: str
    template: str
    note: str
    controls: bool = False

    def build(self, summary: Summary) -> ReportTable:
        """Fill in the table."""
        section = self.figure.rpartition(".")[0] + "."

        def text(record: Record) -> str | None:
            return None if pd.isna(record.get(self.figure)) else fill(self.template, record, section)

        return _setting_table(summary, self.title, text, self.note, self.controls)


TEXT_SPECIFICITY_TABLE = CellTable(
    "Text specificity",
    "ablation.code.text_specificity",
    "{text_specificity:[]}",
    "Change of the margin when the salient concept is removed, minus that of another text's salient concept with the "
    "same prediction, at the same tokens. What is left of token specificity if the place is the same: negative where "
    "the concept is this text's own.",
    controls=True,
)
ABLATION_TABLES = [
    CellTable(
        "The paper's protocol: accuracy of a probe",
        "ablation.probe.accuracy",
        "{accuracy:.1%} → {salient_accuracy:.1%} ({random_active_code_accuracy:.1%})",
        "Plain → salient concept removed (a random active code removed), one direction, from the representation at the "
        "lower layer. Accuracies of a probe, not of the model; below chance labels flip.",
    ),
    CellTable(
        "Controls of the ablation",
        "ablation.code.salient_margin_change",
        "{salient_margin_change:.3f} / {random_active_code_margin_change:.3f} / {random_direction_margin_change:.3f} / "
        "{class_ceiling_margin_change:.3f}",
        "Change of the margin in logits, where the salient concept occurs: salient concept / random active code / "
        "random direction of the same norm / directions of the classes.",
    ),
]
TOKEN_TABLES = [
    CellTable(
        "Label purity and exclusive codes",
        "table.label_purity.cross_fitted_purity",
        "{cross_fitted_purity:.3f} ({null_purity:.3f}) of {coverage:%}; {exclusive_share:%}",
        "Cross-fitted purity (labels permuted by text) of the share of tokens whose code is frequent enough; share of "
        "the codes that have one label only. Methods score different tokens, so do not compare their purities here.",
    ),
    CellTable(
        "Label purity, compared on the same tokens",
        "common_purity.purity",
        "{purity:.3f} of {coverage:%}; {difference:[]}",
        "Cross-fitted purity on the tokens that all methods score, and their share; its difference to CLVQ-VAE, paired "
        "by text and split, with a 95 % interval.",
    ),
    CellTable(
        "Label purity beyond the word",
        "table.label_purity.within_word_gain",
        "{within_word_gain:[]} of {within_word_coverage:%}",
        "Cross-fitted purity of pairs of code and token type, less that of types alone, on the tokens of types with "
        "two frequent codes or more, and their share.",
    ),
    CellTable(
        "Routing: does a word go elsewhere under another label?",
        "table.routing_divergence.excess_jsd",
        "{excess_jsd:[]}",
        "Jensen–Shannon divergence in bits, minus its mean over permutations of the labels.",
    ),
    CellTable(
        "Overlap of the codes of two texts",
        "table.codebook_overlap.ratio",
        "{ratio:[]}",
        "Pairs with the same label ÷ pairs with different ones, of like TF-IDF similarity.",
    ),
    CellTable(
        "The host's prediction from five codes",
        "table.bag_of_codes.prediction_codes_5",
        "{prediction_codes_5:.3f}; {prediction_gain_5:[]} (dense {prediction_dense:.3f})",
        "Balanced accuracy of a logistic regression on how often five codes occur in a text, cross-fitted; less "
        "that of five token types; that of the mean state.",
    ),
    CellTable(
        "Senses: does a code say what another context of its word does?",
        "words.senses.sense_share",
        "{sense_share:[]}; {exchanged_share:[]} of {num_exchanged:.0f}/{num_tokens:.0f}",
        "Share of what another occurrence of a word does to the answer that an exchange of codes does too; the same "
        "for the tokens whose code was exchanged, and their number.",
    ),
    CellTable(
        "Cosine of the codes in use",
        "table.codebook_similarity.active_mean_cosine",
        "{active_mean_cosine:.3f} ({active_mean_centred_cosine:.3f})",
        "Mean over pairs; in brackets after the mean code is subtracted.",
    ),
    CellTable(
        "What passes the bottleneck",
        "bottleneck.splice_fidelity",
        "{splice_fidelity:.3f} / {code_leak:.3f} / {explained_variance:.3f}",
        "Splice fidelity / leak (the same with permuted codes; for methods of one code a token) / explained variance "
        "at the upper layer, for single-layer methods at the lower one.",
    ),
    CellTable(
        "What passes the bottleneck, with the same decoder for all methods",
        "equal_splice.splice_fidelity",
        "{splice_fidelity:[]} / {leak:.3f} / {explained_variance:.3f}",
        "The same figures with one decoder that is trained on the frozen codes of each method, as long, at the upper "
        "layer for all.",
    ),
]


def report_tables(summary: Summary, studies: dict[str, Sequence[str]] | None = None) -> list[ReportTable]:
    """Every table that the cells have figures for.

    Args:
        summary ([`Summary`][clvq_hf.comparison.summary.Summary]): The cells.
        studies (`dict[str, Sequence[str]]`, *optional*): Title → methods that differ in one setting.
    """
    studies = studies or {}
    reference = min(set.intersection(*map(set, studies.values())), default=None) if studies else None
    tables = [
        _hosts_table(summary),
        *(_study_table(summary, title, methods, reference) for title, methods in studies.items()),
        *(_token_specificity_table(summary, k, matched) for k in summary.looks() for matched in (True, False)),
        TEXT_SPECIFICITY_TABLE.build(summary),
        _duels_table(summary),
        _wins_table(summary),
        _ranks_table(summary),
        *(table.build(summary) for table in ABLATION_TABLES),
        _word_effects_table(summary),
        _beyond_word_table(summary),
        _k_sweep_table(summary),
        _transcoder_table(summary),
        *(table.build(summary) for table in TOKEN_TABLES),
        _footing_table(summary),
        _stability_table(summary),
        _seeds_table(summary),
        _controls_table(summary),
        _time_table(summary),
        _refusals_table(summary),
    ]
    return [table for table in tables if table.rows]


def _setting_table(
    summary: Summary, title: str, text: Callable[[Record], str | None], note: str, controls: bool = False
) -> ReportTable:
    """A row for each host and dataset, a column for each method that `text` has something to say of."""
    settings, names = summary.settings(), summary.methods()
    columns = {"host, dataset": [", ".join(setting) for setting in settings]}
    for method, name in {**names, **(summary.methods(control=True) if controls else {})}.items():
        records = [summary.record(*setting, method) for setting in settings]
        texts = [None if record is None else text(record) for record in records]
        if any(texts):
            columns[name] = [each or NOTHING for each in texts]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return ReportTable(title, list(columns), rows if len(columns) > 1 else [], note)


def _record_table(title: str, columns: Mapping[str, str], records: Iterable[Record], note: str = "") -> ReportTable:
    """A row for each record, a column for each template."""
    rows = [[fill(template, record) for template in columns.values()] for record in records]
    return ReportTable(title, list(columns), rows, note)


def _hosts_table(summary: Summary) -> ReportTable:
    cells = summary.frame.sort_values(["control", *SETTING], kind="stable")  # a control's host differs
    first = cells.drop_duplicates(SETTING).sort_values(SETTING)
    first = first.assign(parameters=first["host.num_parameters"] / 1e6)
    columns = {
        "host, dataset": "{setting}",
        "parameters": "{parameters:.1f} M",
        "layers": "{host.layers.0} → {host.layers.1} of {host.num_blocks}",
        "host texts": "{host.num_texts.host_train:,}",
        "concept texts": "{host.num_texts.train:,}",
        "test texts": "{host.num_texts.test:,}",
        "accuracy": "{host.accuracy:.1%}",
        "majority": "{host.majority:.1%}",
        "linear EV": "{host.linear_explained_variance:.3f}",
    }
    note = "Linear EV: what the best linear map of a token's lower state explains of its upper state, on other texts."
    return _record_table("Hosts and texts", columns, first.to_dict("records"), note)


def _removed(summary: Summary, k: int | None) -> str:
    """How many directions are removed, in words."""
    if k is not None:
        return f"{k} direction{'s' if k > 1 else ''}"
    own = {directions(cell) for cell in summary.cells if cell.get("sweep")}
    several = max(own, default=1)
    return "1 direction" if several == 1 else f"1 direction ({several} for methods with several neurons per token)"


def _token_specificity_table(summary: Summary, k: int | None, matched: bool) -> ReportTable:
    draws, count, note = ("matched", "num_matched", _MATCHED_NOTE) if matched else ("all", "num_texts", _ALL_NOTE)
    look = section(k)

    def text(record: Record) -> str | None:
        if f"{look}.{count}" not in record:
            return None
        figure = interval(record, f"{look}.on_{draws}")
        texts = f" (n = {record[f'{look}.{count}']})" if matched or figure == NOTHING else ""
        return figure + texts + _dagger(record)

    title = f"Token specificity, {_removed(summary, k)} removed, "
    return _setting_table(summary, title + ("matched draws" if matched else "all texts"), text, note)


def _dagger(record: Record) -> str:
    return " †" if record["mark"] else ""


_MARK_NOTE = (
    f"† a poor dictionary by the same bars for all methods: an L0 of {MAX_ACTIVE} or more, or less than "
    f"{MIN_EXPLAINED_VARIANCE:.0%} explained of the variance, from layer to layer of what a linear map explains."
)
_MATCHED_NOTE = (
    "Change of the margin when the salient concept is removed where it occurs, minus that of another concept of the "
    "same text with about as many positions and as much removed norm; logits, 95 % bootstrap intervals over texts, "
    "of the first training seed. More negative: the concept matters more. n: texts with such another concept; below "
    f"{MIN_TEXTS} no figure is given. {_MARK_NOTE}"
)
_ALL_NOTE = (
    "The same on all texts: where no concept matches, the nearest stands in. Methods with few broad codes remove "
    "more than what they are compared with, and look better here."
)


def _duels_table(summary: Summary) -> ReportTable:
    names, rows = summary.methods(), []
    for duel in summary.duels():
        if OURS not in (duel.first, duel.second):
            continue
        found, sign = duel.difference, 1 if duel.first == OURS else -1
        low, high = sorted(sign * bound for bound in found.interval)
        rival = duel.second if duel.first == OURS else duel.first
        ours, theirs = (summary.record(duel.host, duel.dataset, method) for method in (OURS, rival))
        rows.append(
            {
                "host, dataset": f"{duel.host}, {duel.dataset}{_dagger(ours)}",
                "against": names[rival] + _dagger(theirs),
                "difference": with_range(sign * found.mean, low, high),
                "p (Holm)": number(duel.p_value, 3),
                "verdict": duel.outcome(OURS),
                "equal within": f"± {number(found.margin, 3)}",
                "could have seen": number(found.detectable, 3),
                "texts": str(len(found.values)),
                "seeds": " / ".join(map(str, found.seeds[::sign])),
            }
        )
    note = (
        f"Token specificity of {names.get(OURS, OURS)} minus that of the rival, {_removed(summary, None)} removed, "
        "matched draws, paired by text; 95 % bootstrap-t intervals over texts and, where a method has several, over "
        "its training seeds (ours / the rival's); p by sign flips, corrected for all duels of all methods. A tie does "
        "not mean equal: the two are equal within the margin given (90 % interval), and a true difference of the size "
        f"under “could have seen” is found in 80 % of the cases, before the correction. {_MARK_NOTE}"
    )
    return ReportTable.from_rows(f"Duels of {names.get(OURS, OURS)}", rows, note=note)


def _wins_table(summary: Summary) -> ReportTable:
    methods = summary.methods()
    rows = []
    for k in summary.looks():
        for matched in (True, False):
            counts = by_method(summary.duels(k, matched), list(methods))
            for method, name in methods.items():
                against = [counts[method].get(other, {}).values() for other in methods]
                cells = ["–".join(map(str, results)) if sum(results) else NOTHING for results in against]
                if any(map(sum, against)):
                    rows.append([k or "own", "matched" if matched else "all", name, *cells])
    note = (
        "Settings in which the method of the row wins, ties and loses against that of the column: token "
        f"specificity, paired by text, at least {MIN_TEXTS} texts that both have, over all training seeds. A verdict "
        f"needs p ≤ {ALPHA} by sign flips after Holm's correction for all duels with this k and these draws. k “own”: "
        f"{_removed(summary, None)}."
    )
    rows = [[str(k), *rest] for k, *rest in rows]
    return ReportTable("Wins–ties–losses", ["k", "draws", "method", *methods.values()], rows, note)


def _ranks_table(summary: Summary) -> ReportTable:
    rows = []
    for place, k in enumerate(summary.looks()):
        ways = {"": summary.ranks(k), ", all texts": summary.ranks(k, matched=False)}
        # The probe removes one direction, whatever the sweep.
        ways[", the paper's way"] = summary.probe_ranks() if place == 0 else {}
        for method, name in summary.methods().items():
            row = {"k": str(k or "own"), "method": name}
            for way, ranked in ways.items():
                places = [methods.index(method) for methods in ranked.values() if method in methods]
                for best, header in enumerate(("first", "first or second"), start=1):
                    first = sum(place < best for place in places)
                    row[header + way] = f"{first} of {len(places)}" if places else NOTHING
            if set(row.values()) - {str(k or "own"), name, NOTHING}:
                rows.append(row)
    note = (
        "By the mean of token specificity on matched draws and on all texts; the paper's way by the accuracy that the "
        "probe loses, one direction removed. Means of the first seed only, without intervals, as the paper counts."
    )
    return ReportTable.from_rows("Who is first", rows, note=note)


def _word_effects_table(summary: Summary) -> ReportTable:
    section = "ablation.code."
    effects = (
        "{same_texts:.3f} / {word_ceiling_margin_change:.3f} / {word_residual_margin_change:[]}",
        " / {word_random_margin_change:.3f}",
        " ({word_residual_text_share:%}, {word_residual_position_share:%})",
    )
    # Cells of earlier versions have neither control nor coverage.
    needed = [f"{section}{name}" for name in ("word_residual_margin_change", "word_random_margin_change")]
    needed.append(f"{section}word_residual_position_share")

    def text(record: Record) -> str | None:
        if pd.isna(record.get(needed[0])):
            return None
        parts = [part for part, name in zip(effects, needed, strict=True) if not pd.isna(record.get(name))]
        # Of the texts that the other conditions have, not of all.
        same_texts = record.get("beyond_word.salient_margin_change", record[f"{section}salient_margin_change"])
        return fill("".join(parts), {**record, f"{section}same_texts": same_texts}, section)

    note = (
        "Change of the margin in logits, where the salient concept occurs: salient concept / mean state of each "
        "token's type / salient concept orthogonal to that / random direction orthogonal to that, of the same norm "
        "(share of texts with a type whose mean is known, which all four are means of, and of such positions in them; "
        "all but the first change only these). The third no lower than the fourth: the dictionary says no more than "
        "the word."
    )
    return _setting_table(summary, "What concepts say beyond their word", text, note, controls=True)


def _beyond_word_table(summary: Summary) -> ReportTable:
    def text(record: Record) -> str | None:
        host, dataset, method = (record[name] for name in CELL)
        if method == OURS:
            return None
        sides = [summary.beyond_word(host, dataset, each) for each in (OURS, method)]
        shown = []
        for name in ("differences", "beside"):
            if all(name in entry for side in sides for entry in side):
                difference = paired_difference(*sides, name)
                shown.append(None if difference is None else with_range(difference.mean, *difference.interval))
        if None in shown or not all(sides):
            return None
        return " / ".join(shown) + (f" (n = {len(difference.values)})" if len(shown) == 2 else "")

    title = "What concepts say beyond their word: CLVQ-VAE minus the others"
    note = (
        "Effect beyond the word / the same minus that of a random direction beside the word (n: texts in which both "
        "methods have a type whose mean is known). Paired by text, 95 % bootstrap-t intervals over texts and training "
        "seeds, not corrected for their number. Negative: the concept of CLVQ-VAE says more."
    )
    return _setting_table(summary, title, text, note, controls=True)


def _k_sweep_table(summary: Summary) -> ReportTable:
    records = []
    for record in summary.first_records(summary.methods()):
        entries = record["source"].get("sweep", [])
        if len({entry["variant"] for entry in entries}) > 1:
            for entry in entries:
                rows, matched = entry["variant"].replace("_", " "), entry["num_matched"] / entry["num_texts"]
                records.append({**record, **entry, "rows": rows, "matched": matched})
    columns = {
        **LABELS,
        "rows, chosen by": "{rows}",
        "k": "{k}",
        "token specificity": "{token_specificity:[]}",
        "Δmargin": "{margin_change:.3f}",
        "positions": "{num_positions:.1f}",
        "matched": "{matched:%}",
        "energy removed": "{removed_energy:%}",
    }
    note = (
        "All texts. Neurons are chosen by activation, or by activation × gradient. Energy: share of the squared norm."
    )
    return _record_table("Sparse methods: which directions, and how many", columns, records, note)


def _transcoder_table(summary: Summary) -> ReportTable:
    records = []
    for record in summary.first_records(["transcoder"]):
        sides = {"theirs": record, "ours": summary.record(record["cell.host"], record["cell.dataset"], OURS) or {}}
        for k in summary.ks():
            if all(f"k{k}.num_texts" in figures for figures in sides.values()):
                row = {**record, "k": k, "poor": record["mark"] or "no"}
                for side, figures in sides.items():
                    row[side], row[f"{side}_matched"] = figures[f"k{k}.token_specificity"], figures[f"k{k}.on_matched"]
                records.append(row)
    columns = {
        "host, dataset": "{setting}",
        "k": "{k}",
        "transcoder": "{theirs:.3f}",
        "CLVQ-VAE": "{ours:.3f}",
        "transcoder, matched": "{theirs_matched:.3f}",
        "CLVQ-VAE, matched": "{ours_matched:.3f}",
        "L0": "{bottleneck.num_active:.0f}",
        "explained variance": "{bottleneck.explained_variance:.3f}",
        "poor": "{poor}",
    }
    return _record_table("TopK transcoder against CLVQ-VAE: token specificity", columns, records)


def _footing_table(summary: Summary) -> ReportTable:
    ks = summary.ks()
    first = f"k{min(ks, default=1)}"
    records = []
    for method, title in summary.methods().items():
        cells = summary.first_records([method])
        if not cells:
            continue
        figures = pd.DataFrame(cells).median(numeric_only=True).to_dict()
        figures["title"] = title
        figures["entropy"] = np.log2(figures.get("table.codebook_usage.perplexity", np.nan))
        figures["energies"] = " / ".join(percent(figures.get(f"k{k}.removed_energy")) for k in ks)
        figures["poor"] = f"{sum(bool(cell['mark']) for cell in cells)} of {len(cells)}"
        records.append(figures)
    columns = {
        "method": "{title}",
        "K": "{codebook_size:.0f}",
        "codes used": "{table.codebook_usage.active_codes:.0f}",
        "entropy, bits": "{entropy:.1f}",
        "explained variance": "{bottleneck.explained_variance:.3f}",
        "L0": "{bottleneck.num_active:.0f}",
        "positions": f"{{{first}.num_positions:.1f}}",
        "norm removed": f"{{{first}.removed_norm:.1f}}",
        "matched texts": f"{{{first}.matched:%}}",
        f"energy removed, k = {' / '.join(map(str, ks))}": "{energies}",
        "poor (†)": "{poor}",
    }
    note = f"Medians over hosts and datasets, of the first seed. {_MARK_NOTE}"
    return _record_table("On what footing", columns, records, note)


def _stability_table(summary: Summary) -> ReportTable:
    names = [f"stability.{name}" for name in ("ami", "active_matched_cosine", "null_active_matched_cosine")]
    records = [
        {**record, "seeds": record["stability.ami_count"] + 1}
        for record in summary.labelled(summary.over_seeds(*names))
        if record["stability.ami_count"]
    ]
    columns = {
        **LABELS,
        "seeds": "{seeds:.0f}",
        "AMI of codes": "{stability.ami:.3f}",
        "cosine of matched codes (null)": "{stability.active_matched_cosine:.3f} "
        "({stability.null_active_matched_cosine:.3f})",
    }
    note = "Agreement with the first seed on the test tokens, mean over the other seeds; 0 by chance, 1 the same."
    return _record_table("Stability over seeds", columns, records, note)


def _seeds_table(summary: Summary) -> ReportTable:
    means = summary.over_seeds(SPECIFICITY, PURITY)
    records = [record for record in summary.labelled(means) if record[f"{SPECIFICITY}_count"] > 1]
    columns = {
        **LABELS,
        "seeds": f"{{{SPECIFICITY}_count:.0f}}",
        "token specificity": f"{{{SPECIFICITY}:±}}",
        "label purity": f"{{{PURITY}:±}}",
    }
    note = "Mean ± standard deviation over seeds of the concepts; host and texts are the same."
    return _record_table("Spread over seeds", columns, records, note)


def _controls_table(summary: Summary) -> ReportTable:
    controls = summary.methods(control=True)
    titles = {OURS: "CLVQ-VAE, for comparison", **controls}
    controlled = {record["setting"] for record in summary.first_records(controls)}
    records = [
        {**record, "title": titles[record["cell.method"]]}
        for record in summary.first_records(titles)
        if record["setting"] in controlled
    ]
    columns = {
        "host, dataset": "{setting}",
        "control": "{title}",
        "purity (permuted)": f"{{{PURITY}:.3f}} ({{table.label_purity.null_purity:.3f}})",
        "lexical gain": "{table.label_purity.lexical_gain:[]}",
        "excess routing": "{table.routing_divergence.excess_jsd:[]}",
        # Of one direction, whatever the sweep begins with.
        "token specificity": "{k1.token_specificity_matched:[]}",
    }
    note = (
        "A re-initialised host must fall to the baseline of the words (lexical gain 0), permuted labels to that of "
        "the permutations (excess 0)."
    )
    return _record_table("Sanity controls", columns, records, note)


def _time_table(summary: Summary) -> ReportTable:
    titles = {**summary.methods(), **summary.methods(control=True)}
    names = [f"seconds.{name}" for name in SECONDS]
    cells = summary.frame.reindex(columns=["cell.method", *names]).fillna(dict.fromkeys(names, 0.0))
    means = cells.groupby("cell.method").mean()
    means = means.assign(title=pd.Series(titles), cells=cells["cell.method"].value_counts())
    records = means.loc[list(titles)].to_dict("records")
    columns = {"method": "{title}", "cells": "{cells}"} | {name: f"{{seconds.{name}:.1f}}" for name in SECONDS}
    return _record_table("Seconds a cell", columns, records, "Means over the cells, as they were run.")


def _study_table(summary: Summary, title: str, methods: Sequence[str], reference: str | None) -> ReportTable:
    means = summary.over_seeds(SPECIFICITY, "stability.ami")
    records = []
    for host, dataset, method in study_cells(summary, methods):
        seeds, others = (summary.sweeps(host, dataset, each, 1) for each in (method, reference or method))
        record = {**summary.record(host, dataset, method), "ami": means[host, dataset, method]["stability.ami"]}
        if len(seeds) > 1:
            record |= {f"seeds{end}": means[host, dataset, method][SPECIFICITY + end] for end in ("", "_sd")}
        if method != reference and others and reference is not None:
            difference = paired_difference(seeds, others)
            if difference is not None:
                names = ("against", "against_low", "against_high")
                record |= zip(names, (difference.mean, *difference.interval), strict=True)
        records.append(record)
    columns = {
        "setting": "{title}",
        "host, dataset": "{setting}",
        "token specificity": f"{{{SPECIFICITY}:[]}}",
        "over seeds": "{seeds:±}",
        f"minus {reference}": "{against:[]}",
        "splice fidelity": "{bottleneck.splice_fidelity:.3f}",
        "AMI over seeds": "{ami:.3f}",
        "purity": f"{{{PURITY}:.3f}}",
        "codes used": "{table.codebook_usage.active_codes:.0f}",
    }
    note = (
        "Ranked by token specificity on matched draws, the most negative first; then look at fidelity and stability. "
        "Differences are paired by text, with 95 % bootstrap-t intervals over texts and training seeds that are not "
        "corrected for their number."
    )
    records.sort(key=lambda record: record.get(SPECIFICITY) or 0.0)
    return _record_table(f"Study: {title}", columns, records, note)


def _refusals_table(summary: Summary) -> ReportTable:
    refused = {record["setting"]: record["refused"] for record in summary.records if record.get("refused")}
    return ReportTable("Not ablated", ["host, dataset", "why"], sorted(map(list, refused.items())))


__all__ = ["CellTable", "fill", "report_tables"]
