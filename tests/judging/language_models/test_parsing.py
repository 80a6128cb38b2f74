"""What an answer says, and what is malformed."""

import pytest

from clvq_hf.judging.language_models.parsing import (
    MalformedAnswer,
    parse_choice,
    parse_name,
    parse_ranking,
    parse_rating,
)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ('{"rating": 2}', 2),
        ('Sure!\n```json\n{"rating": 3}\n```\nBecause…', 3),
        ('{"rating": "1"}', 1),
        ('{"rating": 2.0}', 2),
        ('<think>{"rating": 1}? No.</think> {"rating": 3}', 3),
        ('{ broken {"rating": 1}', 1),
        ('{"answer": {"rating": 2}}', 2),
        ('{"why": "a } in a text {", "rating": 2}', 2),
    ],
)
def test_ratings(text, rating):
    assert parse_rating(text) == rating


@pytest.mark.parametrize(
    "text",
    ["", "2", "I say 2.", '{"rating": 4}', '{"rating": 0}', '{"rating": 2.5}', '{"rating": true}', '{"rating": null}',
     '{"rating": N}', '{"rating": [2]}', '{"rating": 2', '["rating", 2]', '{"rate": 2}', '{"rating": "²"}', "{" * 5000,
     '{"rating": {"rating": []}}'],
)  # fmt: skip
def test_malformed_ratings(text):
    with pytest.raises(MalformedAnswer):
        parse_rating(text)


def test_rankings():
    assert parse_ranking('{"ranking": ["B", "a ", "C"]}', ["A", "B", "C"]) == ["B", "A", "C"]


@pytest.mark.parametrize(
    "ranking",
    ['["A", "B"]', '["A", "B", "B"]', '["A", "B", "D"]', '["A", "B", "C", "C"]', '"ABC"', "{}", "[best, worst]"],
)
def test_malformed_rankings(ranking):
    with pytest.raises(MalformedAnswer):
        parse_ranking(f'{{"ranking": {ranking}}}', ["A", "B", "C"])


def test_names():
    assert parse_name('{"name": " names\\nof\\tcountries\\u0000 "}') == "names of countries"
    for bad in ('""', '"…"', '"' + "x" * 81 + '"', "5", "null"):
        with pytest.raises(MalformedAnswer):
            parse_name(f'{{"name": {bad}}}')


def test_choices():
    assert parse_choice('{"belong": [4, 1, 4]}', 4) == [1, 4]
    assert parse_choice('{"belong": []}', 4) == []
    for bad in ("[0]", "[5]", "[1.5]", "[true]", '["1"]', "3"):
        with pytest.raises(MalformedAnswer):
            parse_choice(f'{{"belong": {bad}}}', 4)
