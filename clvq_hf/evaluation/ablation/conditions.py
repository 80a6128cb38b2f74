"""What is removed from texts under each condition: one class per family, for the model and for the probe.

- a code: [`SalientCode`], [`OtherCode`];
- another text: [`OtherTextCode`];
- a direction: [`RandomDirection`], [`Subspace`];
- a reference from training texts: [`Subspace`], [`Erasure`], [`WordDirections`].
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


class ClassReferences(Protocol):
    """Orthonormal class directions `(C, d)` and LEACE, from training texts; both `None` without labels."""

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
        shift (`torch.Tensor` of shape `(N, d)` or `None`): `μ - e`, which is added instead if `how="swap"`.
    """

    code: np.ndarray
    basis: torch.Tensor
    shift: torch.Tensor | None = None

    def remove(self, states: torch.Tensor, rows: np.ndarray, where: torch.Tensor) -> torch.Tensor:
        """States `(B, S, d)` without the concepts of the tokens `rows`, `(B,)`, at the positions `where`, `(B, S)`."""
        if self.shift is None:
            return project(states, self.basis[rows], where)
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
        width = batch.states.shape[-1]
        for draw in range(self.num_draws):
            normal = [text_generator(self.seed, text, self.name, draw).normal(size=width) for text in batch.text_id]
            directions = F.normalize(torch.as_tensor(np.stack(normal), dtype=torch.float32), dim=-1)
            yield _removal(batch, batch.states - norms * directions[:, None], draw)


@dataclass(frozen=True)
class Subspace:
    """A subspace that does not depend on the text, or what the salient concept is beyond it (`residual`).

    Attributes:
        basis (`torch.Tensor` of shape `(C, d)`): Orthonormal rows.
    """

    name: str
    basis: torch.Tensor
    residual: bool = False

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        if not self.residual:
            yield _removal(batch, project(batch.states, self.basis, batch.where))
            return
        stacked = torch.cat([self.basis.expand(len(batch.rows), -1, -1), batch.salient_basis], dim=1)
        beyond = orthonormal_rows(stacked)[:, len(self.basis) :]
        yield _removal(batch, project(batch.states, beyond, batch.where), code=batch.salient_code)


@dataclass(frozen=True)
class Erasure:
    """Everything from which a linear probe could predict the class."""

    eraser: Eraser
    name: str = "leace"

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        erased = self.eraser(batch.states.double()).float()
        yield _removal(batch, torch.where(batch.where[..., None], erased, batch.states))


@dataclass(frozen=True)
class WordDirections:
    """The mean state of each token's word, or what the salient concept is beyond it (`residual`).

    Attributes:
        directions (`Callable`): Unit directions `(M, d)` of the words at the M changed positions of a batch.
    """

    name: str
    directions: Callable[[TextBatch], torch.Tensor]
    residual: bool = False

    def removals(self, batch: TextBatch) -> Iterator[Removal]:
        owners = batch.where.nonzero()[:, 0].numpy()
        basis = self.directions(batch)[:, None]
        if self.residual:
            basis = orthonormal_rows(torch.cat([basis, batch.salient_basis[owners]], dim=1))[:, 1:]
        states = batch.states.clone()
        everywhere = torch.ones(len(owners), 1, dtype=torch.bool)
        states[batch.where] = project(states[batch.where][:, None], basis, everywhere)[:, 0]
        yield _removal(batch, states, code=batch.salient_code if self.residual else None)


def choose_conditions(
    names: Collection[str],
    *,
    find_other_codes: Callable[[TextBatch], list[list[Candidate]]],
    salient: Source,
    random: Source,
    other_texts: OtherTexts,
    mean: torch.Tensor,
    references: ClassReferences | None,
    word_directions: Callable[[TextBatch], torch.Tensor] | None = None,
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
        word_directions (`Callable`, *optional*): Gives the directions of the words in a batch, from the references.
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
            Subspace("class_ceiling", references.class_basis),
            Subspace("class_residual", references.class_basis, residual=True),
            Erasure(references.eraser),
        ]
    if references is not None and word_directions is not None:
        conditions += [
            WordDirections("word_ceiling", word_directions),
            WordDirections("word_residual", word_directions, residual=True),
        ]
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


__all__ = ["CONDITIONS", "Candidate", "Removal", "Source", "TextBatch", "check_conditions", "choose_conditions"]
