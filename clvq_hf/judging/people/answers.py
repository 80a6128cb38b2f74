"""Answer files, as the page writes them, read with suspicion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .design import group_of
from .key import KEY_FORMAT, SCORES_FORMAT, StudyKey, StudyQuestion, format_of, read_study_file

ANSWERS_FORMAT = "clvq-hf study answers"
# Thirty years.
MAX_SECONDS = 1e9


@dataclass(frozen=True)
class Answer:
    """The answer of an annotator.

    Attributes:
        question ([`StudyQuestion`][clvq_hf.judging.people.StudyQuestion]): The question.
        choice (`str`): The chosen label.
        seconds (`float`): How long the question was on the visible page.
    """

    question: StudyQuestion
    choice: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether it is the model's prediction, or the label that the check asks for."""
        return self.choice == self.question.answer


@dataclass(frozen=True)
class AnswerFile:
    """The answers of an annotator.

    Attributes:
        file (`str`): The file.
        annotator (`int`): Number of the annotator.
        group (`int`): Group of this number.
        answers (`list[Answer]`): To items and checks, in the order of the file.
        num_questions (`int`): Number of questions for the group.
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
        """The answers that count, without checks."""
        return [answer for answer in self.answers if not answer.question.is_check]

    @property
    def checks(self) -> list[Answer]:
        """The answers to attention checks."""
        return [answer for answer in self.answers if answer.question.is_check]


def read_answers(files: Sequence[str | Path], key: StudyKey) -> list[AnswerFile]:
    """Read the answer files of a study. Unfinished files count as far as they go.

    Args:
        files (`Sequence[str | Path]`): One file per annotator. Keys and scores among them, as in `*.json`, are skipped.
        key ([`StudyKey`][clvq_hf.judging.people.StudyKey]): The key of the study.

    Returns:
        `list[AnswerFile]`: Sorted by annotator.

    Raises:
        ValueError: If a file is truncated, not an answer file of this study, contains impossible answers, or two files
            are from one annotator. The message names the file.
    """
    files = [file for file in files if format_of(file) not in (KEY_FORMAT, SCORES_FORMAT)]
    if not files:
        raise ValueError("There is no answer file to score: annotators download one at the end of the page.")
    by_annotator: dict[int, AnswerFile] = {}
    for file in files:
        content = _read_file(file, key)
        if (other := by_annotator.get(content.annotator)) is not None:
            raise ValueError(
                f"{other.file} and {file} are both from annotator {content.annotator}. Leave out the one with fewer "
                f"answers ({len(other.answers)} and {len(content.answers)}); if two people used this number, only one "
                "can count."
            )
        by_annotator[content.annotator] = content
    return [by_annotator[annotator] for annotator in sorted(by_annotator)]


def _read_file(file: str | Path, key: StudyKey) -> AnswerFile:
    content = read_study_file(file, ANSWERS_FORMAT, "an answer file, as annotators download it from a study's page")
    if content.get("study") != key.study:
        raise ValueError(f"{file} is from the study {content.get('study')!r}, but the key is for {key.study!r}.")
    annotator, rows = content.get("annotator"), content.get("answers")
    if type(annotator) is not int or annotator < 1 or not isinstance(rows, list):
        raise ValueError(f"{file} is damaged: its annotator is {annotator!r}, or it has no list of answers.")
    group = group_of(annotator, key.num_groups, key.raters)
    answers: dict[str, Answer] = {}
    for number, row in enumerate(rows, start=1):
        try:
            answer = _read_answer(row, group, key)
            if answer.question.id in answers:
                raise ValueError(f"the question {answer.question.id} is answered twice.")
        except ValueError as error:
            raise ValueError(f"{file}, answer {number}: {error}") from error
        answers[answer.question.id] = answer
    answer_file = AnswerFile(str(file), annotator, group, list(answers.values()), len(key.of_group(group)))
    if content.get("complete") is True and not answer_file.is_complete:
        raise ValueError(
            f"{file} claims to be complete but has {len(answers)} of {answer_file.num_questions} answers: it is "
            "damaged. Ask for it again."
        )
    return answer_file


def _read_answer(row: Any, group: int, key: StudyKey) -> Answer:
    if not isinstance(row, dict):
        raise ValueError(f"{row!r} is not an answer.")
    name, choice, seconds = (row.get(field) for field in ("item", "choice", "seconds"))
    question = key.by_id.get(name) if isinstance(name, str) else None
    if question is None:
        raise ValueError(f"the study has no question {name!r}.")
    if question.group != group:
        raise ValueError(
            f"the question {name} belongs to group {question.group + 1}, but this annotator's number to group "
            f"{group + 1}. Was the number changed?"
        )
    if choice not in key.label_names:
        raise ValueError(f"{choice!r} is not one of the labels {', '.join(key.label_names)}.")
    if type(seconds) not in (int, float) or not 0 <= seconds < MAX_SECONDS:
        raise ValueError(f"{seconds!r} is not a number of seconds.")
    return Answer(question, choice, float(seconds))


__all__ = ["ANSWERS_FORMAT", "Answer", "AnswerFile", "read_answers"]
