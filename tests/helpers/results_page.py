"""Claims of docs/results.md: sentences that are made from the committed cells, and what they are made with."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from clvq_hf.comparison.summary import Summary, read_cells

ROOT = Path(__file__).parents[2]
GRIDS = ROOT / "docs" / "grids"
DATASETS = {"jigsaw": "Jigsaw", "eraser-movie": "ERASER-Movie", "ag-news": "AG News"}

CLAIMS: list[Callable[[], Iterator[str]]] = []


def claims(function: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    """Add a function that yields sentences of the page, or parts of them."""
    CLAIMS.append(function)
    return function


def plain(text: str) -> str:
    """Text in one line, with ASCII minus signs and without bold type or italics."""
    return " ".join(text.replace("−", "-").replace("*", "").split())


@cache
def summary(name: str) -> Summary:
    """The cells of a grid."""
    return Summary(list(read_cells(GRIDS / name / "cells.jsonl").values()))


def listed(values: list[float], digits: int = 2) -> str:
    """Such as "0.15, 0.08 and 0.29"."""
    texts = [f"{value:.{digits}f}" for value in values]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def span(values: list[float], digits: int = 2) -> str:
    """Such as "0.15 to 0.29"."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"
