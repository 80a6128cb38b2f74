"""Plots: bars and dots where the numbers say, SVG that follows the theme."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from clvq_hf.rendering.pages import read_asset
from clvq_hf.report import plots
from clvq_hf.tables.shading import Shade

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


def test_usage_counts_concepts_by_powers_of_two(table):
    (axes,) = plots.plot_usage(table).axes
    counts = np.bincount(table.column("code"), minlength=table.codebook_size)
    heights = [bar.get_height() for bar in axes.patches]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert dict(zip(names, heights, strict=True))["0"] == (counts == 0).sum() == 17
    for name, height in zip(names[2:], heights[2:], strict=True):
        low, high = map(int, name.split("–"))
        assert height == ((low <= counts) & (counts <= high)).sum()
    assert sum(heights) == table.codebook_size


def test_ablations_stand_at_their_means(results):
    (axes,) = plots.plot_ablations(results).axes
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert means == pytest.approx([-1.2, -0.3])  # of ten texts one loses 3 and nine lose 1; the control 0.2 or 0.4
    assert [text.get_text() for text in axes.texts] == ["the salient concept", "another concept of the text"]


def test_purity_has_its_controls(results):
    (axes,) = plots.plot_purity(results).axes
    assert len(axes.texts) == 4
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots[0] == pytest.approx(results["table"]["label_purity"]["cross_fitted_purity"])


def test_what_was_not_measured(table):
    with pytest.raises(ValueError, match="no label purity"):
        plots.plot_purity({"table": {}})
    with pytest.raises(ValueError, match="'probe'"):
        plots.plot_ablations({"ablation": {"code": {}}}, "probe")


def test_the_map_links_every_concept(table, model):
    svg = ElementTree.fromstring(plots.to_svg(plots.plot_map(table, model), "A <map> & more", "map"))
    links = [link.get(LINK) for link in svg.iter(f"{SVG}a")]
    assert sorted(links) == sorted(f"#/concept/{code}" for code in table.active_codes)
    assert all(link.get("tabindex") == "-1" and link.get("target") is None for link in svg.iter(f"{SVG}a"))
    assert (svg.get("role"), svg.get("aria-label"), svg.get("id")) == ("img", "A <map> & more", "map")
    assert {"bad", "good"} <= {text.text for text in svg.iter(f"{SVG}text")}


def test_the_legend_names_every_label_of_a_colour_as_it_is():
    names = [*(f"label {number}" for number in range(8)), r"$\foo$", "_hidden"]
    labels = [0, 8, 9, 9]
    dots = [plots.Dot(code, 0.1 * code, 0.2, 5, Shade(label % 8, 50), label) for code, label in enumerate(labels)]
    svg = ElementTree.fromstring(plots.to_svg(plots.draw_map(dots, names), "x", "x"))
    assert [text.text for text in svg.iter(f"{SVG}text")] == [r"label 0 / $\foo$", "_hidden"]


def test_routing_has_its_control():
    found = {"jsd": 0.7, "null_jsd": 0.3, "excess_jsd": 0.4, "excess_jsd_low": 0.3, "excess_jsd_high": 0.5}
    (axes,) = plots.plot_routing({"table": {"routing_divergence": {**found, "num_types": 3}}}).axes
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == [0.7, 0.3, 0.4]
    with pytest.raises(ValueError, match="no routing"):
        plots.plot_routing({"table": {"routing_divergence": {"num_types": 0}}})


def test_a_map_of_another_model(table, make_model):
    with pytest.raises(ValueError, match="another model"):
        plots.plot_map(table, make_model())


@pytest.mark.slow
def test_svg_has_the_colours_of_the_page_and_nothing_from_elsewhere(table, results):
    colours = dict(re.findall(r"--([\w-]+): light-dark\((#\w+),", read_asset("base.css")))
    assert {name: colours[name] for name in plots.COLOURS} == plots.COLOURS
    dots = [plots.Dot(0, 0.1, 0.2, 5, Shade(1, 50), 1), plots.Dot(1, 0.3, 0.2, 2, Shade(None, 0), 0)]
    drawn = [plots.plot_usage(table), plots.plot_ablations(results), plots.draw_map(dots, ["a", "b"])]
    identities = []
    for figure in drawn:
        svg = plots.to_svg(figure, "x", "x")
        assert svg == plots.to_svg(figure, "x", "x")
        assert not re.search(r"#[0-9a-f]{6}", svg), "a colour that does not follow the theme"
        assert set(re.findall(r"https?://[^\"]*", svg)) == {
            "http://www.w3.org/1999/xlink",
            "http://www.w3.org/2000/svg",
        }
        identities += [
            element.get("id") for element in ElementTree.fromstring(svg).iter(f"{SVG}g") if element.get("id")
        ]
    assert not identities
    assert "<a" not in plots.to_svg(plots.draw_map([], []), "x", "x")
