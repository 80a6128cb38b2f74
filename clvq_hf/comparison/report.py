"""The tables of the paper from the cells of a grid, as Markdown and beside figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..reading import check_object
from ..rendering.markdown import escape_markdown
from ..rendering.text_tables import to_markdown
from .figures import draw_figures
from .grid import Grid
from .purity import compare_cells
from .summary import Summary, read_cells
from .tables import report_tables

REPORT_NAME, CELLS_NAME = "report.md", "cells.jsonl"
# What a cell may cause in which something is missing, or is something else.
_OF_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)


def write_report(path: str | Path, output_dir: str | Path | None = None, grid: Grid | None = None) -> Path:
    """Write `report.md` and its figures (PNG and SVG) from whatever cells are finished.

    Beside it goes `cells.jsonl`, a line for each cell and no paths of this machine: from it alone the report can be
    written again, and shared.

    Args:
        path (`str` or `Path`): Folder of a grid, or a `.jsonl` file with one cell a line.
        output_dir (`str` or `Path`, *optional*): Where the report goes; `path`, or the folder of the file, if not
            given.
        grid ([`Grid`][clvq_hf.comparison.Grid], *optional*): Only its cells, and its studies; every cell if not given.

    Returns:
        `Path`: Of the report.

    Raises:
        ValueError: If no cell is finished, or one is damaged.
    """
    path = Path(path)
    names = None if grid is None else {cell.name for cell in grid.cells()}
    cells = read_cells(path, names)
    try:
        return _write_report(list(cells.values()), path, output_dir, {} if grid is None else grid.studies)
    except _OF_DAMAGE as error:
        for place, cell in cells.items():
            _check_cell(cell, place, path.is_dir())
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"The cells of {path} cannot be compared: {type(error).__name__}: {error}.") from error


def _check_cell(cell: dict[str, Any], place: str, is_of_folder: bool) -> None:
    """Refuse a damaged cell by name: after a report failed, for a whole one needs no check."""
    remedy = "Remove it, and run the grid again."
    check_object(cell, place, {"cell": dict, "title": str, "control": bool, "first_seed": int}, remedy)
    check_object(cell["cell"], place, {"host": str, "dataset": str, "method": str, "seed": int}, remedy)
    # Compared with itself, because some of it is read only when methods are compared.
    other = {**cell, "cell": {**cell["cell"], "method": f"{cell['cell']['method']} again"}}
    try:
        for entry in cell.get("sweep", ()):
            check_object(entry, place, {"variant": str, "k": int}, remedy)
        report_tables(Summary([cell, other]), {})
        if is_of_folder:
            _shareable(cell)
    except _OF_DAMAGE as error:
        raise ValueError(f"{place} is damaged ({type(error).__name__}: {error}). {remedy}") from error


def _write_report(
    cells: Sequence[dict[str, Any]], path: Path, output_dir: str | Path | None, studies: Mapping[str, tuple[str, ...]]
) -> Path:
    summary = Summary(compare_cells(path, cells) if path.is_dir() else cells)
    folder = Path(output_dir) if output_dir is not None else (path.parent if path.is_file() else path)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawn = draw_figures(summary, folder / "figures", studies)
    tables = report_tables(summary, studies)
    pieces = ["# Comparison", "", f"{len(summary.cells)} cells.", "", to_markdown(tables), "## Figures", ""]
    for name, caption in drawn.items():
        caption = escape_markdown(caption)
        pieces += [f"![{caption}](figures/{name}.png)", "", caption, ""]
    if path.is_dir():
        lines = [json.dumps(_shareable(cell), separators=(",", ":")) + "\n" for cell in summary.cells]
        write_whole(folder / CELLS_NAME, "".join(lines))
    file = folder / REPORT_NAME
    write_whole(file, "\n".join(pieces))
    return file


def _shareable(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without the folders that its host and texts were read from."""
    settings = {name: value for name, value in cell["settings"].items() if name not in ("host", "dataset")}
    method = dict(settings["method"])
    method["config"] = {name: value for name, value in method["config"].items() if name != "path"}
    kept = {name: value for name, value in cell.items() if name != "identity"}
    return {**kept, "settings": {**settings, "method": method}}


__all__ = ["write_report"]
