"""`clvq-hf evaluate`: all measurements of one concept model."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    SPLIT_HELP,
    BatchSize,
    DatasetName,
    Host,
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
    print_written,
    select_texts,
)


def run_evaluate(
    model: Model,
    dataset: DatasetName,
    output_dir: Annotated[
        Path, typer.Option(help="Folder for results.json, results.md and the data behind them. Run again to resume.")
    ],
    split: Annotated[
        str | None, typer.Option(help=SPLIT_HELP + " Default: *test*, or with --train-dataset the whole of a file.")
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
            help="Split with training texts, for class directions and mean states (those of words: of every text of "
            "it and of --split that is not measured, at most 20,000). If there is only one split, name it here too, "
            "and separate the texts with --train-part and --part. Default: *train*, or the whole of a file that "
            "--train-dataset names."
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
    draws: Annotated[int, typer.Option(help="Draws per text, for each random control.")] = 20,
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

    Texts that were used for training are removed. Prints the tables, and writes them to `results.md`.

    Examples:

    - `clvq-hf evaluate out --dataset fancyzhx/ag_news --output-dir results`
    - `clvq-hf evaluate out --dataset fancyzhx/ag_news --output-dir quick --max-texts 200 --draws 5 --protocol code`
    - `clvq-hf evaluate out --dataset new.csv --train-dataset old.csv --output-dir results`
    - `clvq-hf evaluate out --dataset comments.csv --target insult --output-dir results`
    """
    from functools import partial

    from datasets import concatenate_datasets
    from rich.console import Console

    from ..data import PARTS, host_question, load_texts, without_texts
    from ..evaluation import EvaluationSettings, evaluate_concepts
    from ..evaluation.evaluate import PROTOCOLS
    from ..hub.provenance import recorded_name
    from ..metrics.results_tables import report_tables
    from ..models.modeling_concepts import load_with_host
    from ..rendering.text_tables import print_tables, to_markdown

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
    concept_model, host_model, tokenizer = load_with_host(model, host)
    readout = host_question(host_model, target)
    read = partial(
        load_texts,
        subset=subset,
        text_column=text_column,
        label_column=label_column,
        label_names=label or None,
        readout=readout,
    )
    if train_dataset is None:
        train_dataset, split, train_split = dataset, split or "test", train_split or "train"
    else:  # The whole of two files, or the usual splits.
        split = split or (None if Path(dataset).is_file() else "test")
        train_split = train_split or (None if Path(train_dataset).is_file() else "train")
    whole, train = read(dataset, split), read(train_dataset, train_split)
    word_texts = concatenate_datasets([each.select_columns("text") for each in (train, whole)])
    # Those of other parts too: the host was trained on some of them.
    same = (dataset, split) == (train_dataset, train_split)
    known = [
        text for name in PARTS if not same or name != part for text in select_texts(train, name, None, seed)["text"]
    ]
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
    (output_dir / "results.md").write_text("# Results\n\n" + to_markdown(tables), encoding="utf-8")
    print_tables(tables, Console())
    print_written(output_dir, ": results.json, results.md, and the data behind them.")
