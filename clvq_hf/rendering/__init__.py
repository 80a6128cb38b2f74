"""Markdown, text tables and HTML pages, with everything from data escaped."""

from .markdown import Markdown, escape_markdown
from .pages import render_page
from .text_tables import ReportTable, interval, number, percent, print_tables, to_markdown, with_range

__all__ = [
    "Markdown",
    "ReportTable",
    "escape_markdown",
    "interval",
    "number",
    "percent",
    "print_tables",
    "render_page",
    "to_markdown",
    "with_range",
]
