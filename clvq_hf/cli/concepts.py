"""`clvq-hf concepts build` and `label`: the table of a model's concepts, and names for them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    JUDGE_HELP,
    BatchSize,
    Concurrency,
    GgufFile,
    Host,
    KnownDataset,
    LabelColumn,
    Labels,
    MaxLength,
    MaxRequests,
    MaxTexts,
    MaxTokens,
    Model,
    Part,
    ReadableErrors,
    Seed,
    SendToken,
    Split,
    Subset,
    Target,
    TextColumn,
    Timeout,
    Yes,
    find_texts,
    make_confirmation,
    measured_split,
    print_written,
    select_texts,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ..tables import ConceptName, ConceptTable

# Beside the table's folder, so that an interrupted naming resumes: saving the table again replaces the folder.
NAMING_ANSWERS = "{table}.answers.jsonl"

concepts_group = typer.Typer(
    cls=ReadableErrors, no_args_is_help=True, help="Build the table of a model's concepts, name them, and find some."
)


@concepts_group.command("build")
def build_table(
    model: Model,
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for the concept table.")],
    dataset: KnownDataset = None,
    split: Split = None,
    part: Part = None,
    subset: Subset = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    label: Labels = None,
    target: Target = None,
    host: Host = None,
    gguf_file: GgufFile = None,
    salience: Annotated[
        bool, typer.Option(help="Whether to find the token of each text that supports the prediction most.")
    ] = True,
    show: Annotated[
        int,
        typer.Option(help="Number of concepts to print; 0 for none."),
    ] = 20,
    min_tokens: Annotated[int, typer.Option(help="Minimum tokens per printed concept.")] = 20,
    stop_words: Annotated[bool, typer.Option(help="Whether stop words may be among the printed words.")] = True,
    max_length: MaxLength = None,
    max_texts: MaxTexts = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
) -> None:
    """Assign a concept to every token of a set of texts, and save the result as a concept table.

    The table has one row per token and one per text (Arrow files). Read it with `ConceptTable.load_from_disk`.

    Examples:

    - `clvq-hf concepts build out -o table`
    - `clvq-hf concepts build out --dataset fancyzhx/ag_news -o table --no-salience`
    - `clvq-hf concepts build out --dataset texts.jsonl --split train -o table --show 50`
    """
    from rich.markup import escape

    from ..data import host_labels, host_question, text_readout
    from ..hub.provenance import recorded_name
    from ..models.modeling_concepts import load_with_host
    from ..rendering.terminal import open_console
    from ..tables.table_files import check_table_folder
    from ..training.run import salience_of

    check_table_folder(output_dir)  # before the host runs for minutes
    source = find_texts(model, dataset, subset, text_column, label_column, label)
    split, part = measured_split(source, split, part)
    source.load(split)  # wrong columns are told before the host is loaded
    concept_model, host_model, tokenizer = load_with_host(model, host, gguf_file)
    readout = host_question(host_model, target)
    texts = select_texts(source.load(split, readout), part, max_texts, seed)
    if readout is not None:
        sizes = {"max_length": max_length, "batch_size": batch_size, "stack": concept_model.config.stack}
        readout = text_readout(host_model, tokenizer, texts, readout, **sizes)
    console = open_console()
    found = None
    if salience:
        host_labels(texts, host_model, readout=readout)  # refuses labels of other classes before minutes of work
        found = salience_of(
            concept_model,
            host_model,
            tokenizer,
            texts,
            lambda line: console.print(escape(line)),
            readout=readout,
            max_length=max_length,
            batch_size=batch_size,
        )
    table = concept_model.concept_table(
        host_model,
        tokenizer,
        texts,
        salience=found,
        split=part or split or Path(source.dataset).stem,
        dataset_name=recorded_name(source.dataset),
        readout=readout,
        max_length=max_length,
        batch_size=batch_size,
        output_dir=output_dir,
    )
    console.print(escape(repr(table)))
    if show:
        print_concepts(table, show, min_tokens, console, stop_words)
    print_written(output_dir, ".")


@concepts_group.command("label")
def label_concepts(
    table: Annotated[Path, typer.Argument(help="Folder of a concept table.")],
    judge: Annotated[str, typer.Option(help=f"The model that names. {JUDGE_HELP}")],
    detector: Annotated[
        str | None,
        typer.Option(
            help="The model that picks sentences by the names. Default: the judge, which inflates the score."
        ),
    ] = None,
    code: Annotated[
        list[int] | None,
        typer.Option(help="A concept to name. Repeat the option for several. Default: the most frequent ones."),
    ] = None,
    concepts: Annotated[int, typer.Option(help="Number of the most frequent concepts to name.")] = 50,
    sentences: Annotated[
        int,
        typer.Option(
            help="Number of sentences that the judge reads; the detector gets as many with the concept, and without."
        ),
    ] = 5,
    max_tokens: MaxTokens = 256,
    concurrency: Concurrency = 4,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
    yes: Yes = False,
    send_token: SendToken = False,
    seed: Seed = 0,
) -> None:
    """Have a language model name concepts, and measure how informative the names are.

    The judge reads a concept's words and sentences, and names it. The detector then sees only the name, and picks from
    other sentences those that have the concept; its accuracy is the detection score, 50 % by chance. The names are
    written to `concept_names.json` in the table's folder. Answers are kept: running the same command again
    repeats no question.

    Examples:

    - `clvq-hf concepts label table --judge meta-llama/Llama-3.3-70B-Instruct --concepts 20`
    - `clvq-hf concepts label table --judge http://127.0.0.1:8000/v1 --detector local:judges/qwen --code 7 --code 12`
    """
    from ..judging.language_models import NamingSettings, name_concepts, open_judges
    from ..rendering.terminal import open_console
    from ..tables import ConceptTable
    from ..tables.names import write_names

    settings = NamingSettings(concepts, sentences, max_tokens, concurrency, seed)
    concept_table = ConceptTable.load_from_disk(table)
    folder = table.resolve()
    other_detector = [] if detector in (None, judge) else [detector]
    judges = open_judges([judge, *other_detector], send_token=send_token, timeout=timeout)
    console = open_console()
    names = name_concepts(
        concept_table,
        judges[0],
        folder.with_name(NAMING_ANSWERS.format(table=folder.name)),
        detector=judges[-1],
        codes=code or None,
        settings=settings,
        max_requests=max_requests,
        confirm=make_confirmation(yes, console),
    )
    if not names:
        raise ValueError(f"None of the answers of {judge} contains a name. Is it a model that follows instructions?")
    write_names(table, {**concept_table.names, **names})
    _print_names(concept_table, names, console)
    if not other_detector:
        console.print("The same judge named and detected, which inflates the score; --detector chooses another model.")
    print_written(table / "concept_names.json", ".")


def print_concepts(
    table: "ConceptTable", number: int, min_tokens: int, console: "Console", stop_words: bool = True
) -> None:
    """Print the purest concepts, or the most frequent ones without labels: words, and a sentence with these marked."""
    from rich.markup import escape
    from rich.table import Table

    concepts = table.purest(number, min_tokens, stop_words=stop_words)
    if not concepts:
        console.print("No concept occurs in enough of these texts to be listed.")
        return
    # Where there is no bold, in a file or a pipe, asterisks mark the words.
    mark = "" if console.is_terminal else "*"
    title = "The purest concepts" if table.label_names else "The most frequent concepts"
    grid = Table(title=title, title_justify="left")
    for column, justify in (("code", "right"), ("tokens", "right"), ("purity", "right"), ("label", "left")):
        grid.add_column(column, justify=justify, no_wrap=True)
    grid.add_column("top words", ratio=2)
    grid.add_column("a sentence", ratio=3)
    for concept in concepts:
        example = concept.examples[0] if concept.examples else None
        grid.add_row(
            str(concept.code),
            str(concept.num_tokens),
            "–" if concept.purity is None else f"{concept.purity:.0%}",
            escape(concept.label or "–"),
            escape(", ".join(word for word, _ in concept.top_words)),
            "" if example is None else example.marked(f"[bold yellow]{mark}", f"{mark}[/]", escape),
        )
    console.print(grid)


def _print_names(table: "ConceptTable", names: "dict[int, ConceptName]", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title="Names made by a language model", title_justify="left")
    grid.add_column("code", justify="right")
    grid.add_column("name")
    grid.add_column("detection", justify="right")
    grid.add_column("top words")
    for code, name in names.items():
        score = "–" if name.score is None else f"{name.score:.0%} of {name.trials}"
        words = ", ".join(word for word, _ in table.top_words(code, 6))
        grid.add_row(str(code), escape(name.name), score, escape(words))
    console.print(grid)
    console.print("Detection: balanced accuracy of picking the concept's sentences by its name only. Chance: 50 %.")
