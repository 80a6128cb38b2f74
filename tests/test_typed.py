"""Values of other people's files against the types that are expected."""

import enum
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clvq_hf.typed import check_value


class Colour(enum.Enum):
    RED = "red"


KINDS = [int, float, bool, str, None, int | None, list[str], tuple[int, ...], dict[str, int], Mapping[str, Any], Colour,
         Literal["a", 2], str | tuple[str, ...], Any]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, int), (1, float), (1.5, float), (True, bool), ("a", str), (None, int | None), (2, int | None),
     ([1], list[int]), ((), tuple[int, ...]), ({"a": 1}, dict[str, int]), ({"a": "b"}, Mapping[str, Any]),
     ("red", Colour),
     (Colour.RED, Colour), (2, Literal["a", 2]), ({}, Any)],
)  # fmt: skip
def test_what_fits(value, kind):
    assert check_value(value, kind, "it") == value


def test_lists_become_the_tuples_that_are_asked_for():
    assert check_value([1, 2], tuple[int, ...], "it") == (1, 2)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [(True, int, "a whole number"), (1.0, int, "a whole number"), ("1", int, "a whole number"),
     (10**30, int, "a whole"),
     (True, float, "a number"), (float("nan"), float, "a number"), (float("inf"), float, "a number"),
     (10**400, float, "a number"), (1, bool, "true or false"), (1, str, "a text"), (None, str, "a text"),
     ("ab", tuple[str, ...], "a list of names, in quotes"), ([True], list[str], "a list of names"),
     ([1, "a"], list[int], "a list with a whole number"), ([], dict, "a mapping of fields"),
     ({"a": "b"}, dict[str, int], "a mapping of fields"), ("blue", Colour, "one of ..red"),
     (3, Literal["a", 2], "one of"),
     ("x", int | None, "a whole number or none"), (True, Literal["a", 1], "one of")],
)  # fmt: skip
def test_what_does_not_fit_is_named(value, kind, expected):
    with pytest.raises(ValueError, match=f"k of it must be {expected}.*; got "):
        check_value(value, kind, "k of it")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES, st.sampled_from(KINDS))
def test_any_value_fits_or_is_refused_in_short(value, kind):
    try:
        check_value(value, kind, "it")
    except ValueError as error:
        assert len(str(error)) < 400


def test_digits_that_python_does_not_write():
    with pytest.raises(ValueError, match="got a int"):
        check_value(10**5000, int, "it")


def test_numbers_of_numpy_become_those_of_python():
    assert check_value(np.float32(0.5), float, "x") == 0.5 and type(check_value(np.float32(0.5), float, "x")) is float
    assert type(check_value(np.int64(3), int, "x")) is int
    with pytest.raises(ValueError, match="x must be"):
        check_value(np.float32("nan"), float, "x")
