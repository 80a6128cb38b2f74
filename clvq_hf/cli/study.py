"""`clvq-hf study build` and `score`: asking people what a concept says about the prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ReadableErrors, Seed, Tables, print_written

if TYPE_CHECKING:
    from ..judging.people import StudyKey
    from ..rendering.text_tables import ReportTable
    from ..tables import ConceptTable

study_group = typer.Typer(
    cls=ReadableErrors,
    no_args_is_help=True,
    help="Ask people what the model predicted, given a concept, and score their answers.",
)


@study_group.command("build")
def build(
    tables: Tables,
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for page.html and key.json.")] = Path(
        "study"
    ),
    label: Annotated[
        list[str] | None,
        typer.Option(help="Name of a label, as annotators read it. Repeat the option for all labels, in order."),
    ] = None,
    items: Annotated[
        int, typer.Option(help="Number of texts, in equal parts from every prediction, right and wrong.")
    ] = 60,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="*words* (a cloud) or *sentences*. Repeat the option for several. Default: both."),
    ] = None,
    raters: Annotated[
        int, typer.Option(help="Annotators per group, who all see the same items. Agreement needs two.")
    ] = 2,
    checks: Annotated[int, typer.Option(help="Attention checks per annotator.")] = 6,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show the text too. People then judge it as much as the concept.")
    ] = False,
    notice: Annotated[str, typer.Option(help="A paragraph for the instructions, such as a warning.")] = "",
    seed: Seed = 0,
) -> None:
    """Write a page that asks people which label the model predicted, given the salient concept of a text.

    Give `page.html` to the annotators, each with a number from 1; it needs no server. Keep `key.json`: the page
    contains neither methods nor labels nor predictions. No annotator sees the same text under two methods.

    Examples:

    - `clvq-hf study build clvq=results/clvq/concept_table kmeans=results/kmeans/concept_table -o study`
    - `clvq-hf study build clvq=a kmeans=b --kind words --label negative --label positive --notice "Rude language."`
    """
    from rich.markup import escape

    from ..judging.exhibits import KINDS, open_tables
    from ..judging.people import build_study
    from ..judging.people.key import KEY_NAME, PAGE_NAME
    from ..rendering.terminal import open_console
    from ..rendering.text_tables import print_tables

    concept_tables = open_tables(tables)
    key = build_study(
        concept_tables,
        output_dir,
        num_items=items,
        kinds=tuple(kind or KINDS),
        raters=raters,
        num_checks=checks,
        label_names=label or None,
        show_text=show_text,
        notice=notice,
        seed=seed,
    )
    console = open_console()
    print_tables([_design_table(key)], console)
    for sentence in _advice(key, concept_tables, items):
        console.print(escape(sentence))
    print_written(
        output_dir,
        f": give {PAGE_NAME} to the annotators, and keep {KEY_NAME} to yourself. Each annotator gets a number, from 1.",
    )


@study_group.command("score")
def score(
    answers: Annotated[list[Path], typer.Argument(help="Answer files that annotators have downloaded.")],
    key: Annotated[
        Path | None,
        typer.Option(help="The key.json of the study. Default: next to the answers, or in the folder above."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Folder for scores.json and scores.md. Default: the key's folder."),
    ] = None,
    max_missed: Annotated[int, typer.Option(help="Attention checks that an annotator may miss.")] = 1,
    include_failed: Annotated[
        bool, typer.Option("--include-failed", help="Count annotators who fail the attention checks, too.")
    ] = False,
) -> None:
    """Score answers: how often people recover the prediction by method, with intervals, and how far they agree.

    The answers in unfinished files count. Annotators who fail the attention checks are listed and excluded.

    Examples:

    - `clvq-hf study score answers/*.json --key study/key.json`
    - `clvq-hf study score answers/*.json --max-missed 0 -o scores`
    """
    import json

    from ..files import write_whole
    from ..judging.people import StudyKey, read_answers, score_study
    from ..judging.people.key import FORMAT_VERSION, SCORES_FORMAT
    from ..judging.people.score_report import score_tables
    from ..rendering.terminal import open_console
    from ..rendering.text_tables import print_tables, to_markdown

    key_file = key or _find_key(answers)
    study_key = StudyKey.load(key_file)
    scores = score_study(
        read_answers(answers, study_key),
        study_key,
        max_missed=max_missed,
        include_failed=include_failed,
    )
    tables = score_tables(scores)
    folder = output_dir or key_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": SCORES_FORMAT, "format_version": FORMAT_VERSION, **scores}
    write_whole(folder / "scores.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    write_whole(folder / "scores.md", "# A study with people\n\n" + to_markdown(tables))
    print_tables(tables, open_console())
    print_written(folder, ": scores.json, scores.md.")


def _find_key(files: Sequence[Path]) -> Path:
    """The key beside the first answer file, or in the folder above."""
    from ..judging.people.key import KEY_NAME

    beside = Path(files[0]).resolve().parent
    for folder in (beside, beside.parent):
        if (folder / KEY_NAME).is_file():
            return folder / KEY_NAME
    raise ValueError(
        f"There is no {KEY_NAME} beside the answers or in the folder above. Pass it: --key study/{KEY_NAME}."
    )


def _design_table(key: "StudyKey") -> "ReportTable":
    from ..rendering.text_tables import ReportTable

    rows = []
    for method in key.methods:
        for kind in key.kinds:
            questions = list(key.of_condition(method, kind))
            concepts = len({question.code for question in questions})
            empty = sum(question.is_empty for question in questions)
            rows.append([method, kind, str(len(questions)), str(concepts), str(empty)])
    note = "Nothing to show: the concept occurs in no other text. Annotators are informed, and guess."
    header = ["method", "shown as", "texts", "different concepts", "nothing to show"]
    return ReportTable(f"Study {key.study}", header, rows, note)


def _advice(key: "StudyKey", tables: "Mapping[str, ConceptTable]", num_items: int) -> list[str]:
    from ..judging.people import items_needed
    from ..judging.people.design import PAPER_ACCURACIES

    high, low = PAPER_ACCURACIES
    pairs = len(key.methods) * (len(key.methods) - 1) // 2
    comparisons = max(1, pairs * (len(key.kinds) + (len(key.kinds) > 1)))
    corrected = f" after correction for {comparisons} comparisons" if comparisons > 1 else ""
    needed = items_needed(high, low, num_groups=max(key.num_groups, 2), num_comparisons=comparisons)
    texts = key.num_texts
    asked = len(key.of_group(0))
    sentences = [
        f"Each method needs {needed} items to distinguish {high:.0%} from {low:.0%} (the paper's figures) with 80 % "
        f"power{corrected}; this study has {texts}"
        + ("." if texts >= needed else ": too few for that, so a tie does not show that methods are equal.")
    ]
    if texts < num_items:
        available = len(next(iter(tables.values())).texts)
        sentences.append(
            f"{num_items} were asked for; the tables have {available} texts, some for checks, repeated or unfit."
        )
    if asked - texts < 2:
        sentences.append(
            f"{asked - texts} attention checks say little about who reads: use two or more, better six."
            if asked > texts
            else "Without attention checks nobody can be excluded for not reading: use two or more, better six."
        )
    total = key.num_groups * key.raters
    sentences.append(
        f"Each annotator answers {asked} questions, {asked - texts} of them checks. {total} annotators cover "
        f"everything: {key.num_groups} groups of {key.raters}. Fewer see each method on fewer texts: a group on about "
        f"{texts / key.num_groups:.0f} per method and kind."
    )
    return sentences
