"""Label purity of different methods on the same tokens, which no cell can measure alone."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..metrics.label_purity.numerics import compare_purity
from ..metrics.label_purity.token_table import read_token_table
from ..tables.concept_table import ConceptTable
from .cell import cell_folder
from .grid import Cell
from .methods import OURS


def compare_cells(path: Path, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `common_purity` to the cells of the first seed whose concept tables are there, controls left out.

    Args:
        path (`Path`): Folder of the grid.
        cells (`Sequence[dict]`): Its finished cells.

    Returns:
        `list[dict]`: The cells. `common_purity` is what
        [`compare_purity`][clvq_hf.metrics.label_purity.numerics.compare_purity] returns: purity on the tokens that all
        methods of a host and dataset score, and its difference to that of CLVQ-VAE; without it, of the first by name.
    """
    settings: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for cell in cells:
        names = cell["cell"]
        table = cell_folder(path, Cell(**names)) / "evaluation" / "concept_table"
        measured = names["seed"] == cell["first_seed"] and "label_purity" in cell["table"]
        if measured and not cell["control"] and table.is_dir():
            settings[names["host"], names["dataset"]][names["method"]] = table
    found = {}
    for (host, dataset), folders in settings.items():
        if len(folders) < 2:
            continue
        methods = sorted(folders, key=lambda method: (method != OURS, method))
        tables = [
            read_token_table(**ConceptTable.load_from_disk(folders[method]).metric_inputs()) for method in methods
        ]
        # Of the first method, the difference to itself says nothing.
        first, *others = compare_purity(tables)
        found[host, dataset, methods[0]] = {**first, "difference": None}
        found |= {(host, dataset, method): figures for method, figures in zip(methods[1:], others, strict=True)}
    return [_with_figures(cell, found) for cell in cells]


def _with_figures(cell: dict[str, Any], found: dict[tuple[str, str, str], dict[str, Any]]) -> dict[str, Any]:
    names = cell["cell"]
    figures = found.get((names["host"], names["dataset"], names["method"]))
    if figures is None or names["seed"] != cell["first_seed"]:
        return cell
    return {**cell, "common_purity": figures}


__all__ = ["compare_cells"]
