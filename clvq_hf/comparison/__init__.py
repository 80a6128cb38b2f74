"""The paper's comparison: hosts × datasets × methods × seeds, each measured on the same footing."""

# ruff: noqa: E402

from ..extras import require

# Before the imports, which would name one package after the other.
require("A comparison", "evaluation", "comparison")

from .grid import Cell, Grid, load_grid
from .methods import Method, known_methods
from .report import write_report
from .run import run_grid

__all__ = ["Cell", "Grid", "Method", "known_methods", "load_grid", "run_grid", "write_report"]
