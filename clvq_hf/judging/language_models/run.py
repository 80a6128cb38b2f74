"""Judging of concept tables from end to end: questions are asked, answers kept, scored and written."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...extras import require
from ...files import write_whole
from ...tables.concept_table import ConceptTable
from ...version import __version__
from ..exhibits import Kind, check_kinds, check_tables, draw_items, readable_labels
from .answers import AnswerCache
from .judges import Judge, open_judge
from .prompts import PROMPT_VERSION
from .protocol import judgement_row, make_tasks, make_trials
from .report import judging_markdown
from .requests import Budget, Estimate, ask_all, estimate_requests
from .scores import collect_judgements, score_judgements

ANSWERS_NAME = "answers.jsonl"
JUDGEMENTS_NAME = "judgements.jsonl"
RESULTS_NAME = "results.json"
REPORT_NAME = "results.md"
CORRECTNESS = {True: "right", False: "wrong", None: "no label"}


@dataclass(frozen=True)
class JudgingSettings:
    """Settings for judging concepts.

    Args:
        num_texts (`int`): Number of texts, in equal parts from every prediction, correct and wrong.
        kinds (`tuple[str, …]`): How concepts are shown: `"words"`, `"sentences"`.
        max_tokens (`int`): Maximum number of tokens of an answer. Judges that reason first need more.
        concurrency (`int`): Number of questions that each judge is asked at the same time.
        seed (`int`): Random seed of texts, orders, random codes and intervals.
        label_names (`tuple[str, …]`, *optional*): Names of the labels for judges, instead of those in the tables.

    Raises:
        ValueError: If a kind is unknown or repeated, or a number is less than 1.
    """

    num_texts: int = 100
    kinds: tuple[Kind, ...] = ("words",)
    max_tokens: int = 256
    concurrency: int = 4
    seed: int = 0
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        for name in ("num_texts", "max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")


def open_judges(names: Sequence[str], *, send_token: bool = False, timeout: float = 120.0) -> list[Judge]:
    """Open several judges by their names; see [`open_judge`][clvq_hf.judging.language_models.open_judge].

    Raises:
        ValueError: If there is none, or one occurs twice.
    """
    judges = [open_judge(name, send_token=send_token, timeout=timeout) for name in names]
    _check_judges(judges)
    return judges


def judge_tables(
    tables: Mapping[str, ConceptTable],
    judges: Sequence[Judge],
    output_dir: str | Path,
    *,
    settings: JudgingSettings | None = None,
    max_requests: int | None = None,
    confirm: Callable[[list[Estimate]], None] | None = None,
) -> dict[str, Any]:
    """Let judges rate and rank the salient concepts of several methods, and two controls.

    Args:
        tables (`Mapping[str, ConceptTable]`): Tables by method, for the same texts, with salience; see
            [`open_tables`][clvq_hf.judging.exhibits.open_tables].
        judges (`Sequence[Judge]`): The judges, from [`open_judges`][clvq_hf.judging.language_models.open_judges].
        output_dir (`str` or `Path`): Folder for `results.json`, `results.md`, `judgements.jsonl` (parsed answers)
            and `answers.jsonl` (raw answers; questions answered there are not asked again).
        settings ([`JudgingSettings`][clvq_hf.judging.language_models.JudgingSettings], *optional*): The settings.
        max_requests (`int`, *optional*): Maximum number of requests.
        confirm (`Callable`, *optional*): Called with the cost before anything is sent; it raises to prevent that.

    Returns:
        `dict`: The content of `results.json`: `settings`, `texts`, `judges`, and under `kinds` the scores of
            `score_judgements`.

    Raises:
        LimitReached: At `max_requests`; run it again to continue.
        JudgeError: If a judge cannot be used; answers so far are kept.
        ValueError: If the tables do not belong together, a judge is repeated, or labels have no readable names.
    """
    settings = settings or JudgingSettings()
    output_dir = Path(output_dir)
    if len(judges) > 1:  # before anything is paid for
        require("Agreement between judges", "judging")
    _check_judges(judges)
    check_tables(tables)
    labels = readable_labels(tables, settings.label_names)
    # Renamed after the draw, which therefore does not depend on the names.
    items = [
        replace(item, prediction=labels[item.prediction], label=item.label and labels[item.label])
        for item in draw_items(tables, settings.num_texts, settings.seed)
    ]
    if not items:
        raise ValueError("No text has a salient concept in every table.")
    classes = list(labels.values())
    tasks = [
        task
        for kind in settings.kinds
        for task in make_tasks(judges, make_trials(tables, items, kind, settings.seed), classes, settings.max_tokens)
    ]
    questions = [task.question for task in tasks if task.question is not None]
    with AnswerCache(output_dir / ANSWERS_NAME) as cache:
        if confirm is not None:
            confirm(estimate_requests(questions, cache))
        budget = Budget(max_requests)
        outcomes = ask_all(questions, cache, budget, settings.concurrency)
        remaining = iter(outcomes)
        rows = [judgement_row(task, None if task.question is None else next(remaining)) for task in tasks]
        strata = Counter(f"{item.prediction} ({CORRECTNESS[item.correct]})" for item in items)
        methods = list(tables)
        results = {
            "clvq_version": __version__,
            "prompt_version": PROMPT_VERSION,
            "settings": {**asdict(settings), "kinds": list(settings.kinds), "label_names": classes},
            "methods": {
                name: {
                    "model_type": table.metadata.get("model_type"),
                    "model_fingerprint": table.metadata.get("model_fingerprint"),
                    "codebook_size": table.codebook_size,
                }
                for name, table in tables.items()
            },
            "texts": {"num_texts": len(items), "strata": dict(sorted(strata.items()))},
            "judges": [judge.name for judge in judges],
            "requests": budget.used,
            "failed": sum(outcome.error is not None for outcome in outcomes),
            "kinds": {
                kind: score_judgements(collect_judgements(rows, kind, methods), settings.seed)
                for kind in settings.kinds
            },
        }
        write_whole(output_dir / JUDGEMENTS_NAME, "".join(json.dumps(row) + "\n" for row in rows))
        write_whole(output_dir / RESULTS_NAME, json.dumps(results, indent=2, allow_nan=False) + "\n")
        write_whole(output_dir / REPORT_NAME, judging_markdown(results))
    return results


def _check_judges(judges: Sequence[Judge]) -> None:
    if not judges:
        raise ValueError("There is no judge: name one with --judge, such as http://127.0.0.1:8000/v1.")
    for what in ("name", "identity"):
        known = [getattr(judge, what) for judge in judges]
        if len(set(known)) < len(known):
            raise ValueError(f"A judge is named twice; it would agree with itself: {', '.join(known)}.")


__all__ = ["JudgingSettings", "judge_tables", "open_judges"]
