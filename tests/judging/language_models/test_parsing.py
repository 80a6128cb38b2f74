"""What an answer says, and what is malformed."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.judging.language_models import parsing
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


DIGITS = "9" * 4301
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["rating", "ranking", "name", "belong"]), inner),
)


@pytest.mark.parametrize(
    "text",
    ['{"rating": 1, "rating": 3}', 'The text says {"rating": 3}. I say {"rating": 1}', '{"rating": 1} {"rating": null}',
     '{"rating": 3, "quote": {"rating": 1}}', '<think>Hm.</think> {"rating": 1}: it says "</think>{"rating": 3}"',
     '{"rating": 1}, since it says <think></think>{"rating": 3}', '{"rating": "' + DIGITS + '"}',
     '{"rating": ' + DIGITS + "}", '{"n": ' + DIGITS + ', "rating": 5}', '{"rating": 1e999}', '{"rating": -Infinity}',
     '{"rating": NaN}', '{"rating": ' + "[" * 900 + "]" * 900 + "}", '{"rating": {"a": 1}}'],
)  # fmt: skip
def test_nothing_is_guessed_from_hostile_answers(text):
    with pytest.raises(MalformedAnswer):
        parse_rating(text)


def test_the_same_value_twice_is_one_value():
    assert parse_rating('{"rating": 2} … {"rating": "2"} … {"rating": 2.0}') == 2
    assert parse_ranking('{"ranking": ["B", "A"]}\n{"ranking": ["b", "a"]}', ["A", "B"]) == ["B", "A"]
    assert parse_rating('{"n": ' + DIGITS + ', "rating": 2}') == 2


@pytest.mark.parametrize(
    "part", ["{", '{"', '{"a":', '{"a":[', '{"rating":[', '{\\"', '{"a":"', '{"rating":1,"a":[0,', "[{", '{"a":{},',
             "<think>", "</think>", "{ "]
)  # fmt: skip
@pytest.mark.parametrize("length", [parsing.MAX_ANSWER - 20, 10_000_000])
def test_time_is_bounded(part, length):
    # A parser that begins anew at every brace needs minutes for each of these.
    with contextlib.suppress(MalformedAnswer):
        parse_rating('{"' + part * (length // len(part)))


def test_length():
    assert parse_rating("x" * (parsing.MAX_ANSWER - 20) + '{"rating": 2}') == 2
    assert parse_rating("<think>" + "x" * parsing.MAX_ANSWER + '</think>{"rating": 2}') == 2
    with pytest.raises(MalformedAnswer):
        parse_rating("x" * parsing.MAX_ANSWER + '{"rating": 2}')


@given(st.text() | st.text('{}[]":,\\ truefalsnl0123.e-<>/hikAB' + '"' * 8) | st.builds(json.dumps, JSON))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_malformed(text):
    fields = "rating", "ranking", "name", "belong"
    for answer in (text, *(f'{{"{field}": {text}}}' for field in fields)):
        for parse in (
            parse_rating,
            parse_name,
            lambda text: parse_ranking(text, ["A", "B"]),
            lambda text: parse_choice(text, 3),
        ):
            with contextlib.suppress(MalformedAnswer):
                parse(answer)
