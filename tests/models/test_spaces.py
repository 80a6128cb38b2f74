"""The metrics of the spaces, by hand and by what they must find."""

import pytest
import torch

from clvq_hf.models.spaces import AffineSpace, metric


def sample(num_tokens=2000, width=6, seed=0):
    return torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(seed))


def test_states_count_all_directions_alike():
    assert torch.equal(metric("states", sample()), torch.eye(6, dtype=torch.float64))


def test_functional_is_what_was_measured_on_the_host():
    sensitivity = torch.diag(torch.arange(6.0))
    assert torch.equal(metric("functional", sample(), sensitivity=sensitivity), sensitivity.double())


def test_predictive_is_the_metric_of_the_best_linear_estimate():
    states = sample()
    weight = torch.tensor([[2.0, 0, 0, 0, 0, 0], [0, 0, 1.0, -1.0, 0, 0]])
    targets = states @ weight.T + torch.tensor([5.0, -3.0])
    # In units of the targets' standard deviations, 2 and √2.
    scaled = weight.double() / targets.double().std(0)[:, None]
    found = metric("predictive", states, targets)
    torch.testing.assert_close(found, scaled.T @ scaled, atol=1e-3, rtol=1e-3)


def test_predictive_leaves_out_what_the_upper_layer_cannot_be_told_from():
    states = sample()
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(5))
    targets = torch.stack([states[:, 0], noise[:, 0]], dim=1)
    found = metric("predictive", states, targets)
    assert found[0, 0] == pytest.approx(1.0, abs=0.02)
    assert found.diagonal()[1:].max() < 0.02


def test_residual_is_what_the_word_does_not_tell():
    """Dimension 0 is the word's alone, 1 the context's alone, 2 half of each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, (20_000,), generator=generator)
    of_word, of_context = torch.randn(1000, 3, generator=generator)[ids], torch.randn(20_000, 3, generator=generator)
    half = 0.5**0.5
    states = torch.stack([of_word[:, 0], of_context[:, 1], half * (of_word[:, 2] + of_context[:, 2])], dim=1)
    found = metric("residual", states, input_ids=ids)
    assert found[0, 0] < 0.05
    assert found[1, 1] == pytest.approx(1.0, abs=0.1)
    # The best estimate of the context's part takes the share of the variance that is the context's.
    share = float(0.5 / states[:, 2].var())
    assert found[2, 2] == pytest.approx(share**2, abs=0.03)


def test_rare_types_have_no_mean_state():
    with pytest.raises(ValueError, match="No token type occurs 5 times in the sample of 40 tokens"):
        metric("residual", sample(40), input_ids=torch.arange(40) // 4)


@pytest.mark.parametrize(
    ("space", "missing"),
    [("functional", "sensitivity"), ("predictive", "target_hidden_states"), ("residual", "input_ids")],
)
def test_what_is_missing_is_named(space, missing):
    with pytest.raises(ValueError, match=f"The space '{space}' needs {missing}"):
        metric(space, sample())


class TestAffineSpace:
    def test_distances_are_those_of_the_metric(self):
        root = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
        space, states = AffineSpace(6), sample() + 10
        space.fit("functional", states, sensitivity=root.T @ root)
        mapped = space(states)
        first, second = states[:100], states[100:200]
        of_metric = ((first - second) @ root.T).square().sum(-1)
        of_space = (mapped[:100] - mapped[100:200]).square().sum(-1)
        torch.testing.assert_close(of_space / of_space.sum(), of_metric / of_metric.sum(), atol=1e-5, rtol=1e-3)

    def test_a_dimension_has_the_variance_one_and_the_sample_the_mean_zero(self):
        space, states = AffineSpace(6), 100 * sample() + 10
        space.fit("states", states)
        mapped = space(states)
        assert mapped.square().mean() == pytest.approx(1.0, abs=1e-4)
        assert mapped.mean(0).abs().max() < 1e-4
        torch.testing.assert_close(space.origin, states.mean(0))

    def test_the_same_state_everywhere(self):
        with pytest.raises(ValueError, match="All 40 states of the sample are the same"):
            AffineSpace(6).fit("states", torch.ones(40, 6))

    def test_stays_in_float32(self):
        space = AffineSpace(6).to(torch.bfloat16)
        assert space.weight.dtype == torch.float32 and space(sample().bfloat16()).dtype == torch.float32
