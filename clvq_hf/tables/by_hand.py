"""What people decided about concepts: names, merges, groups, and which are not listed. A file in the table's folder."""

import datetime
import getpass
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from ..files import write_whole
from ..reading import read_json

BY_HAND_FILE = "concepts_by_hand.json"
FORMAT_VERSION = 1
KINDS = ("rename", "merge", "group", "hide")
MAX_NAME = 100


@dataclass(frozen=True)
class Decision:
    """What somebody decided about some concepts.

    Attributes:
        kind (`str`): `"rename"`, `"merge"`, `"group"` or `"hide"`.
        codes (`tuple[int, ...]`): The concepts, in ascending order.
        name (`str` or `None`): The name of the concept, or of the group.
        author (`str`): Who decided.
        date (`str`): When, as `YYYY-MM-DD`.
    """

    kind: str
    codes: tuple[int, ...]
    name: str | None
    author: str
    date: str


@dataclass(frozen=True)
class ByHand:
    """The decisions about the concepts of one codebook, and what follows from them.

    Codes never change: a merge only decides under which number concepts are shown, so it can be undone.

    Attributes:
        codebook_size (`int`): K.
        decisions (`tuple[Decision, ...]`): Those that hold, the latest last.
    """

    codebook_size: int
    decisions: tuple[Decision, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.decisions)

    @cached_property
    def shown_codes(self) -> np.ndarray:
        """Under which number each concept is shown, `(K,)` int64: the smallest of those that it is merged with."""
        shown = np.arange(self.codebook_size)
        for decision in self._of_kind("merge"):
            shown[list(decision.codes)] = decision.codes[0]
        return shown

    def members(self, code: int) -> tuple[int, ...]:
        """The concepts that are shown as one with this one, itself included, in ascending order.

        Raises:
            ValueError: If there is no such concept.
        """
        self._check(code)
        return tuple(np.flatnonzero(self.shown_codes == self.shown_codes[code]).tolist())

    @cached_property
    def names(self) -> dict[int, Decision]:
        """The decision that names a concept, by the number under which it is shown; the latest counts."""
        return self._by_shown_code("rename")

    @cached_property
    def groups(self) -> dict[int, str]:
        """The group of a concept, by the number under which it is shown."""
        return {code: str(decision.name) for code, decision in self._by_shown_code("group").items()}

    @cached_property
    def hidden(self) -> frozenset[int]:
        """The numbers under which concepts are shown that lists leave out."""
        return frozenset(self._by_shown_code("hide"))

    def decide(
        self,
        kind: str,
        codes: Iterable[int],
        name: str | None = None,
        *,
        undo: bool = False,
        author: str | None = None,
    ) -> "ByHand":
        """With one more decision, which replaces earlier ones of its kind about the same concepts.

        Args:
            kind (`str`): `"rename"`, `"merge"`, `"group"` or `"hide"`.
            codes (`Iterable[int]`): The concepts.
            name (`str`, *optional*): What a concept or a group is called.
            undo (`bool`): Whether earlier decisions of this kind about these concepts are only taken back.
            author (`str`, *optional*): Who decides. Default: the user of this machine.

        Raises:
            ValueError: If there is no such concept, the name cannot be shown, or nothing is left to merge or undo.
        """
        given = sorted(set(codes))
        for code in given:
            self._check(code)
        if not given:
            raise ValueError("Name at least one concept by its code.")
        # A merge is of all the concepts that are shown as one; everything else is said of the number that is shown.
        shown = self.shown_codes[given]
        concerned = np.flatnonzero(np.isin(self.shown_codes, shown)).tolist()
        kept = [each for each in (self._without(old, kind, concerned) for old in self.decisions) if each is not None]
        if undo:
            if kept == list(self.decisions):
                listed = ", ".join(map(str, given))
                raise ValueError(f"There is nothing to undo: nobody has decided to {kind} {listed}.")
            return replace(self, decisions=tuple(kept))
        if kind == "merge" and len(concerned) < 2:
            raise ValueError("A merge needs at least two concepts.")
        if kind in ("rename", "group"):
            name = check_name(name)
        decided = concerned if kind == "merge" else np.unique(shown).tolist()
        today = datetime.date.today().isoformat()
        decision = Decision(kind, tuple(decided), name, check_name(author or _user()), today)
        return replace(self, decisions=(*kept, decision))

    def _check(self, code: int) -> None:
        if not 0 <= code < self.codebook_size:
            raise ValueError(f"Codes run from 0 to {self.codebook_size - 1}, got {code}.")

    def _of_kind(self, kind: str) -> list[Decision]:
        return [decision for decision in self.decisions if decision.kind == kind]

    def _by_shown_code(self, kind: str) -> dict[int, Decision]:
        return {
            int(code): decision for decision in self._of_kind(kind) for code in self.shown_codes[list(decision.codes)]
        }

    @staticmethod
    def _without(decision: Decision, kind: str, codes: Sequence[int]) -> Decision | None:
        """What is left of an earlier decision if these concepts get another one of its kind."""
        if decision.kind != kind or not set(decision.codes) & set(codes):
            return decision
        left = tuple(code for code in decision.codes if code not in codes)
        return replace(decision, codes=left) if left else None


def check_name(name: str | None) -> str:
    """A name without white space around it.

    Raises:
        ValueError: If it is empty, longer than 100 characters, or holds what cannot be shown on one line.
    """
    name = (name or "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"A name is one line of 1 to {MAX_NAME} characters that can be printed, got {name[:200]!r}.")
    return name


def read_by_hand(folder: Path, metadata: dict[str, Any]) -> ByHand:
    """The decisions beside a concept table; none if there is no file.

    Args:
        folder (`Path`): The table's folder.
        metadata (`dict`): The table's.

    Raises:
        ValueError: If the file is damaged, has another format, or is about the concepts of another model.
    """
    file = folder / BY_HAND_FILE
    size = metadata.get("codebook_size")
    nothing = ByHand(size if isinstance(size, int) else 0)
    if not file.is_file():
        return nothing
    remedy = "Put its backup in its place, or remove it and decide again."
    content = read_json(file)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{file} has the format {content.get('format_version')!r}, not {FORMAT_VERSION}. {remedy}")
    if content.get("model_fingerprint") != metadata.get("model_fingerprint"):
        raise ValueError(f"{file} is about the concepts of another model (the fingerprints differ). Remove it.")
    try:
        decisions = [_decision(fields, nothing.codebook_size) for fields in content["decisions"]]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}. {remedy}") from error
    merged = [code for decision in decisions if decision.kind == "merge" for code in decision.codes]
    if len(set(merged)) < len(merged):
        raise ValueError(f"{file} is damaged: a concept is merged twice. {remedy}")
    return replace(nothing, decisions=tuple(decisions))


def _decision(fields: Any, codebook_size: int) -> Decision:
    fields = dict(fields)
    codes = fields["codes"]
    # Booleans are integers in Python.
    if not isinstance(codes, list) or not codes or any(type(code) is not int for code in codes):
        raise ValueError(f"codes is {codes!r}")
    if sorted(set(codes)) != codes or codes[0] < 0 or codes[-1] >= codebook_size:
        raise ValueError(f"codes {codes} are not ascending numbers from 0 to {codebook_size - 1}")
    fields["codes"] = tuple(codes)
    decision = Decision(**fields)
    for name, kind in get_type_hints(Decision).items():
        value = getattr(decision, name)
        if name != "codes" and not isinstance(value, get_args(kind) or kind):
            raise ValueError(f"{name} is {value!r}")
    if decision.kind not in KINDS or (decision.kind == "merge" and len(codes) < 2):
        raise ValueError(f"{decision.kind!r} of {codes} is no decision")
    for text in (decision.author, *([decision.name] if decision.kind in ("rename", "group") else [])):
        check_name(text)
    datetime.date.fromisoformat(decision.date)
    return decision


def write_by_hand(folder: str | Path, by_hand: ByHand, model_fingerprint: str) -> None:
    """Write `concepts_by_hand.json`, or remove it if nothing is decided; an earlier file remains until then.

    Args:
        folder (`str` or `Path`): The table's folder.
        by_hand (`ByHand`): The decisions.
        model_fingerprint (`str`): Of the model whose concepts they are about, as in the table's metadata.
    """
    file = Path(folder) / BY_HAND_FILE
    if not by_hand:
        file.unlink(missing_ok=True)
        return
    content = {
        "format_version": FORMAT_VERSION,
        "model_fingerprint": model_fingerprint,
        "decisions": [asdict(decision) for decision in by_hand.decisions],
    }
    write_whole(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # of a container, whose users have no names
        raise ValueError("The user of this machine has no name: say with author=… who decides.") from error


__all__ = ["BY_HAND_FILE", "ByHand", "Decision", "check_name", "read_by_hand", "write_by_hand"]
