import numpy as np
import pytest
import torch
from datasets import Dataset

from clvq_hf import CLVQConfig, CLVQModel
from clvq_hf.hosts import hooks


@pytest.fixture
def model(causal_host, tokenizer, texts, fit):
    config = CLVQConfig.from_host(
        causal_host, 1, 3, codebook_size=8, num_decoder_layers=1, num_attention_heads=4, intermediate_size=48
    )
    return fit(CLVQModel(config), causal_host, tokenizer, texts)


@pytest.fixture
def tokens(model, causal_host, tokenizer, texts):
    """Codes `(N,)` and states `(N, d)` of the last layer of all tokens but special ones, text by text."""
    codes, states = [], []
    for text in texts["text"]:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad(), model.attach(causal_host) as tap, hooks.capture(causal_host, [4]) as last:
            causal_host(**inputs)
        codes.append(tap.codes[0, 1:-1])
        states.append(last[4][0, 1:-1])
    return torch.cat(codes), torch.cat(states)


def test_are_those_of_the_members_mean_beyond_the_mean_of_all(model, causal_host, tokenizer, texts, tokens):
    codes, states = tokens
    code = int(codes.bincount().argmax())
    lens = [causal_host.lm_head(causal_host.model.norm(s.mean(0))) for s in (states[codes == code], states)]
    likely = lens[0].argsort(descending=True)[:100]
    scores, order = (lens[0] - lens[1])[likely].detach().topk(5)
    ids = likely[order]
    assert not set(ids.tolist()) <= set((lens[0] - lens[1]).topk(5).indices.tolist())
    found = model.promoted_tokens(causal_host, tokenizer, texts, code, k=5, batch_size=7)
    assert list(found) == [code]
    assert [token for token, _ in found[code]] == [tokenizer.decode([token]) for token in ids.tolist()]
    np.testing.assert_allclose([score for _, score in found[code]], scores, rtol=1e-3)


def test_of_several_codes_and_of_one_without_tokens(model, causal_host, tokenizer, texts, tokens):
    codes = torch.unique(tokens[0])[:2].tolist()
    found = model.promoted_tokens(causal_host, tokenizer, texts, np.array(codes), k=3)
    assert list(found) == codes and all(len(promoted) == 3 for promoted in found.values())
    one = model.promoted_tokens(causal_host, tokenizer, texts, codes[1], k=3)
    assert one[codes[1]][0][0] == found[codes[1]][0][0]
    few = Dataset.from_dict({"text": ["film"]})
    unused = next(code for code in range(8) if code != int(tokens[0][0]))
    found = model.promoted_tokens(causal_host, tokenizer, few, range(8), k=3)
    assert sum(bool(promoted) for promoted in found.values()) == 1 and unused in found


def test_texts_of_a_table(model, causal_host, tokenizer, texts):
    table = model.concept_table(causal_host, tokenizer, texts.select(range(20)))
    code = int(table.active_codes[0])
    assert model.promoted_tokens(causal_host, tokenizer, table.texts, code)[code]


def test_wrong_codes_and_hosts_are_refused(model, host, causal_host, tokenizer, texts):
    with pytest.raises(ValueError, match="Codes run from 0 to 7, got 8"):
        model.promoted_tokens(causal_host, tokenizer, texts, [1, 8])
    with pytest.raises(ValueError, match="does not predict tokens"):
        model.promoted_tokens(host, tokenizer, texts, 1)
