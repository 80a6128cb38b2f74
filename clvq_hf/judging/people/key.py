"""The key, which stays with the experimenter: what each question was about."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...checksums import read_metadata, write_metadata
from ...reading import read_json
from ...version import __version__
from ..exhibits import Kind

KEY_NAME = "key.json"
PAGE_NAME = "page.html"
KEY_FORMAT = "clvq-hf study key"
SCORES_FORMAT = "clvq-hf study scores"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class StudyQuestion:
    """A question for a group.

    Attributes:
        id (`str`): Its name on the page, which reveals nothing.
        group (`int`): The group that is asked.
        kind (`str`): Whether `"words"` or `"sentences"` are shown.
        answer (`str`): The correct label: the model's prediction, or the label that an attention check asks for.
        method (`str` or `None`): Method whose concept is shown; `None` for an attention check.
        text_id (`int` or `None`): The text; `None` for an attention check.
        code (`int` or `None`): The concept; `None` for an attention check.
        correct (`bool` or `None`): Whether the model is right; `None` if unknown.
        is_empty (`bool`): Whether there was nothing to show, since the concept occurs in no other text.
    """

    id: str
    group: int
    kind: Kind
    answer: str
    method: str | None = None
    text_id: int | None = None
    code: int | None = None
    correct: bool | None = None
    is_empty: bool = False

    @property
    def is_check(self) -> bool:
        """Whether it is an attention check."""
        return self.method is None


@dataclass(frozen=True)
class StudyKey:
    """The questions of a study with their answers.

    Attributes:
        study (`str`): Fingerprint of the content of the page.
        label_names (`list[str]`): The labels to choose from.
        methods (`list[str]`): Names of the methods.
        kinds (`list[str]`): How concepts are shown.
        raters (`int`): Number of annotators per group.
        show_text (`bool`): Whether the page shows the text too.
        questions (`list[StudyQuestion]`): The questions of all groups.
    """

    study: str
    label_names: list[str]
    methods: list[str]
    kinds: list[str]
    raters: int
    show_text: bool
    questions: list[StudyQuestion]

    @property
    def num_groups(self) -> int:
        """Number of groups, one per condition: methods times kinds."""
        return len(self.methods) * len(self.kinds)

    @cached_property
    def by_id(self) -> dict[str, StudyQuestion]:
        """The questions by their names on the page."""
        return {question.id: question for question in self.questions}

    @property
    def num_texts(self) -> int:
        """Number of texts that are asked about."""
        return len({question.text_id for question in self.questions if not question.is_check})

    def of_group(self, group: int) -> list[StudyQuestion]:
        """The questions for a group, checks included."""
        return [question for question in self.questions if question.group == group]

    def of_condition(self, method: str, kind: str) -> Iterator[StudyQuestion]:
        """The questions about a method in one kind, of all groups."""
        return (question for question in self.questions if (question.method, question.kind) == (method, kind))

    def save(self, file: Path) -> None:
        """Write the key as JSON, which nobody else on this machine can read: it has the answers."""
        about = {"format": KEY_FORMAT, "format_version": FORMAT_VERSION, "clvq_version": __version__}
        write_metadata(file, {**about, **asdict(self)}, mode=0o600)

    @classmethod
    def load(cls, file: str | Path) -> "StudyKey":
        """Read a key.

        Raises:
            ValueError: If the file does not exist, or is not a key.
        """
        content = read_study_file(
            file,
            KEY_FORMAT,
            "the key of a study, which `clvq-hf study build` writes beside its page; if it was one, delete it and "
            "build the study again with the same arguments",
        )
        try:
            questions = [StudyQuestion(**question) for question in content.pop("questions")]
            return cls(questions=questions, **{name: content[name] for name in cls.__annotations__ if name in content})
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged: {error}. Delete it, and build the study again with the same arguments."
            ) from error


def read_study_file(file: str | Path, wanted: str, what: str) -> dict[str, Any]:
    """Read a JSON file that names its format.

    Raises:
        ValueError: If it is missing, truncated, or has another format; the message names it.
    """
    try:
        content, _ = read_metadata(Path(file), "")
    except (OSError, ValueError) as error:
        raise ValueError(f"{error} {file} should be {what}.") from error
    if content.get("format") != wanted:
        raise ValueError(f"{file} is something else. It should be {what}.")
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format version {content.get('format_version')!r}, but this version of clvq_hf reads "
            f"{FORMAT_VERSION}. Install the one that wrote it: {content.get('clvq_version')}."
        )
    return content


def format_of(file: str | Path) -> str | None:
    """The format that a JSON file names; `None` if it names none or cannot be read."""
    try:
        return read_json(Path(file)).get("format")
    except (OSError, ValueError):
        return None


__all__ = [
    "FORMAT_VERSION",
    "KEY_FORMAT",
    "KEY_NAME",
    "PAGE_NAME",
    "SCORES_FORMAT",
    "StudyKey",
    "StudyQuestion",
    "format_of",
    "read_study_file",
]
