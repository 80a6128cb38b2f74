"""Answer files, as the page gives them, read with suspicion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .design import group_of
from .key import KEY_FORMAT, SCORES_FORMAT, StudyKey, StudyQuestion, format_of, read_json

ANSWERS_FORMAT = "clvq-hf study answers"
# In seconds, thirty years.
LONGEST = 1e9


@dataclass(frozen=True)
class Answer:
    """What an annotator chose.

    Attributes:
        question ([`StudyQuestion`][clvq_hf.judging.people.StudyQuestion]): What was asked.
        choice (`str`): The label.
        seconds (`float`): For how long the question was on the screen, with the page visible.
    """

    question: StudyQuestion
    choice: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether it is what the model predicts, or the check tells."""
        return self.choice == self.question.answer


@dataclass(frozen=True)
class AnswerFile:
    """The answers of an annotator.

    Attributes:
        file (`str`): Where they were read.
        annotator (`int`): Number.
        group (`int`): The group that the number belongs to.
        answers (`list[Answer]`): To items and checks, in the order of the file.
        num_questions (`int`): How many questions the group is asked.
    """

    file: str
    annotator: int
    group: int
    answers: list[Answer]
    num_questions: int

    @property
    def is_complete(self) -> bool:
        """Whether every question is answered."""
        return len(self.answers) == self.num_questions

    @property
    def items(self) -> list[Answer]:
        """The answers that count: not to checks."""
        return [answer for answer in self.answers if not answer.question.is_check]

    @property
    def checks(self) -> list[Answer]:
        """The answers to attention checks."""
        return [answer for answer in self.answers if answer.question.is_check]


def read_answers(files: Sequence[str | Path], key: StudyKey) -> list[AnswerFile]:
    """Read the answer files of a study. Unfinished ones count as far as they go.

    Args:
        files (`Sequence[str | Path]`): One an annotator. Keys and scores among them, as in `*.json`, are passed over.
        key ([`StudyKey`][clvq_hf.judging.people.StudyKey]): Of the study.

    Returns:
        `list[AnswerFile]`: By annotator.

    Raises:
        ValueError: If a file is cut off, of another study or no answer file, says what cannot be, or two are of one
            annotator. The message names it.
    """
    files = [file for file in files if format_of(file) not in (KEY_FORMAT, SCORES_FORMAT)]
    if not files:
        raise ValueError("There is no answer file to score: annotators download one at the end of the page.")
    read: dict[int, AnswerFile] = {}
    for file in files:
        found = _read(file, key)
        if (other := read.get(found.annotator)) is not None:
            raise ValueError(
                f"{other.file} and {file} are both of annotator {found.annotator}. Leave out the one with fewer "
                f"answers ({len(other.answers)} and {len(found.answers)}); if two people took this number, only one "
                "can count."
            )
        read[found.annotator] = found
    return [read[annotator] for annotator in sorted(read)]


def _read(file: str | Path, key: StudyKey) -> AnswerFile:
    content = read_json(file, ANSWERS_FORMAT, "an answer file, as the page of a study lets annotators download it")
    if content.get("study") != key.study:
        raise ValueError(f"{file} is of the study {content.get('study')!r}, and the key is that of {key.study!r}.")
    annotator = content.get("annotator")
    if type(annotator) is not int or annotator < 1:
        raise ValueError(f"{file} has no annotator's number, but {annotator!r}.")
    if not isinstance(content.get("answers"), list):
        raise ValueError(f"{file} has no list of answers: it is damaged. Ask for it again.")
    group = group_of(annotator, key.num_groups, key.raters)
    answers: dict[str, Answer] = {}
    for number, row in enumerate(content["answers"], start=1):
        try:
            answer = _answer(row, group, key)
        except ValueError as error:
            raise ValueError(f"{file}, answer {number}: {error}") from error
        if answer.question.id in answers:
            raise ValueError(f"{file}, answer {number}: the question {answer.question.id} is answered twice.")
        answers[answer.question.id] = answer
    found = AnswerFile(str(file), annotator, group, list(answers.values()), len(key.of_group(group)))
    if content.get("complete") is True and not found.is_complete:
        raise ValueError(
            f"{file} says that it is complete, and has {len(answers)} of {found.num_questions} answers: it is damaged. "
            "Ask for it again."
        )
    return found


def _answer(row: Any, group: int, key: StudyKey) -> Answer:
    name, choice, seconds = (
        row.get(field) if isinstance(row, dict) else None for field in ("item", "choice", "seconds")
    )
    question = key.by_id.get(name) if isinstance(name, str) else None
    if question is None:
        raise ValueError(f"the study has no question {name!r}.")
    if question.group != group:
        raise ValueError(
            f"the question {name} is one of group {question.group + 1}, and this annotator's number belongs to group "
            f"{group + 1}. Was the number changed?"
        )
    if choice not in key.label_names:
        raise ValueError(f"{choice!r} is none of the labels {', '.join(key.label_names)}.")
    if type(seconds) not in (int, float) or not 0 <= seconds < LONGEST:
        raise ValueError(f"{seconds!r} is no number of seconds.")
    return Answer(question, choice, float(seconds))


__all__ = ["ANSWERS_FORMAT", "Answer", "AnswerFile", "read_answers"]
