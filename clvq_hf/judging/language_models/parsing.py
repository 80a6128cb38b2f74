"""Parsing of answers: one JSON object anywhere in the text. Everything else is malformed; nothing is guessed.

Answers may be hostile: a text that is judged may tell the judge what to write, and a server may write what it likes.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

RATINGS = (1, 2, 3)
# Maximum length of a name in characters; longer ones are descriptions.
MAX_NAME = 80


# Maximum length of an answer in characters, without thoughts. Errors of the JSON decoder take time for every character
# before them.
MAX_ANSWER = 100_000
OBJECT = re.compile(r'\{\s*"')

Value = TypeVar("Value")


class MalformedAnswer(Exception):
    """An answer does not have the form that was asked for."""


def parse_rating(text: str) -> int:
    """Read the rating of `{"rating": 2}`.

    Raises:
        MalformedAnswer: If there is none, or it is not 1, 2 or 3.
    """

    def read(rating: Any) -> int:
        # True is an int, and equal to 1.
        known = {str(number): number for number in RATINGS}
        number = known.get(rating.strip()) if isinstance(rating, str) else rating
        if type(number) not in (int, float) or number not in RATINGS:
            raise MalformedAnswer("The rating is none of 1, 2 and 3.")
        return int(number)

    return _field(text, "rating", read)


def parse_ranking(text: str, letters: Sequence[str]) -> list[str]:
    """Read the ranking of `{"ranking": ["B", "A"]}`, best first.

    Raises:
        MalformedAnswer: If there is none, or it does not name every letter once.
    """

    def read(ranking: Any) -> list[str]:
        if not isinstance(ranking, list) or not all(isinstance(letter, str) for letter in ranking):
            raise MalformedAnswer("The ranking is no list of letters.")
        ranking = [letter.strip().upper() for letter in ranking]
        if sorted(ranking) != sorted(letters):
            raise MalformedAnswer("The ranking does not name every letter once.")
        return ranking

    return _field(text, "ranking", read)


def parse_name(text: str) -> str:
    """Read the name of `{"name": "countries"}`, on one line.

    Raises:
        MalformedAnswer: If there is none, it is longer than 80 characters, or has neither letter nor digit.
    """

    def read(name: Any) -> str:
        name = name if isinstance(name, str) else ""
        name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        if len(name) > MAX_NAME or not any(character.isalnum() for character in name):
            raise MalformedAnswer("There is no name, or it is too long.")
        return name

    return _field(text, "name", read)


def parse_choice(text: str, number: int) -> list[int]:
    """Read the numbers of `{"belong": [1, 4]}`, each from 1 to `number`.

    Raises:
        MalformedAnswer: If there are none, or others.
    """

    def read(numbers: Any) -> list[int]:
        # Not isinstance: True is an int.
        if not isinstance(numbers, list) or not all(type(one) is int and 1 <= one <= number for one in numbers):
            raise MalformedAnswer(f"The choice is no list of numbers from 1 to {number}.")
        return sorted(set(numbers))

    return _field(text, "belong", read)


def _field(text: str, name: str, read: Callable[[Any], Value]) -> Value:
    """The field of the JSON objects in the text, anywhere and at any depth; all that have it must agree.

    If they do not, nobody knows which of them is the judge's: it may quote a text that told it what to answer. What a
    judge considers in its thoughts, which come first, does not count.
    """
    thoughts, *rest = text.split("</think>", 2)
    # A second end of thoughts is somebody's quotation.
    if len(rest) == 1 and thoughts.lstrip().startswith("<think>"):
        text = rest[0]
    if len(text) > MAX_ANSWER:
        raise MalformedAnswer(f"The answer has more than {MAX_ANSWER} characters.")
    values = [read(value) for value in _values(text, name)]
    if not values:
        raise MalformedAnswer(f"There is no JSON object with {name!r}.")
    if any(value != values[0] for value in values):
        raise MalformedAnswer(f"There are JSON objects with different {name!r}.")
    return values[0]


def _values(text: str, name: str) -> list[Any]:
    """What all JSON objects in the text have under a name; each character is decoded once."""
    values: list[Any] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values.extend(value for key, value in pairs if key == name)
        return dict(pairs)

    # Python refuses to read integers of more than 4,300 digits, and takes long for shorter ones.
    decoder = json.JSONDecoder(
        object_pairs_hook=collect, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits)
    )
    end = 0
    while start := OBJECT.search(text, end):
        try:
            _, end = decoder.raw_decode(text, start.start())
        except json.JSONDecodeError as error:
            # Inner objects before this place have been collected, and those that enclose it fail here too.
            end = max(error.pos, start.start() + 1)
        except RecursionError:
            raise MalformedAnswer("The JSON is nested too deeply.") from None
    return values


__all__ = ["MAX_NAME", "RATINGS", "MalformedAnswer", "parse_choice", "parse_name", "parse_ranking", "parse_rating"]
