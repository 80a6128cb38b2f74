"""From concept tables and judges to figures: everything is asked, kept, scored and written."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...files import write_whole
from ...tables.concept_table import ConceptTable
from ...version import __version__
from ..exhibits import KINDS, Kind, check_tables, draw_items, readable_labels
from .answers import AnswerCache
from .judges import Judge, open_judge
from .prompts import PROMPT_VERSION
from .protocol import judgement, make_tasks, make_trials
from .report import judging_markdown
from .requests import Budget, Estimate, ask_all, estimate
from .scores import gather, score

ANSWERS_NAME = "answers.jsonl"
JUDGEMENTS_NAME = "judgements.jsonl"
RESULTS_NAME = "results.json"
REPORT_NAME = "results.md"


@dataclass(frozen=True)
class JudgingSettings:
    """How concepts are judged.

    Args:
        num_texts (`int`): How many texts, in equal parts from every prediction, right and wrong.
        kinds (`tuple[str, …]`): How concepts are shown: `"words"`, `"sentences"`.
        max_tokens (`int`): Of an answer. More for judges that think aloud first.
        concurrency (`int`): How many questions each judge is asked at the same time.
        seed (`int`): Of texts, orders, random codes and intervals.
        label_names (`tuple[str, …]`, *optional*): What judges read in place of the labels' names in the tables.

    Raises:
        ValueError: If one of them makes no sense.
    """

    num_texts: int = 100
    kinds: tuple[Kind, ...] = ("words",)
    max_tokens: int = 256
    concurrency: int = 4
    seed: int = 0
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"Concepts are shown as {' or '.join(KINDS)}, not as {unknown.pop()!r}.")
        if not self.kinds:
            raise ValueError("Say how concepts are shown: as words, as sentences, or as both.")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must be some of {', '.join(KINDS)}, each once, got {', '.join(self.kinds)}.")
        for name in ("num_texts", "max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")


def open_judges(names: Sequence[str], *, send_token: bool = False, timeout: float = 120.0) -> list[Judge]:
    """Several judges, by their names; see [`open_judge`][clvq_hf.judging.language_models.open_judge].

    Raises:
        ValueError: If there is none, or one comes twice.
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
        tables (`Mapping[str, ConceptTable]`): By method, of the same texts, with salience; see
            [`open_tables`][clvq_hf.judging.exhibits.open_tables].
        judges (`Sequence[Judge]`): Of [`open_judges`][clvq_hf.judging.language_models.open_judges].
        output_dir (`str` or `Path`): For `results.json`, `results.md`, `judgements.jsonl` (every answer, read) and
            `answers.jsonl` (every answer, as it came: what is there is not asked again).
        settings ([`JudgingSettings`][clvq_hf.judging.language_models.JudgingSettings], *optional*): How.
        max_requests (`int`, *optional*): At most so many requests.
        confirm (`Callable`, *optional*): Is told what it will take before anything is sent, and raises to prevent it.

    Returns:
        `dict`: What `results.json` holds: `settings`, `texts`, `judges`, and for every kind the scores of
            `score` under `kinds`.

    Raises:
        LimitReached: At `max_requests`; run it again to go on.
        JudgeError: If a judge cannot be used; what was answered is kept.
        ValueError: If tables, judges or settings make no sense, or labels have no names that mean something.
    """
    settings = settings or JudgingSettings()
    output_dir = Path(output_dir)
    if len(judges) > 1 and importlib.util.find_spec("krippendorff") is None:  # before anything is paid for
        raise ModuleNotFoundError('Several judges need krippendorff: pip install "clvq-hf[judging]".')
    _check_judges(judges)
    check_tables(tables)
    labels = readable_labels(tables, settings.label_names)
    drawn = draw_items(tables, settings.num_texts, settings.seed)
    if not drawn:
        raise ValueError("No text has a salient concept in every table.")
    # Named after the draw, which so is the same whatever the labels are called.
    items = [
        replace(item, prediction=labels[item.prediction], label=item.label and labels[item.label]) for item in drawn
    ]
    classes = list(labels.values())
    tasks = [
        task
        for kind in settings.kinds
        for task in make_tasks(judges, make_trials(tables, items, kind, settings.seed), classes, settings.max_tokens)
    ]
    asked = [task for task in tasks if task.question is not None]
    questions = [task.question for task in asked]
    with AnswerCache(output_dir / ANSWERS_NAME) as cache:
        if confirm is not None:
            confirm(estimate(questions, cache))
        budget = Budget(max_requests)
        outcomes = ask_all(questions, cache, budget, settings.concurrency)
    by_task = {id(task): outcome for task, outcome in zip(asked, outcomes, strict=True)}
    rows = [judgement(task, by_task.get(id(task))) for task in tasks]
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
        "texts": _texts(items),
        "judges": [judge.name for judge in judges],
        "requests": budget.used,
        "failed": sum(outcome.error is not None for outcome in outcomes),
        "kinds": {kind: score(gather(rows, kind, list(tables)), settings.seed) for kind in settings.kinds},
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


def _texts(items: Sequence[Any]) -> dict[str, Any]:
    strata: dict[str, int] = {}
    for item in items:
        right = {True: "right", False: "wrong", None: "no label"}[item.correct]
        name = f"{item.prediction} ({right})"
        strata[name] = strata.get(name, 0) + 1
    return {"num_texts": len(items), "strata": dict(sorted(strata.items()))}


__all__ = ["JudgingSettings", "judge_tables", "open_judges"]
