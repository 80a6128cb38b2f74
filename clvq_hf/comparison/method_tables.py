"""Tables of a comparison with a row for each method, control or setting of a study."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..rendering.text_tables import NOTHING, ReportTable, interval, number, percent
from .summary import (
    MIN_TEXTS,
    Summary,
    by_method,
    figure,
    mean_and_spread,
    over_seeds,
    paired_difference,
    study_cells,
    swept,
)


def wins_table(summary: Summary) -> ReportTable:
    methods = summary.methods()
    rows = []
    for k in summary.ks():
        for matched in (True, False):
            table = by_method(summary.duels(k, matched), list(methods))
            for method, name in methods.items():
                cells = []
                for other in methods:
                    counts = table[method].get(other)
                    known = counts is not None and sum(counts.values()) > 0
                    cells.append(f"{counts['win']}–{counts['tie']}–{counts['loss']}" if known else NOTHING)
                if any(cell != NOTHING for cell in cells):
                    rows.append([str(k), "matched" if matched else "all", name, *cells])
    note = (
        "Settings in which the method of the row wins, ties and loses against that of the column: token "
        f"specificity, paired by text, at least {MIN_TEXTS} texts that both have; only a 95 % interval that excludes "
        "0 decides. One training seed; intervals are not corrected for their number. Undertrained methods take no "
        "part."
    )
    return ReportTable("Wins–ties–losses", ["k", "draws", "method", *methods.values()], rows, note)


def ranks_table(summary: Summary) -> ReportTable:
    k, *_ = summary.ks() or [1]
    ways = (summary.ranks(k), summary.ranks(k, matched=False), summary.probe_ranks())
    rows = []
    for method, name in summary.methods().items():
        cells = []
        for ranked in ways:
            places = [methods.index(method) for methods in ranked.values() if method in methods]
            for best in (1, 2):
                cells.append(f"{sum(place < best for place in places)} of {len(places)}" if places else NOTHING)
        if any(cell != NOTHING for cell in cells):
            rows.append([name, *cells])
    header = ["method", "first", "first or second", "first, all texts", "first or second, all texts"]
    header += ["first, the paper's way", "first or second, the paper's way"]
    note = (
        f"By the mean of token specificity, k = {k}, on matched draws and on all texts; the paper's way by the "
        "accuracy that the probe loses. Means alone, without intervals, as the paper counts."
    )
    return ReportTable("Who is first", header, rows, note)


def fairness_table(summary: Summary) -> ReportTable:
    rows = []
    for method, name in summary.methods().items():
        cells = [summary.cell(host, dataset, method) for host, dataset in summary.settings()]
        cells = [cell for cell in cells if cell is not None]
        if not cells:
            continue
        k, *more = summary.ks() or [1]

        def median(*path: str, cells: list[dict[str, Any]] = cells) -> float | None:
            values = [value for cell in cells if (value := figure(cell, *path)) is not None]
            return float(np.median(values)) if values else None

        told = ("num_positions", "removed_norm")
        perplexity = median("table", "codebook_usage", "perplexity")
        energies = [
            percent(_median([entry["removed_energy"] for cell in cells if (entry := swept(cell, each)) is not None]))
            for each in [k, *more]
        ]
        rows.append(
            [
                name,
                number(median("codebook_size"), 0),
                number(median("table", "codebook_usage", "active_codes"), 0),
                number(None if perplexity is None else float(np.log2(perplexity)), 1),
                number(median("bottleneck", "explained_variance"), 3),
                number(median("bottleneck", "num_active"), 0),
                *(number(_median([e[name] for c in cells if (e := swept(c, k)) is not None]), 1) for name in told),
                percent(_median([e["num_matched"] / e["num_texts"] for c in cells if (e := swept(c, k)) is not None])),
                " / ".join(energies),
                f"{sum(bool(cell.get('undertrained')) for cell in cells)} of {len(cells)}",
            ]
        )
    header = ["method", "K", "codes used", "entropy, bits", "explained variance", "L0", "positions"]
    header += ["norm removed", "matched texts"]
    header += [f"energy removed, k = {' / '.join(map(str, summary.ks()))}", "undertrained"]
    return ReportTable("On what footing", header, rows, "Medians over hosts and datasets, of the first seed.")


def stability_table(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        for method, name in summary.methods().items():
            cells = [cell for cell in summary.seeds(host, dataset, method) if cell.get("stability")]
            ami = mean_and_spread([figure(cell, "stability", "ami") for cell in cells])
            if ami is None:
                continue
            cosine = mean_and_spread([figure(cell, "stability", "active_matched_cosine") for cell in cells])
            null = mean_and_spread([figure(cell, "stability", "null_active_matched_cosine") for cell in cells])
            rows.append(
                [
                    f"{host}, {dataset}",
                    name,
                    str(len(cells) + 1),
                    number(ami[0], 3),
                    f"{number(cosine and cosine[0], 3)} ({number(null and null[0], 3)})",
                ]
            )
    header = ["host, dataset", "method", "seeds", "AMI of codes", "cosine of matched codes (null)"]
    note = "Agreement with the first seed on the test tokens, mean over the other seeds; 0 by chance, 1 the same."
    return ReportTable("Stability over seeds", header, rows, note)


def seeds_table(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        for method, name in summary.methods().items():
            cells = summary.seeds(host, dataset, method)
            values = [figure(cell, "ablation", "code", "token_specificity_matched") for cell in cells]
            if len([value for value in values if value is not None]) < 2:
                continue
            mean, spread = mean_and_spread(values)
            purity = mean_and_spread([figure(c, "table", "label_purity", "cross_fitted_purity") for c in cells])
            rows.append(
                [
                    f"{host}, {dataset}",
                    name,
                    str(len(values)),
                    f"{number(mean, 3)} ± {number(spread, 3)}",
                    f"{number(purity[0], 3)} ± {number(purity[1], 3)}" if purity else NOTHING,
                ]
            )
    header = ["host, dataset", "method", "seeds", "token specificity", "label purity"]
    note = "Mean ± standard deviation over seeds of the concepts; host and texts are the same."
    return ReportTable("Spread over seeds", header, rows, note)


def controls_table(summary: Summary) -> ReportTable:
    rows = []
    names = {"clvq": "CLVQ-VAE, for comparison", **summary.methods(control=True)}
    if len(names) == 1:
        return ReportTable("Sanity controls", [], [])
    for host, dataset in summary.settings():
        for method, name in names.items():
            cell = summary.cell(host, dataset, method)
            if cell is None or not any(summary.cell(host, dataset, control) for control in list(names)[1:]):
                continue
            purity, routing = (cell["table"].get(metric, {}) for metric in ("label_purity", "routing_divergence"))
            entry = swept(cell, 1)
            rows.append(
                [
                    f"{host}, {dataset}",
                    name,
                    f"{number(purity.get('cross_fitted_purity'), 3)} ({number(purity.get('null_purity'), 3)})",
                    interval(purity, "lexical_gain"),
                    interval(routing, "excess_jsd"),
                    NOTHING if entry is None else interval(entry, "token_specificity_matched"),
                ]
            )
    header = ["host, dataset", "control", "purity (permuted)", "lexical gain", "excess routing", "token specificity"]
    note = (
        "A re-initialised host must fall to the baseline of the words (lexical gain 0), permuted labels to that of "
        "the permutations (excess 0)."
    )
    return ReportTable("Sanity controls", header, rows, note)


def time_table(summary: Summary) -> ReportTable:
    names = ("load", "fit", "table", "references", "evaluate", "sweep", "stability")
    rows = []
    for method, name in {**summary.methods(), **summary.methods(control=True)}.items():
        cells = [cell for cell in summary.cells if cell["cell"]["method"] == method]
        totals = {part: sum(cell["seconds"].get(part, 0) for cell in cells) for part in names}
        rows.append([name, str(len(cells)), *(f"{totals[part] / len(cells):.1f}" for part in names)])
    return ReportTable("Seconds a cell", ["method", "cells", *names], rows, "Means over the cells, as they were run.")


def study_table(summary: Summary, title: str, methods: Sequence[str], reference: str | None) -> ReportTable:
    rows = []
    for host, dataset, method in study_cells(summary, methods):
        cell, seeds = summary.cell(host, dataset, method), summary.seeds(host, dataset, method)
        figures = cell["ablation"].get("code", {})
        ami = mean_and_spread([figure(each, "stability", "ami") for each in seeds])
        spread = mean_and_spread([figure(each, "ablation", "code", "token_specificity_matched") for each in seeds])
        rows.append(
            (
                figures.get("token_specificity_matched") or 0.0,
                [
                    cell["title"],
                    f"{host}, {dataset}",
                    interval(figures, "token_specificity_matched"),
                    NOTHING
                    if spread is None or len(seeds) < 2
                    else f"{number(spread[0], 3)} ± {number(spread[1], 3)}",
                    _against(seeds, [] if reference in (method, None) else summary.seeds(host, dataset, reference)),
                    number(figure(cell, "bottleneck", "splice_fidelity"), 3),
                    number(ami and ami[0], 3),
                    number(figure(cell, "table", "label_purity", "cross_fitted_purity"), 3),
                    number(figure(cell, "table", "codebook_usage", "active_codes"), 0),
                ],
            )
        )
    header = ["setting", "host, dataset", "token specificity", "over seeds", f"minus {reference}", "splice fidelity"]
    header += ["AMI over seeds", "purity", "codes used"]
    note = (
        "Ranked by token specificity on matched draws, the most negative first; then look at fidelity and stability. "
        "Differences are paired by text, averaged over seeds; an interval with 0 is a tie."
    )
    return ReportTable(f"Study: {title}", header, [row for _, row in sorted(rows, key=lambda pair: pair[0])], note)


def _against(cells: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """Token specificity minus that of another setting, on the texts that both have."""
    if not cells or not others:
        return NOTHING
    found = paired_difference(*(over_seeds(side) for side in (cells, others)))
    return NOTHING if found is None else f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


__all__ = [
    "controls_table",
    "fairness_table",
    "ranks_table",
    "seeds_table",
    "stability_table",
    "study_table",
    "time_table",
    "wins_table",
]
