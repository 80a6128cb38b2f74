"""Language models as judges of concepts, and as those who name them."""

from .answers import AnswerCache
from .judges import EndpointJudge, Judge, JudgeError, LocalJudge, Reply, open_judge
from .naming import NamingSettings, name_concepts
from .requests import Estimate, LimitReached
from .run import JudgingSettings, judge_tables, open_judges

__all__ = [
    "AnswerCache",
    "EndpointJudge",
    "Estimate",
    "Judge",
    "JudgeError",
    "JudgingSettings",
    "LimitReached",
    "LocalJudge",
    "NamingSettings",
    "Reply",
    "judge_tables",
    "name_concepts",
    "open_judge",
    "open_judges",
]
