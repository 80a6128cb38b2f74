"""Estimates, against what a step really keeps and what the machine says."""

import pytest
import torch

from clvq_hf.training.estimate import _activations, _count_saved, _free_in_cgroup


def saved_bytes(model, length):
    return _count_saved(model, length)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_of_any_length_follow_from_two(make_model, dropout):
    model = make_model(dropout=dropout)
    for length in (24, 70, 128):
        assert _activations(model, length) == pytest.approx(saved_bytes(model, length), rel=0.02)


def test_counting_changes_nothing(make_model):
    model = make_model().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    _count_saved(model, 8)
    assert torch.equal(torch.rand(1), expected) and not model.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert model.update_codebook() == 0 and torch.equal(before["quantizer.ema_counts"], model.quantizer.ema_counts)


def test_the_limit_of_a_container(tmp_path):
    assert _free_in_cgroup(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 50\n")
    assert _free_in_cgroup(tmp_path) == [350]
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_in_cgroup(tmp_path) == []
