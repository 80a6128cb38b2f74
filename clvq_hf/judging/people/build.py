"""From concept tables to a page for annotators and its key."""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from tqdm.auto import tqdm

from ...files import write_whole
from ...rendering.pages import read_asset, render_page, script_hash
from ...tables.concept_table import ConceptTable
from ...version import __version__
from ..exhibits import (
    KINDS,
    Exhibit,
    Item,
    Kind,
    check_kinds,
    check_tables,
    draw_items,
    exhibit_concept,
    readable_labels,
    salient_codes,
)
from .design import condition_of
from .key import FORMAT_VERSION, KEY_NAME, PAGE_NAME, StudyKey, StudyQuestion


def build_study(
    tables: Mapping[str, ConceptTable],
    output_dir: str | Path,
    *,
    num_items: int = 60,
    kinds: Sequence[Kind] = KINDS,
    raters: int = 2,
    num_checks: int = 6,
    label_names: Sequence[str] | None = None,
    show_text: bool = False,
    notice: str = "",
    seed: int = 0,
) -> StudyKey:
    """Write `page.html` for annotators, and `key.json`, which you keep.

    The same arguments give the same study, so a lost key can be recreated.

    Args:
        tables (`Mapping[str, ConceptTable]`): Tables by method, see
            [`open_tables`][clvq_hf.judging.exhibits.open_tables].
        output_dir (`str` or `Path`): Folder for the two files.
        num_items (`int`): Number of texts, in equal parts from every prediction, correct and wrong.
        kinds (`Sequence[str]`): How concepts are shown: `"words"`, `"sentences"` or both.
        raters (`int`): Number of annotators per group; a group sees the same texts under the same conditions.
        num_checks (`int`): Number of attention checks per annotator.
        label_names (`Sequence[str]`, *optional*): Names of the labels for annotators; those in the tables if not
            given.
        show_text (`bool`): Whether annotators see the text too. They then judge the text as well as the concept.
        notice (`str`): A paragraph for the instructions, such as a warning or a contact.
        seed (`int`): Random seed of the draw and the checks.

    Returns:
        [`StudyKey`][clvq_hf.judging.people.StudyKey]: The key.

    Raises:
        ValueError: If the tables do not belong together, labels have no readable names, there are too few texts, or the
            folder has the key to another study.
    """
    check_tables(tables)
    names = readable_labels(tables, label_names)
    check_kinds(kinds)
    if num_items < 1 or raters < 1 or num_checks < 0:
        raise ValueError("A study needs at least one item, one rater, and no negative number of checks.")
    items, spare = _draw(tables, num_items, num_checks, seed)
    builder = _Builder(tables, kinds, names, show_text, seed)
    for place, item in enumerate(tqdm(items, desc="Texts", leave=False)):
        builder.ask(place, item)
    for number, item in enumerate(spare):
        builder.check(number, item)
    # Sorted by their random names, so that the order in the file reveals nothing.
    groups = [sorted(group, key=lambda question: question["id"]) for group in builder.shown]
    content = {"labels": list(names.values()), "raters": raters, "groups": groups}
    study = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    questions = sorted(builder.questions, key=lambda question: question.id)
    key = StudyKey(study, list(names.values()), list(tables), list(kinds), raters, show_text, questions)
    about = {"study": study, "clvq_version": __version__, "format_version": FORMAT_VERSION}
    script = read_asset("study/study.js")
    page = render_page(
        "study/page.html",
        data={**about, **content},
        labels=key.label_names,
        kinds=key.kinds,
        show_text=show_text,
        has_checks=num_checks > 0,
        notice=notice,
        script=Markup(script),
        script_hash=script_hash(script),
    )
    _write(Path(output_dir), page, key)
    return key


class _Builder:
    """Collects what each group is shown, and the questions of the key."""

    def __init__(
        self,
        tables: Mapping[str, ConceptTable],
        kinds: Sequence[Kind],
        label_names: dict[str, str],
        show_text: bool,
        seed: int,
    ) -> None:
        self.tables = tables
        self.conditions = [(method, kind) for method in tables for kind in kinds]
        self.label_names = label_names
        self.show_text = show_text
        self.codes = {method: salient_codes(table) for method, table in tables.items()}
        self.generator = np.random.default_rng(seed)
        fingerprints = [table.metadata["model_fingerprint"] for table in tables.values()]
        self.secret = json.dumps([seed, fingerprints]).encode()
        self.shown: list[list[dict[str, Any]]] = [[] for _ in self.conditions]
        self.questions: list[StudyQuestion] = []

    def ask(self, place: int, item: Item) -> None:
        """Add one question per group, each under another condition."""
        for group, method, kind, exhibit in self._exhibits(place, item):
            question = StudyQuestion(
                id=self._id("item", item.text_id, method, kind),
                group=group,
                kind=kind,
                answer=self.label_names[item.prediction],
                method=method,
                text_id=item.text_id,
                code=exhibit.code,
                correct=item.correct,
                is_empty=exhibit.is_empty,
            )
            self._add(question, item, _content(exhibit))

    def check(self, number: int, item: Item) -> None:
        """Add one attention check per group: a concept like others that contains the label to choose."""
        # Not the label that the concept may suggest: that would pass without being read.
        labels = [readable for name, readable in self.label_names.items() if name != item.prediction]
        for group, _, kind, exhibit in self._exhibits(number, item):
            answer = labels[(number + group) % len(labels)]
            content = _content(exhibit)
            pieces = content[kind]
            place = int(self.generator.integers(len(pieces) + 1))
            if kind == "words":
                size = max((count for _, count in pieces), default=1)
                pieces.insert(place, [f"please choose “{answer}”", size])
            else:
                pieces.insert(place, ["Please choose “", answer, "” here, to show that you read the sentences."])
            self._add(StudyQuestion(self._id("check", number, group), group, kind, answer), item, content)

    def _exhibits(self, place: int, item: Item) -> Iterator[tuple[int, str, Kind, Exhibit]]:
        """Group, method, kind and exhibit of the item's concept, by the condition of each group."""
        for group in range(len(self.conditions)):
            method, kind = self.conditions[condition_of(place, group, len(self.conditions))]
            code = self.codes[method][item.text_id]
            yield group, method, kind, exhibit_concept(self.tables[method], code, kind, without=item.text_id)

    def _add(self, question: StudyQuestion, item: Item, content: dict[str, Any]) -> None:
        self.questions.append(question)
        text = {"text": item.text} if self.show_text else {}
        self.shown[question.group].append({"id": question.id, **content, **text})

    def _id(self, *parts: Any) -> str:
        return hmac.new(self.secret, json.dumps(parts).encode(), "sha256").hexdigest()[:16]


def _content(exhibit: Exhibit) -> dict[str, Any]:
    """An exhibit for the page: words with counts, or sentences as pieces of which every second one is marked."""
    if exhibit.kind == "words":
        return {"words": [list(word) for word in exhibit.words]}
    return {"sentences": [list(_pieces(example.text, example.spans)) for example in exhibit.sentences]}


def _pieces(text: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    last = 0
    for start, end in spans:
        yield text[last:start]
        yield text[start:end]
        last = end
    yield text[last:]


def _draw(
    tables: Mapping[str, ConceptTable], num_items: int, num_checks: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """The texts that are asked about, and others whose concepts carry the attention checks."""
    first = next(iter(tables.values()))
    usable = draw_items(tables, len(first.texts), seed)
    num_items = min(num_items, len(usable) - num_checks)
    if num_items < 1:
        raise ValueError(
            f"The tables have {len(usable)} different texts with a salient concept, and {num_checks} of them are for "
            "attention checks: use tables with more texts, or fewer checks."
        )
    items = draw_items(tables, num_items, seed)
    text_ids = {item.text_id for item in items}
    spare = [item for item in usable if item.text_id not in text_ids][:num_checks]
    # By stratum, so that each condition gets an equal part of each.
    return sorted(items, key=lambda item: (item.prediction, str(item.correct))), spare


def _write(folder: Path, page: str, key: StudyKey) -> None:
    file = folder / KEY_NAME
    if file.exists() and StudyKey.load(file).study != key.study:
        raise ValueError(
            f"{file} is the key to another study, and its answers could not be scored without it. Use another folder, "
            "or delete it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # The key first: a page without a key would be answered in vain.
    key.save(file)
    write_whole(folder / PAGE_NAME, page)


__all__ = ["build_study"]
