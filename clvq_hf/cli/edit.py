"""`clvq-hf edit`: remove concepts from a host, measure what that repairs and costs, and make it permanent."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    BatchSize,
    GgufFile,
    Host,
    LabelColumn,
    Labels,
    MaxLength,
    Model,
    Part,
    Seed,
    Subset,
    Target,
    TextColumn,
    find_texts,
    measured_split,
    print_written,
    select_texts,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

    from ..models import ConceptModel


def run_edit(
    model: Model,
    forbid: Annotated[str, typer.Option(help="Numbers of the concepts to remove, such as *31,207*.")],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for edits.json and what is asked for besides.")
    ],
    how: Annotated[
        str | None,
        typer.Option(
            help="*mean*: the concept's mean state makes way for that of all tokens. *project*: its direction is "
            "removed. *interchange*: another concept takes its place. Default: *mean*, or *project* if the concepts "
            "are directions."
        ),
    ] = None,
    positions: Annotated[
        str, typer.Option(help="*code*: at the tokens that have the concepts. *all*: at all tokens, with *project*.")
    ] = "code",
    retest: Annotated[
        str | None,
        typer.Option(
            help="Measure the edit on these texts: a file, folder or Hub dataset with labels, on which nothing was "
            "trained. Writes retest.json and retest.html."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of --retest. Default: what training held out; of others the whole file, or *test*."),
    ] = None,
    part: Part = None,
    subset: Subset = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    slice_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of --retest, such as the source: each of its values is measured. Repeat for several."
        ),
    ] = None,
    label: Labels = None,
    target: Target = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 if a figure changes so: *accuracy<-0.01*, *brier[with the concept]>0.02*. Figures: "
            "accuracy, margin, brier, log_loss, ece, changed. Repeat for several."
        ),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Write a plain model of transformers that does without the concepts, too. Where the edit cannot be in "
            "the weights exactly, a copy of the host is trained, which takes minutes.",
        ),
    ] = False,
    fold_texts: Annotated[
        str | None, typer.Option(help="Texts for --fold; labels are not needed. Default: those of training.")
    ] = None,
    max_steps: Annotated[int, typer.Option(help="Most steps of training of --fold.")] = 150,
    host: Host = None,
    gguf_file: GgufFile = None,
    max_length: MaxLength = None,
    max_texts: Annotated[
        int | None, typer.Option(help="Maximum number of texts of --retest, drawn at random.")
    ] = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
) -> None:
    """Remove concepts from a model, measure what that repairs and what it costs, and make it permanent.

    Without --fold the host stays as it is, and `edits.json` says what to remove from it (`model.load_edit` in Python).
    With --fold the folder is a model that transformers loads without this library, and the difference from the live
    edit is measured.

    Examples:

    - `clvq-hf edit out --forbid 31,207 --retest reviews.csv -o edited`
    - `clvq-hf edit out --forbid 31 --retest reviews.csv --slice-column source --fail-if "accuracy<-0.01" -o edited`
    - `clvq-hf edit out --forbid 31 --retest reviews.csv --fold -o edited`
    """
    from ..auditing.fail_if import FailIf
    from ..auditing.retest import sliced
    from ..auditing.retest_figures import GROUPS
    from ..data import host_question
    from ..files import replaced
    from ..hub import Source
    from ..models.checkpoints import read_config
    from ..models.edits import check_codes
    from ..models.folding import check_replaceable_by_edit
    from ..models.modeling_concepts import load_with_host
    from ..rendering.terminal import open_console, say

    codes = _codes(forbid)
    conditions = [FailIf.parse(text) for text in fail_if or ()]
    if retest is None and (conditions or slice_column):
        raise ValueError("--fail-if and --slice-column are about a retest: name its texts with --retest.")
    if fold_texts is not None and not fold:
        raise ValueError("--fold-texts are for --fold, which is missing.")
    # Wrong numbers are told before anything is loaded; a damaged config is when it is.
    size = read_config(Source(model)).get("codebook_size")
    if isinstance(size, int):
        check_codes(size, codes, "forbid")
    check_replaceable_by_edit(output_dir)
    # Wrong texts are told before the host is loaded.
    for_folding = _folding_texts(model, fold_texts) if fold else None
    source = None if retest is None else find_texts(model, retest, subset, text_column, label_column, label)
    if source is not None:
        split, part = measured_split(source, split, part)
        texts = select_texts(source.load(split, more_columns=slice_column or ()), part, None, seed)
        groups = [*GROUPS, *(name for name, _ in sliced(texts, slice_column))]
        for condition in conditions:
            condition.check_group(groups)
    concept_model, host_model, tokenizer = load_with_host(model, host, gguf_file)
    edit = concept_model.edit(host_model, codes, how=how, positions=positions)
    edit.remove()
    console = open_console()
    folded = tested = None
    if for_folding is not None:
        folded = edit.fold(
            for_folding, tokenizer, text_column="text", max_length=max_length, max_steps=max_steps, seed=seed
        )
        for sentence in folded.sentences():
            console.print(sentence, markup=False, highlight=False)
    if source is not None:
        readout = host_question(host_model, target)
        texts = source.load(split, readout, slice_column or ())
        texts = _measurable(concept_model, select_texts(texts, part, None, seed), console)
        tested = edit.retest(
            select_texts(texts, None, max_texts, seed),
            tokenizer,
            slices=slice_column,
            target=target,
            text_column="text",
            label_column="label",
            max_length=max_length,
            batch_size=batch_size,
            seed=seed,
            folded=folded,
        )
        console.print(tested, highlight=False)
    with replaced(output_dir) as building:
        if folded is None:
            edit.save(building)
        else:
            folded.write(building)
        if tested is not None:
            tested.save(building)
    page = "" if tested is None else ": open retest.html in a browser"
    print_written(output_dir, f"{page}.", console)
    if folded is None:
        console.print("The host is as it was: apply edits.json with model.load_edit, or add --fold for a plain model.")
    # Last, because a figure that was not measured is found here, and nothing that was made shall be lost.
    failures = [] if tested is None else [each for one in conditions if (each := one.failure(tested)) is not None]
    for failure in failures:
        say(f"Failed: {failure}", fg="red", err=True)
    if failures:
        raise typer.Exit(1)


def _codes(forbid: str) -> list[int]:
    """Numbers separated by commas, or by + as an audit shows merged concepts."""
    parts = [part.strip() for part in re.split("[,+]", forbid)]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"--forbid must be numbers of concepts, such as 31,207; got {forbid!r}.")
    return [int(part) for part in parts]


def _folding_texts(model: str, name: str | None) -> "Dataset":
    """The texts of training, or others."""
    from ..data.text_source import select_part

    try:
        source = find_texts(model, name, None, None, None, None)
    except ValueError as error:
        if name is not None:
            raise
        message = f"{model} does not record which texts it was trained on: name some with --fold-texts."
        raise ValueError(message) from error
    if name is None:
        split, part = source.split, source.part
    else:
        split, part = (None if Path(source.dataset).is_file() else "train"), None
    return select_part(source.load(split).select_columns("text"), part)


def _measurable(model: "ConceptModel", texts: "Dataset", console: "Console") -> "Dataset":
    """The rows whose texts were not trained on; equal ones stay, for their labels or slices may differ."""
    import numpy as np

    from ..data.texts import text_numbers

    if model.training_texts is None:
        return texts
    is_left = ~np.isin(text_numbers(texts["text"][:]), model.training_texts)
    if not is_left.any():
        raise ValueError(
            "All of these texts were trained on, so there is nothing to measure on. Name texts that were held out: "
            "another --retest or --split."
        )
    if not is_left.all():
        console.print(
            f"{(~is_left).sum():,} of {len(texts):,} texts are left out: concepts were learned from them.",
            highlight=False,
        )
    return texts.select(np.flatnonzero(is_left))
