"""The tables of a comparison: templates that are filled in with figures of cells."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ..metrics.ablation_drop.statistics import ALPHA, MIN_TEXTS
from ..rendering.text_tables import NOTHING, ReportTable, interval, number, percent, with_range
from .cell_tables import ABLATION_TABLES, FIDELITY_TABLES, TEXT_SPECIFICITY_TABLE, TOKEN_TABLES, fill, setting_table
from .coded import coded_tables
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

# Controls with codes of their own, and figures of quality: title, and 1 if more is better.
_FOOLS = ("random-states", "token-types", "class-only")
_QUALITY = {
    "fidelity.code_fidelity": ("code fidelity", 1),
    "fidelity.fidelity_beyond_class": ("code fidelity beyond the class", 1),
    "fidelity.explained_variance": ("upper layer explained by codes", 1),
    "fidelity.explained_variance_within_class": ("… within the class", 1),
    "words.senses.sense_share": ("share of the sense", 1),
    "bottleneck.splice_fidelity": ("splice fidelity", 1),
    "equal_splice.splice_fidelity": ("splice fidelity, same decoder", 1),
    PURITY: ("label purity, cross-fitted", 1),
    "table.label_purity.lexical_gain": ("lexical gain", 1),
    "table.label_purity.within_word_gain": ("purity beyond the word", 1),
    "table.bag_of_codes.prediction_codes_5": ("prediction from five codes", 1),
    "table.routing_divergence.excess_jsd": ("excess routing", 1),
    "table.codebook_overlap.ratio": ("overlap of the codes of two texts", 1),
    "stability.ami": ("AMI over seeds", 1),
    SPECIFICITY: ("token specificity", -1),
}
# Columns with which the rows of many tables begin.
LABELS = {"host, dataset": "{setting}", "method": "{title}"}


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
        *(table.build(summary) for table in FIDELITY_TABLES),
        *coded_tables(summary),
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
        _fooled_table(summary),
        _time_table(summary),
        _refusals_table(summary),
    ]
    return [table for table in tables if table.rows]


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
    return setting_table(summary, title + ("matched draws" if matched else "all texts"), text, note)


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
    return setting_table(summary, "What concepts say beyond their word", text, note, controls=True)


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
    return setting_table(summary, title, text, note, controls=True)


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


def _number_of_seeds(summary: Summary, record: Record, number: float) -> str:
    """How many seeds a mean is over, and of how many, if some lack the figure."""
    total = len(summary.seed_records(*(record[name] for name in ("host", "dataset", "method"))))
    return f"{number:.0f}" if number == total else f"{number:.0f} of {total}"


def _stability_table(summary: Summary) -> ReportTable:
    names = [f"stability.{name}" for name in ("ami", "active_matched_cosine", "null_active_matched_cosine")]
    records = [
        {**record, "seeds": _number_of_seeds(summary, record, record["stability.ami_count"] + 1)}
        for record in summary.labelled(summary.over_seeds(*names))
        if record["stability.ami_count"]
    ]
    columns = {
        **LABELS,
        "seeds": "{seeds}",
        "AMI of codes": "{stability.ami:.3f}",
        "cosine of matched codes (null)": "{stability.active_matched_cosine:.3f} "
        "({stability.null_active_matched_cosine:.3f})",
    }
    note = "Agreement with the first seed on the test tokens, mean over the other seeds; 0 by chance, 1 the same."
    return _record_table("Stability over seeds", columns, records, note)


def _seeds_table(summary: Summary) -> ReportTable:
    figures = {
        "code fidelity": "fidelity.code_fidelity",
        "explained by codes": "fidelity.explained_variance",
        "… within the class": "fidelity.explained_variance_within_class",
        "token specificity": SPECIFICITY,
        "label purity": PURITY,
        "share of the sense": "words.senses.sense_share",
    }
    means = summary.over_seeds(*figures.values())
    records = []
    for record in summary.labelled(means):
        seeds = max(record[f"{figure}_count"] for figure in figures.values())
        if seeds > 1:
            # A figure of fewer seeds than its neighbours says of how many.
            fewer = {f"{figure}_of": seeds for figure in figures.values()}
            records.append({**record, **fewer, "seeds": _number_of_seeds(summary, record, seeds)})
    known = {
        title: f"{{{figure}:±}}"
        for title, figure in figures.items()
        if any(record[f"{figure}_count"] for record in records)
    }
    columns = {**LABELS, "seeds": "{seeds}", **known}
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


def _fooled_table(summary: Summary) -> ReportTable:
    controls = {name: title for name, title in summary.methods(control=True).items() if name in _FOOLS}
    titles = {**summary.methods(), **controls}
    settings = [
        setting for setting in summary.settings() if all(summary.record(*setting, method) for method in controls)
    ]
    rows, spreads = [], summary.over_seeds(*_QUALITY)
    for figure, (title, sign) in _QUALITY.items():
        means = {}
        for method in titles:
            values = [spreads.get((*setting, method), {}).get(figure) for setting in settings]
            if values and not any(map(pd.isna, values)):
                means[method] = float(np.mean(values))
        rivals = [sign * value for method, value in means.items() if method not in controls]
        if not rivals or not controls.keys() & means.keys():
            continue
        deviations = [group[f"{figure}_sd"] for group in spreads.values() if group[f"{figure}_count"] > 1]
        spread = float(np.sqrt(np.mean(np.square(deviations)))) if deviations else 0.0
        # A mean over several settings varies less.
        bar = np.median(rivals) - 2 * spread / np.sqrt(len(settings))
        fooled = [controls[method] for method in controls if sign * means.get(method, -sign * np.inf) >= bar]
        row = {name: number(means.get(method), 3) for method, name in titles.items()}
        row["sd over seeds"] = number(spread, 3) if deviations else NOTHING
        rows.append({"figure": title, **row, "as good as the median method": ", ".join(fooled) or "no control"})
    note = (
        "Means over seeds, and over the hosts and datasets that have all of these controls; the deviation over "
        "seeds of one host and dataset, pooled over all methods. A control that comes within two deviations of the "
        "median method is named: such a figure says little of a dictionary, as the control knows no more than random "
        "states, words, or the class."
    )
    return ReportTable.from_rows("Which figures can be fooled", rows, note=note)


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


__all__ = ["report_tables"]
