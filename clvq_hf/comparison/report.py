"""The tables of the paper from the cells of a grid, as Markdown and beside figures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation_report import ReportTable, interval, number, percent, to_markdown
from ..markdown import escape_markdown
from .figures import draw_figures
from .grid import Grid
from .methods import MAX_ACTIVE, MIN_EXPLAINED_VARIANCE
from .summary import (
    MIN_TEXTS,
    Summary,
    by_method,
    effect,
    figure,
    load_cells,
    mean_and_spread,
    study_cells,
    swept,
)

REPORT_NAME, CELLS_NAME = "report.md", "cells.jsonl"
NOTHING = "–"


def write_report(path: str | Path, output_dir: str | Path | None = None, grid: Grid | None = None) -> Path:
    """Write `report.md` and its figures (PNG and SVG) from whatever cells are finished.

    Beside it goes `cells.jsonl`, a line for each cell and no paths of this machine: from it alone the report can be
    written again, and shared.

    Args:
        path (`str` or `Path`): Folder of a grid, or a `.jsonl` file with one cell a line.
        output_dir (`str` or `Path`, *optional*): Where the report goes; `path`, or the folder of the file, if not
            given.
        grid ([`Grid`][clvq_hf.comparison.Grid], *optional*): Only its cells, and its studies; every cell if not given.

    Returns:
        `Path`: Of the report.

    Raises:
        ValueError: If no cell is finished.
    """
    path = Path(path)
    names = None if grid is None else {cell.name for cell in grid.cells()}
    summary = Summary(load_cells(path, names))
    folder = Path(output_dir) if output_dir is not None else (path.parent if path.is_file() else path)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    studies = {} if grid is None else grid.studies
    drawn = draw_figures(summary, folder / "figures", studies)
    tables = report_tables(summary, studies)
    pieces = ["# Comparison", "", f"{len(summary.cells)} cells.", "", to_markdown(tables), "## Figures", ""]
    for name, caption in drawn.items():
        caption = escape_markdown(caption)
        pieces += [f"![{caption}](figures/{name}.png)", "", caption, ""]
    if path.is_dir():
        lines = [json.dumps(_shareable(cell), separators=(",", ":")) + "\n" for cell in summary.cells]
        (folder / CELLS_NAME).write_text("".join(lines), encoding="utf-8")
    file = folder / REPORT_NAME
    file.write_text("\n".join(pieces), encoding="utf-8")
    return file


def _shareable(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without the folders that its host and texts were read from."""
    settings = {name: value for name, value in cell["settings"].items() if name not in ("host", "dataset")}
    method = dict(settings["method"])
    method["config"] = {name: value for name, value in method["config"].items() if name != "path"}
    return {**cell, "settings": {**settings, "method": method}}


def report_tables(summary: Summary, studies: dict[str, Sequence[str]] | None = None) -> list[ReportTable]:
    """Every table that the cells have figures for.

    Args:
        summary ([`Summary`][clvq_hf.comparison.summary.Summary]): The cells.
        studies (`dict[str, Sequence[str]]`, *optional*): Title → methods that differ in one setting.
    """
    tables = [_hosts(summary)]
    if studies:
        tables += [_study(summary, title, methods) for title, methods in studies.items()]
    tables += [
        *_token_specificity(summary),
        _text_specificity(summary),
        _wins(summary),
        _ranks(summary),
        _probe(summary),
        _random_active(summary),
        _k_sweep(summary),
        _transcoder(summary),
        _purity(summary),
        _routing(summary),
        _overlap(summary),
        _cosine(summary),
        _bottleneck(summary),
        _fairness(summary),
        _stability(summary),
        _seeds(summary),
        _controls(summary),
        _time(summary),
        *_refusals(summary),
    ]
    return [table for table in tables if table.rows]


# ---------------------------------------------------------------------------------------------------- one row a setting


def _grid_table(
    summary: Summary,
    title: str,
    cell_text: Callable[[dict[str, Any]], str | None],
    note: str,
    methods: dict[str, str] | None = None,
) -> ReportTable:
    """A row for each host and dataset, a column for each method that has anything to say."""
    methods = summary.methods() if methods is None else methods
    columns: dict[str, list[str]] = {}
    for method, name in methods.items():
        found = [summary.cell(host, dataset, method) for host, dataset in summary.settings()]
        texts = [None if cell is None else cell_text(cell) for cell in found]
        if any(texts):
            columns[name] = [text or NOTHING for text in texts]
    rows = [
        [f"{host}, {dataset}", *(column[place] for column in columns.values())]
        for place, (host, dataset) in enumerate(summary.settings())
    ]
    return ReportTable(title, ["host, dataset", *columns], rows if columns else [], note)


def _hosts(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        cells = [c for c in summary.cells if (c["cell"]["host"], c["cell"]["dataset"]) == (host, dataset)]
        cell = next((c for c in cells if not c["control"]), cells[0])
        record = cell["host"]
        rows.append(
            [
                f"{host}, {dataset}",
                f"{record['num_parameters'] / 1e6:.1f} M",
                f"{record['layers'][0]} → {record['layers'][1]} of {record['num_blocks']}",
                f"{record['num_texts']['host_train']:,}",
                f"{record['num_texts']['train']:,}",
                f"{record['num_texts']['test']:,}",
                f"{record['accuracy']:.1%}",
                f"{record['majority']:.1%}",
                _number(record["linear_explained_variance"]),
            ]
        )
    header = ["host, dataset", "parameters", "layers", "host texts", "concept texts", "test texts"]
    note = "Linear EV: what the best linear map of a token's lower state explains of its upper state, on other texts."
    return ReportTable("Hosts and texts", [*header, "accuracy", "majority", "linear EV"], rows, note)


def _token_specificity(summary: Summary) -> list[ReportTable]:
    tables = []
    for k in _ks(summary):
        for matched in (True, False):

            def text(cell: dict[str, Any], k: int = k, matched: bool = matched) -> str | None:
                entry = swept(cell, k)
                if entry is None:
                    return None
                mark = " †" if cell.get("undertrained") else ""
                found = effect(cell, k, matched)
                if found is None:
                    return f"{NOTHING} (n = {entry['num_matched' if matched else 'num_texts']}){mark}"
                middle, low, high, number = found
                count = f" (n = {number})" if matched else ""
                return f"{_number(middle)} [{_number(low)}, {_number(high)}]{count}{mark}"

            which = "matched draws" if matched else "all texts"
            tables.append(
                _grid_table(
                    summary,
                    f"Token specificity, {k} direction{'s' if k > 1 else ''} removed, {which}",
                    text,
                    _MATCHED_NOTE if matched else _ALL_NOTE,
                )
            )
    return tables


_MATCHED_NOTE = (
    "Change of the margin when the salient concept is removed where it occurs, minus that of another concept of the "
    "same text with about as many positions and as much removed norm; logits, 95 % bootstrap intervals over texts, "
    "one training seed. More negative: the concept matters more. n: texts with such another concept; below "
    f"{MIN_TEXTS} no figure is given. † undertrained (L0 of {MAX_ACTIVE} or more, or less than "
    f"{MIN_EXPLAINED_VARIANCE:.0%} explained of the variance, from layer to layer of what a linear map explains); no "
    "rival."
)
_ALL_NOTE = (
    "The same on all texts: where no concept matches, the nearest stands in. Methods with few broad codes remove "
    "more than what they are compared with, and look better here."
)


def _text_specificity(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["ablation"].get("code", {})
        return None if figures.get("text_specificity") is None else interval(figures, "text_specificity")

    return _grid_table(
        summary,
        "Text specificity",
        text,
        "Change of the margin when the salient concept is removed, minus that of another text's salient concept "
        "with the same prediction, at the same tokens. What is left of token specificity if the place is the same: "
        "negative where the concept is this text's own.",
        {**summary.methods(), **summary.methods(control=True)},
    )


def _probe(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["ablation"].get("probe")
        if not figures:
            return None
        salient, active = figures["salient_accuracy"], figures["random_active_code_accuracy"]
        return f"{figures['accuracy']:.1%} → {salient:.1%} ({active:.1%})"

    return _grid_table(
        summary,
        "The paper's protocol: accuracy of a probe",
        text,
        "Plain → salient concept removed (a random active code removed), one direction, from the representation at "
        "the lower layer. Accuracies of a probe, not of the model; below chance labels flip.",
    )


def _random_active(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["ablation"].get("code")
        if not figures:
            return None
        names = ("salient", "random_active_code", "random_direction", "class_ceiling")
        return " / ".join(_number(figures.get(f"{name}_margin_change")) for name in names)

    return _grid_table(
        summary,
        "Controls of the ablation",
        text,
        "Change of the margin in logits, where the salient concept occurs: salient concept / random active code / "
        "random direction of the same norm / directions of the classes.",
    )


def _k_sweep(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        for method, name in summary.methods().items():
            cell = summary.cell(host, dataset, method)
            entries = [] if cell is None else cell.get("sweep", [])
            if len({entry["variant"] for entry in entries}) < 2:
                continue
            for entry in entries:
                rows.append(
                    [
                        f"{host}, {dataset}",
                        name,
                        entry["variant"].replace("_", " "),
                        str(entry["k"]),
                        interval(entry, "token_specificity"),
                        _number(entry["margin_change"]),
                        _number(entry["num_positions"], 1),
                        percent(entry["num_matched"] / entry["num_texts"]),
                        percent(entry["removed_energy"]),
                    ]
                )
    header = [
        "host, dataset",
        "method",
        "rows, chosen by",
        "k",
        "token specificity",
        "Δmargin",
        "positions",
        "matched",
    ]
    header.append("energy removed")
    note = (
        "All texts. Neurons are chosen by activation, or by activation × gradient. Energy: share of the squared norm."
    )
    return ReportTable("Sparse methods: which directions, and how many", header, rows, note)


def _transcoder(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        transcoder = summary.cell(host, dataset, "transcoder")
        for k in _ks(summary):
            entry, ours = swept(transcoder, k), swept(summary.cell(host, dataset, "clvq"), k)
            if entry is None or ours is None:
                continue
            matched = [effect(summary.cell(host, dataset, method), k) for method in ("transcoder", "clvq")]
            rows.append(
                [
                    f"{host}, {dataset}",
                    str(k),
                    _number(entry["token_specificity"]),
                    _number(ours["token_specificity"]),
                    *(NOTHING if found is None else _number(found[0]) for found in matched),
                    _number(figure(transcoder, "bottleneck", "num_active"), 0),
                    _number(figure(transcoder, "bottleneck", "explained_variance")),
                    transcoder.get("undertrained") or "no",
                ]
            )
    header = ["host, dataset", "k", "transcoder", "CLVQ-VAE", "transcoder, matched", "CLVQ-VAE, matched", "L0"]
    header += ["explained variance", "undertrained"]
    return ReportTable("TopK transcoder against CLVQ-VAE: token specificity", header, rows)


def _purity(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("label_purity")
        if not figures:
            return None
        purity, null = figures["cross_fitted_purity"], figures["null_purity"]
        return f"{_number(purity)} ({_number(null)}); {percent(figures['exclusive_share'])}"

    return _grid_table(
        summary,
        "Label purity and exclusive codes",
        text,
        "Cross-fitted purity (labels permuted by text); share of the codes that have one label only.",
    )


def _routing(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("routing_divergence")
        if not figures or figures.get("excess_jsd") is None:
            return None
        low, high = figures["excess_jsd_low"], figures["excess_jsd_high"]
        return f"{_number(figures['excess_jsd'])} [{_number(low)}, {_number(high)}]"

    return _grid_table(
        summary,
        "Routing: does a word go elsewhere under another label?",
        text,
        "Jensen–Shannon divergence in bits, minus its mean over permutations of the labels.",
    )


def _overlap(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("codebook_overlap")
        if not figures or figures.get("ratio") is None:
            return None
        return f"{_number(figures['ratio'])} [{_number(figures['ratio_low'])}, {_number(figures['ratio_high'])}]"

    return _grid_table(
        summary,
        "Overlap of the codes of two texts",
        text,
        "Pairs with the same label ÷ pairs with different ones, of like TF-IDF similarity.",
    )


def _cosine(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("codebook_similarity")
        if not figures:
            return None
        return f"{_number(figures['active_mean_cosine'])} ({_number(figures['active_mean_centred_cosine'])})"

    return _grid_table(
        summary, "Cosine of the codes in use", text, "Mean over pairs; in brackets after the mean code is subtracted."
    )


def _bottleneck(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell.get("bottleneck")
        if not figures:
            return None
        # A sparse model passes many neurons, and the permuted code is one: its leak would be low by construction.
        leak = None if figures["num_active"] != 1 else figures["leak"]
        return " / ".join(map(_number, (figures["splice_fidelity"], leak, figures["explained_variance"])))

    return _grid_table(
        summary,
        "What passes the bottleneck",
        text,
        "Splice fidelity / leak (the same with permuted codes; for methods of one code a token) / explained "
        "variance at the upper layer, for single-layer methods at the lower one.",
    )


def _refusals(summary: Summary) -> list[ReportTable]:
    rows = []
    for host, dataset in summary.settings():
        cells = [c for c in summary.cells if (c["cell"]["host"], c["cell"]["dataset"]) == (host, dataset)]
        if reason := next((cell["refused"] for cell in cells if cell.get("refused")), None):
            rows.append([f"{host}, {dataset}", reason])
    return [ReportTable("Not ablated", ["host, dataset", "why"], rows)]


# ----------------------------------------------------------------------------------------------------- one row a method


def _wins(summary: Summary) -> ReportTable:
    methods = summary.methods()
    rows = []
    for k in _ks(summary):
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


def _ranks(summary: Summary) -> ReportTable:
    k, *_ = _ks(summary) or [1]
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


def _fairness(summary: Summary) -> ReportTable:
    rows = []
    for method, name in summary.methods().items():
        cells = [summary.cell(host, dataset, method) for host, dataset in summary.settings()]
        cells = [cell for cell in cells if cell is not None]
        if not cells:
            continue
        k, *more = _ks(summary) or [1]

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
                _number(median("codebook_size"), 0),
                _number(median("table", "codebook_usage", "active_codes"), 0),
                _number(None if perplexity is None else float(np.log2(perplexity)), 1),
                _number(median("bottleneck", "explained_variance")),
                _number(median("bottleneck", "num_active"), 0),
                *(_number(_median([e[name] for c in cells if (e := swept(c, k)) is not None]), 1) for name in told),
                percent(_median([e["num_matched"] / e["num_texts"] for c in cells if (e := swept(c, k)) is not None])),
                " / ".join(energies),
                f"{sum(bool(cell.get('undertrained')) for cell in cells)} of {len(cells)}",
            ]
        )
    header = ["method", "K", "codes used", "entropy, bits", "explained variance", "L0", "positions"]
    header += ["norm removed", "matched texts"]
    header += [f"energy removed, k = {' / '.join(map(str, _ks(summary)))}", "undertrained"]
    return ReportTable("On what footing", header, rows, "Medians over hosts and datasets, of the first seed.")


def _stability(summary: Summary) -> ReportTable:
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
                    _number(ami[0]),
                    f"{_number(cosine and cosine[0])} ({_number(null and null[0])})",
                ]
            )
    header = ["host, dataset", "method", "seeds", "AMI of codes", "cosine of matched codes (null)"]
    note = "Agreement with the first seed on the test tokens, mean over the other seeds; 0 by chance, 1 the same."
    return ReportTable("Stability over seeds", header, rows, note)


def _seeds(summary: Summary) -> ReportTable:
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
                    f"{_number(mean)} ± {_number(spread)}",
                    f"{_number(purity[0])} ± {_number(purity[1])}" if purity else NOTHING,
                ]
            )
    header = ["host, dataset", "method", "seeds", "token specificity", "label purity"]
    note = "Mean ± standard deviation over seeds of the concepts; host and texts are the same."
    return ReportTable("Spread over seeds", header, rows, note)


def _controls(summary: Summary) -> ReportTable:
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
                    f"{_number(purity.get('cross_fitted_purity'))} ({_number(purity.get('null_purity'))})",
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


def _time(summary: Summary) -> ReportTable:
    names = ("load", "fit", "table", "references", "evaluate", "sweep", "stability")
    rows = []
    for method, name in {**summary.methods(), **summary.methods(control=True)}.items():
        cells = [cell for cell in summary.cells if cell["cell"]["method"] == method]
        totals = {part: sum(cell["seconds"].get(part, 0) for cell in cells) for part in names}
        rows.append([name, str(len(cells)), *(f"{totals[part] / len(cells):.1f}" for part in names)])
    return ReportTable("Seconds a cell", ["method", "cells", *names], rows, "Means over the cells, as they were run.")


def _study(summary: Summary, title: str, methods: Sequence[str]) -> ReportTable:
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
                    NOTHING if spread is None or len(seeds) < 2 else f"{_number(spread[0])} ± {_number(spread[1])}",
                    _number(figure(cell, "bottleneck", "splice_fidelity")),
                    _number(ami and ami[0]),
                    _number(figure(cell, "table", "label_purity", "cross_fitted_purity")),
                    _number(figure(cell, "table", "codebook_usage", "active_codes"), 0),
                ],
            )
        )
    header = ["setting", "host, dataset", "token specificity", "over seeds", "splice fidelity", "AMI over seeds"]
    header += ["purity", "codes used"]
    note = (
        "Ranked by token specificity on matched draws, the most negative first; then look at fidelity and stability."
    )
    return ReportTable(f"Study: {title}", header, [row for _, row in sorted(rows, key=lambda pair: pair[0])], note)


# -------------------------------------------------------------------------------------------------------------- helpers


def _ks(summary: Summary) -> list[int]:
    """Numbers of directions that cells were swept over."""
    cells = [cell for cell in summary.cells if cell["cell"]["seed"] == summary.first_seed]
    return sorted({entry["k"] for cell in cells for entry in cell.get("sweep", [])})


def _number(value: float | None, digits: int = 3) -> str:
    return number(value, digits)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


__all__ = ["report_tables", "write_report"]
