"""Bounds that a retest must keep, as small expressions: `accuracy<-0.01`, `brier[source=Reuters]>0.02`."""

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from .retest_figures import ALL, FIGURES
from .retest_run import EDIT, FOLDED

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_PATTERN = re.compile(r"\s*(\w+)\s*(?:\[(.+)\])?\s*(<=|>=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class FailIf:
    """A bound on the change of a figure by an edit, and by the folded model if there is one.

    Attributes:
        text (`str`): As it was written.
        figure, group (`str`): Which figure, of which texts.
        sign (`str`): One of `<`, `<=`, `>`, `>=`.
        bound (`float`): What the change is compared with.
    """

    text: str
    figure: str
    group: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `FIGURE<NUMBER`, or `FIGURE[TEXTS]<NUMBER` for a group or slice of the texts.

        Raises:
            ValueError: If it is no such expression, or there is no such figure.
        """
        found = _PATTERN.fullmatch(text)
        try:
            bound = float(found[4]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise ValueError(
                f"{text!r} is no condition. Write a figure, one of < <= > >=, and a number, such as "
                "fail_if=accuracy<-0.01 or fail_if=accuracy[with the concept]<0."
            )
        if found[1] not in FIGURES:
            raise ValueError(f"There is no figure {found[1]!r} in {text!r}; there are {', '.join(FIGURES)}.")
        return cls(text, found[1], (found[2] or ALL).strip(), found[3], bound)

    def check_group(self, groups: Sequence[str]) -> None:
        """Raise `ValueError` unless the group is one of these."""
        if self.group not in groups:
            known = ", ".join(map(repr, groups))  # some have commas
            raise ValueError(f"{self.text!r}: there is no group {self.group!r} of texts; there are {known}.")

    def failure(self, retest: Any) -> str | None:
        """What fails, in a sentence, or `None`.

        Raises:
            ValueError: If the retest has no such figure of such texts.
        """
        changes = {
            each.condition: each.change
            for each in retest.figures
            if (each.figure, each.group) == (self.figure, self.group) and each.condition in (EDIT, FOLDED)
        }
        if not changes:
            groups = dict.fromkeys(each.group for each in retest.figures if each.figure == self.figure)
            known = ", ".join(groups) or "no texts, because they have no labels or the host gives no probabilities"
            raise ValueError(f"{self.text!r}: {self.figure} was measured for {known}; not for {self.group!r}.")
        failed = [
            f"by {change:+.4f} ({condition})"
            for condition, change in changes.items()
            if _OPERATORS[self.sign](change, self.bound)
        ]
        if not failed:
            return None
        return (
            f"{self.figure} of {self.group} changed {', '.join(failed)}, and must not be {self.sign} {self.bound:g}."
        )


__all__ = ["FailIf"]
