"""What `clvq-hf compare` does."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..comparison.grid import load_grid
from ..comparison.report import write_report
from ..comparison.run import run_grid


def run_compare(
    file: Path, output_dir: Path, processes: int = 1, report_only: bool = False, wait: bool = False
) -> None:
    """Run a grid unless only its report is wanted, and write that.

    Raises:
        ValueError: If the grid or the folder do not fit, or at the end if cells have failed.
    """
    grid = load_grid(file)
    console = Console()
    failures: dict[str, str] = {}
    if not report_only:
        failures = run_grid(grid, output_dir, processes=processes, wait_for_lock=wait, console=console)
    if set(failures) >= {cell.name for cell in grid.cells()}:
        raise ValueError(f"Every cell failed; {output_dir / 'failures'} tells why.")
    report = write_report(output_dir, grid=grid)
    console.print(f"Written to [bold]{escape(str(report))}[/], with its figures beside it.", soft_wrap=True)
    if failures:
        raise ValueError(
            f"{len(failures)} tasks failed, the others are done; {output_dir / 'failures'} tells why. Start it again "
            "to run those that failed."
        )


__all__ = ["run_compare"]
