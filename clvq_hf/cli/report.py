"""What `clvq-hf report` does; `cli.py` holds its options."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..models.modeling_concepts import ConceptModel
from ..report.evaluations import find_evaluation, read_evaluation
from ..tables.concept_table import ConceptTable


def run_report(model: str, table: Path, output: Path, evaluation: Path | None, mask_toxic: bool, seed: int) -> None:
    """Write the report of a table, with the figures of its evaluation if there is one.

    Raises:
        ValueError: If table, model and evaluation do not belong together, or the file's folder does not exist.
        ModuleNotFoundError: If the packages for figures and word clouds are missing.
    """
    from ..report import write_report  # which says what to install

    opened = ConceptTable.load_from_disk(table)
    console = Console()
    if evaluation is None and (found := find_evaluation(table)) is not None:
        try:
            read_evaluation(found, opened)
            evaluation = found
        except (ValueError, OSError) as error:  # nobody has asked for this one
            console.print(f"Left out: {escape(str(error))}")
    write_report(opened, output, ConceptModel.from_pretrained(model), evaluation, mask_toxic, seed)
    if evaluation is None:
        console.print("No evaluation: --evaluation FOLDER adds its figures, and what ablations do to each text.")
    size = output.stat().st_size / 1e6
    console.print(f"Written to [bold]{escape(str(output))}[/] ({size:.1f} MB): open it in a browser.")


__all__ = ["run_report"]
