"""Plots of concepts, for notebooks and for the report: each returns a `matplotlib` figure.

Text and lines have the colours of `rendering/templates/base.css`, so that the report can draw them in either theme.
"""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

# Without pyplot, whose backend is the caller's.
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..metrics.results_tables import CONDITIONS
from ..models.modeling_concepts import ConceptModel
from ..tables.concept_table import ConceptTable
from ..tables.shading import Shade
from .codebook_map import codebook_map

# The light ones of base.css, by the name of the variable.
COLOURS = {
    **{"label-0": "#0072b2", "label-1": "#d55e00", "label-2": "#009e73", "label-3": "#cc79a7"},
    **{"label-4": "#8a7a00", "label-5": "#56b4e9", "label-6": "#e69f00", "label-7": "#6b7280"},
    **{"text": "#1a1d21", "muted": "#545b66", "line": "#c9ced6"},
}
# In inches: a point is a pixel on the narrowest screen.
WIDTH, HEIGHT = 4.5, 3.4
# Areas of the dots in the map, in square points, by the logarithm of the number of tokens. Few: each is a shape in SVG.
DOT_SIZES = (12, 24, 48, 96, 160)
# Nothing leaves the axes; and what is clipped has a name in SVG that is another one in every run.
UNCLIPPED = {"clip_on": False}
# Of a row of the map's legend, in characters.
LEGEND_WIDTH = 50
# Of a concept whose tokens have all labels alike.
FAINTEST = 0.15


@dataclass(frozen=True)
class Dot:
    """A concept in the map: its place from 0 to 1, number of tokens, colour, and the label that most of them have."""

    code: int
    x: float
    y: float
    tokens: int
    shade: Shade
    label: int | None


def plot_usage(table: ConceptTable) -> Figure:
    """How many concepts have how many tokens (special ones left out): a histogram over powers of two."""
    counts = np.bincount(table.column("code")[~table.column("special")], minlength=table.codebook_size)
    figure, axes = _figure()
    steps = np.arange(int(np.log2(counts.max())) + 2)
    # A code without a token has a bar of its own, left of 1.
    heights, _ = np.histogram(counts[counts > 0], 2**steps)
    axes.bar(0, (counts == 0).sum(), 0.9, color=COLOURS["label-7"], **UNCLIPPED)
    axes.bar(np.arange(1, len(heights) + 1), heights, 0.9, color=COLOURS["label-0"], **UNCLIPPED)
    names = ["0", *(f"{low}–{2 * low - 1}" if low > 1 else "1" for low in 2 ** steps[:-1])]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_xlabel("tokens")
    axes.set_ylabel("concepts")
    return figure


def plot_purity(results: dict[str, Any]) -> Figure:
    """Label purity on held-out halves of the texts with its controls, and 95 % intervals over texts.

    Raises:
        ValueError: If it was not measured, for lack of labels.
    """
    figures = results.get("table", {}).get("label_purity")
    if figures is None:
        raise ValueError("This evaluation has no label purity: its texts have fewer than two labels.")
    rows = {
        "concepts": ("cross_fitted_purity", "cross_fitted_purity_low", "cross_fitted_purity_high"),
        "concepts, labels permuted": ("null_purity", "null_low", "null_high"),
        "tokens instead of concepts": ("token_purity",),
        "always the most frequent label": ("majority_share",),
    }
    return _plot_intervals(figures, rows, "label purity")


def plot_routing(results: dict[str, Any]) -> Figure:
    """How far labels separate the concepts of a word, compared with chance.

    Raises:
        ValueError: If it was not measured.
    """
    figures = results.get("table", {}).get("routing_divergence", {})
    if not figures.get("num_types"):
        raise ValueError("This evaluation has no routing: no word is frequent enough in texts of two labels.")
    rows = {
        "words": ("jsd",),
        "words, labels permuted": ("null_jsd",),
        "beyond chance": ("excess_jsd", "excess_jsd_low", "excess_jsd_high"),
    }
    return _plot_intervals(figures, rows, "Jensen–Shannon divergence")


def plot_ablations(results: dict[str, Any], protocol: str = "code") -> Figure:
    """What removing the salient concept does to the prediction's margin, with every control and 95 % intervals.

    Args:
        results (`dict`): What `results.json` of an evaluation holds.
        protocol (`str`): `"code"`, `"all"` or `"probe"`.

    Raises:
        ValueError: If this protocol was not measured.
    """
    figures = results.get("ablation", {}).get(protocol)
    if figures is None:
        raise ValueError(f"This evaluation has no ablations under the protocol {protocol!r}.")
    rows = {
        name: tuple(f"{condition}_margin_change{end}" for end in ("", "_low", "_high"))
        for condition, name in CONDITIONS.items()
    }
    figure = _plot_intervals(figures, rows, "change of the margin")
    figure.axes[0].axvline(0, color=COLOURS["muted"], linewidth=1, zorder=0, **UNCLIPPED)
    return figure


def plot_map(table: ConceptTable, model: ConceptModel, seed: int = 0) -> Figure:
    """The codebook in two dimensions: concepts with similar directions lie close together.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Says which concepts occur, how often, and how pure they are.
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The one whose concepts these are.
        seed (`int`): Of t-SNE, see `codebook_map`.

    Returns:
        `matplotlib.figure.Figure`: The area of a dot shows its number of tokens, its colour the majority label,
        stronger if purer; hollow: in fewer than five texts. Without labels, colours only tell frequent concepts apart.

    Raises:
        ValueError: If the table was made with another model.
    """
    table.check_model(model)
    places = codebook_map(model, table.active_codes.tolist(), seed)
    concepts = [table.concept(code, 0, 0) for code in places]
    dots = [
        Dot(
            concept.code,
            *places[concept.code],
            concept.num_tokens,
            table.shade(concept),
            None if concept.label is None else table.label_names.index(concept.label),
        )
        for concept in concepts
    ]
    return draw_map(dots, table.label_names)


def draw_map(dots: Sequence[Dot], label_names: Sequence[str]) -> Figure:
    """The map of concepts whose places and colours are known; in SVG each links to the page of its concept."""
    figure, axes = _figure(WIDTH, WIDTH)
    most = max((dot.tokens for dot in dots), default=1)
    steps = [round((len(DOT_SIZES) - 1) * np.log1p(dot.tokens) / np.log1p(most)) for dot in dots]
    # Small ones are drawn last, so that none is hidden.
    for step in reversed(range(len(DOT_SIZES))):
        group = [dot for dot, own in zip(dots, steps, strict=True) if own == step]
        collection = axes.scatter(
            [dot.x for dot in group],
            [dot.y for dot in group],
            s=DOT_SIZES[step],
            facecolors=[_face(dot.shade) for dot in group],
            edgecolors=COLOURS["muted"],
            linewidths=0.5,
            **UNCLIPPED,
        )
        collection.set_urls([f"#/concept/{dot.code}" for dot in group])
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    used: dict[int, set[int]] = {}
    for dot in dots:
        if dot.shade.colour is not None and dot.label is not None:
            used.setdefault(dot.shade.colour, set()).add(dot.label)
    if used:
        handles = [
            Line2D([], [], marker="o", linestyle="", color=COLOURS[f"label-{colour}"]) for colour in sorted(used)
        ]
        # Labels that share a colour share an entry.
        names = [" / ".join(label_names[label] for label in sorted(used[colour])) for colour in sorted(used)]
        names = ["\n".join(textwrap.wrap(name, LEGEND_WIDTH)) or name for name in names]
        longest = max(len(line) for name in names for line in name.split("\n"))
        legend = figure.legend(
            handles=handles,
            labels=[str(number) for number in range(len(handles))],
            loc="outside lower center",
            ncols=min(len(names), 4, max(1, LEGEND_WIDTH // (longest + 4))),
            frameon=False,
            labelcolor=COLOURS["text"],
        )
        # Set here: names may begin with an underscore, which leaves a label out, or hold dollars, which are no formula.
        for shown, name in zip(legend.get_texts(), names, strict=True):
            shown.set_parse_math(False)
            shown.set_text(name)
    return figure


def to_svg(figure: Figure, description: str, identity: str) -> Markup:
    """A figure as SVG for a page that has base.css: its colours follow the theme, its text is text.

    `description` is for those who cannot see it, `identity` the `id` of the element.
    """
    file = io.StringIO()
    # The salt makes the same figure the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "clvq-hf"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # Groups are numbered anew in every figure, and a page has several.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Dots are for the mouse: the list of concepts has the same links.
    svg = re.sub(r'<a (xlink:href="[^"]*") target="_blank"', r'<a tabindex="-1" \1', svg)
    opening = f'<svg id={quoteattr(identity)} class="plot" role="img" aria-label={quoteattr(description)} '
    return Markup(svg.replace("<svg ", opening, 1))


def _figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    style = {
        "text.color": COLOURS["text"],
        "axes.labelcolor": COLOURS["text"],
        "axes.edgecolor": COLOURS["muted"],
        "xtick.color": COLOURS["text"],
        "ytick.color": COLOURS["text"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _plot_intervals(figures: dict[str, Any], rows: dict[str, tuple[str, ...]], label: str) -> Figure:
    """Dots with intervals below their names; rows hold keys of a figure and of its bounds, if it has any."""
    rows = {name: keys for name, keys in rows.items() if figures.get(keys[0]) is not None}
    figure, axes = _figure(WIDTH, 0.42 * len(rows) + 0.7)
    for place, (name, keys) in enumerate(rows.items()):
        value, *bounds = (figures.get(key) for key in keys)
        # The first row is the finding, the others are its controls.
        colour = COLOURS["label-0"] if place == 0 else COLOURS["muted"]
        if bounds and None not in bounds:
            axes.plot(bounds, [-place, -place], color=colour, linewidth=2, solid_capstyle="butt", **UNCLIPPED)
        axes.plot(value, -place, "o", color=colour, markersize=6, **UNCLIPPED)
        axes.text(
            0, 0.22 - place, name, transform=axes.get_yaxis_transform(), fontsize=9, va="bottom", color=COLOURS["text"]
        )
    axes.set_ylim(-len(rows) + 0.6, 0.75)
    axes.set_yticks([])
    # More numbers than this may touch each other.
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    return figure


def _face(shown: Shade) -> tuple[float, ...]:
    if shown.colour is None:
        return (0, 0, 0, 0)
    return to_rgba(COLOURS[f"label-{shown.colour}"], FAINTEST + (1 - FAINTEST) * shown.strength / 100)


__all__ = ["Dot", "draw_map", "plot_ablations", "plot_map", "plot_purity", "plot_routing", "plot_usage", "to_svg"]
