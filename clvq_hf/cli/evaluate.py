"""`clvq-hf evaluate`: all measurements of one concept model."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import write_whole
from .options import (
    SPLIT_HELP,
    BatchSize,
    GgufFile,
    Host,
    KnownDataset,
    LabelColumn,
    Labels,
    MaxLength,
    MaxTexts,
    Model,
    Part,
    Seed,
    Subset,
    Target,
    TextColumn,
    find_texts,
    print_written,
    select_texts,
)


def run_evaluate(
    model: Model,
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "-o",
            help="Folder for results.json, results.md and the data behind them. Run again to resume.",
        ),
    ],
    dataset: KnownDataset = None,
    split: Annotated[
        str | None,
        typer.Option(
            help=SPLIT_HELP
            + " Default: what training held out; of another dataset *test*, or with --train-dataset the "
            "whole of a file."
        ),
    ] = None,
    part: Part = None,
    subset: Subset = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    train_dataset: Annotated[
        str | None, typer.Option(help="Dataset of the training texts, if it is another one than --dataset.")
    ] = None,
    train_split: Annotated[
        str | None,
        typer.Option(
            help="Split with training texts, for class directions and mean states. (Mean states of words come from up "
            "to 20,000 texts of this split and of --split that are not measured.) If there is only one split, name it "
            "here too, and separate the texts with --train-part and --part. Default: that of training, else *train*, "
            "or the whole of a file that --train-dataset names."
        ),
    ] = None,
    train_part: Annotated[
        str | None,
        typer.Option(
            help="Use only this part of the training split, cut by text hash: *codebook_train*, *host_train*, *select*."
        ),
    ] = None,
    max_train_texts: Annotated[int, typer.Option(help="Maximum number of training texts.")] = 2000,
    label: Labels = None,
    target: Target = None,
    host: Host = None,
    gguf_file: GgufFile = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="*code*: at the tokens that have the concept (the main result). *all*: at every token. *probe*: the "
            "paper's protocol. Repeat the option for several. Default: all three."
        ),
    ] = None,
    how: Annotated[
        str, typer.Option(help="*project* the concept out, or *swap* its states for the mean state.")
    ] = "project",
    directions: Annotated[int, typer.Option(help="Number of directions that are removed (k).")] = 1,
    draws: Annotated[int, typer.Option(help="Draws per text, for each random control.")] = 5,
    attribution: Annotated[
        str, typer.Option(help="*integrated_gradients*, *gradient_x_input* or *occlusion*.")
    ] = "integrated_gradients",
    steps: Annotated[int, typer.Option(help="Initial number of steps of integrated gradients.")] = 32,
    max_steps: Annotated[int, typer.Option(help="Maximum number of steps of integrated gradients.")] = 500,
    sign: Annotated[
        str, typer.Option(help="*positive*: evidence for the prediction. *abs*: in either direction, as in the paper.")
    ] = "positive",
    max_length: MaxLength = None,
    max_texts: MaxTexts = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove an evaluation that is in the folder, and start anew.")
    ] = False,
) -> None:
    """Measure how much a host depends on its concepts, and how specific they are, with controls and intervals.

    Measures on the texts that `clvq-hf train` held out, unless others are named. Texts that were used for training are
    removed. Prints a verdict in words and the tables, and writes both to `results.md`.

    Examples:

    - `clvq-hf evaluate out -o results`
    - `clvq-hf evaluate out --dataset fancyzhx/ag_news -o quick --max-texts 200 --draws 1 --protocol code`
    - `clvq-hf evaluate out --dataset new.csv --train-dataset old.csv -o results-new`
    - `clvq-hf evaluate out --dataset comments.csv --target insult -o results-insult`
    """
    from dataclasses import replace

    from datasets import concatenate_datasets

    from ..data import PARTS, host_question, without_texts
    from ..evaluation import EvaluationSettings, evaluate_concepts
    from ..evaluation.evaluate import PROTOCOLS
    from ..hub.provenance import recorded_name
    from ..metrics.results_tables import report_tables, results_markdown
    from ..metrics.verdict import verdict
    from ..models.modeling_concepts import load_with_host
    from ..rendering.terminal import open_console
    from ..rendering.text_tables import print_tables

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
    source = find_texts(model, dataset, subset, text_column, label_column, label)
    if split is None and part is None:
        split, part = source.eval_split, source.eval_part
    if train_dataset is None:
        split, train_split = split or source.eval_split or "test", train_split or source.split
        train_part = train_part or (source.part if train_split == source.split else None)
    else:  # The whole of two files, or the usual splits.
        split = split or (None if Path(source.dataset).is_file() else "test")
        train_split = train_split or (None if Path(train_dataset).is_file() else "train")
    dataset, train_dataset = source.dataset, train_dataset or source.dataset
    train_source = replace(source, dataset=train_dataset)
    for each, name in ((source, split), (train_source, train_split)):
        each.load(name)  # wrong columns are told before the host is loaded
    concept_model, host_model, tokenizer = load_with_host(model, host, gguf_file)
    readout = host_question(host_model, target)
    whole, train = source.load(split, readout), train_source.load(train_split, readout)
    word_texts = concatenate_datasets([each.select_columns("text") for each in (train, whole)])
    # Those of other parts too: the host was trained on some of them.
    same = (dataset, split) == (train_dataset, train_split)
    measured = (part or "").split("+") if same else []
    known = [text for name in PARTS if name not in measured for text in select_texts(train, name, None, seed)["text"]]
    train = select_texts(train, train_part, None, seed)
    known += train["text"]
    train = select_texts(train, None, max_train_texts, seed)
    texts = select_texts(whole, part, None, seed)
    # Of all training texts, and before any are drawn: those that are not drawn were trained on as well.
    left = without_texts(texts, known, numbers=concept_model.training_texts)
    if len(left) == 0:
        raise ValueError(
            "All of these texts are among the training texts, so there is nothing to measure on. Name texts that were "
            "held out: another --split, or --part select and --train-part codebook_train."
        )
    results = evaluate_concepts(
        concept_model,
        host_model,
        tokenizer,
        select_texts(left, None, max_texts, seed),
        output_dir,
        train=train,
        word_texts=word_texts,
        num_left_out=len(texts) - len(left),
        split=part or split or Path(dataset).stem,
        dataset_name=recorded_name(dataset),
        settings=settings,
        readout=readout,
        overwrite=overwrite,
    )
    tables = report_tables(results)
    write_whole(output_dir / "results.md", results_markdown(results, tables))
    console = open_console()
    console.print(" ".join(verdict(results)), highlight=False, markup=False)
    print_tables(tables, console)
    print_written(output_dir, ": results.json, results.md, and the data behind them.")
