"""The logit lens: the host's own last steps, wherever its modules are."""

import pytest
import torch
from helpers.hook_hosts import count_hooks
from helpers.tiny_hosts import tiny_host

from clvq_hf.hosts import hooks, unembedding
from clvq_hf.hosts.unembedding import next_token_logits


# Tied embeddings, caps and scales of logits, projections after the norm, positions that the host inserts.
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "cohere", "opt", "falcon", "mamba", "gpt_neox"])
def test_states_of_the_last_layer_give_the_hosts_logits(kind, monkeypatch):
    monkeypatch.setattr(unembedding, "STATES_AT_ONCE", 3)
    host = tiny_host(kind, "AutoModelForCausalLM").train()
    ids = torch.arange(3, 10)[None]
    stream = hooks.residual_stream(host)
    with torch.no_grad(), hooks.evaluation_mode(host), hooks.capture(host, [stream.num_blocks]) as states:
        logits = host(input_ids=ids, use_cache=False).logits[0]
    found = next_token_logits(host, states[stream.num_blocks][0])
    torch.testing.assert_close(found, logits.float(), rtol=1e-4, atol=1e-5)
    assert host.training and count_hooks(host) == 0


def test_an_earlier_layer_skips_the_blocks_between(causal_host):
    states = torch.randn(2, 32)
    expected = causal_host.lm_head(causal_host.model.norm(states))
    torch.testing.assert_close(next_token_logits(causal_host, states), expected.detach())


def test_hosts_that_predict_no_tokens_are_refused(host):
    with pytest.raises(
        ValueError, match=r"BertForSequenceClassification does not predict tokens.*AutoModelForCausalLM"
    ):
        next_token_logits(host, torch.zeros(1, 32))
    with pytest.raises(ValueError, match="BertModel predicts neither"):
        next_token_logits(host.bert, torch.zeros(1, 32))


def test_states_of_another_width_are_refused(causal_host):
    with pytest.raises(ValueError, match=r"states must have the shape \(N, 32\).*got \(1, 31\)"):
        next_token_logits(causal_host, torch.zeros(1, 31))
