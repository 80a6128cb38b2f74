"""`clvq-hf report`: a concept table as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from .options import MaskLabel, Seed


def run_report(
    model: Annotated[
        str, typer.Argument(help="Folder that `clvq-hf evaluate` wrote, or folder or Hub id of a concept model.")
    ],
    table: Annotated[
        Path | None,
        typer.Option(
            help="Table from `clvq-hf concepts build`, or *concept_table* in an evaluation's folder. Default: the "
            "evaluation's, or the one beside the model."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by `clvq-hf evaluate`: adds its figures, and what ablation does to each text. "
            "Default: the folder that contains the table, if it fits."
        ),
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="Folder written by `clvq-hf audit`: adds its suspects.")] = None,
    mask_toxic: Annotated[
        bool, typer.Option("--mask-toxic", help="Mask texts and words of labels that are called toxic or the like.")
    ] = False,
    mask_label: MaskLabel = None,
    seed: Seed = 0,
) -> None:
    """Write a report: every concept and its words, every text and its concepts, in one HTML file.

    The file opens from disk, loads nothing from the network, and stays under 5 MB. It contains the texts: be careful
    whom you send it to. Needs `pip install "clvq-hf[report]"`.

    Examples:

    - `clvq-hf report results`
    - `clvq-hf report out`
    - `clvq-hf report out --table table -o report.html`
    """
    from rich.markup import escape

    from ..models import ConceptModel
    from ..rendering.terminal import open_console
    from ..report import write_report  # says what to install if something is missing
    from ..report.evaluations import evaluated_model, find_evaluation, read_evaluation
    from ..tables import ConceptTable

    console = open_console()
    if table is None and (found := evaluated_model(model)) is not None:
        model, table = found, Path(model) / "concept_table"
    concept_model = ConceptModel.from_pretrained(model)
    concept_table = concept_model.concepts if table is None else ConceptTable.load_from_disk(table)
    if evaluation is None and table is not None and (candidate := find_evaluation(table)) is not None:
        try:
            read_evaluation(candidate, concept_table)
            evaluation = candidate
        except (ValueError, OSError) as error:  # the user has not asked for this one
            console.print(f"Evaluation not used: {escape(str(error))}")
    write_report(concept_table, output, concept_model, evaluation, mask_toxic, seed, mask_label or (), audit)
    if evaluation is None:
        console.print("No evaluation: --evaluation FOLDER adds its figures, and what ablation does to each text.")
    size = output.stat().st_size / 1e6
    console.print(f"Written to [bold]{escape(str(output))}[/] ({size:.1f} MB): open it in a browser.")
