"""What docs/results.md says of what codes say, from the cells of `scripts/grids/better.yaml`."""

from collections.abc import Iterator
from typing import Any

from clvq_hf.comparison.coded import coded_difference
from clvq_hf.comparison.duels import Difference
from clvq_hf.comparison.summary import PURITY
from clvq_hf.comparison.tables import report_tables

from .results_page import DATASETS, claims, listed, span, summary

TRAINED = {
    "clvq": "CLVQ-VAE",
    "clvq-linear": "CLVQ-VAE, linear encoder",
    "clvq-functional": "CLVQ-VAE, functional space",
}
METHODS = {
    "kmeans": "K-means",
    "kmeans-functional": "K-means, functional space",
    **TRAINED,
    "random-states": "random states",
    "class-only": "class and position only",
}
FIDELITY, BEYOND, EXPLAINED, WITHIN = (
    f"fidelity.{name}"
    for name in (
        "code_fidelity",
        "fidelity_beyond_class",
        "explained_variance",
        "explained_variance_within_class",
    )
)
SENSES, STABILITY = "words.senses.sense_share", "stability.ami"
FIGURES = {FIDELITY: 3, BEYOND: 2, EXPLAINED: 3, WITHIN: 3, PURITY: 3, SENSES: 2, STABILITY: 2}
LOSSES = ("kl_coded", "unexplained", "unexplained_within_class")


def figures_of(dataset: str, method: str) -> dict[str, Any]:
    """Means, deviations and numbers over seeds."""
    return summary("better").over_seeds(*FIGURES)["minilm", dataset, method]


def difference(dataset: str, first: str, second: str, figure: str) -> Difference:
    found = coded_difference(summary("better"), "minilm", dataset, first, second, figure)
    assert found is not None and found.seeds == (3, 3), (dataset, first, second)
    return found


def outcome(found: Difference) -> str:
    low, high = found.interval
    return "more" if low > 0 else "less" if high < 0 else "tie"


@claims
def sizes_of_codes() -> Iterator[str]:
    better = summary("better")
    record = better.record("minilm", "jigsaw", "clvq")
    seeds = {cell["cell"]["seed"] for cell in better.cells}
    assert len(better.cells) == len(METHODS) * len(DATASETS) * len(seeds)
    texts = "host.num_texts."
    yield (
        f"{len(better.cells)} cells: {len(METHODS)} methods, {record['codebook_size']} codes, and {len(seeds)} seeds "
        f"of the codes on each dataset"
    )
    yield (
        f"Codes were learned from {record[texts + 'train']:,} texts and measured on {record[texts + 'test']}; "
        f"{record['settings.method.training.num_train_epochs']} epochs"
    )


@claims
def layers_of_codes() -> Iterator[str]:
    [layers] = {tuple(cell["host"]["layers"]) for cell in summary("better").cells}
    yield f"with layers {layers[0]} → {layers[1]}"


@claims
def rows_of_methods() -> Iterator[str]:
    for dataset, title in DATASETS.items():
        for method, name in METHODS.items():
            found = figures_of(dataset, method)
            cells = []
            for figure, digits in FIGURES.items():
                value, deviation = found[figure], found[f"{figure}_sd"]
                cells.append("–" if value != value else f"{value:z.{digits}f} ± {deviation:.{digits}f}")
            # Of two seeds with the first one: no deviation.
            cells[-1] = cells[-1].partition(" ±")[0]
            yield f"| {title} | {name} | " + " | ".join(cells) + " |"


def paired_row(title: str, name: str, dataset: str, first: str, second: str) -> str:
    found = [difference(dataset, first, second, figure) for figure in LOSSES]
    cells = [f"{each.mean:z.3f} [{each.interval[0]:z.3f}, {each.interval[1]:z.3f}]" for each in found]
    return f"| {title} | {name} | " + " | ".join(cells) + " |"


@claims
def rows_of_differences() -> Iterator[str]:
    for dataset, title in DATASETS.items():
        for method in ("kmeans-functional", *TRAINED):
            yield paired_row(title, METHODS[method], dataset, method, "kmeans")
        yield paired_row(
            title,
            "CLVQ-VAE, functional space, minus K-means there",
            dataset,
            "clvq-functional",
            "kmeans-functional",
        )


def outcomes(method: str, figure: str) -> dict[str, str]:
    """By dataset: whether its codes say more than those of K-means, less, or neither for certain."""
    return {title: outcome(difference(dataset, method, "kmeans", figure)) for dataset, title in DATASETS.items()}


def values(method: str, figure: str) -> list[float]:
    return [figures_of(dataset, method)[figure] for dataset in DATASETS]


@claims
def the_rule() -> Iterator[str]:
    loss, _, within = LOSSES
    functional = {figure: outcomes("clvq-functional", figure) for figure in (loss, within)}
    assert functional[loss] == {"Jigsaw": "tie", "ERASER-Movie": "more", "AG News": "more"}
    assert functional[within] == {"Jigsaw": "tie", "ERASER-Movie": "more", "AG News": "more"}
    p_values = {
        title: difference(dataset, "clvq-functional", "kmeans", loss).p_value for dataset, title in DATASETS.items()
    }
    yield (
        f"Only on ERASER-Movie would the difference in fidelity survive a correction for several comparisons (p = "
        f"{p_values['ERASER-Movie']:.3f}, {p_values['Jigsaw']:.2f} on Jigsaw, {p_values['AG News']:.2f} on AG News)"
    )
    assert 12 * p_values["AG News"] > 0.05 > 12 * p_values["ERASER-Movie"]
    for figure in (PURITY, SENSES):
        ours, theirs = values("clvq-functional", figure), values("kmeans", figure)
        assert all(mine > other for mine, other in zip(ours, theirs, strict=True)), figure
    stable = {method: values(method, STABILITY) for method in ("kmeans", "clvq-functional")}
    assert max(stable["clvq-functional"]) < min(stable["kmeans"])
    yield (
        f"Agreement between seeds is {listed(stable['clvq-functional'])}, against {listed(stable['kmeans'])} for "
        "K-means"
    )
    for method in ("clvq", "clvq-linear", "kmeans-functional"):
        both = [outcomes(method, figure) for figure in (loss, within)]
        wins = [title for title in DATASETS.values() if all(each[title] == "more" for each in both)]
        assert wins == ["ERASER-Movie"] and "less" not in {value for each in both for value in each.values()}


@claims
def what_the_space_does() -> Iterator[str]:
    plain, space, trained = (values(name, FIDELITY) for name in ("kmeans", "kmeans-functional", "clvq-functional"))
    yield (
        f"Fidelity is {listed(plain, 3)} for K-means, {listed(space, 3)} in that space, and {listed(trained, 3)} after "
        "training"
    )
    added = {
        figure: [outcome(difference(dataset, "clvq-functional", "kmeans-functional", figure)) for dataset in DATASETS]
        for figure in LOSSES
    }
    assert added == {
        "kl_coded": ["tie", "tie", "more"],
        "unexplained": ["tie", "more", "more"],
        "unexplained_within_class": ["more", "more", "more"],
    }
    gains = [difference(dataset, "clvq-functional", "kmeans-functional", LOSSES[2]).mean for dataset in DATASETS]
    yield f"more within the class on all three (by {span(gains, 3)})"


@claims
def what_can_be_fooled() -> Iterator[str]:
    yield (
        f"Codes of class and position only explain {listed(values('class-only', EXPLAINED))} of the upper layer, have "
        f"a purity of {listed(values('class-only', PURITY))}, and agree entirely between seeds"
    )
    assert min(values("class-only", STABILITY)) > 0.999
    yield (
        f"Beyond the class they have {listed(values('class-only', BEYOND))}, and within it they explain "
        f"{listed(values('class-only', WITHIN), 3)}"
    )
    random = [listed(values("random-states", BEYOND)), listed(values("random-states", WITHIN), 3)]
    yield f"random states have {random[0]} and {random[1]}"
    yield f"K-means is at {listed(values('kmeans', BEYOND))}"
    [table] = [each for each in report_tables(summary("better")) if each.title == "Which figures can be fooled"]
    reached = {row[0]: row[-1] for row in table.rows if row[-1] != "no control"}
    assert len(table.rows) - len(reached) == 6 and "AMI over seeds" in reached
    assert {name for name, controls in reached.items() if "random" in controls} == {
        "prediction from five codes",
        "excess routing",
    }
    yield (
        "The controls reach the median method in these figures, which therefore say little of a dictionary: "
        + ", ".join(reached)
    )


@claims
def how_these_figures_could_be_wrong() -> Iterator[str]:
    found = [difference(dataset, "clvq-functional", "kmeans", LOSSES[0]).detectable for dataset in DATASETS]
    yield f"a difference in KL of {listed(found, 3)} nats would have been found in four of five cases"


def the_readmes_sentence() -> str:
    """What README says of all this in its first lines."""
    ours, theirs = ("clvq-functional", "kmeans")
    fidelity, agreement = (
        [listed(values(method, figure), digits) for method in (ours, theirs)]
        for figure, digits in ((FIDELITY, 3), (STABILITY, 2))
    )
    return (
        f"codes that are learned in the space of what the host reads preserve more of its answers than those of "
        f"K-means on its states (code fidelity {fidelity[0]} against {fidelity[1]} on three datasets; certain on one), "
        f"mostly because of that space, and differ more from one training seed to the next (agreement {agreement[0]} "
        f"against {agreement[1]})"
    )
