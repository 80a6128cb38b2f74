"""What `clvq-hf study build` and `clvq-hf study score` do; `cli.py` holds their options."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..files import write_whole
from ..judging.exhibits import Kind, open_tables
from ..judging.people.answers import read_answers
from ..judging.people.build import build_study
from ..judging.people.design import PAPER_ACCURACIES, items_needed
from ..judging.people.key import FORMAT_VERSION, KEY_NAME, PAGE_NAME, SCORES_FORMAT, StudyKey
from ..judging.people.score_report import score_tables
from ..judging.people.scoring import score_study
from ..rendering.text_tables import ReportTable, print_tables, to_markdown
from ..tables.concept_table import ConceptTable


def run_build(
    sources: Sequence[str],
    output_dir: Path,
    num_items: int,
    kinds: Sequence[Kind],
    raters: int,
    num_checks: int,
    label_names: Sequence[str] | None,
    show_text: bool,
    notice: str,
    seed: int,
) -> None:
    """Build a study, print what is in it and how many annotators it takes."""
    console = Console()
    tables = open_tables(sources)
    key = build_study(
        tables,
        output_dir,
        num_items=num_items,
        kinds=kinds,
        raters=raters,
        num_checks=num_checks,
        label_names=label_names,
        show_text=show_text,
        notice=notice,
        seed=seed,
    )
    print_tables([_design_table(key)], console)
    for sentence in _advice(key, tables, num_items):
        console.print(escape(sentence))
    console.print(
        f"Written to [bold]{escape(str(output_dir))}/[/]: give {PAGE_NAME} to the annotators, and keep {KEY_NAME} to "
        "yourself. Each annotator gets a number, from 1."
    )


def run_score(
    files: Sequence[Path],
    key_file: Path | None,
    output_dir: Path | None,
    max_missed: int,
    include_failed: bool,
    num_bootstrap: int,
    seed: int,
) -> None:
    """Score answer files, print the tables, write `scores.json` and `scores.md`."""
    console = Console()
    key_file = key_file or _find_key(files)
    key = StudyKey.load(key_file)
    scores = score_study(
        read_answers(files, key),
        key,
        max_missed=max_missed,
        include_failed=include_failed,
        num_bootstrap=num_bootstrap,
        seed=seed,
    )
    tables = score_tables(scores)
    output_dir = output_dir or key_file.parent
    output_dir.mkdir(parents=True, exist_ok=True)
    content = {"format": SCORES_FORMAT, "format_version": FORMAT_VERSION, **scores}
    write_whole(output_dir / "scores.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    write_whole(output_dir / "scores.md", "# A study with people\n\n" + to_markdown(tables))
    print_tables(tables, console)
    console.print(f"Written to [bold]{escape(str(output_dir))}/[/]: scores.json, scores.md.")


def _find_key(files: Sequence[Path]) -> Path:
    """The key beside the first answer file, or in the folder above."""
    beside = Path(files[0]).resolve().parent
    for folder in (beside, beside.parent):
        if (folder / KEY_NAME).is_file():
            return folder / KEY_NAME
    raise ValueError(
        f"There is no {KEY_NAME} beside the answers or in the folder above. Say where it is: --key study/{KEY_NAME}."
    )


def _design_table(key: StudyKey) -> ReportTable:
    rows = []
    for method in key.methods:
        for kind in key.kinds:
            questions = list(key.of_condition(method, kind))
            concepts = len({question.code for question in questions})
            empty = sum(question.is_empty for question in questions)
            rows.append([method, kind, str(len(questions)), str(concepts), str(empty)])
    note = "Nothing to show: the concept occurs in no other text. Annotators are told so, and guess."
    header = ["method", "shown as", "texts", "different concepts", "nothing to show"]
    return ReportTable(f"Study {key.study}", header, rows, note)


def _advice(key: StudyKey, tables: Mapping[str, ConceptTable], wanted: int) -> list[str]:
    high, low = PAPER_ACCURACIES
    needed, texts = items_needed(high, low), key.num_texts
    asked = len(key.of_group(0))
    sentences = [
        f"Each method needs {needed} items for 80 % power to tell {high:.0%} from {low:.0%} (the paper's figures); "
        f"this study has {texts}"
        + ("." if texts >= needed else ": too few for that, so a tie will not say that methods are alike.")
    ]
    if texts < wanted:
        available = len(next(iter(tables.values())).texts)
        sentences.append(
            f"{wanted} were asked for; the tables have {available} texts, some for checks, repeated or unfit."
        )
    if asked - texts < 2:
        sentences.append(
            f"{asked - texts} attention checks tell little of who reads: take two or more, better six."
            if asked > texts
            else "Without attention checks nobody can be left out for not reading: take two or more, better six."
        )
    total = key.num_groups * key.raters
    sentences.append(
        f"Each annotator answers {asked} questions, {asked - texts} of them checks. {total} annotators cover "
        f"everything: {key.num_groups} groups of {key.raters}. Fewer see each method on fewer texts: a group on about "
        f"{texts / key.num_groups:.0f} a method and kind."
    )
    return sentences


__all__ = ["run_build", "run_score"]
