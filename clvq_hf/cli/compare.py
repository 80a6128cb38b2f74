"""`clvq-hf compare`: many methods on many hosts and datasets."""

from pathlib import Path
from typing import Annotated

import typer

from .options import print_written


def run_compare(
    grid: Annotated[Path, typer.Argument(help="YAML file that names hosts, datasets, methods and seeds.")],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for hosts, cells and report. Run again to resume.")
    ],
    processes: Annotated[int, typer.Option(help="Number of cells that run at once; they share the cores.")] = 1,
    report: Annotated[
        bool,
        typer.Option("--report", help="Do not run cells; only write the report of those that are finished."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Repeat hosts and cells whose settings, hosts or texts differ."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait if another run is using the folder.")] = False,
) -> None:
    """Compare concept methods on the same activations, and write the paper's tables for any hosts and datasets.

    Each cell fits a method, measures everything and writes one JSON file. Stop and restart at any time: finished cells
    are skipped. `report.md` and its figures are written at the end, and with `--report` at any time.

    A small grid:

    ```yaml
    hosts:
      minilm: {model: sentence-transformers/all-MiniLM-L6-v2, lower_layer: 3, upper_layer: 6}
    datasets:
      ag-news: {texts: fancyzhx/ag_news}
    methods: [clvq, kmeans, sae, transcoder]
    sizes: {host_texts: 2000, train_texts: 1000, test_texts: 200, max_length: 64}
    ```

    Examples:

    - `clvq-hf compare scripts/grids/paper.yaml -o comparison --processes 2`
    - `clvq-hf compare scripts/grids/paper.yaml -o comparison --report`
    """
    from ..comparison import load_grid, run_grid, write_report
    from ..rendering.terminal import open_console

    plan = load_grid(grid)
    failures: dict[str, str] = {}
    if not report:
        options = {"processes": processes, "wait_for_lock": wait, "overwrite": overwrite}
        failures = run_grid(plan, output_dir, **options, console=open_console())
    if set(failures) >= {cell.name for cell in plan.cells()}:
        raise ValueError(f"Every cell failed; see {output_dir / 'failures'} for the reasons.")
    print_written(write_report(output_dir, grid=plan), "; its figures are in the same folder.")
    if failures:
        raise ValueError(
            f"{len(failures)} tasks failed, the others are finished; see {output_dir / 'failures'} for the reasons. "
            "Run the same command again to retry those that failed."
        )
