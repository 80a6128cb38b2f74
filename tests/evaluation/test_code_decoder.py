"""A decoder for the codes of any method: where it starts, what it learns, and what it does not read."""

import numpy as np
import pytest
import torch

from clvq_hf import ClusterConfig, ClusterModel
from clvq_hf.data.activation_cache import ActivationCache
from clvq_hf.evaluation.bottleneck import bottleneck_figures, splice_texts
from clvq_hf.evaluation.code_decoder import fit_code_decoder

pytestmark = pytest.mark.slow


def build(folder, host, tokenizer, texts, lower_layer=1):
    layers = {"lower_layer": lower_layer, "upper_layer": 3}
    return ActivationCache.build(folder / "cache", host, tokenizer, texts, max_length=24, **layers)


@pytest.fixture
def cache(host, tokenizer, texts, tmp_path):
    return ActivationCache.build(
        tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3, max_length=24
    )


@pytest.fixture
def model(host, cache):
    return ClusterModel(ClusterConfig.from_host(host, 1, 3, codebook_size=12)).fit(cache).eval()


def residual(decoder, model, cache, special: bool) -> float:
    """Mean squared error on all real tokens of the cache, or on the special ones alone."""
    errors = []
    for text in cache:
        states, mask = text["hidden_states"][None], torch.ones(1, len(text["token_mask"]), dtype=torch.bool)
        error = (decoder.reconstruct(states, mask)[0] - text["target_hidden_states"]).square().mean(-1)
        errors.append(error[~text["token_mask"].bool()] if special else error)
    return torch.cat(errors).mean().item()


def test_it_starts_at_the_mean_of_each_code(model, host, cache):
    decoder = fit_code_decoder(model, host, cache, num_steps=0)
    states = torch.cat([text["hidden_states"] for text in cache])
    targets = torch.cat([text["target_hidden_states"] for text in cache])
    codes = model.encode(states[None])[0]
    found = decoder.reconstruct(states[None, :7], torch.ones(1, 7))[0]
    for code, row in zip(codes[:7], found, strict=True):
        assert torch.allclose(row, targets[codes == code].mean(0), atol=1e-4)
    content = torch.cat([text["token_mask"] for text in cache]).bool()
    assert torch.allclose(decoder.upper_mean, targets[content].mean(0), atol=1e-4)


def test_it_learns_from_the_other_codes_of_the_text_and_for_special_tokens_too(model, host, cache):
    # The target of every token is the mean over its text of something that each code has.
    vectors = torch.randn(12, 32, generator=torch.Generator().manual_seed(0)) * 5
    targets = []
    for text in cache:
        codes = model.encode(text["hidden_states"][None])[0]
        targets.append(vectors[codes].mean(0).expand(len(codes), -1))
    cache._shards = [{**cache._shards[0], "target_hidden_states": torch.cat(targets)}]
    before = fit_code_decoder(model, host, cache, num_steps=0)
    after = fit_code_decoder(model, host, cache, num_steps=60)
    for special in (False, True):
        assert residual(after, model, cache, special) < 0.9 * residual(before, model, cache, special)


def test_it_reads_codes_alone_and_the_whole_text_up_to_padding(model, host, cache):
    decoder = fit_code_decoder(model, host, cache, num_steps=10)
    states, mask = cache[0]["hidden_states"][None], torch.ones(1, len(cache[0]["token_mask"]))
    codes = model.encode(states, mask)
    other = torch.randn_like(states)
    assert torch.equal(decoder.reconstruct(states, mask), decoder.reconstruct(other, mask, codes=codes))
    padded = decoder(torch.cat([codes, torch.full((1, 3), -1)], dim=1))
    assert torch.allclose(padded[:, : codes.shape[1]], decoder(codes), atol=1e-5)
    changed = codes.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 12
    assert not torch.allclose(decoder(changed)[0, 0], decoder(codes)[0, 0], atol=1e-6), "a token hears of the others"


def test_a_causal_host_has_a_causal_decoder(causal_host, tokenizer, texts, tmp_path):
    cache = ActivationCache.build(
        tmp_path / "c", causal_host, tokenizer, texts, lower_layer=1, upper_layer=3, max_length=24
    )
    model = ClusterModel(ClusterConfig.from_host(causal_host, 1, 3, codebook_size=12)).fit(cache).eval()
    decoder = fit_code_decoder(model, causal_host, cache, num_steps=10)
    codes = model.encode(cache[0]["hidden_states"][None])
    changed = codes.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 12
    assert torch.allclose(decoder(changed)[0, :-1], decoder(codes)[0, :-1], atol=1e-6)


def test_the_same_seed_gives_the_same_and_leaves_random_numbers_alone(model, host, cache):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (fit_code_decoder(model, host, cache, num_steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    weights = [decoder.decoder.head.weight for decoder in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_cache_of_another_layer_is_refused(model, host, tokenizer, texts, tmp_path):
    other = ActivationCache.build(
        tmp_path / "other", host, tokenizer, texts, lower_layer=2, upper_layer=3, max_length=24
    )
    with pytest.raises(ValueError, match="lower_layer is 1 in the model, and 2 in the activation cache"):
        fit_code_decoder(model, host, other)


def test_spliced_at_the_upper_layer_of_the_cache(host, tokenizer, texts, cache):
    with torch.no_grad():
        host.classifier.weight *= 20
    single = ClusterModel(ClusterConfig.from_host(host, 1, 1, codebook_size=12)).fit(cache.single_layer()).eval()
    both = ClusterModel(ClusterConfig.from_host(host, 1, 3, codebook_size=12)).fit(cache).eval()
    outcomes = []
    for model in (single, both):
        table = model.concept_table(host, tokenizer, texts.select(range(8)), max_length=24)
        decoder = fit_code_decoder(model, host, cache, num_steps=3)
        assert decoder.upper_layer == 3
        options = {"upper_mean": decoder.upper_mean, "decoder": decoder}
        outcomes.append(splice_texts(model, host, tokenizer, table, **options))
    # The same centroids, so the same codes: what layer a method itself reconstructs makes no difference.
    for name in ("kl_splice", "kl_mean", "residual", "variance"):
        assert np.allclose(outcomes[0][name][:], outcomes[1][name][:], rtol=1e-4)
    assert 0 < bottleneck_figures(outcomes[0])["explained_variance"] < 1
