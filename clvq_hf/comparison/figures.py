"""The figures of a comparison: PNG to look at, SVG to print."""

import re
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

# Without pyplot, whose backend is the caller's.
from matplotlib.figure import Figure

from ..files import drafted
from .summary import CELL, PURITY, SECONDS, SPECIFICITY, Record, Summary, mean_and_spread, study_cells

# Okabe and Ito's colours, which colour-blind people can tell apart, and a shape each for print.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#7F7F7F", "#000000")
MARKERS = "os^vDPX*"
RESOLUTION = 150
# A legend to the right of the axes.
BESIDE = {"fontsize": 7, "frameon": False, "loc": "center left", "bbox_to_anchor": (1, 0.5)}


def draw_figures(summary: Summary, folder: Path, studies: dict[str, Sequence[str]] | None = None) -> dict[str, str]:
    """Draw every figure that the cells have data for.

    Args:
        summary ([`Summary`][clvq_hf.comparison.summary.Summary]): The cells.
        folder (`Path`): Where `NAME.png` and `NAME.svg` go.
        studies (`dict[str, Sequence[str]]`, *optional*): Title → methods that differ in one setting.

    Returns:
        `dict[str, str]`: Name → caption of those that were captions.
    """
    captions: dict[str, str] = {}

    def keep(name: str, plot: Figure | None, caption: str) -> None:
        if plot is None:
            return
        for suffix in ("png", "svg"):
            metadata = {"Date": None} if suffix == "svg" else None
            # So that the same figures give the same SVG files.
            with matplotlib.rc_context({"svg.hashsalt": "clvq-hf"}), drafted(folder / f"{name}.{suffix}") as draft:
                plot.savefig(draft, format=suffix, dpi=RESOLUTION, bbox_inches="tight", metadata=metadata)
        captions[name] = caption

    studies = studies or {}
    if not studies:
        keep(
            "token-specificity",
            _dots(summary, "own.on_matched", "Δmargin against a matched concept of the text, logits"),
            "Token specificity: what removing the salient concept costs beyond a matched one of the same text, with "
            "95 % intervals over texts; nothing where fewer than 20 texts have one. Further left: the concept "
            "matters more. Hollow: a poor dictionary (†).",
        )
        keep(
            "purity",
            _dots(summary, PURITY, "cross-fitted label purity", null="table.label_purity.null_purity"),
            "Label purity on held-out halves, with 95 % intervals over texts; the line is what permuted labels give.",
        )
        keep(
            "k-sweep",
            _sweep(summary),
            "Token specificity on all texts by the number of directions, mean over settings.",
        )
        keep(
            "probe",
            _probe(summary),
            "The paper's protocol: accuracy of the probe with and without the salient concept.",
        )
        keep("stability", _stability(summary), "Agreement of the codes of two seeds (adjusted mutual information).")
        keep("time", _time(summary), "Where the time of a cell goes, mean over settings.")
    for title, methods in studies.items():
        name = "study-" + re.sub(r"[^a-z0-9]+", "-", title.lower())
        keep(name, _study(summary, title, methods), f"Study: {title}. Bars: 95 % intervals over texts.")
    return captions


def _dots(summary: Summary, name: str, label: str, null: str | None = None) -> Figure | None:
    """A panel per setting: one dot with its interval for each method, and a line where chance would be."""
    settings, methods = summary.settings(), summary.methods()
    hosts = sorted({host for host, _ in settings})
    datasets = sorted({dataset for _, dataset in settings})
    plot = Figure(
        figsize=(3.2 * len(datasets) + 1.4, (0.26 * len(methods) + 0.7) * len(hosts) + 0.4), layout="constrained"
    )
    panels = plot.subplots(len(hosts), len(datasets), sharey=True, squeeze=False)
    has_data = False
    for axes, (host, dataset) in zip(panels.flat, product(hosts, datasets), strict=True):
        for place, method in enumerate(methods):
            record = summary.record(host, dataset, method) or {}
            if _dot(axes, record, name, place, **_style(place), hollow=bool(record.get("mark"))):
                has_data = True
                if null is not None and (expected := record.get(null)) is not None:
                    axes.plot([expected, expected], [place - 0.35, place + 0.35], color="#444444", linewidth=1)
        if null is None:
            axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_yticks(range(len(methods)), methods.values(), fontsize=8)
        axes.set_title(f"{host}, {dataset}", fontsize=9)
        _bare(axes)
    panels[0][0].invert_yaxis()
    plot.supxlabel(label, fontsize=9)
    return plot if has_data else None


def _sweep(summary: Summary) -> Figure | None:
    ks = sorted({entry["k"] for cell in summary.cells for entry in cell.get("sweep", [])})
    if len(ks) < 2:
        return None
    plot = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = plot.subplots()
    for place, (method, title) in enumerate(summary.methods().items()):
        records = summary.first_records([method])
        means = [mean_and_spread([record.get(f"k{k}.token_specificity") for record in records]) for k in ks]
        if None not in means:
            axes.plot(ks, [mean[0] for mean in means], **_style(place), label=title)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set_xticks(ks)
    axes.set_xlabel("directions removed (k)", fontsize=9)
    axes.set_ylabel("token specificity, logits", fontsize=9)
    axes.legend(**BESIDE)
    _bare(axes)
    return plot


def _probe(summary: Summary) -> Figure | None:
    bars = {
        "accuracy": ("plain", "#888888"),
        "random_active_code_accuracy": ("random active code removed", "#E69F00"),
        "salient_accuracy": ("salient concept removed", "#0072B2"),
    }
    rows = {}
    for method, title in summary.methods().items():
        records = summary.first_records([method])
        means = [mean_and_spread([record.get(f"ablation.probe.{name}") for record in records]) for name in bars]
        if None not in means:
            rows[title] = [mean[0] for mean in means]
    if not rows:
        return None
    plot = Figure(figsize=(6, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = plot.subplots()
    for column, (label, colour) in enumerate(bars.values()):
        places = [place + 0.26 * (column - 1) for place in range(len(rows))]
        axes.barh(places, [values[column] for values in rows.values()], height=0.24, color=colour, label=label)
    _name_rows(axes, rows, "accuracy of the probe, mean over settings")
    axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return plot


def _stability(summary: Summary) -> Figure | None:
    rows = {}
    for method, title in summary.methods().items():
        records = [record for record in summary.records if record["cell.method"] == method]
        spread = mean_and_spread([record.get("stability.ami") for record in records])
        if spread is not None:
            rows[title] = spread
    if not rows:
        return None
    plot = Figure(figsize=(5, 0.3 * len(rows) + 0.9), layout="constrained")
    axes = plot.subplots()
    means, spreads = zip(*rows.values(), strict=True)
    axes.barh(range(len(rows)), means, xerr=spreads, color="#0072B2", height=0.6, error_kw={"linewidth": 1})
    _name_rows(axes, rows, "AMI with the codes of the first seed, mean ± sd")
    axes.set_xlim(0, 1)
    return plot


def _time(summary: Summary) -> Figure | None:
    titles = {**summary.methods(), **summary.methods(control=True)}
    plot = Figure(figsize=(6, 0.28 * len(titles) + 1.1), layout="constrained")
    axes = plot.subplots()
    starts = [0.0] * len(titles)
    for part, colour in zip(SECONDS, COLOURS, strict=False):
        means = []
        for method in titles:
            seconds = [cell["seconds"].get(part, 0.0) for cell in summary.cells if cell["cell"]["method"] == method]
            means.append(sum(seconds) / len(seconds))
        axes.barh(range(len(titles)), means, left=starts, color=colour, height=0.7, label=part)
        starts = [start + mean for start, mean in zip(starts, means, strict=True)]
    _name_rows(axes, titles.values(), "seconds")
    axes.legend(**BESIDE)
    return plot


def _study(summary: Summary, title: str, methods: Sequence[str]) -> Figure | None:
    """Token specificity, splice fidelity and stability side by side, in the order of the study."""
    records = [summary.record(*names) for names in study_cells(summary, methods)]
    if not records:
        return None
    several = len({record["cell.host"] for record in records}) > 1
    names = [f"{record['title']}, {record['cell.host']}" if several else record["title"] for record in records]
    plot = Figure(figsize=(9, 0.3 * len(records) + 1.1), layout="constrained")
    panels = specificity, fidelity, stability = plot.subplots(1, 3, sharey=True)
    for place, record in enumerate(records):
        _dot(specificity, record, SPECIFICITY, place, color=COLOURS[0])
        _dot(fidelity, record, "bottleneck.splice_fidelity", place, color=COLOURS[0])
        for each in summary.seed_records(*(record[name] for name in CELL)):
            if (ami := each.get("stability.ami")) is not None:
                stability.plot(ami, place, marker="o", color=COLOURS[2])
            if (effect := each.get(SPECIFICITY)) is not None and each is not record:
                specificity.plot(effect, place, marker="|", color="#444444")
    for axes, label in zip(panels, ("token specificity, logits", "splice fidelity", "AMI between seeds"), strict=True):
        axes.set_xlabel(label, fontsize=9)
        _bare(axes)
    specificity.set_yticks(range(len(records)), names, fontsize=8)
    specificity.invert_yaxis()
    plot.suptitle(title, fontsize=10)
    return plot


def _style(place: int) -> dict[str, Any]:
    """Colour and marker of a method, by its place among all."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def _dot(
    axes: Axes, record: Record, name: str, place: int, color: str, marker: str = "o", hollow: bool = False
) -> bool:
    """Draw a figure with its interval in the row `place`; whether the record has them."""
    values = [record.get(f"{name}{end}") for end in ("", "_low", "_high")]
    if None in values:
        return False
    axes.plot(values[1:], [place, place], color=color, linewidth=1.5)
    axes.plot(values[0], place, marker=marker, color=color, markerfacecolor="white" if hollow else color)
    return True


def _name_rows(axes: Axes, names: Collection[str], label: str) -> None:
    """Name the rows, from top to bottom, and what their length shows."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=9)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


__all__ = ["draw_figures"]
