"""A study on written tables, and annotators who answer by rule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.made_tables import made_table

from clvq_hf import ConceptTable
from clvq_hf.judging.people import StudyKey, StudyQuestion, build_study, group_of
from clvq_hf.judging.people.answers import ANSWERS_FORMAT

NUM_TEXTS = 40
ADJECTIVES = [("dull", "tedious"), ("warm", "funny")]


def study_tables() -> dict[str, Any]:
    """Three methods on 40 texts, half of them predicted good, a fifth of them wrongly.

    `plain` knows praise and blame, `mixed` throws them together, `rare` has a concept for each text.
    """
    texts, predictions, labels = [], [], []
    for number in range(NUM_TEXTS):
        prediction = number % 2
        texts.append(f"film {number}x with {ADJECTIVES[prediction][number % 4 // 2]} parts and <b>actors</b> 😀 here")
        predictions.append(prediction)
        labels.append(1 - prediction if number % 10 < 2 else prediction)
    words = {word: 1 + side for side, pair in enumerate(ADJECTIVES) for word in pair}
    arguments = {"texts": texts, "predictions": predictions, "labels": labels, "codebook_size": NUM_TEXTS + 3}
    plain = made_table(code_of=words, name="plain", **arguments)
    codes = [3 + row["text_id"] if row["token"] in words else 0 for row in plain.tokens]
    tokens = plain.tokens.remove_columns("code").add_column("code", codes).cast(plain.tokens.features)
    return {
        "plain-method": plain,
        "mixed-method": made_table(code_of=dict.fromkeys(words, 1), name="mixed", **arguments),
        "rare-method": ConceptTable(tokens, plain.texts, {**plain.metadata, "model_fingerprint": "rare"}),
    }


@pytest.fixture(scope="session")
def tables() -> dict[str, Any]:
    return study_tables()


@pytest.fixture(scope="session")
def folder(tables, tmp_path_factory) -> Path:
    """Folder with the page and the key of a study of two methods in two kinds, 12 texts, 3 checks."""
    folder = tmp_path_factory.mktemp("study")
    two = {name: tables[name] for name in ("plain-method", "mixed-method")}
    build_study(two, folder, num_items=12, num_checks=3)
    return folder


@pytest.fixture(scope="session")
def key(folder) -> StudyKey:
    return StudyKey.load(folder / "key.json")


@pytest.fixture(scope="session")
def answer_sheet(key) -> Callable[..., dict[str, Any]]:
    """What the page gives an annotator who answers by rule; checks are passed unless the rule says otherwise."""

    def sheet(
        annotator: int,
        rule: Callable[[StudyQuestion], str | None] = lambda question: question.answer,
        check: Callable[[StudyQuestion], str | None] = lambda question: question.answer,
        of: StudyKey = key,
    ) -> dict[str, Any]:
        questions = of.of_group(group_of(annotator, of.num_groups, of.raters))
        chosen = {question.id: (check if question.is_check else rule)(question) for question in questions}
        answers = [
            {"item": name, "seconds": 2.5, "choice": choice, "answered_at": "2026-01-01T00:00:00.000Z"}
            for name, choice in chosen.items()
            if choice is not None
        ]
        return {
            "format": ANSWERS_FORMAT,
            "format_version": 1,
            "clvq_version": "0",
            "study": of.study,
            "annotator": annotator,
            "complete": len(answers) == len(questions),
            "answers": answers,
        }

    return sheet
