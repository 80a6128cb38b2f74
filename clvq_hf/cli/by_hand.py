"""`clvq-hf concepts rename`, `merge`, `group`, `hide` and `find`: concepts that people name and look for."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import print_written

if TYPE_CHECKING:
    from ..tables import ConceptTable

Table = Annotated[
    Path, typer.Argument(help="Folder of a concept table, or of a model or an evaluation that contains one.")
]
Codes = Annotated[str, typer.Argument(help="Numbers of concepts, separated by commas: *31,207*.")]
Author = Annotated[str | None, typer.Option(help="Who decides this. Default: the user of this machine.")]
Undo = Annotated[bool, typer.Option("--undo", help="Take an earlier decision about these concepts back.")]


def rename_concept(
    table: Table,
    code: Annotated[int, typer.Argument(help="Number of the concept.")],
    name: Annotated[str | None, typer.Argument(help="Its name, on one line.")] = None,
    author: Author = None,
    undo: Undo = False,
) -> None:
    """Name a concept. The name is shown instead of one that a language model gave it.

    Names are in `concepts_by_hand.json` in the table's folder, with author and date; reports, explanations, audits and
    cards of this table show them.

    Examples:

    - `clvq-hf concepts rename out 31 "sports results"`
    - `clvq-hf concepts rename out 31 --undo`
    """
    if (name is None) is not undo:
        raise ValueError("Give the concept a name, or take its name back with --undo.")
    with _edited(table) as concepts:
        concepts.rename(code, name, author=author)
        _print_concept(concepts, code)


def merge_concepts(
    table: Table,
    codes: Codes,
    name: Annotated[str | None, typer.Option(help="Name of the whole.")] = None,
    author: Author = None,
    undo: Undo = False,
) -> None:
    """Show and count concepts as one, under the smallest of their numbers.

    Tokens keep their codes, so a merge can be undone, and `evaluate` measures the model as it is.

    Examples:

    - `clvq-hf concepts merge out 31,207 --name "sports results"`
    - `clvq-hf concepts merge out 31 --undo`
    """
    with _edited(table) as concepts:
        numbers = _numbers(codes)
        concepts.merge(numbers, name, undo=undo, author=author)
        for code in numbers if undo else numbers[:1]:
            _print_concept(concepts, code)


def group_concepts(
    table: Table,
    codes: Codes,
    name: Annotated[str | None, typer.Argument(help="Name of the group.")] = None,
    author: Author = None,
    undo: Undo = False,
) -> None:
    """Put concepts into a group, whose name is shown beside theirs. They stay separate concepts.

    Examples:

    - `clvq-hf concepts group out 31,207,12 sports`
    - `clvq-hf concepts group out 12 --undo`
    """
    if (name is None) is not undo:
        raise ValueError("Name the group, or take these concepts out of theirs with --undo.")
    with _edited(table) as concepts:
        numbers = _numbers(codes)
        concepts.group(numbers, name, undo=undo, author=author)
        for code in numbers:
            _print_concept(concepts, code)


def hide_concepts(table: Table, codes: Codes, author: Author = None, undo: Undo = False) -> None:
    """Leave concepts out of lists of concepts, such as those of punctuation. Texts that have them still show them.

    Examples:

    - `clvq-hf concepts hide out 5,17`
    - `clvq-hf concepts hide out 5 --undo`
    """
    with _edited(table) as concepts:
        numbers = _numbers(codes)
        concepts.hide(numbers, undo=undo, author=author)
        for code in numbers:
            _print_concept(concepts, code)


def find_concepts(
    table: Table,
    pattern: Annotated[
        str | None,
        typer.Argument(help="A regular expression that is searched in the texts; *(?i)* at its start ignores case."),
    ] = None,
    slice: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Instead of a pattern: texts with this *label*, *prediction*, *split* or *dataset*.",
        ),
    ] = None,
    show: Annotated[int, typer.Option(help="Number of concepts to print.")] = 20,
) -> None:
    """Find the concepts that stand for a pattern or a slice, with precision and recall, the best first.

    Of a pattern, tokens are counted: precision is the share of the concept's tokens that match, recall the share of the
    matching tokens that have the concept. Of a slice, texts are counted in the same way.

    Examples:

    - `clvq-hf concepts find out "Reuters|AP"`
    - `clvq-hf concepts find out --slice label=Sports`
    """
    from rich.markup import escape
    from rich.table import Table as Grid

    from ..rendering.terminal import open_console

    concepts = _open(table)[0]
    found = concepts.find(pattern, slice=slice)
    console = open_console()
    if found.empty:
        console.print("No concept stands for any of it.")
        return
    what = "tokens" if pattern is not None else "texts"
    grid = Grid(title=f"Concepts by {escape(str(pattern or slice))}", title_justify="left")
    for column in ("code", f"{what} found", f"of its {what}", "precision", "recall", "F1"):
        grid.add_column(column, justify="right")
    for column in ("name", "top words"):
        grid.add_column(column)
    for row in found.head(show).to_dict("records"):
        concept = concepts.concept(row["code"], 6, 0)
        grid.add_row(
            concept.number,
            f"{row['found']:,}",
            f"{row['total']:,}",
            *(f"{row[name]:.0%}" for name in ("precision", "recall", "f1")),
            "" if concept.called is None else escape(concept.called.quoted),
            escape(", ".join(word for word, _ in concept.top_words)),
        )
    console.print(grid)
    if len(found) > show:
        console.print(f"… and {len(found) - show:,} more: --show {len(found)}")


def _numbers(codes: str) -> list[int]:
    try:
        return [int(code) for code in codes.split(",")]
    except ValueError:
        raise ValueError(f"Concepts are given by their numbers and commas, such as 31,207; got {codes!r}.") from None


def _open(path: Path) -> "tuple[ConceptTable, Path]":
    """A concept table and its folder, which may be in that of a model or of an evaluation."""
    from ..hub.repositories import CONCEPTS_FOLDER, TABLE_NAME
    from ..tables import ConceptTable

    folders = [path, path / CONCEPTS_FOLDER, path / "concept_table"]
    folder = next((folder for folder in folders if (folder / TABLE_NAME).is_file()), path)
    return ConceptTable.load_from_disk(folder), folder


@contextmanager
def _edited(path: Path) -> "Generator[ConceptTable]":
    """A table whose decisions are written once the block is left without an error."""
    from ..files import locked
    from ..tables import write_by_hand

    folder = _open(path)[1]
    with locked(folder, wait=True):
        table = _open(folder)[0]  # another process may have changed it
        yield table
        write_by_hand(folder, table.by_hand, table.metadata["model_fingerprint"])
    print_written(folder / "concepts_by_hand.json", ".")


def _print_concept(table: "ConceptTable", code: int) -> None:
    from rich.markup import escape

    from ..rendering.terminal import open_console

    concept = table.concept(code, 6, 0)
    name = "" if concept.called is None else f" “{escape(concept.called.name)}” ({escape(concept.called.by)})"
    about = [f"{concept.num_tokens:,} tokens", *([f"group: {escape(concept.group)}"] if concept.group else [])]
    about += ["not listed"] if concept.code in table.by_hand.hidden else []
    words = escape(", ".join(word for word, _ in concept.top_words))
    open_console().print(f"Concept {concept.number}{name}: {', '.join(about)}; {words}")


__all__ = ["find_concepts", "group_concepts", "hide_concepts", "merge_concepts", "rename_concept"]
