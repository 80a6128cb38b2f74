"""The figures of a comparison: PNG to look at, SVG to print."""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

# Without pyplot, whose backend is the caller's.
from matplotlib.figure import Figure

from .summary import Summary, effect, figure, mean_and_spread, study_cells, swept

# Okabe and Ito's colours, which colour-blind people can tell apart, and a shape each for print.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#7F7F7F", "#000000")
MARKERS = "os^vDPX*"
RESOLUTION = 150


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
            with matplotlib.rc_context({"svg.hashsalt": "clvq-hf"}):
                plot.savefig(folder / f"{name}.{suffix}", dpi=RESOLUTION, bbox_inches="tight", metadata=metadata)
        captions[name] = caption

    studies = studies or {}
    if not studies:
        keep(
            "token-specificity",
            _dots(summary, (), "Δmargin against a matched concept of the text, logits"),
            "Token specificity: what removing the salient concept costs beyond a matched one of the same text, with "
            "95 % intervals over texts; nothing where fewer than 20 texts have one. Further left: the concept "
            "matters more. Hollow: undertrained, no rival.",
        )
        keep(
            "purity",
            _dots(
                summary,
                ("table", "label_purity", "cross_fitted_purity"),
                "cross-fitted label purity",
                null="null_purity",
            ),
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


def _dots(summary: Summary, path: Sequence[str], label: str, null: str | None = None) -> Figure | None:
    """A panel per setting: one dot with its interval for each method; token specificity if there is no path."""
    settings, methods = summary.settings(), summary.methods()
    hosts = sorted({host for host, _ in settings})
    datasets = sorted({dataset for _, dataset in settings})
    plot = Figure(
        figsize=(3.2 * len(datasets) + 1.4, (0.26 * len(methods) + 0.7) * len(hosts) + 0.4), layout="constrained"
    )
    panels = plot.subplots(len(hosts), len(datasets), sharey=True, squeeze=False)
    has_data = False
    for row, host in enumerate(hosts):
        for column, dataset in enumerate(datasets):
            axes = panels[row][column]
            for place, (method, _) in enumerate(methods.items()):
                cell = summary.cell(host, dataset, method)
                if path:
                    values = [figure(cell, *path[:-1], f"{path[-1]}{end}") for end in ("", "_low", "_high")]
                else:
                    values = list((effect(cell) or (None,))[:3])
                if None in values:
                    continue
                has_data = True
                middle, low, high = values
                colour, hollow = COLOURS[place % len(COLOURS)], bool(cell.get("undertrained"))
                axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
                marker = MARKERS[place % len(MARKERS)]
                axes.plot(middle, place, marker=marker, color=colour, markerfacecolor="white" if hollow else colour)
                expected = None if null is None else figure(cell, *path[:-1], null)
                if expected is not None:
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
        means = []
        for k in ks:
            entries = [swept(summary.cell(host, dataset, method), k) for host, dataset in summary.settings()]
            means.append(mean_and_spread([entry["token_specificity"] for entry in entries if entry is not None]))
        if None not in means:
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            axes.plot(ks, [mean[0] for mean in means], marker=marker, color=colour, label=title)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set_xticks(ks)
    axes.set_xlabel("directions removed (k)", fontsize=9)
    axes.set_ylabel("token specificity, logits", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _bare(axes)
    return plot


def _probe(summary: Summary) -> Figure | None:
    names = ("accuracy", "random_active_code_accuracy", "salient_accuracy")
    rows = []
    for method, title in summary.methods().items():
        cells = [summary.cell(host, dataset, method) for host, dataset in summary.settings()]
        means = [mean_and_spread([figure(cell, "ablation", "probe", name) for cell in cells]) for name in names]
        if None not in means:
            rows.append((title, [mean[0] for mean in means]))
    if not rows:
        return None
    plot = Figure(figsize=(6, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = plot.subplots()
    labels = ("plain", "random active code removed", "salient concept removed")
    for column, (label, colour) in enumerate(zip(labels, ("#888888", "#E69F00", "#0072B2"), strict=True)):
        places = [place + 0.26 * (column - 1) for place in range(len(rows))]
        axes.barh(places, [values[column] for _, values in rows], height=0.24, color=colour, label=label)
    axes.set_yticks(range(len(rows)), [title for title, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy of the probe, mean over settings", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    _bare(axes)
    return plot


def _stability(summary: Summary) -> Figure | None:
    rows = []
    for method, title in summary.methods().items():
        cells = [cell for cell in summary.cells if cell["cell"]["method"] == method]
        spread = mean_and_spread([figure(cell, "stability", "ami") for cell in cells])
        if spread is not None:
            rows.append((title, *spread))
    if not rows:
        return None
    plot = Figure(figsize=(5, 0.3 * len(rows) + 0.9), layout="constrained")
    axes = plot.subplots()
    titles, means, spreads = zip(*rows, strict=True)
    axes.barh(range(len(rows)), means, xerr=spreads, color="#0072B2", height=0.6, error_kw={"linewidth": 1})
    axes.set_yticks(range(len(rows)), titles, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("AMI with the codes of the first seed, mean ± sd", fontsize=9)
    _bare(axes)
    return plot


def _time(summary: Summary) -> Figure | None:
    parts = ("load", "fit", "table", "references", "evaluate", "sweep", "stability")
    titles = {**summary.methods(), **summary.methods(control=True)}
    plot = Figure(figsize=(6, 0.28 * len(titles) + 1.1), layout="constrained")
    axes = plot.subplots()
    starts = [0.0] * len(titles)
    for part, colour in zip(parts, COLOURS, strict=False):
        means = []
        for method in titles:
            seconds = [cell["seconds"].get(part, 0.0) for cell in summary.cells if cell["cell"]["method"] == method]
            means.append(sum(seconds) / len(seconds))
        axes.barh(range(len(titles)), means, left=starts, color=colour, height=0.7, label=part)
        starts = [start + mean for start, mean in zip(starts, means, strict=True)]
    axes.set_yticks(range(len(titles)), titles.values(), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _bare(axes)
    return plot


def _study(summary: Summary, title: str, methods: Sequence[str]) -> Figure | None:
    """Token specificity, splice fidelity and stability side by side, in the order of the study."""
    cells = [(names[-1], summary.cell(*names)) for names in study_cells(summary, methods)]
    if not cells:
        return None
    several = len({cell["cell"]["host"] for _, cell in cells}) > 1
    names = [f"{cell['title']}, {cell['cell']['host']}" if several else cell["title"] for _, cell in cells]
    plot = Figure(figsize=(9, 0.3 * len(cells) + 1.1), layout="constrained")
    panels = plot.subplots(1, 3, sharey=True)
    for place, (method, cell) in enumerate(cells):
        for axes, section, name in (
            (panels[0], ("ablation", "code"), "token_specificity_matched"),
            (panels[1], ("bottleneck",), "splice_fidelity"),
        ):
            values = [figure(cell, *section, f"{name}{end}") for end in ("", "_low", "_high")]
            if None not in values:
                axes.plot(values[1:], [place, place], color=COLOURS[0], linewidth=1.5)
                axes.plot(values[0], place, marker="o", color=COLOURS[0])
        seeds = summary.seeds(cell["cell"]["host"], cell["cell"]["dataset"], method)
        for each in seeds:
            if (ami := figure(each, "stability", "ami")) is not None:
                panels[2].plot(ami, place, marker="o", color=COLOURS[2])
            if (
                effect := figure(each, "ablation", "code", "token_specificity_matched")
            ) is not None and each is not cell:
                panels[0].plot(effect, place, marker="|", color="#444444")
    for axes, label in zip(panels, ("token specificity, logits", "splice fidelity", "AMI between seeds"), strict=True):
        axes.set_xlabel(label, fontsize=9)
        _bare(axes)
    panels[0].set_yticks(range(len(cells)), names, fontsize=8)
    panels[0].invert_yaxis()
    plot.suptitle(title, fontsize=10)
    return plot


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


__all__ = ["draw_figures"]
