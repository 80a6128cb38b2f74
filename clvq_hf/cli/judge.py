"""`clvq-hf judge`: language models rate and rank the concepts of several methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    JUDGE_HELP,
    Concurrency,
    MaxRequests,
    MaxTokens,
    Seed,
    SendToken,
    Tables,
    Timeout,
    Yes,
    make_confirmation,
    print_written,
)

if TYPE_CHECKING:
    from rich.console import Console


def run_judge(
    tables: Tables,
    judge: Annotated[
        list[str], typer.Option(help=f"A model that judges. {JUDGE_HELP} Repeat the option for several.")
    ],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for results and answers. Run again to resume.")
    ] = Path("judged"),
    texts: Annotated[
        int, typer.Option(help="Number of texts, in equal parts from every prediction, right and wrong.")
    ] = 100,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Show concepts as *words* or as *sentences*. Repeat the option for both. Default: words."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Name of a label, as judges read it. Repeat the option for all labels, in order."),
    ] = None,
    max_tokens: MaxTokens = 256,
    concurrency: Concurrency = 4,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
    yes: Yes = False,
    send_token: SendToken = False,
    seed: Seed = 0,
) -> None:
    """Have language models rate and rank the salient concepts of several methods, next to two controls.

    Each concept is rated from 1 to 3; then all are ranked, without names, in a balanced order and once more in reverse:
    a pair counts as won only if both orders agree. The controls are only the salient word, and a random active code.
    Answers are kept: running the same command again repeats no question. The token is that of `HF_TOKEN` or
    `hf auth login`.

    Examples:

    - `clvq-hf judge clvq=a/concept_table kmeans=b/concept_table --judge meta-llama/Llama-3.3-70B-Instruct -o judged`
    - `clvq-hf judge clvq=a kmeans=b --judge http://127.0.0.1:8000/v1 --judge local:judges/qwen --texts 20 --yes`
    """
    from ..judging.exhibits import open_tables
    from ..judging.language_models import JudgingSettings, judge_tables, open_judges
    from ..judging.language_models.report import judging_tables
    from ..rendering.terminal import open_console
    from ..rendering.text_tables import print_tables

    label_names = tuple(label) if label else None
    settings = JudgingSettings(texts, tuple(kind or ["words"]), max_tokens, concurrency, seed, label_names)
    judges = open_judges(judge, send_token=send_token, timeout=timeout)
    console = open_console()
    results = judge_tables(
        open_tables(tables),
        judges,
        output_dir,
        settings=settings,
        max_requests=max_requests,
        confirm=make_confirmation(yes, console),
    )
    print_tables(judging_tables(results), console)
    print_written(output_dir, ": results.json, results.md, judgements.jsonl; answers.jsonl keeps every answer.")
    _print_problems(results, console)


def _print_problems(results: dict[str, Any], console: "Console") -> None:
    from rich.markup import escape

    for name in results["judges"]:
        scores = [kind["judges"][name] for kind in results["kinds"].values()]
        if not any(score["answered"] for score in scores) and any(score["malformed"] for score in scores):
            console.print(
                f"No answer of {escape(name)} was valid, so it is not counted. Does it follow instructions, and is "
                "--max-tokens large enough?",
                soft_wrap=True,
            )
    if results["failed"]:
        console.print(
            f"{results['failed']} questions got no answer; see judgements.jsonl for the reasons. Run the same command "
            "again to repeat them.",
            soft_wrap=True,
        )
