"""What is removed, on states of two or three dimensions that can be computed by hand."""

import numpy as np
import pytest
import torch

from clvq_hf.evaluation.ablation.conditions import (
    SalientCode,
    Source,
    Subspace,
    TextBatch,
    WordCeiling,
    WordRandom,
    WordResidual,
)
from clvq_hf.evaluation.ablation.words import WordMeans


def batch_of(states, code):
    """Texts of one direction each, which is removed everywhere."""
    states = torch.tensor(states)
    rows = np.arange(len(states))
    source = Source(rows + 7, torch.tensor(code).expand(len(states), 1, -1))
    where = torch.ones(states.shape[:2], dtype=torch.bool)
    return TextBatch(rows, rows + 100, states, where, source, source.remove(states, rows, where))


class TestCentre:
    """Direction (0.6, 0.8, 0) from (1, 1, 1): of (1, 2, 3), (0, 1, 2) from there, 0.8 is removed along it."""

    def batch(self):
        states, rows = torch.tensor([[[1.0, 2.0, 3.0]]]), np.arange(1)
        where = torch.ones(1, 1, dtype=torch.bool)
        source = Source(rows + 7, torch.tensor([[[0.6, 0.8, 0.0]]]), torch.ones(3))
        return TextBatch(rows, rows, states, where, source, source.remove(states, rows, where))

    def test_the_salient_concept(self):
        (salient,) = SalientCode().removals(self.batch())
        assert salient.states[0, 0].tolist() == pytest.approx([1 - 0.48, 2 - 0.64, 3])

    def test_residuals_are_removed_from_there_too(self):
        class_basis = torch.tensor([[1.0, 0.0, 0.0]])
        (residual,) = Subspace("class_residual", class_basis, residual=True).removals(self.batch())
        # What is left of the direction is the second axis, along which the state is 1 from the centre.
        assert residual.states[0, 0].tolist() == pytest.approx([1, 1, 3])
        known = torch.tensor([True])
        (residual,) = WordResidual(lambda batch: (class_basis, known)).removals(self.batch())
        assert residual.states[0, 0].tolist() == pytest.approx([1, 1, 3])

    def test_class_directions_are_differences_from_the_mean(self):
        (ceiling,) = Subspace("class_ceiling", torch.tensor([[0.0, 0, 1.0]]), torch.tensor([5.0, 5, 2])).removals(
            self.batch()
        )
        assert ceiling.states[0, 0].tolist() == pytest.approx([1, 2, 2])

    def test_directions_of_words(self):
        words = WordMeans(torch.tensor([4]), torch.tensor([[4.0, 5.0, 1.0]]), torch.tensor([10]), frozenset())
        directions, known = words.directions(torch.tensor([4, 5]), torch.ones(3))
        assert directions[0].tolist() == pytest.approx([0.6, 0.8, 0]) and known.tolist() == [True, False]


class TestWords:
    """Code (3, 4, 0) / 5; the word is the first axis, known for the first token of the first text alone."""

    BATCH = batch_of([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]], [[0.6, 0.8, 0.0]])

    @staticmethod
    def find_words(batch):
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(4, -1), torch.tensor([True, False, False, False])

    def check(self, removal, expected):
        assert removal.valid.tolist() == [True, False]
        assert removal.where.tolist() == [[True, False], [False, False]]
        unchanged = ~removal.where
        assert torch.equal(removal.states[unchanged], self.BATCH.states[unchanged])
        assert removal.states[0, 0].tolist() == pytest.approx(expected, abs=1e-6)

    def test_ceiling_and_residual(self):
        (ceiling,) = WordCeiling(self.find_words).removals(self.BATCH)
        self.check(ceiling, [0, 2, 3])
        # The code less its part along the first axis is the second axis.
        (residual,) = WordResidual(self.find_words).removals(self.BATCH)
        self.check(residual, [1, 0, 3])
        assert residual.code.tolist() == [7, 8]

    def test_random(self):
        draws = list(WordRandom(self.find_words, num_draws=3, seed=0).removals(self.BATCH))
        moved = [draw.states[0, 0] - self.BATCH.states[0, 0] for draw in draws]
        for draw, move in zip(draws, moved, strict=True):
            # The residual is 2 long; the first axis is the word's.
            assert move[0] == pytest.approx(0, abs=1e-6) and move.norm() == pytest.approx(2, abs=1e-5)
            self.check(draw, (self.BATCH.states[0, 0] + move).tolist())
        assert not torch.allclose(moved[0], moved[1])
        again = next(WordRandom(self.find_words, num_draws=1, seed=0).removals(self.BATCH))
        assert torch.equal(again.states, draws[0].states)

    def test_no_word_is_known(self):
        def none(batch):
            return torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool)

        for condition in (WordCeiling(none), WordResidual(none), WordRandom(none, 2, 0)):
            assert list(condition.removals(self.BATCH)) == []
