"""`clvq-hf audit`: the effect of every concept on every class, and which concepts are suspect."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
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
    Split,
    Subset,
    Target,
    TextColumn,
    find_texts,
    measured_split,
    print_written,
    select_texts,
)


def run_audit(
    model: Model,
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir", "-o", help="Folder for the audit and the concept table of its texts. Run again to resume."
        ),
    ],
    dataset: KnownDataset = None,
    split: Split = None,
    part: Part = None,
    subset: Subset = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    label: Labels = None,
    target: Target = None,
    slice_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column whose values are compared, such as the source of each text. Repeat the option for several."
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help='JSON file with word lists, such as names of groups of people: *{"women": ["she", "her"]}*.'
        ),
    ] = None,
    how: Annotated[
        str | None,
        typer.Option(
            help="*mean*: a concept makes way for the mean state. *project*: its direction is removed. Default: "
            "*mean*, where codes are states."
        ),
    ] = None,
    phrases: Annotated[
        bool,
        typer.Option(
            help="Whether concepts that come together, such as those of the words of a source line, count as one."
        ),
    ] = True,
    sort: Annotated[
        str | None,
        typer.Option(help="Signal by which the suspects are sorted. Default: the order of the documentation."),
    ] = None,
    show: Annotated[int, typer.Option(help="Number of suspects to print.")] = 10,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an audit of other texts, or by another concept model.")
    ] = False,
    host: Host = None,
    gguf_file: GgufFile = None,
    max_length: MaxLength = None,
    max_texts: MaxTexts = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
) -> None:
    """Find out what a classifier relies on: the effect of every concept on every class, and the suspects among them.

    Every concept is removed from up to 100 of the texts that have it, beside other concepts of the same text. Says
    before how much that costs. Use texts on which nothing was trained.

    Examples:

    - `clvq-hf audit out -o audit`
    - `clvq-hf audit out --dataset news.csv -o audit --slice-column source --max-texts 500`
    - `clvq-hf audit out -o audit --sort boilerplate --show 20`
    """
    from rich.markup import escape

    from ..auditing import Auditor
    from ..auditing.result import OTHER_FOLDER, check_order, check_same_audit
    from ..auditing.signals import read_groups
    from ..auditing.summary import members_of
    from ..data import host_question, text_readout
    from ..hub.provenance import recorded_name
    from ..models.modeling_concepts import load_with_host
    from ..rendering.terminal import open_console
    from ..rendering.text_tables import print_tables

    columns = slice_column or []
    words = {} if groups is None else read_groups(groups)
    source = find_texts(model, dataset, subset, text_column, label_column, label)
    split, part = measured_split(source, split, part)
    check_order(sort, columns, words)
    source.load(split, more_columns=columns)  # wrong columns are told before the host is loaded
    concept_model, host_model, tokenizer = load_with_host(model, host, gguf_file)
    if not overwrite:
        check_same_audit(output_dir, model_fingerprint=concept_model.fingerprint())
    readout = host_question(host_model, target)
    texts = select_texts(source.load(split, readout, columns), part, max_texts, seed)
    if not overwrite and _is_of_others(output_dir, texts["text"][:]):  # its table would be replaced
        raise ValueError(f"{output_dir} holds an audit of other texts. {OTHER_FOLDER}")
    if readout is not None:
        sizes = {"max_length": max_length, "batch_size": batch_size, "stack": concept_model.config.stack}
        readout = text_readout(host_model, tokenizer, texts, readout, **sizes)
    table = concept_model.concept_table(
        host_model,
        tokenizer,
        texts,
        split=part or split or Path(source.dataset).stem,
        dataset_name=recorded_name(source.dataset),
        readout=readout,
        max_length=max_length,
        batch_size=batch_size,
        output_dir=output_dir / "concept_table",
    )
    auditor = Auditor(
        concept_model,
        host_model,
        tokenizer,
        table,
        how=how,
        phrases=phrases,
        slices={name: texts[name][:] for name in columns},
        groups=words,
        batch_size=batch_size,
    )
    console = open_console()
    console.print(escape(auditor.cost()))
    audit = auditor.run(output_dir, overwrite)
    print_tables([audit.table(show, sort)], console)
    for sentence in audit.sentences():
        console.print(escape(sentence))
    print_written(output_dir, ": the audit, and the concept table of its texts. Next:", console)
    alarms = audit.alarms()
    numbers = [code for number in alarms.loc[~alarms["hidden"], "number"] for code in members_of(number)]
    console.print(f"  clvq-hf concepts find {output_dir} WORD", soft_wrap=True, markup=False)
    table_of = f"--table {output_dir / 'concept_table'} --audit {output_dir}"
    console.print(f"  clvq-hf report {model} {table_of}", soft_wrap=True, markup=False)
    if numbers:  # of all alarms: one shortcut may be several
        edit = f"clvq-hf edit {model} --forbid {','.join(map(str, numbers))} --retest TEXTS -o edited"
        console.print(f"  {edit}", soft_wrap=True, markup=False)


def _is_of_others(folder: Path, texts: list[str]) -> bool:
    """Whether a folder holds a finished audit whose table was made from other texts."""
    from ..auditing.result import AUDIT_NAME
    from ..tables import ConceptTable

    if not (folder / AUDIT_NAME).is_file():
        return False
    try:
        return not ConceptTable.load_from_disk(folder / "concept_table").is_of(texts)
    except ValueError:  # missing or damaged
        return False
