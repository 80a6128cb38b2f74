"""Whether a planted shortcut is found by an audit, and what cutting it brings back."""

import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from clvq_hf import (
    ActivationCache,
    ClusterConfig,
    ClusterModel,
    CLVQConfig,
    CLVQModel,
    CLVQTrainer,
    CLVQTrainingArguments,
    ConceptTable,
    load_texts,
)
from clvq_hf.auditing.phrases import with_phrases
from clvq_hf.auditing.removal import HOW
from clvq_hf.files import write_whole
from clvq_hf.hosts.host import load_host
from clvq_hf.hosts.loading import load_tokenizer
from clvq_hf.metrics.verdict import wilson_interval
from clvq_hf.rendering.text_tables import ReportTable, percent, signed
from clvq_hf.tables.search import score_codes

METHODS = ("kmeans", "clvq")
# Suspects that a person would look at.
FIRST = 5
# A host relies on a shortcut if it loses so much accuracy where that is broken.
RELIES = 0.05
# A suspect is recognised if so much of it is the feature; of what is no token, beyond the share of texts that have it.
RECOGNISED = 0.5
# Kinds whose feature is at tokens of its own; the others are in the order or the case of the text's words.
AT_TOKENS = ("word", "source", "quotes")
MAX_LENGTH = 96
# Texts that concepts are fitted on.
FIT_TEXTS = 800


@dataclass(frozen=True)
class Settings:
    """How concepts are fitted and removed.

    Attributes:
        method (`str`): One of `METHODS`.
        layer (`int`): The layer of the concepts.
        codebook_size (`int`): K.
        how (`str`): How a concept is removed, see `ConceptModel.edit`.
        audit_texts (`int`): How many texts are audited.
    """

    method: str = "kmeans"
    layer: int = 1
    codebook_size: int = 100
    how: str = "mean"
    audit_texts: int = 300

    @property
    def name(self) -> str:
        """Name of the file with the scores."""
        return f"score-{self.method}-L{self.layer}-K{self.codebook_size}-{self.how}-{self.audit_texts}.json"


def score_folder(folder: Path, settings: Settings) -> dict[str, Any]:
    """Fit concepts, audit, edit and retest one planted folder, and write its score into it.

    Returns:
        `dict`: The planted record without its spans, and: `code` (of the planted concept, or the first of a phrase;
        `None` with nothing planted), `f1` (how well it stands for the feature), `rank` (among the suspects, from 1;
        `None` if it is not among them), `num_concepts` (a phrase is one), `alarms` and `false_alarms` (of concepts
        that are not the feature), and for each of `edits`, `planted`, `recognised` and `one_concept` (that with the
        largest F1, without the others of its phrase): `codes`, and of the texts of other classes accuracy on `clean`
        and `broken` before and after, and with the concepts' words deleted.
    """
    began = time.perf_counter()
    record = json.loads((folder / "planted.json").read_text(encoding="utf-8"))
    host, tokenizer = load_host(str(folder / "host")), load_tokenizer(str(folder / "host"))
    work = folder / f".{settings.name}.work"
    try:
        model = fit_concepts(settings, host, tokenizer, folder, work, record["seed"])
        audit_texts = load_texts(str(folder / "audit.jsonl"))
        audit_texts = audit_texts.select(range(min(settings.audit_texts, len(audit_texts))))
        table = model.concept_table(
            host, tokenizer, audit_texts, max_length=MAX_LENGTH, dataset_name="audit", output_dir=work / "table"
        )
        how = settings.how if settings.how in HOW else None
        suspects = model.audit(host, tokenizer, table, how=how).suspects()
        units = with_phrases(table)
        found = feature_scores(units, record["spans"]["audit"], record["kind"])
        # Where one style of quotation marks is planted, the other one says as much.
        straight = [[mark.span() for mark in re.finditer('"', text)] for text in audit_texts["text"]]
        contrary = feature_scores(units, straight, record["kind"]) if record["kind"] == "quotes" else found
        is_feature = {int(code) for each in (found, contrary) for code in each["code"][each["is_feature"]]}
        score = {
            **{name: value for name, value in record.items() if name not in ("spans", "seconds")},
            "settings": vars(settings),
            **rank_figures(suspects["code"].tolist(), suspects["alarm"].tolist(), found, is_feature),
        }
        edits = {"planted": [] if score["code"] is None else [score["code"]], "recognised": score["recognised"]}
        edits = {
            name: sorted(one for code in codes for one in units.by_hand.members(code)) for name, codes in edits.items()
        }
        # What a list without phrases would offer.
        edits["one_concept"] = feature_scores(table, record["spans"]["audit"], record["kind"])["code"][:1].tolist()
        known: dict[tuple[int, ...], dict[str, Any]] = {}
        for codes in {tuple(codes) for codes in edits.values() if codes}:  # mostly the same
            known[codes] = edit_figures(model, host, tokenizer, folder, record["class"], codes, settings.how)
        score["edits"] = {name: known[tuple(codes)] for name, codes in edits.items() if codes}
        score["seconds"] = time.perf_counter() - began
        write_whole(folder / settings.name, json.dumps(score) + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return score


def fit_concepts(settings: Settings, host: Any, tokenizer: Any, folder: Path, work: Path, seed: int) -> Any:
    """A concept model of the host's training texts."""
    set_seed(seed)
    layers = {"lower_layer": settings.layer, "upper_layer": host.config.num_hidden_layers}
    texts = load_texts(str(folder / "train.jsonl"))
    texts = texts.select(range(min(FIT_TEXTS, len(texts))))
    cache = ActivationCache.build(work / "cache", host, tokenizer, texts, max_length=MAX_LENGTH, **layers)
    if settings.method == "kmeans":
        config = ClusterConfig.from_host(host, codebook_size=settings.codebook_size, **layers)
        return ClusterModel(config).fit(cache, seed=seed)
    model = CLVQModel(CLVQConfig.from_host(host, codebook_size=settings.codebook_size, **layers))
    args = CLVQTrainingArguments(
        str(work / "training"), num_train_epochs=3, save_strategy="no", report_to="none", seed=seed, disable_tqdm=True
    )
    CLVQTrainer(model=model, args=args, train_dataset=cache).train()
    return model.eval()


def feature_scores(table: ConceptTable, spans: Sequence[Sequence[Sequence[int]]], kind: str) -> Any:
    """How well each concept stands for the feature: precision, recall and F1, the best first.

    Of what is at tokens of its own by these, which share a character with one of the `spans` of their text; of the rest
    by texts, in which the concept occurs.

    Returns:
        `pandas.DataFrame`: See `score_codes`, and `is_feature`; empty if no text has the feature.
    """
    ids, special = table.column("text_id"), table.column("special")
    rows = np.flatnonzero(~special)
    codes, ids = table.by_hand.shown_codes[table.column("code")[rows]], ids[rows]
    if kind not in AT_TOKENS:
        pairs = np.unique(np.stack([ids, codes], axis=1), axis=0)
        has = np.asarray([bool(own) for own in spans[: ids.max() + 1]])
        found = score_codes(pairs[:, 1], has[pairs[:, 0]], int(has.sum()), table.codebook_size)
        by_chance = has.mean()
        return found.assign(is_feature=found["precision"] >= by_chance + RECOGNISED * (1 - by_chance))
    starts, ends = table.column("start")[rows], table.column("end")[rows]
    is_inside = np.asarray(
        [
            any(a < end and start < b for a, b in spans[text])
            for text, start, end in zip(ids, starts, ends, strict=True)
        ]
    )
    found = score_codes(codes, is_inside, int(is_inside.sum()), table.codebook_size)
    return found.assign(is_feature=found["precision"] >= RECOGNISED)


def rank_figures(
    suspects: Sequence[int], alarms: Sequence[bool], found: Any, is_feature: Collection[int]
) -> dict[str, Any]:
    """Where the planted concept is among the suspects, and which alarms are of something else.

    Args:
        suspects (`Sequence[int]`): Codes, the first suspect first.
        alarms (`Sequence[bool]`): Whether each of them is an alarm.
        found (`pandas.DataFrame`): See `feature_scores`.
        is_feature (`Collection[int]`): Codes that somebody would recognise as the feature.
    """
    code = None if found.empty else int(found["code"][0])
    alarmed = [code for code, alarm in zip(suspects, alarms, strict=True) if alarm]
    return {
        "code": code,
        "f1": None if code is None else float(found["f1"][0]),
        "rank": suspects.index(code) + 1 if code in suspects else None,
        "alarmed": code in alarmed,
        "recognised": [int(each) for each in suspects[:FIRST] if each in is_feature],
        "num_concepts": len(suspects),
        "alarms": len(alarmed),
        "false_alarms": sum(each not in is_feature for each in alarmed),
    }


def edit_figures(
    model: Any, host: Any, tokenizer: Any, folder: Path, target: str, codes: Sequence[int], how: str
) -> dict[str, Any]:
    """Accuracy on texts of the other classes, clean and broken, before and after these concepts are removed."""
    figures: dict[str, Any] = {"codes": list(codes)}
    with model.edit(host, codes, how) as edit:
        for part in ("clean", "broken"):
            texts = load_texts(str(folder / f"{part}.jsonl"))
            others = [name != target for name in texts["label"]]
            retest = edit.retest(texts, tokenizer, slices={"others": others}, max_length=MAX_LENGTH)
            for condition in ("edit", "another concept", "random direction", "words deleted"):
                try:
                    figure = retest.figure("accuracy", "others", condition)
                except KeyError:  # a control that these concepts do not have
                    continue
                figures[part] = {**figures.get(part, {}), "before": figure.before, condition: figure.after}
            whole = retest.figure("accuracy")
            figures[f"{part}_all"] = {"before": whole.before, "edit": whole.after}
    return figures


# --------------------------------------------------------------------------------------------------------- the tables


def found_table(scores: Sequence[Mapping[str, Any]]) -> ReportTable:
    """One row per dataset, kind and settings: how often what was planted is found, and how often something else is."""
    return ReportTable.from_rows(
        "Found",
        _grouped(scores, _found_figures),
        {
            "dataset": "dataset",
            "shortcut": "kind",
            "concepts": "settings",
            "hosts": "hosts",
            "accuracy clean": lambda row: percent(row["clean"]),
            "aligned": lambda row: percent(row["aligned"]),
            "broken": lambda row: percent(row["broken"]),
            f"among the first {FIRST}": "found",
            "of hosts that rely on it": "found_where_lost",
            "alarm": "alarmed",
            "false alarms, of concepts": "false_alarms",
            "hosts with one": "with_false_alarm",
        },
        note="Counts have Wilson's 95 % interval. A host relies on the shortcut if it loses at least "
        f"{100 * RELIES:.0f} points of accuracy where it is broken, on texts of the other classes.",
    )


def cut_table(scores: Sequence[Mapping[str, Any]]) -> ReportTable:
    """One row per dataset, kind and settings with something planted: what cutting it brings back, and costs."""
    return ReportTable.from_rows(
        "Cut",
        _grouped([score for score in scores if score["kind"] != "none"], _cut_figures),
        {
            "dataset": "dataset",
            "shortcut": "kind",
            "concepts": "settings",
            "hosts": "hosts",
            "lost (points)": lambda row: f"{100 * row['lost']:.1f}",
            "back": lambda row: percent(row["back"]),
            "worst host": lambda row: percent(row["worst"]),
            "words deleted": lambda row: percent(row["words deleted"]),
            "random direction": lambda row: percent(row["random direction"]),
            "back, those recognised": lambda row: percent(row["recognised"]),
            "back, one concept": lambda row: percent(row["one_concept"]),
            "clean lost (points)": lambda row: signed(100 * row["clean_lost"], 1),
        },
        note="Lost: the accuracy between clean and broken texts of the other classes, mean over hosts. Back: the share "
        f"of it that the edit brings back, of all hosts together, if it is {100 * RELIES:.0f} points or more. The "
        "worst host is one of those that rely on the shortcut.",
    )


def _grouped(
    scores: Sequence[Mapping[str, Any]], figures: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for score in scores:
        settings = score["settings"]
        named = f"{settings['method']}, layer {settings['layer']}, {settings['codebook_size']}, {settings['how']}"
        groups.setdefault((score["dataset"], score["kind"], named), []).append(score)
    return [
        {"dataset": dataset, "kind": kind, "settings": named, "hosts": len(group), **figures(group)}
        for (dataset, kind, named), group in groups.items()
    ]


def _found_figures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    number = len(scores)
    is_found = [(score["rank"] or np.inf) <= FIRST for score in scores]
    relies = [_lost(score["edits"].get("planted")) >= RELIES for score in scores]
    is_planted = scores[0]["kind"] != "none"
    return {
        **{
            name: float(np.mean([score["accuracy"][name] for score in scores]))
            for name in ("clean", "aligned", "broken")
        },
        "false_alarms": counted(
            sum(score["false_alarms"] for score in scores), sum(score["num_concepts"] for score in scores)
        ),
        "with_false_alarm": counted(sum(score["false_alarms"] > 0 for score in scores), number),
        "found": counted(sum(is_found), number) if is_planted else "–",
        "found_where_lost": counted(sum(np.logical_and(is_found, relies)), sum(relies)) if is_planted else "–",
        "alarmed": counted(sum(score["alarmed"] for score in scores), number) if is_planted else "–",
    }


def _cut_figures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    planted = [score["edits"]["planted"] for score in scores if "planted" in score["edits"]]
    conditions = ("words deleted", "random direction")
    edits = {name: [score["edits"].get(name) for score in scores] for name in ("recognised", "one_concept")}
    relying = [share_back([each], [each]) or 0.0 for each in planted if _lost(each) >= RELIES]
    return {
        "lost": float(np.mean([_lost(each) for each in planted])),
        "back": share_back(planted, planted),
        "worst": min(relying, default=None),
        **{condition: share_back(planted, planted, condition) for condition in conditions},
        # A host of which nothing was recognised gets nothing back.
        **{name: share_back(own, planted) for name, own in edits.items()},
        "clean_lost": float(np.mean([each["clean_all"]["before"] - each["clean_all"]["edit"] for each in planted])),
    }


def _lost(edit: Mapping[str, Any] | None) -> float:
    """Accuracy on clean texts of the other classes minus that on broken ones."""
    return 0.0 if edit is None else edit["clean"]["before"] - edit["broken"]["before"]


def share_back(
    edits: Sequence[Mapping[str, Any] | None], lost_of: Sequence[Mapping[str, Any]], condition: str = "edit"
) -> float | None:
    """What comes back on broken texts, as a share of what is lost between clean and broken ones, over all hosts."""
    lost = sum(map(_lost, lost_of))
    if lost < RELIES * len(lost_of):  # of nothing, any share could come back
        return None
    back = sum(
        each["broken"].get(condition, each["broken"]["before"]) - each["broken"]["before"] for each in edits if each
    )
    return back / lost


def counted(count: int, number: int) -> str:
    """`9/10 (60–98 %)`."""
    if number == 0:
        return "–"
    low, high = wilson_interval(count / number, number)
    return f"{count}/{number} ({100 * max(low, 0):.0f}–{100 * high:.0f} %)"
