"""Tables of text cells, and their numbers, for Markdown files and terminals."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .markdown import escape_markdown

# Where there is no figure.
NOTHING = "–"


# Columns of a terminal that shows every column.
WIDE = 140


@dataclass(frozen=True)
class ReportTable:
    """A table of text cells.

    Attributes:
        title (`str`): Heading.
        header (`list[str]`): Names of the columns.
        rows (`list[list[str]]`): Cells, as many a row as there are columns.
        note (`str`): A sentence below it, or nothing.
        optional (`tuple[str, ...]`): Columns that a narrow terminal can do without.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    optional: tuple[str, ...] = ()


def to_markdown(tables: Iterable[ReportTable], level: int = 2) -> str:
    """Markdown of tables, each under a heading; pipes and markup in cells are escaped."""
    pieces = []
    for table in tables:
        pieces += [f"{'#' * level} {table.title}", ""]
        pieces.append("| " + " | ".join(escape_markdown(name) for name in table.header) + " |")
        pieces.append("|---|" + "---:|" * (len(table.header) - 1))
        pieces += ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in table.rows]
        pieces += ["", table.note, ""] if table.note else [""]
    return "\n".join(pieces).rstrip() + "\n"


def print_tables(tables: Iterable[ReportTable], console: Console) -> None:
    """Print tables to a terminal."""
    for table in tables:
        shown = Table(
            title=escape(table.title), title_justify="left", caption=escape(table.note), caption_justify="left"
        )
        kept = [
            place for place, name in enumerate(table.header) if console.width >= WIDE or name not in table.optional
        ]
        for place in kept:
            shown.add_column(escape(table.header[place]), justify="left" if place == 0 else "right")
        for row in table.rows:
            shown.add_row(*(escape(row[place]) for place in kept))
        console.print(shown)


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text, a dash if there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as text, a dash if there is none."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def with_range(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    if value is None:
        return NOTHING
    return number(value, digits) + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def interval(figures: dict[str, Any], name: str, digits: int = 3) -> str:
    """A figure with its interval, of figures that hold `name`, `name_low` and `name_high`."""
    return with_range(figures.get(name), figures.get(f"{name}_low"), figures.get(f"{name}_high"), digits)


__all__ = ["NOTHING", "WIDE", "ReportTable", "interval", "number", "percent", "print_tables", "to_markdown"]
