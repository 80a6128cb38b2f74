"""What a host can answer, and how its rows of outputs become answers in words."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..hosts.readout import Readout, margins


@dataclass(frozen=True)
class Lead:
    """By how much rows `(N, C)` prefer one answer to another: both `(N,)`; -1 for a value of 0."""

    target: torch.Tensor
    other: torch.Tensor

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """`(N,)`."""
        zero = torch.zeros_like(rows[:, :1])
        chosen, other = (
            torch.cat([rows, zero], dim=1).gather(1, (number % (rows.shape[1] + 1)).to(rows.device)[:, None])[:, 0]
            for number in (self.target, self.other)
        )
        return chosen - other

    def select(self, places: torch.Tensor) -> "Lead":
        """Of some of the rows."""
        return Lead(self.target[places], self.other[places])


@dataclass(frozen=True)
class Answers:
    """The answers of a host, one per column of its rows `(N, C)`.

    Answers compete (classes, tokens), or each column is by itself: a label is given if its logit is above 0, and the
    output of a regression is a number.

    Attributes:
        kind (`str`): Kind of the host's [`Readout`][clvq_hf.hosts.readout.Readout].
        readout (`Readout`): Reads the rows. Of multi-label and regression heads those are all outputs.
        names (`tuple[str, ...]`): Of the columns; empty for vocabularies.
        decode (`Callable`): Text of a token.
    """

    kind: str
    readout: Readout
    names: tuple[str, ...]
    decode: Callable[[int], str]

    @classmethod
    def of(
        cls, host: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: int | str | None = None
    ) -> "Answers":
        """The answers of a host; of a language model with a text as `target`, whether it goes on so.

        Raises:
            ValueError: If the host answers nothing.
        """
        readout = Readout.default(host)
        if readout.kind == "next_token" and isinstance(target, str):
            if target == "all":
                raise ValueError('The host predicts tokens, which are too many for target="all".')
            readout = Readout.of(host, tokenizer, continuation=target)
        kind, names = readout.kind, readout.class_names
        if kind in ("multi_label", "regression"):
            readout = Readout("classification", class_names=readout.outputs)
            names = readout.class_names
        return cls(kind, readout, names, lambda number: tokenizer.decode([number]))

    @property
    def compete(self) -> bool:
        """`bool`: Whether only one of the answers can be given."""
        return self.kind not in ("multi_label", "regression")

    @property
    def is_number(self) -> bool:
        """`bool`: Whether the host answers with a number."""
        return self.kind == "regression"

    @property
    def unit(self) -> str:
        """`str`: Of leads."""
        return "units of the output" if self.is_number else "logits"

    def choose(self, target: int | str | None) -> list[int | None]:
        """The columns that `target` means; `None` for the one that the host prefers.

        Raises:
            ValueError: If there is no such answer.
        """
        if target is None or self.kind in ("continuation", "next_token"):
            if self.kind == "next_token" and target is not None:
                raise ValueError("This host predicts tokens: set target=… to a continuation of the text, or omit it.")
            return [None]
        if target == "all":
            return [*range(len(self.names))]
        if isinstance(target, str) and target in self.names:
            return [self.names.index(target)]
        if isinstance(target, str) and target.isdecimal():  # from the command line
            target = int(target)
        if isinstance(target, int) and 0 <= target < len(self.names):
            return [target]
        raise ValueError(f"There is no answer {target!r}; choose target=… among {', '.join(self.names)}, or all.")

    def prefer(self, rows: torch.Tensor) -> torch.Tensor:
        """`(N,)`: the column that is explained if none is asked for; of several numbers the first one."""
        return torch.zeros(len(rows), dtype=torch.int64) if self.is_number else self.readout.predict(rows)

    def lead(self, rows: torch.Tensor, target: torch.Tensor) -> Lead:
        """The lead of answers `(N,)` over the best other one of each row, or over 0."""
        if not self.compete:
            return Lead(target, torch.full_like(target, -1))
        return Lead(target, rows.scatter(1, target[:, None], -torch.inf).argmax(-1))

    def margins(self, rows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`(N,)`: the lead of answers `(N,)` over whatever is the best other one."""
        return margins(rows, target) if self.compete else Lead(target, torch.full_like(target, -1))(rows)

    def name(self, target: int) -> str:
        """What a column stands for."""
        return self.names[target] if self.names else self.decode(target)

    def predicted(self, row: torch.Tensor, target: int) -> str:
        """What the host answers, `row` `(C,)`: of columns that do not compete, about `target`."""
        if self.is_number:
            return f"{float(row[target]):.3g}"
        if self.kind == "multi_label":
            return self.name(target) if row[target] > 0 else f"not {self.name(target)}"
        return self.name(int(row.argmax()))

    def probability(self, row: torch.Tensor, target: int) -> float | None:
        """Of an answer."""
        if self.is_number:
            return None
        if self.kind == "multi_label":
            return float(row[target].sigmoid())
        return float(row.softmax(-1)[target])

    def flips(self, before: torch.Tensor, after: torch.Tensor, target: int) -> bool:
        """Whether the host answers something else; a number is never another answer."""
        return not self.is_number and self.predicted(before, target) != self.predicted(after, target)


__all__ = ["Answers", "Lead"]
