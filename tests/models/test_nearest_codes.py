import pytest
import torch

from clvq_hf.models import nearest_codes as module
from clvq_hf.models.nearest_codes import nearest_codes, nearness


def test_nearness_orders_like_the_distance():
    states, codebook = torch.randn(50, 6), torch.randn(9, 6)
    distances = torch.cdist(states.double(), codebook.double()).square()
    found = nearness(states, codebook).double()
    assert torch.allclose(found - found[:, :1], distances[:, :1] - distances, atol=1e-4)


def test_a_common_mean_drowns_no_difference():
    states, codebook = torch.randn(200, 6, dtype=torch.float64), torch.randn(30, 6, dtype=torch.float64)
    nearest = torch.cdist(states, codebook).argmin(1)
    assert torch.equal(nearest_codes((states + 500).float(), (codebook + 500).float()), nearest)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_blocks_change_nothing(monkeypatch, rows):
    states, codebook = torch.randn(4, 25, 6), torch.randn(9, 6)
    whole = nearest_codes(states, codebook), nearest_codes(states, codebook, lambda scores: scores.topk(3).indices)
    monkeypatch.setattr(module, "CPU_SCORES", rows * len(codebook))
    sizes = []

    def choose(scores):
        sizes.append(len(scores))
        return scores.topk(3).indices

    assert torch.equal(nearest_codes(states, codebook), whole[0])
    assert torch.equal(nearest_codes(states, codebook, choose), whole[1])
    assert whole[0].shape == (4, 25) and whole[1].shape == (4, 25, 3)
    assert max(sizes) == min(rows, 100) and sum(sizes) == 100


def test_a_single_state():
    state, codebook = torch.randn(6), torch.randn(9, 6)
    assert nearest_codes(state, codebook) == torch.cdist(state[None], codebook).argmin()
    assert nearest_codes(state, codebook, lambda scores: scores.topk(2).indices).shape == (2,)


def test_no_states_have_no_codes():
    assert nearest_codes(torch.zeros(2, 0, 6), torch.randn(9, 6)).shape == (2, 0)
