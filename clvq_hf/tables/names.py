"""Names of concepts that a language model made up, in a file beside the concept table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import read_json, write_whole

NAMES_FILE = "concept_names.json"
FORMAT_VERSION = 1
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
    """What a language model calls a concept.

    Attributes:
        name (`str`): The name, on one line. Nobody has checked it: show the score beside it.
        judge (`str`): Who made it.
        prompt_version (`int`): Of what it was asked.
        detector (`str` or `None`): Who picked sentences by it.
        score (`float` or `None`): Balanced accuracy of picking, by the name alone, the sentences that have the concept
            from among others; 0.5 by chance, `None` if there was nothing to pick from or no valid answer.
        trials (`int`): Among how many sentences.
    """

    name: str
    judge: str
    prompt_version: int
    detector: str | None = None
    score: float | None = None
    trials: int = 0


def read_names(folder: Path) -> dict[int, ConceptName]:
    """The names beside a concept table, by code; none if nobody made any.

    Raises:
        ValueError: If the file is damaged, or of another version.
    """
    file = folder / NAMES_FILE
    if not file.is_file():
        return {}
    content = read_json(file)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} is of the format {content.get('format_version')!r}, not {FORMAT_VERSION}. Remove it."
        )
    try:
        names = {int(code): ConceptName(**fields) for code, fields in content["names"].items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}. Remove it, and name the concepts again.") from error
    for code, found in names.items():
        for field, kinds in _KINDS.items():
            value = getattr(found, field)
            # True and False are numbers to Python.
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(
                    f"{file} is damaged: {field} of concept {code} is {value!r}. Remove it, and name the concepts "
                    "again."
                )
    return names


def write_names(folder: Path, names: Mapping[int, ConceptName]) -> None:
    """Write `concept_names.json`; an earlier one is replaced when this one is whole."""
    content = {
        "format_version": FORMAT_VERSION,
        "machine_made": True,
        "names": {str(code): asdict(names[code]) for code in sorted(names)},
    }
    write_whole(folder / NAMES_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def name_note(name: ConceptName) -> str:
    """Where a concept's name is from, and what it is worth: nobody has checked it."""
    if name.score is None:
        return "named by a model"
    return f"named by a model; the name alone tells {name.score:.0%} of sentences right, chance 50%"


__all__ = ["NAMES_FILE", "ConceptName", "name_note", "read_names", "write_names"]
