"""What `clvq-hf judge` and `clvq-hf concepts label` do; `cli.py` holds their options."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..judging.exhibits import open_tables
from ..judging.language_models.naming import NamingSettings, name_concepts
from ..judging.language_models.report import judging_tables
from ..judging.language_models.requests import Estimate
from ..judging.language_models.run import JudgingSettings, judge_tables, open_judges
from ..rendering.text_tables import print_tables
from ..tables.concept_table import ConceptTable
from ..tables.names import ConceptName, write_names

# Beside the table's folder, so that an interrupted naming goes on: what is inside goes when the table is saved anew.
NAMING_ANSWERS = "{table}.answers.jsonl"


def run_judge(
    tables: Sequence[str],
    judges: Sequence[str],
    output_dir: Path,
    settings: JudgingSettings,
    yes: bool,
    max_requests: int | None,
    send_token: bool,
    timeout: float,
) -> None:
    """Judge concept tables, print the figures."""
    opened = open_judges(judges, send_token=send_token, timeout=timeout)
    console = Console()
    results = judge_tables(
        open_tables(tables),
        opened,
        output_dir,
        settings=settings,
        max_requests=max_requests,
        confirm=_confirmation(yes, console),
    )
    print_tables(judging_tables(results), console)
    console.print(
        f"Written to [bold]{escape(str(output_dir))}/[/]: results.json, results.md, judgements.jsonl; answers.jsonl "
        "keeps every answer.",
        soft_wrap=True,
    )
    for name in results["judges"]:
        figures = [scores["judges"][name] for scores in results["kinds"].values()]
        if not any(judge["answered"] for judge in figures) and any(judge["malformed"] for judge in figures):
            console.print(
                f"No answer of {escape(name)} was valid, so it is not counted. Does it follow instructions, and is "
                "--max-tokens enough for it?",
                soft_wrap=True,
            )
    if results["failed"]:
        console.print(
            f"{results['failed']} questions got no answer; judgements.jsonl says why. Run the same command again to "
            "ask them anew.",
            soft_wrap=True,
        )


def run_label(
    folder: Path,
    judge: str,
    detector: str | None,
    codes: Sequence[int] | None,
    settings: NamingSettings,
    yes: bool,
    max_requests: int | None,
    send_token: bool,
    timeout: float,
) -> None:
    """Name the concepts of a table, write the names beside it, print them."""
    table = ConceptTable.load_from_disk(folder)
    place = folder.resolve()
    different = [] if detector in (None, judge) else [detector]
    opened = open_judges([judge, *different], send_token=send_token, timeout=timeout)
    console = Console()
    names = name_concepts(
        table,
        opened[0],
        place.with_name(NAMING_ANSWERS.format(table=place.name)),
        detector=opened[-1],
        codes=codes,
        settings=settings,
        max_requests=max_requests,
        confirm=_confirmation(yes, console),
    )
    if not names:
        raise ValueError(f"None of the answers of {judge} holds a name. Is it a model that follows instructions?")
    write_names(folder, {**table.names, **names})
    _print_names(table, names, console)
    if not different:
        console.print("The same judge named and detected, which flatters the score; --detector names another one.")
    console.print(f"Written to [bold]{escape(str(folder))}/concept_names.json[/].", soft_wrap=True)


def _confirmation(yes: bool, console: Console) -> Callable[[list[Estimate]], None]:
    """Shows the estimate, and asks unless there is nothing to send."""

    def confirm(estimates: list[Estimate]) -> None:
        new = sum(found.requests for found in estimates)
        shown = Table(title="What it takes", title_justify="left")
        for column in ("judge", "questions", "new requests", "tokens in, about", "tokens out, at most"):
            shown.add_column(column, justify="left" if column == "judge" else "right")
        for found in estimates:
            counts = (found.questions, found.requests, found.input_tokens, found.output_tokens)
            shown.add_row(escape(found.judge), *(f"{count:,}" for count in counts))
        console.print(shown)
        if not new or yes:
            return
        if not sys.stdin.isatty():
            raise ValueError(f"{new:,} requests would be sent, which may cost money. Add --yes to send them.")
        typer.confirm(f"Send {new:,} requests?", abort=True)

    return confirm


def _print_names(table: ConceptTable, names: dict[int, ConceptName], console: Console) -> None:
    shown = Table(title="Names made by a language model", title_justify="left")
    shown.add_column("code", justify="right")
    shown.add_column("name")
    shown.add_column("detection", justify="right")
    shown.add_column("top words")
    for code, found in names.items():
        score = "–" if found.score is None else f"{found.score:.0%} of {found.trials}"
        words = ", ".join(word for word, _ in table.top_words(code, 6))
        shown.add_row(str(code), escape(found.name), score, escape(words))
    console.print(shown)
    console.print("Detection: balanced accuracy of picking the sentences that belong by the name alone. Chance: 50 %.")


__all__ = ["run_judge", "run_label"]
