"""`clvq-hf train`: a concept model of a host, from texts."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DatasetName, GgufFile, LabelColumn, Labels, OutputDir, Subset, TextColumn

# Options that have another name than the argument of training.
_OPTIONS = {"epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}
# Concepts that are shown at the end, and the fewest tokens of one: the purity of rarer ones means little.
_NUM_SHOWN, _MIN_TOKENS = 12, 20


def run_train(
    host: Annotated[str, typer.Argument(help="Folder or Hub id of the model whose concepts are learned.")],
    dataset: DatasetName,
    output_dir: OutputDir,
    method: Annotated[
        str,
        typer.Option(
            help="How concepts are found. *clvq*: CLVQ-VAE, which is trained. *kmeans*: clusters of the states, which "
            "takes seconds once these are extracted. Or any other that `clvq-hf compare` knows, such as "
            "*clvq-functional*, *kmeans-functional*, *vqvae*, *sae* and *transcoder*."
        ),
    ] = "clvq",
    lower_layer: Annotated[
        int | None,
        typer.Option(
            min=0, help="Layer whose states get concepts; 0 is the first block's input. Default: the middle."
        ),
    ] = None,
    upper_layer: Annotated[
        int | None, typer.Option(min=0, help="Layer that is reconstructed from the concepts. Default: the last.")
    ] = None,
    codebook_size: Annotated[int | None, typer.Option(min=1, help="Number of concepts. Default: 400.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=0, help="Maximum tokens per text; longer texts are cut. 0: the host's limit. Default: 128."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training texts. Default: 10.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Texts per step and process. Default: 32.")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    label: Labels = None,
    subset: Subset = None,
    split: Annotated[
        str, typer.Option(help="Split of the training texts, with or without a slice (*train[:10%]*).")
    ] = "train",
    part: Annotated[
        str | None,
        typer.Option(
            help="Use only this part of the split, cut by text hash: *codebook_train* if the host was trained on "
            "*host_train*."
        ),
    ] = None,
    eval_split: Annotated[
        str | None,
        typer.Option(
            help="Split of the held-out texts. Default: *test* or *validation*; if the dataset has neither, the part "
            "*select* of the training split, a tenth."
        ),
    ] = None,
    gguf_file: GgufFile = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="The paper's settings: six decoder layers, 50 epochs, texts up to the host's limit, …"
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other field of the method's config or of CLVQTrainingArguments, such as *learning_rate=1e-3*. "
            "Repeat the option for several.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of such settings (*name: value*). Options and --set take precedence."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed. Default: 42.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint in the output folder.")
    ] = False,
) -> None:
    """Learn the concepts of a host from texts, and save the concept model with its concept table.

    Before training starts, it prints which layers it takes and why, and how much memory and time it needs. Labels are
    not needed: nothing is trained on them, but with labels the table shows how pure concepts are. The other commands
    find dataset, columns and lengths in the model, so you need not name them again.

    Examples:

    - `clvq-hf train me/bert-imdb --dataset stanfordnlp/imdb -o out`
    - `clvq-hf train hosts/toxic --dataset comments.csv --text-column comment_text --label-column target -o out`
    - `clvq-hf train openai-community/gpt2 --dataset notes.jsonl -o out --lower-layer 6 --codebook-size 200`
    - `clvq-hf train me/bert-imdb --dataset stanfordnlp/imdb -o out --method kmeans --lower-layer 1`
    - `clvq-hf train me/bert-imdb --dataset stanfordnlp/imdb -o out --paper --set learning_rate=1e-3`

    Several processes, on a machine with GPUs or without:

    - `accelerate launch --multi_gpu --num_processes 2 -m clvq_hf.cli train HOST --dataset DATASET -o out`
    """
    import os

    from rich.markup import escape

    from ..data.text_source import TextSource
    from ..hub.provenance import recorded_name
    from ..rendering.terminal import open_console
    from ..training.run import TrainingRun, train_concepts
    from ..training.settings import read_settings
    from .concepts import print_concepts
    from .options import print_written

    given = {_OPTIONS.get(name, name): value for name, value in read_settings(settings or [], config).items()}
    layers = {name: given.pop(name) for name in ("lower_layer", "upper_layer") if name in given}
    options = {
        "codebook_size": codebook_size,
        "max_length": max_length,
        _OPTIONS["epochs"]: epochs,
        _OPTIONS["batch_size"]: batch_size,
        "seed": seed,
    }
    given |= {name: value for name, value in options.items() if value is not None}
    if given.get("max_length") == 0:
        given["max_length"] = None
    source = TextSource(
        dataset, subset, text_column, label_column, label or None, split=split, part=part, eval_split=eval_split
    )
    run = TrainingRun(
        recorded_name(host) or host,
        source,
        str(output_dir),
        method,
        lower_layer=layers.get("lower_layer") if lower_layer is None else lower_layer,
        upper_layer=layers.get("upper_layer") if upper_layer is None else upper_layer,
        gguf_file=gguf_file,
        paper=paper,
        resume=resume,
        settings=given,
    )
    console = open_console(quiet=os.environ.get("RANK", "0") != "0")
    _, table = train_concepts(run, lambda line: console.print(escape(line), soft_wrap=True, highlight=False))
    if table is not None:
        console.print(escape(repr(table)))
        print_concepts(table, _NUM_SHOWN, _MIN_TOKENS, console)
    print_written(output_dir, ". Next:", console)
    console.print(f"  clvq-hf evaluate {output_dir} -o {output_dir}-results", soft_wrap=True, markup=False)
    console.print(f'  clvq-hf explain {output_dir} "a text of your own"', soft_wrap=True, markup=False)
