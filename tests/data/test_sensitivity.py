"""The sensitivity of the upper states, compared with Jacobians."""

import pytest
import torch

from clvq_hf.data import ActivationCache, TextCollator, tokenize_texts, upper_sensitivity
from clvq_hf.hosts import hooks


@pytest.fixture
def tokenized(tokenizer, texts):
    return tokenize_texts(texts.select(range(4)), tokenizer, "text", 32)


def exact(host, tokenizer, tokenized, lower, upper):
    """`E_t[Σ_s Jᵀ D⁻² J]` over the tokens that count, from the whole Jacobian of each text."""
    rows = [TextCollator(tokenizer)([row]) for row in tokenized.to_list()]

    def run(inputs, state=None):
        with hooks.edit(host, lower, lambda own: own if state is None else state):
            return hooks.run(host, inputs, [lower, upper])

    states, gram, count = [], torch.zeros(32, 32, dtype=torch.float64), 0
    inputs = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]
    with torch.no_grad():
        states = [run(each) for each in inputs]
    deviation = torch.cat([each[upper][0] for each in states]).double().std(0)
    for row, each, state in zip(rows, inputs, states, strict=True):
        jacobian = torch.func.jacrev(lambda x, each=each: run(each, x)[upper])(state[lower])[0, :, :, 0].double()
        scaled = jacobian / deviation[None, :, None, None]
        for token in row["token_mask"][0].nonzero().flatten():
            of_token = scaled[:, :, token].flatten(0, 1)
            gram += of_token.T @ of_token
            count += 1
    return gram / count


def test_is_the_mean_of_squared_jacobians(host, tokenizer, tokenized):
    host.eval()
    expected = exact(host, tokenizer, tokenized, 1, 3)
    found = upper_sensitivity(host, tokenizer, tokenized, 1, 3, num_draws=600).double()
    assert (found - expected).norm() < 0.1 * expected.norm()
    assert found.trace() == pytest.approx(float(expected.trace()), rel=0.05)


def test_of_a_layer_to_itself(host, tokenizer, tokenized):
    assert torch.equal(upper_sensitivity(host, tokenizer, tokenized, 2, 2), torch.eye(32))


def test_leaves_the_host_as_it_was(host, tokenizer, tokenized):
    host.train()
    before = [parameter.requires_grad for parameter in host.parameters()]
    upper_sensitivity(host, tokenizer, tokenized, 1, 3)
    assert host.training and [parameter.requires_grad for parameter in host.parameters()] == before
    assert all(parameter.grad is None for parameter in host.parameters())


def test_is_kept_in_a_cache(host, tokenizer, texts, tmp_path):
    cache = ActivationCache.build(tmp_path, host, tokenizer, texts, lower_layer=1, upper_layer=3)
    tokenized = tokenize_texts(texts, tokenizer, "text", hooks.max_length(host, tokenizer, None))
    torch.testing.assert_close(cache.sensitivity, upper_sensitivity(host, tokenizer, tokenized, 1, 3))
    assert torch.equal(cache.single_layer().sensitivity, torch.eye(32))
