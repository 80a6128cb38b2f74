"""Text tables: from rows and data frames, for Markdown and terminals."""

import io

import pandas as pd
import pytest
from rich.console import Console

from clvq_hf.rendering import ReportTable, interval, number, percent, print_tables, to_markdown, with_range

ROWS = [{"method": "a|b", "purity": 0.8123, "codes": 12}, {"method": "[x]", "codes": None}]


def test_from_rows_with_keys_and_functions():
    columns = {"method": "method", "share": lambda row: percent(row.get("purity")), "codes": "codes"}
    table = ReportTable.from_rows("Methods", ROWS, columns, note="A note.", optional=("codes",))
    assert table == ReportTable(
        "Methods",
        ["method", "share", "codes"],
        [["a|b", "81.2 %", "12"], ["[x]", "–", "–"]],
        "A note.",
        ("codes",),
    )


def test_from_a_data_frame():
    frame = pd.DataFrame({"method": ["a", "b"], "purity": [0.8123, None]}, index=[7, 8])
    assert ReportTable.from_rows("", frame).rows == [["a", "0.812"], ["b", "–"]]
    assert ReportTable.from_rows("", frame, ["purity"]).header == ["purity"]


def test_without_rows():
    assert ReportTable.from_rows("", []).header == []
    assert ReportTable.from_rows("", [], {"x": "y"}) == ReportTable("", ["x"], [])


def test_markdown_escapes_cells():
    table = ReportTable.from_rows("Methods", ROWS, ["method", "codes"], note="A note.")
    assert to_markdown([table, table], level=3).split("### Methods\n\n")[1:] == [
        "| method | codes |\n|---|---:|\n| a\\|b | 12 |\n| \\[x\\] | – |\n\nA note.\n\n",
        "| method | codes |\n|---|---:|\n| a\\|b | 12 |\n| \\[x\\] | – |\n\nA note.\n",
    ]


@pytest.mark.parametrize(("width", "shows_codes"), [(80, False), (160, True)])
def test_a_narrow_terminal_omits_optional_columns(width, shows_codes):
    console = Console(file=io.StringIO(), width=width)
    print_tables([ReportTable.from_rows("Methods", ROWS, ["method", "codes"], optional=("codes",))], console)
    printed = console.file.getvalue()
    assert "[x]" in printed and ("codes" in printed) is shows_codes


def test_numbers():
    assert (number(None), number(1.234), number(float("nan")), percent(0.5)) == ("–", "1.23", "–", "50.0 %")
    assert with_range(0.5, 0.25, 0.75, 2) == "0.50 [0.25, 0.75]" and with_range(0.5, None, None) == "0.500"
    assert interval({"x": 0.5, "x_low": 0.25, "x_high": 0.75}, "x") == "0.500 [0.250, 0.750]"
    assert interval({}, "x") == "–"


def test_a_negative_figure_that_rounds_to_zero_has_no_sign():
    assert (number(-0.0004, 3), number(-0.0006, 3), number(-0.0), percent(-0.0001)) == (
        "0.000",
        "-0.001",
        "0.00",
        "0.0 %",
    )
    assert with_range(-0.0001, -0.02, 0.0001, 2) == "0.00 [-0.02, 0.00]"
