"""Tables of text for Markdown files and terminals, and the numbers in them.

Example:
    ```python
    >>> rows = [{"method": "CLVQ-VAE", "purity": 0.812, "codes": 397}, {"method": "K-means", "codes": 400}]
    >>> columns = {"method": "method", "label purity": lambda row: percent(row.get("purity")), "codes": "codes"}
    >>> table = ReportTable.from_rows("Methods", rows, columns)
    >>> table.rows
    [['CLVQ-VAE', '81.2 %', '397'], ['K-means', '–', '400']]
    >>> print(to_markdown([table]))
    ## Methods
    <BLANKLINE>
    | method | label purity | codes |
    |---|---:|---:|
    | CLVQ-VAE | 81.2 % | 397 |
    | K-means | – | 400 |
    <BLANKLINE>

    ```
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .markdown import escape_markdown

if TYPE_CHECKING:
    import pandas as pd

# Where there is no figure.
NOTHING = "–"
# Narrower terminals do not show the optional columns.
WIDE = 140

# The key of a value in a row, or a function from a row to a value.
Column = str | Callable[[Mapping[str, Any]], object]


@dataclass(frozen=True)
class ReportTable:
    """A table of text cells.

    Attributes:
        title (`str`): Heading.
        header (`list[str]`): Names of the columns.
        rows (`list[list[str]]`): The cells of each row, one per column.
        note (`str`): A sentence below the table, or nothing.
        optional (`tuple[str, ...]`): Names of columns that a narrow terminal does not show.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    optional: tuple[str, ...] = ()

    @classmethod
    def from_rows(
        cls,
        title: str,
        rows: "Iterable[Mapping[str, Any]] | pd.DataFrame",
        columns: Mapping[str, Column] | Sequence[str] | None = None,
        note: str = "",
        optional: tuple[str, ...] = (),
    ) -> "ReportTable":
        """Make a table from dicts or a data frame.

        Args:
            title (`str`): Heading.
            rows (`Iterable[Mapping]` or `pandas.DataFrame`): One mapping per row, or a data frame without its index.
            columns (`Mapping[str, str or Callable]` or `Sequence[str]`, *optional*): For each name in the header, the
                key of the value in a row, or a function from a row to the value. A sequence names keys that are the
                header too. Default: the keys of the first row, or the columns of the data frame.
            note (`str`): A sentence below the table.
            optional (`tuple[str, ...]`): Columns that a narrow terminal does not show.

        Returns:
            [`ReportTable`][clvq_hf.rendering.ReportTable]: Values that are not strings are formatted by
            [`cell`][clvq_hf.rendering.text_tables.cell]. A missing key is an empty value.
        """
        if hasattr(rows, "to_dict"):  # a data frame, without an import of pandas
            columns = list(rows.columns) if columns is None else columns
            rows = rows.to_dict("records")
        records = list(rows)
        if columns is None:
            columns = list(records[0]) if records else []
        if not isinstance(columns, Mapping):
            columns = {name: name for name in columns}
        cells = [
            [cell(record.get(column) if isinstance(column, str) else column(record)) for column in columns.values()]
            for record in records
        ]
        return cls(title, list(columns), cells, note, optional)


def to_markdown(tables: Iterable[ReportTable], level: int = 2) -> str:
    """Markdown of tables, each under a heading of the given level; markup in cells is escaped."""
    lines: list[str] = []
    for table in tables:
        rows = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in (table.header, *table.rows)]
        lines += [
            f"{'#' * level} {table.title}",
            "",
            rows[0],
            "|---|" + "---:|" * (len(table.header) - 1),
            *rows[1:],
            "",
        ]
        lines += [table.note, ""] if table.note else []
    return "\n".join(lines).rstrip() + "\n"


def print_tables(tables: Iterable[ReportTable], console: Console) -> None:
    """Print tables to a terminal; markup in cells is escaped."""
    for table in tables:
        printed = Table(
            title=escape(table.title), title_justify="left", caption=escape(table.note), caption_justify="left"
        )
        places = [n for n, name in enumerate(table.header) if console.width >= WIDE or name not in table.optional]
        for place in places:
            printed.add_column(escape(table.header[place]), justify="left" if place == 0 else "right")
        for row in table.rows:
            printed.add_row(*(escape(row[place]) for place in places))
        console.print(printed)


def cell(value: object) -> str:
    """A value as the text of a cell: floats with three digits, a dash for `None` and NaN, everything else as `str`."""
    if isinstance(value, float | np.floating):
        return number(float(value), 3)
    return NOTHING if value is None else str(value)


def number(value: float | None, digits: int = 2) -> str:
    """A figure with a fixed number of decimals, never a negative zero; a dash for `None` and NaN."""
    return NOTHING if value is None or value != value else f"{value:z.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A change with its sign, `+0.27` or `−0.03`; what rounds to zero has none."""
    rounded = f"{value:+.{digits}f}"
    return rounded[1:] if not float(rounded) else rounded.replace("-", "−")


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, never a negative zero; a dash for `None` and NaN."""
    return NOTHING if value is None or value != value else f"{100 * value:z.1f} %".replace("-", "−")


def with_range(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A figure with its interval in brackets, `"0.123 [0.100, 0.150]"`; without an interval if `low` is `None`."""
    if value is None or low is None or high is None:
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def interval(figures: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """The figure `name` with the interval from `name_low` to `name_high`; a dash if there is no such figure."""
    return with_range(figures.get(name), figures.get(f"{name}_low"), figures.get(f"{name}_high"), digits)


__all__ = [
    "NOTHING",
    "WIDE",
    "ReportTable",
    "cell",
    "interval",
    "number",
    "percent",
    "print_tables",
    "signed",
    "to_markdown",
    "with_range",
]
