"""Parsing of answers: one JSON object anywhere in the text. Everything else is malformed; nothing is guessed."""

import json
from collections.abc import Sequence
from typing import Any

RATINGS = (1, 2, 3)
# Maximum length of a name in characters; longer ones are descriptions.
MAX_NAME = 80


class MalformedAnswer(Exception):
    """An answer does not have the form that was asked for."""


def parse_rating(text: str) -> int:
    """Read the rating of `{"rating": 2}`.

    Raises:
        MalformedAnswer: If there is none, or it is not 1, 2 or 3.
    """
    rating = _field(text, "rating")
    if isinstance(rating, str) and rating.strip().isdecimal():
        rating = int(rating)
    if isinstance(rating, bool) or rating not in RATINGS:
        raise MalformedAnswer(f"The rating is {rating!r}.")
    return int(rating)


def parse_ranking(text: str, letters: Sequence[str]) -> list[str]:
    """Read the ranking of `{"ranking": ["B", "A"]}`, best first.

    Raises:
        MalformedAnswer: If there is none, or it does not name every letter once.
    """
    ranking = _field(text, "ranking")
    ranking = [str(letter).strip().upper() for letter in ranking] if isinstance(ranking, list) else ranking
    if not isinstance(ranking, list) or sorted(ranking) != sorted(letters):
        raise MalformedAnswer(f"The ranking is {ranking!r}.")
    return ranking


def parse_name(text: str) -> str:
    """Read the name of `{"name": "countries"}`, on one line.

    Raises:
        MalformedAnswer: If there is none, it is longer than 80 characters, or has neither letter nor digit.
    """
    name = _field(text, "name")
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split()) if isinstance(name, str) else ""
    if len(name) > MAX_NAME or not any(character.isalnum() for character in name):
        raise MalformedAnswer("There is no name, or it is too long.")
    return name


def parse_choice(text: str, number: int) -> list[int]:
    """Read the numbers of `{"belong": [1, 4]}`, each from 1 to `number`.

    Raises:
        MalformedAnswer: If there are none, or others.
    """
    numbers = _field(text, "belong")
    # Not isinstance: True is an int.
    if not isinstance(numbers, list) or not all(type(one) is int and 1 <= one <= number for one in numbers):
        raise MalformedAnswer(f"The choice is {numbers!r}.")
    return sorted(set(numbers))


def _field(text: str, name: str) -> Any:
    """The field in the last JSON object of the text that has it: some judges reason before they answer."""
    decoder, values = json.JSONDecoder(), []
    start = text.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, after = decoder.raw_decode(text, start)
            if name in value:
                values.append(value[name])
                end = after
        except (ValueError, RecursionError):
            pass
        start = text.find("{", end)
    if not values:
        raise MalformedAnswer(f"There is no JSON object with {name!r}.")
    return values[-1]


__all__ = ["MAX_NAME", "RATINGS", "MalformedAnswer", "parse_choice", "parse_name", "parse_ranking", "parse_rating"]
