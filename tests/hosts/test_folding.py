"""Edits in weights: exactly where the states are read by linear modules alone, or are nothing but embeddings."""

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from clvq_hf.hosts import hooks
from clvq_hf.hosts.folding import fold_into_embedding, fold_into_readers

BASIS = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(0)))[0].T.contiguous()
CENTRE = torch.randn(32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def inputs(tokenizer):
    batch = tokenizer(["a truly wonderful film", "dull"], padding=True, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def distilbert(vocabulary):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=vocabulary, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=3)
    return DistilBertForSequenceClassification(config).eval()


def projected(states):
    return states - (states - CENTRE) @ BASIS.T @ BASIS


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_what_reads_the_last_layer_absorbs_a_projection(kind, host, tokenizer, inputs):
    host = host if kind == "bert" else distilbert(len(tokenizer))
    last = hooks.residual_stream(host).num_blocks
    with torch.no_grad():
        for module in host.modules():
            if isinstance(module, torch.nn.Linear):
                module.bias.normal_()
        plain = host(**inputs).logits
        folded = fold_into_readers(host, inputs, last, BASIS, CENTRE)
        with hooks.edit(host, last, projected):
            hooked = host(**inputs).logits
        assert not torch.allclose(plain, hooked)
        torch.testing.assert_close(folded(**inputs).logits, hooked, atol=1e-5, rtol=1e-5)
        assert torch.equal(host(**inputs).logits, plain), "the host stays as it is"


def test_a_residual_connection_is_no_linear_module(host, inputs):
    """Blocks read their state twice: what the fold changes is not what the hook does, and the caller measures it."""
    with torch.no_grad():
        folded = fold_into_readers(host, inputs, 2, BASIS, CENTRE)
        with hooks.edit(host, 2, projected):
            hooked = host(**inputs).logits
        assert folded is not None and not torch.allclose(folded(**inputs).logits, hooked, atol=1e-5)


def test_without_a_bias_there_is_no_place_for_a_centre(causal_host, inputs):
    last = hooks.residual_stream(causal_host).num_blocks
    assert fold_into_readers(causal_host, inputs, last, BASIS, CENTRE) is None, "a norm reads the last layer"


@pytest.mark.parametrize("is_tied", [False, True])
def test_an_embedding_absorbs_any_edit_of_layer_0(is_tied, tokenizer, inputs):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        tie_word_embeddings=is_tied,
    )
    host = LlamaForCausalLM(config).eval()

    def change(states, mask=None):
        return torch.where(states[..., :1] > 0, states.flip(-1), states)

    folded = fold_into_embedding(host, inputs, change)
    with torch.no_grad():
        plain = host(**inputs).logits
        with hooks.edit(host, 0, change):
            hooked = host(**inputs).logits
        assert not torch.allclose(plain, hooked)
        torch.testing.assert_close(folded(**inputs).logits, hooked)
        assert torch.equal(host(**inputs).logits, plain)
    assert folded.config.tie_word_embeddings is False


def test_positions_in_layer_0_are_no_embedding_of_tokens(host, inputs):
    assert fold_into_embedding(host, inputs, lambda states, mask: states) is None
