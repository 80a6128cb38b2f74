"""Names that a language model gave to concepts, stored in a file next to the concept table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import write_whole
from ..reading import read_json

NAMES_FILE = "concept_names.json"
FORMAT_VERSION = 1
# Of names that nobody has checked, wherever they are shown.
BY_MODEL = "named by a model"
_KINDS = {
    "name": str,
    "judge": str,
    "prompt_version": int,
    "detector": str | None,
    "score": int | float | None,
    "trials": int,
}


@dataclass(frozen=True)
class ConceptName:
    """The name that a language model gave to a concept.

    Attributes:
        name (`str`): The name, on one line. Nobody has checked it, so show it together with its score.
        judge (`str`): The model that made it.
        prompt_version (`int`): Version of the prompt.
        detector (`str` or `None`): The model that tested it.
        score (`float` or `None`): Balanced accuracy of recognizing sentences with the concept from its name; chance is
            0.5. `None` if there was no sentence, or no valid answer.
        trials (`int`): Number of sentences.
    """

    name: str
    judge: str
    prompt_version: int
    detector: str | None = None
    score: float | None = None
    trials: int = 0


@dataclass(frozen=True)
class Called:
    """What a concept is called, and by whom.

    Attributes:
        name (`str`): The name. It is data: escape it.
        by (`str`): Who named it, in a few words. Show it wherever the name is shown.
        note (`str`): The same, and what is known of the quality of the name.
    """

    name: str
    by: str
    note: str

    @property
    def quoted(self) -> str:
        """The name in quotation marks; one that a model gave is marked, as nobody has checked it."""
        return f"“{self.name}”" + (f" ({BY_MODEL})" if self.by == BY_MODEL else "")


def read_names(folder: Path) -> dict[int, ConceptName]:
    """The names next to a concept table, by code; empty if there is no file.

    Raises:
        ValueError: If the file is damaged, or has another format.
    """
    file = folder / NAMES_FILE
    if not file.is_file():
        return {}
    content = read_json(file)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{file} has the format {content.get('format_version')!r}, not {FORMAT_VERSION}. Remove it.")
    try:
        names = {int(code): ConceptName(**fields) for code, fields in content["names"].items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}. Remove it, and name the concepts again.") from error
    for code, name in names.items():
        for field, kinds in _KINDS.items():
            value = getattr(name, field)
            # Booleans are integers in Python.
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(
                    f"{file} is damaged: {field} of concept {code} is {value!r}. Remove it, and name the concepts "
                    "again."
                )
    return names


def write_names(folder: Path, names: Mapping[int, ConceptName]) -> None:
    """Write `concept_names.json`; an earlier file is replaced once the new one is complete."""
    content = {
        "format_version": FORMAT_VERSION,
        "machine_made": True,
        "names": {str(code): asdict(names[code]) for code in sorted(names)},
    }
    write_whole(folder / NAMES_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def called_by_model(name: ConceptName) -> Called:
    """What a model calls a concept, with the score of the name."""
    if name.score is None:
        return Called(name.name, BY_MODEL, BY_MODEL)
    score = f"{name.score:.0%} of sentences are recognized from the name, chance 50%"
    return Called(name.name, BY_MODEL, f"{BY_MODEL}; {score}")


__all__ = ["BY_MODEL", "NAMES_FILE", "Called", "ConceptName", "called_by_model", "read_names", "write_names"]
