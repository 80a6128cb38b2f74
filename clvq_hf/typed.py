"""Values that others wrote (settings in YAML, configs, metadata of tables), checked against expected types."""

import collections.abc
import dataclasses
import enum
import math
import numbers
import types
import typing
from typing import Any

# No setting is larger; what is comes from a damaged file.
MAX_INTEGER = 2**53
# More codes than any model has. A larger number in a file is a mistake, and memory is set aside for each.
MAX_CODES = 10_000_000


def check_value(value: Any, kind: Any, what: str) -> Any:
    """Check a value, and return it with lists as the tuples that `kind` asks for.

    Args:
        value: What a file holds.
        kind: Its type: a class, a union, `Literal`, `tuple[X, ...]`, `list[X]`, `dict[K, V]` or `Any`.
        what (`str`): What it is, for the message.

    Raises:
        ValueError: If it is of another type, a float that is not finite, or an integer beyond 2⁵³.
    """
    found = _matched(value, kind)
    if found is _NO_MATCH:
        raise ValueError(f"{what} must be {describe_type(kind)}; got {shortened(value)}.")
    return found


def describe_type(kind: Any) -> str:
    """What a type is called in a message: `a list of names`, `a whole number or none`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(describe_type(each) for each in arguments))
    if origin is typing.Literal:
        return f"one of {list(arguments)}"
    if origin in (tuple, list):
        if arguments[:1] == (str,):
            return "a list of names, in quotes where YAML reads them as something else"
        return f"a list with {describe_type(arguments[0])} in each place"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"one of {[each.value for each in kind]}"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none"}
    names |= {dict: "a mapping of fields", collections.abc.Mapping: "a mapping of fields", list: "a list"}
    return names.get(origin or kind, getattr(kind, "__name__", str(kind)))


def field_types(dataclass: type) -> dict[str, Any]:
    """Types of the fields of a dataclass by name; `Any` for those that only checkers of types know."""
    return {each.name: Any if isinstance(each.type, str) else each.type for each in dataclasses.fields(dataclass)}


_NO_MATCH = object()


def _matched(value: Any, kind: Any) -> Any:
    """The value in the form of its type, or `_NO_MATCH`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        matches = (_matched(value, each) for each in arguments)
        return next((found for found in matches if found is not _NO_MATCH), _NO_MATCH)
    if origin is typing.Literal:
        return value if any(type(value) is type(each) and value == each for each in arguments) else _NO_MATCH
    if kind is None or kind is type(None):
        return value if value is None else _NO_MATCH
    if kind is int:
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)  # those of NumPy, too
        return int(value) if is_whole and abs(value) <= MAX_INTEGER else _NO_MATCH
    if kind is float:
        if (whole := _matched(value, int)) is not _NO_MATCH:
            return whole
        is_number = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
        return float(value) if is_number and math.isfinite(value) else _NO_MATCH
    if (origin or kind) in (tuple, list):
        if not isinstance(value, list | tuple):
            return _NO_MATCH
        found = [_matched(each, arguments[0]) if arguments else each for each in value]
        return _NO_MATCH if any(each is _NO_MATCH for each in found) else (origin or kind)(found)
    if (origin or kind) in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            return _NO_MATCH
        inner = arguments[1] if arguments else Any
        found = {name: _matched(each, inner) for name, each in value.items()}
        return _NO_MATCH if any(each is _NO_MATCH for each in found.values()) else found
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value if value in [each.value for each in kind] or isinstance(value, kind) else _NO_MATCH
    if isinstance(kind, type):
        return value if type(value) is kind or (kind not in (str, bool) and isinstance(value, kind)) else _NO_MATCH
    return value  # a type that only Python knows


def shortened(value: Any) -> str:
    """The beginning of a value, as Python writes it, for messages."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits, or deeper, than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"


__all__ = ["MAX_CODES", "check_value", "describe_type", "field_types", "shortened"]
