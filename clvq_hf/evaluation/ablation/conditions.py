"""What is removed from texts under each condition: one class per family, for the model and for the probe.

- a code: [`SalientCode`], [`OtherCode`];
- another text: [`OtherTextCode`];
- a direction: [`RandomDirection`], [`Subspace`];
- a reference from training texts: [`Subspace`], [`Erasure`];
- the words of a text: [`WordCeiling`], [`WordResidual`], [`WordRandom`].
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ...metrics.ablation_drop.conditions import CONDITIONS
from ...models.projections import orthonormal_rows, project
from .texts import OtherTexts, text_generator

Eraser = Callable[[torch.Tensor], torch.Tensor]
# Those that need mean states of words.
WORD_CONDITIONS = frozenset({"word_ceiling", "word_residual", "word_random"})


class ClassReferences(Protocol):
    """Mean state `(d,)`, orthonormal class directions `(C, d)` and LEACE, from training texts.

    The last two are `None` without labels.
    """

    mean: torch.Tensor
    class_basis: torch.Tensor | None
    eraser: Eraser | None


def check_conditions(names: Collection[str]) -> None:
    """Refuse unknown conditions, and a choice without the one that all others are compared with.

    Raises:
        ValueError: If a name is unknown, or `"salient"` is missing.
    """
    if unknown := sorted(set(names) - set(CONDITIONS)):
        raise ValueError(f"There is no condition {unknown[0]!r}; there are {', '.join(CONDITIONS)}.")
    if "salient" not in names:
        raise ValueError("Every condition is compared with 'salient', which conditions must name.")


@dataclass(frozen=True)
class Source:
    """One token of each text, whose concept can be removed from any text.

    Attributes:
        code (`np.ndarray` of shape `(N,)`): Code of the token.
        basis (`torch.Tensor` of shape `(N, k, d)`): Orthonormal rows that are projected out.
        centre (`torch.Tensor` of shape `(d,)` or `None`): Where they are projected out from, the model's
            `projection_centre`; zero if `None`.
        shift (`torch.Tensor` of shape `(N, d)` or `None`): `μ - e`, which is added instead if `how="swap"`.
    """

    code: np.ndarray
    basis: torch.Tensor
    centre: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    def remove(self, states: torch.Tensor, rows: np.ndarray, where: torch.Tensor) -> torch.Tensor:
        """States `(B, S, d)` without the concepts of the tokens `rows`, `(B,)`, at the positions `where`, `(B, S)`."""
        if self.shift is None:
            return project(states, self.basis[rows], where, self.centre)
        return states + self.shift[rows][:, None] * where[..., None]


@dataclass(frozen=True)
class TextBatch:
    """Texts from which something is removed.

    Attributes:
        rows (`np.ndarray` of shape `(B,)`): Their rows in the table's texts.
        text_id (`np.ndarray` of shape `(B,)`): Their ids, which seed the draws.
        states (`torch.Tensor` of shape `(B, S, d)`): Hidden states, float32, 0 on padding.
        where (`torch.Tensor` of shape `(B, S)`, bool): Positions at which concepts are removed.
        salient (`Source`): Salient tokens of all texts.
        without_salient (`torch.Tensor` of shape `(B, S, d)`): States without each text's salient concept.
    """

    rows: np.ndarray
    text_id: np.ndarray
    states: torch.Tensor
    where: torch.Tensor
    salient: Source
    without_salient: torch.Tensor

    @property
    def salient_code(self) -> np.ndarray:
        """`np.ndarray` of shape `(B,)`: code of each text's salient token."""
        return self.salient.code[self.rows]

    @property
    def salient_basis(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(B, k, d)`: what is removed with the salient tokens."""
        return self.salient.basis[self.rows]


@dataclass(frozen=True)
class Removal:
    """One draw of a condition for a batch.

    Attributes:
        draw (`int`): Number of the draw.
        states (`torch.Tensor` of shape `(B, S, d)`): The states after the removal.
        where (`torch.Tensor` of shape `(B, S)`, bool): Positions that are changed.
        code (`np.ndarray` of shape `(B,)`): The removed code, -1 if it is none.
        valid (`np.ndarray` of shape `(B,)`, bool): Texts that have this draw.
        matched (`np.ndarray` of shape `(B,)`, bool): Texts whose draw met the calipers.
    """

    draw: int
    states: torch.Tensor
    where: torch.Tensor
    code: np.ndarray
    valid: np.ndarray
    matched: np.ndarray


@dataclass(frozen=True)
class Candidate:
    """Another code of a text: its states `(S, d)` without the code, the changed positions `(S,)`, and the match."""

    states: torch.Tensor
    where: torch.Tensor
    code: int
    matched: bool


class Condition(Protocol):
    """What is removed under one condition."""

    name: str

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        """Yield the draws of this condition; a draw that no text has is left out."""


@dataclass(frozen=True)
class SalientCode:
    """The concept of each text's salient token."""

    name: str = "salient"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        yield _removal(batch, batch.without_salient, code=batch.salient_code)


@dataclass(frozen=True)
class OtherCode:
    """Other concepts of the same text; `find` lists them per text, in the order of the draws."""

    find: Callable[[TextBatch], list[list[Candidate]]]
    name: str = "other_code"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        candidates = self.find(batch)
        for draw in range(max(map(len, candidates))):
            drawn = [own[draw] if len(own) > draw else None for own in candidates]
            states, where = batch.states.clone(), torch.zeros_like(batch.where)
            for row, candidate in enumerate(drawn):
                if candidate is not None:
                    states[row], where[row] = candidate.states, candidate.where
            yield Removal(
                draw,
                states,
                where,
                code=np.asarray([-1 if candidate is None else candidate.code for candidate in drawn]),
                valid=np.asarray([candidate is not None for candidate in drawn]),
                matched=np.asarray([candidate is not None and candidate.matched for candidate in drawn]),
            )


@dataclass(frozen=True)
class OtherTextCode:
    """Concepts of tokens of other texts, which `texts` draws."""

    name: str
    source: Source
    texts: OtherTexts

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        for draw, chosen, valid in self.texts.draws(self.name, batch.rows):
            where = batch.where & torch.as_tensor(valid)[:, None]
            states = self.source.remove(batch.states, chosen, where)
            yield _removal(batch, states, draw, where=where, code=self.source.code[chosen], valid=valid)


@dataclass(frozen=True)
class RandomDirection:
    """Random directions, each token moved as far as the removal of the salient concept moves it."""

    num_draws: int
    seed: int
    name: str = "random_direction"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        norms = (batch.states - batch.without_salient).norm(dim=-1, keepdim=True)
        for draw in range(self.num_draws):
            directions = _random_directions(batch, self.seed, self.name, draw)
            yield _removal(batch, batch.states - norms * directions[:, None], draw)


@dataclass(frozen=True)
class Subspace:
    """A subspace that does not depend on the text, or what the salient concept is beyond it (`residual`).

    Attributes:
        basis (`torch.Tensor` of shape `(C, d)`): Orthonormal rows.
        centre (`torch.Tensor` of shape `(d,)` or `None`): Where it is projected out from; zero if `None`. The residual
            is projected out from where the salient concept is.
    """

    name: str
    basis: torch.Tensor
    centre: torch.Tensor | None = None
    residual: bool = False

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        if not self.residual:
            yield _removal(batch, project(batch.states, self.basis, batch.where, self.centre))
            return
        stacked = torch.cat([self.basis.expand(len(batch.rows), -1, -1), batch.salient_basis], dim=1)
        beyond = orthonormal_rows(stacked)[:, len(self.basis) :]
        states = project(batch.states, beyond, batch.where, batch.salient.centre)
        yield _removal(batch, states, code=batch.salient_code)


@dataclass(frozen=True)
class Erasure:
    """Everything from which a linear probe could predict the class."""

    eraser: Eraser
    name: str = "leace"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        erased = self.eraser(batch.states.double()).float()
        yield _removal(batch, torch.where(batch.where[..., None], erased, batch.states))


# Unit directions `(M, d)` of the words at the M changed positions of a batch, from where its salient concepts are
# directions from, and which of them are known, `(M,)`.
FindWords = Callable[[TextBatch], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class _KnownWords:
    """Where a batch's salient concept is removed from words whose mean state is known.

    Attributes:
        directions (`torch.Tensor` of shape `(M, d)`): Unit directions of these words.
        where (`torch.Tensor` of shape `(B, S)`, bool): The M positions.
        owners (`torch.Tensor` of shape `(M,)`): Their texts in the batch.
    """

    directions: torch.Tensor
    where: torch.Tensor
    owners: torch.Tensor

    @classmethod
    def of(cls, batch: TextBatch, find_words: FindWords) -> "_KnownWords":
        directions, known = find_words(batch)
        where = batch.where.clone()
        where[batch.where] = known
        return cls(directions[known], where, where.nonzero()[:, 0])

    def new_beyond(self, vectors: torch.Tensor) -> torch.Tensor:
        """What of vectors `(M, k, d)` is new beyond their word: orthonormal rows `(M, k, d)`."""
        return orthonormal_rows(torch.cat([self.directions[:, None], vectors], dim=1))[:, 1:]

    def removed(self, batch: TextBatch, basis: torch.Tensor) -> torch.Tensor:
        """States `(M, d)` at these positions without the rows of `basis`, `(M, k, d)`."""
        everywhere = torch.ones(len(self.owners), 1, dtype=torch.bool)
        return project(batch.states[self.where][:, None], basis, everywhere, batch.salient.centre)[:, 0]

    def removal(
        self, batch: TextBatch, states: torch.Tensor, draw: int = 0, code: np.ndarray | None = None
    ) -> Removal:
        """The removal that leaves the states `(M, d)`, of the texts with such a position."""
        changed = batch.states.clone()
        changed[self.where] = states
        return _removal(batch, changed, draw, where=self.where, code=code, valid=self.where.any(-1).numpy())


@dataclass(frozen=True)
class WordCeiling:
    """The mean state of each token's word. Words whose mean is not known stay, and texts without others are left out.

    Attributes:
        find_words (`FindWords`): Finds words' directions.
    """

    find_words: FindWords
    name: str = "word_ceiling"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        words = _KnownWords.of(batch, self.find_words)
        if len(words.owners):
            yield words.removal(batch, words.removed(batch, words.directions[:, None]))


@dataclass(frozen=True)
class WordResidual:
    """What the salient concept is beyond the mean state of each token's word; where, as for [`WordCeiling`]."""

    find_words: FindWords
    name: str = "word_residual"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        words = _KnownWords.of(batch, self.find_words)
        if len(words.owners):
            yield words.removal(batch, _without_residual(batch, words), code=batch.salient_code)


@dataclass(frozen=True)
class WordRandom:
    """Random directions beside the word's, each token moved as far as [`WordResidual`] moves it, at its positions."""

    find_words: FindWords
    num_draws: int
    seed: int
    name: str = "word_random"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        words = _KnownWords.of(batch, self.find_words)
        if len(words.owners) == 0:
            return
        states = batch.states[words.where]
        norms = (states - _without_residual(batch, words)).norm(dim=-1, keepdim=True)
        for draw in range(self.num_draws):
            directions = _random_directions(batch, self.seed, self.name, draw)
            beside = words.new_beyond(directions[words.owners][:, None])[:, 0]
            yield words.removal(batch, states - norms * beside, draw)


def _without_residual(batch: TextBatch, words: _KnownWords) -> torch.Tensor:
    return words.removed(batch, words.new_beyond(batch.salient_basis[words.owners]))


def _random_directions(batch: TextBatch, seed: int, name: str, draw: int) -> torch.Tensor:
    """One unit vector for each text, `(B, d)`."""
    width = batch.states.shape[-1]
    normal = [text_generator(seed, text, name, draw).normal(size=width) for text in batch.text_id]
    return F.normalize(torch.as_tensor(np.stack(normal), dtype=torch.float32), dim=-1)


def choose_conditions(
    names: Collection[str],
    *,
    find_other_codes: Callable[[TextBatch], list[list[Candidate]]],
    salient: Source,
    random: Source,
    other_texts: OtherTexts,
    mean: torch.Tensor,
    references: ClassReferences | None,
    find_words: FindWords | None = None,
    num_draws: int,
    seed: int,
) -> list[Condition]:
    """The conditions of these names, without those whose reference is missing.

    Args:
        names (`Collection[str]`): Of `CONDITIONS`.
        find_other_codes (`Callable`): Lists other codes per text of a batch.
        salient (`Source`): Salient tokens of all texts.
        random (`Source`): A random content token of each text.
        other_texts (`OtherTexts`): Draws other texts.
        mean (`torch.Tensor` of shape `(d,)`): Mean of the codebook.
        references (`ClassReferences`, *optional*): What was estimated on training texts.
        find_words (`FindWords`, *optional*): Gives the directions of the words in a batch, from the references.
        num_draws (`int`): Number of random directions.
        seed (`int`): Seed of the random directions.
    """
    conditions: list[Condition] = [
        SalientCode(),
        OtherCode(find_other_codes),
        OtherTextCode("other_text_same", salient, other_texts),
        OtherTextCode("other_text_opposite", salient, other_texts),
        RandomDirection(num_draws, seed),
        OtherTextCode("random_active_code", random, other_texts),
        Subspace("mean_direction", F.normalize(mean, dim=-1)[None]),
    ]
    if references is not None and references.class_basis is not None:
        conditions += [
            # They are differences from the mean state, which LEACE keeps too.
            Subspace("class_ceiling", references.class_basis, references.mean),
            Subspace("class_residual", references.class_basis, residual=True),
            Erasure(references.eraser),
        ]
    if find_words is not None:
        conditions += [WordCeiling(find_words), WordResidual(find_words), WordRandom(find_words, num_draws, seed)]
    return [condition for condition in conditions if condition.name in names]


def _removal(
    batch: TextBatch,
    states: torch.Tensor,
    draw: int = 0,
    *,
    where: torch.Tensor | None = None,
    code: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> Removal:
    """A removal at the batch's positions, of no code, that all texts have, unless something else is given."""
    everyone = np.ones(len(batch.rows), dtype=bool)
    return Removal(
        draw,
        states,
        batch.where if where is None else where,
        code=np.full(len(batch.rows), -1) if code is None else code,
        valid=everyone if valid is None else valid,
        matched=everyone,
    )


__all__ = [
    *("CONDITIONS", "WORD_CONDITIONS", "Candidate", "Removal", "Source", "TextBatch"),
    *("check_conditions", "choose_conditions"),
]
