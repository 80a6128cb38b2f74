"""What docs/explain.md says of real texts, recomputed from the rows of scripts/measure_explanations.py."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clvq_hf.metrics.ablation_drop.statistics import studentized_interval

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
DATASETS = {"jigsaw": "Jigsaw", "eraser-movie": "ERASER-Movie", "ag-news": "AG News"}
SEEDS = range(3)


@cache
def rows(dataset: str | None = None) -> list[dict[str, Any]]:
    lines = (DOCS / "grids" / "explanations" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    found = sorted(map(json.loads, lines), key=lambda row: (row["dataset"], row["text"]))
    return [row for row in found if dataset in (None, row["dataset"])]


def is_held_out(row: dict[str, Any]) -> bool:
    """Whether the thresholds of `reliable` were not chosen on this text."""
    return int(row["text"][-1], 16) % 2 == 1


def mean(values: list[float], digits: int = 2, scale: float = 1) -> str:
    """Such as "0.87 (0.80 to 0.93)": one value per text."""
    low, high = studentized_interval(values)
    figures = [f"{scale * value:.{digits}f}" for value in (np.mean(values), low, high)]
    return f"{figures[0]} ({figures[1]} to {figures[2]})"


def share(values: list[float]) -> str:
    """Such as "93 % (89 to 96)"."""
    low, high = studentized_interval(values)
    return f"{100 * np.mean(values):.0f} % ({100 * max(low, 0):.0f} to {100 * min(high, 1):.0f})"


def agreement(kind: str, reliable: bool, dataset: str | None = None) -> list[float]:
    """For each held-out text: the share of its explanations' comparisons with another seed that agree."""
    agree = {
        "word": lambda pair: pair["tokens"] > 0,
        "words": lambda pair: pair["tokens"] >= 0.5,
        "related": lambda pair: pair["related"],
        "assigned": lambda pair: pair["assigned"],
    }[kind]
    found = []
    for row in rows(dataset):
        own = [
            agree(row["pairs"]["".join(map(str, sorted((seed, other))))])
            for seed in SEEDS
            for other in SEEDS
            if is_held_out(row) and seed != other and row["seeds"][seed]["reliable"] == reliable
        ]
        if own:
            found.append(float(np.mean(own)))
    return found


def reliable_share(dataset: str | None = None) -> list[float]:
    return [float(np.mean([seed["reliable"] for seed in row["seeds"]])) for row in rows(dataset) if is_held_out(row)]


def materials() -> Iterator[str]:
    counts = {len(rows(dataset)) for dataset in DATASETS}
    yield f"{min(counts)} texts of each" if len(counts) == 1 else f"{min(counts)} to {max(counts)} texts of each"


def order() -> Iterator[str]:
    for dataset, title in DATASETS.items():
        areas = {name: np.array([row["areas"][name] for row in rows(dataset)]) for name in rows()[0]["areas"]}
        figures = [f"{areas[name].mean():.2f}" for name in ("concepts", "words", "random")]
        differences = [mean((areas[name] - areas["concepts"]).tolist()) for name in ("words", "random")]
        yield f"| {title} | {' | '.join([*figures, *differences])} |"


def contributions() -> Iterator[str]:
    for dataset, title in DATASETS.items():
        seeds = [seed for row in rows(dataset) for seed in row["seeds"] if "code" in seed]
        first = np.array([seed["contributions"][0] for seed in seeds])
        cost = -np.array([seed["change"] for seed in seeds])
        with_control = [seed for seed in seeds if seed["control"] is not None]
        figures = [
            f"{np.median(first):.2f}",
            f"{np.median(cost):.2f}",
            f"{np.corrcoef(first, cost)[0, 1]:.2f}",
            f"{100 * np.median(np.abs(first - cost) / np.abs(first)):.0f} %",
            f"{100 * np.mean([seed['flips'] for seed in seeds]):.0f} %",
            f"{100 * np.mean([seed['control']['flips'] for seed in with_control]):.0f} %",
        ]
        yield f"| {title} | {' | '.join(figures)} |"


def evidence() -> Iterator[str]:
    found = [row["evidence"] for row in rows("eraser-movie") if row["evidence"]]
    ours = [float(np.mean(each["explanations"])) for each in found]
    plain = [each["plain"] for each in found]
    difference = (np.array(ours) - plain).tolist()
    yield (
        f"over {len(found)} texts the average precision of the tokens' scores is {np.mean(ours):.2f}, and "
        f"{np.mean(plain):.2f} with plain integrated gradients (difference {mean(difference)}); tokens in random order "
        f"would have about {np.mean([each['share'] for each in found]):.2f}"
    )


def seeds() -> Iterator[str]:
    for dataset, title in [*DATASETS.items(), (None, "all")]:
        figures = [share(reliable_share(dataset))]
        figures += [
            share(agreement(kind, reliable, dataset)) for kind in ("word", "related") for reliable in (True, False)
        ]
        yield f"| {title} | {' | '.join(figures)} |"
    for kind, words in (
        ("words", "at least half of the words that either covers"),
        ("assigned", "assigned to each other"),
    ):
        inside, outside = share(agreement(kind, True)), share(agreement(kind, False))
        yield f"{words} in {inside} of the reliable explanations and {outside} of the others"


CLAIMS: list[Callable[[], Iterator[str]]] = [materials, order, contributions, evidence, seeds]


def plain(text: str) -> str:
    return " ".join(text.replace("−", "-").split())


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_the_page_says_what_the_rows_do(claim):
    page = plain((DOCS / "explain.md").read_text(encoding="utf-8"))
    for sentence in claim():
        assert plain(sentence) in page, f"The page does not say: {sentence}"


def test_rows_contain_each_text_once_and_no_text():
    keys = [(row["dataset"], row["text"]) for row in rows()]
    assert len(set(keys)) == len(keys)
    assert {len(text) for _, text in keys} == {16}
