"""The human study: do people see from a concept what the model predicted? A page for annotators, and its scoring."""

from .answers import Answer, AnswerFile, read_answers
from .build import build_study
from .design import group_of, items_needed
from .key import StudyKey, StudyQuestion
from .scoring import score_study

__all__ = [
    "Answer",
    "AnswerFile",
    "StudyKey",
    "StudyQuestion",
    "build_study",
    "group_of",
    "items_needed",
    "read_answers",
    "score_study",
]
