import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import FNetConfig, FNetModel, GPT2Config, GPT2Model, T5Config, T5ForConditionalGeneration

from clvq_hf import ActivationCache
from clvq_hf.data.extraction import HiddenStateExtractor, StateCollator, attention_sinks, check_finite
from clvq_hf.data.tokenization import TextCollator, filter_by_occurrence, tokenize_texts
from clvq_hf.hosts import hooks
from clvq_hf.hosts.hooks import UnsupportedHostError


@pytest.fixture
def cache(host, tokenizer, texts, tmp_path):
    return ActivationCache.build(
        tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3, texts_per_shard=25, batch_size=8
    )


class TestExtractor:
    def test_equals_output_hidden_states(self, host, tokenizer, texts):
        batch = TextCollator(tokenizer)(list(tokenize_texts(texts, tokenizer).select(range(6))))
        host.train()
        host.bert.encoder.layer[2].eval()
        states = HiddenStateExtractor(host, 1, 3)(batch)
        assert host.training and not host.bert.encoder.layer[2].training, "evaluation mode is for the extraction alone"
        host.eval()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        expected = host(**inputs, output_hidden_states=True).hidden_states
        assert torch.equal(states["hidden_states"], expected[1])
        assert torch.equal(states["target_hidden_states"], expected[3])
        assert not states["hidden_states"].requires_grad

    def test_leaves_out_what_the_host_does_not_take(self, causal_host, tokenizer, texts):
        batch = TextCollator(tokenizer)(list(tokenize_texts(texts, tokenizer).select(range(2))))
        given = []
        causal_host.register_forward_pre_hook(lambda host, args, kwargs: given.append(set(kwargs)), with_kwargs=True)
        HiddenStateExtractor(causal_host, 0, 4)(batch)
        assert "token_type_ids" in batch
        assert given[-1] == {"input_ids", "attention_mask", "use_cache"}

    def test_padding_does_not_reach_the_states_of_hosts_with_absolute_positions(self, tokenizer, texts):
        # GPT-2 numbers positions from the left; a tokenizer of a decoder pads there.
        torch.manual_seed(0)
        host = GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=4, n_positions=128)).eval()
        tokenizer.padding_side = "left"
        batch = TextCollator(tokenizer)(list(tokenize_texts(texts, tokenizer).select(range(8))))
        states = HiddenStateExtractor(host, 0, 2)(batch)
        for row in range(8):
            alone = host(**tokenizer(texts[row]["text"], return_tensors="pt"), output_hidden_states=True).hidden_states
            real = states["hidden_states"][row][batch["attention_mask"][row].bool()]
            assert torch.allclose(real, alone[0][0], atol=1e-6)

    def test_a_host_whose_states_would_depend_on_the_padding_is_refused(self, tokenizer):
        fnet = FNetModel(FNetConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, intermediate_size=16))
        with pytest.raises(UnsupportedHostError, match="accepts no attention_mask"):
            HiddenStateExtractor(fnet, 0, 2)

    @pytest.mark.parametrize("stack", ["encoder", "decoder"])
    def test_encoder_decoder_hosts(self, tokenizer, texts, stack):
        config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
        batch = TextCollator(tokenizer)(list(tokenize_texts(texts, tokenizer).select(range(3))))
        states = HiddenStateExtractor(T5ForConditionalGeneration(config), 0, 2, stack)(batch)
        assert states["target_hidden_states"].shape == (*batch["input_ids"].shape, 16)

    def test_nan_names_the_batch_and_the_texts(self, host, tokenizer, texts):
        batch = TextCollator(tokenizer)(list(tokenize_texts(texts, tokenizer).select([4, 7, 9])))
        states = HiddenStateExtractor(host, 1, 3)(batch)
        states["hidden_states"][batch["attention_mask"] == 0] = float("nan")
        check_finite(states, "batch 3")
        states["target_hidden_states"][1, 2, 5] = float("inf")
        with pytest.raises(ValueError, match=r"target_hidden_states of batch 3, .* indices \[7\]"):
            check_finite(states, "batch 3")


class TestCache:
    def test_holds_the_states_of_the_host(self, cache, host, tokenizer, texts):
        assert len(cache) == len(texts)
        for index in (0, 24, 25, 59):
            encoded = tokenizer(texts[index]["text"], return_tensors="pt")
            expected = host(**encoded, output_hidden_states=True).hidden_states
            item = cache[index]
            assert torch.allclose(item["hidden_states"], expected[1][0], atol=1e-5)
            assert torch.allclose(item["target_hidden_states"], expected[3][0], atol=1e-5)
            assert item["text_index"] == index
            assert item["token_mask"].tolist() == [0, *[1] * (len(item["token_mask"]) - 2), 0]

    def test_lengths_and_counts(self, cache, tokenizer, texts):
        lengths = [len(ids) for ids in tokenizer(texts["text"][:])["input_ids"]]
        assert cache.lengths.tolist() == lengths
        assert cache.num_counted.tolist() == [length - 2 for length in lengths]

    def test_is_sharded_and_opened_again(self, cache):
        assert len(list(cache.path.glob("*.safetensors"))) == 3
        again = ActivationCache.load(cache.path)
        assert torch.equal(again[30]["hidden_states"], cache[30]["hidden_states"])
        assert again.metadata["hidden_size"] == 32

    def test_stores_no_padding(self, cache):
        tokens = sum(len(load_file(path)["hidden_states"]) for path in cache.path.glob("*.safetensors"))
        assert tokens == cache.lengths.sum()

    def test_out_of_range(self, cache):
        with pytest.raises(IndexError):
            cache[60]
        with pytest.raises(IndexError):
            cache[-1]

    def test_skips_empty_texts_and_keeps_indices(self, host, tokenizer, tmp_path):
        dataset = Dataset.from_dict({"text": ["good", "", "bad film"]})
        cache = ActivationCache.build(tmp_path, host, tokenizer, dataset, lower_layer=1, upper_layer=3)
        assert [int(cache[index]["text_index"]) for index in range(len(cache))] == [0, 2]

    def test_an_interrupted_one_is_not_opened(self, cache):
        (cache.path / "activations.json").unlink()
        with pytest.raises(ValueError, match="no complete activation cache"):
            ActivationCache.load(cache.path)

    def test_replaces_its_like_and_nothing_else(self, cache, host, tokenizer, texts, tmp_path):
        build = {"lower_layer": 0, "upper_layer": 2}
        rebuilt = ActivationCache.build(cache.path, host, tokenizer, texts.select(range(5)), **build)
        assert len(rebuilt) == 5 and rebuilt.metadata["lower_layer"] == 0
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("precious")
        with pytest.raises(ValueError, match="no activation cache"):
            ActivationCache.build(tmp_path / "mine", host, tokenizer, texts, **build)
        assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"upper_layer": 9}, "4 blocks"),
            ({"lower_layer": 3, "upper_layer": 1}, "swap"),
            ({"text_column": "body"}, "no column 'body'"),
        ],
    )
    def test_bad_input_costs_nothing_that_was_made(self, cache, host, tokenizer, texts, arguments, message):
        (cache.path / "notes.md").write_text("mine")
        before = sorted(cache.path.iterdir())
        with pytest.raises(ValueError, match=message):
            ActivationCache.build(
                cache.path, host, tokenizer, texts, **{"lower_layer": 1, "upper_layer": 3, **arguments}
            )
        assert sorted(cache.path.iterdir()) == before
        assert len(ActivationCache.load(cache.path)) == len(texts)

    def test_the_old_one_stays_until_the_new_one_is_whole(self, cache, host, tokenizer, texts):
        before = sorted(cache.path.iterdir())
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
        with pytest.raises(ValueError, match="NaN"):
            ActivationCache.build(cache.path, host, tokenizer, texts, lower_layer=1, upper_layer=3)
        assert sorted(cache.path.iterdir()) == before

    def test_travels_to_workers_as_its_path(self, cache, monkeypatch, tmp_path):
        monkeypatch.chdir(cache.path.parent)
        pickled = pickle.dumps(ActivationCache.load(cache.path.name))
        assert len(pickled) < 1000
        monkeypatch.chdir(tmp_path)
        assert torch.equal(pickle.loads(pickled)[3]["hidden_states"], cache[3]["hidden_states"])

    def test_nan_in_the_host_names_texts(self, host, tokenizer, texts, tmp_path):
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight[tokenizer(texts[11]["text"])["input_ids"][1]] = float("nan")
        with pytest.raises(ValueError, match=r"NaN or Inf in hidden_states of batch \d+, .*11"):
            ActivationCache.build(tmp_path, host, tokenizer, texts, lower_layer=1, upper_layer=3)


class TestTokenIds:
    def test_are_those_of_the_real_tokens(self, cache, tokenizer, texts):
        encoded = tokenizer(texts["text"][:])["input_ids"]
        assert torch.cat([shard["input_ids"] for shard in cache._shards]).tolist() == np.concatenate(encoded).tolist()
        inner = np.concatenate([ids[1:-1] for ids in encoded])
        assert cache.counted("input_ids").tolist() == inner.tolist()

    def test_counted_states_are_in_the_order_of_the_texts(self, cache):
        for name in ("hidden_states", "target_hidden_states"):
            expected = torch.cat([cache[index][name][1:-1] for index in range(len(cache))])
            assert torch.equal(cache.counted(name), expected)

    def test_an_older_cache_has_none(self, cache):
        path = cache.path / "shard-00001.safetensors"
        tensors = load_file(path)
        del tensors["input_ids"]
        save_file(tensors, path)
        with pytest.raises(ValueError, match="older version, without token ids"):
            ActivationCache.load(cache.path)


class TestViews:
    @pytest.mark.parametrize(("minimum", "maximum"), [(5, 20), (2, None), (None, 1), (3, 3)])
    def test_the_filter_is_that_of_the_texts(self, cache, tokenizer, texts, minimum, maximum):
        filtered = cache.filter_by_occurrence(minimum, maximum)
        rows = filter_by_occurrence(tokenize_texts(texts, tokenizer), minimum, maximum)
        for index in range(len(texts)):
            assert filtered[index]["token_mask"].tolist() == rows[index]["token_mask"]
        assert filtered.num_counted.tolist() == rows["num_counted"][:]
        # By hand, special tokens included in what is counted and left out of what counts.
        ids = np.concatenate(tokenizer(texts["text"][:])["input_ids"])
        occurrences = np.bincount(ids)[ids]
        wanted = (occurrences >= (minimum or 0)) & (occurrences <= (maximum or 10**9)) & (ids > 103)
        assert filtered.counted("input_ids").tolist() == ids[wanted].tolist()
        assert 0 < wanted.sum() < cache.num_counted.sum()

    def test_the_cache_and_its_files_stay_as_they_are(self, cache):
        before = {path.name: path.read_bytes() for path in cache.path.iterdir()}
        counted = cache.num_counted.tolist()
        filtered = cache.filter_by_occurrence(5, 20)
        assert filtered.num_counted.sum() < sum(counted)
        assert cache.num_counted.tolist() == ActivationCache.load(cache.path).num_counted.tolist() == counted
        assert {path.name: path.read_bytes() for path in cache.path.iterdir()} == before
        assert torch.equal(filtered[7]["hidden_states"], cache[7]["hidden_states"])
        assert cache.filter_by_occurrence(None, None) is cache

    def test_filters_add_up(self, cache):
        both = cache.filter_by_occurrence(2, None).filter_by_occurrence(None, 5)
        assert both.counted("input_ids").tolist() == cache.filter_by_occurrence(2, 5).counted("input_ids").tolist()

    def test_a_single_layer(self, cache, make_config):
        single = cache.single_layer()
        for index in (0, 24, 25, 59):
            for name in ("hidden_states", "target_hidden_states"):
                assert torch.equal(single[index][name], cache[index]["hidden_states"])
        single.check_layers(make_config(lower_layer=1, upper_layer=1))
        cache.check_layers(make_config(lower_layer=1, upper_layer=3))
        for other, config in ((single, make_config()), (cache, make_config(lower_layer=1, upper_layer=1))):
            with pytest.raises(ValueError, match=r"upper_layer=\d in the config, but \d in the activation cache"):
                other.check_layers(config)

    def test_travel_to_workers(self, cache):
        view = cache.filter_by_occurrence(5, 20).single_layer()
        pickled = pickle.dumps(view)
        assert len(pickled) < 1000
        again = pickle.loads(pickled)
        assert again.num_counted.tolist() == view.num_counted.tolist() != cache.num_counted.tolist()
        assert torch.equal(again[3]["target_hidden_states"], cache[3]["hidden_states"])
        assert again.metadata == view.metadata


class TestAttentionSinks:
    def test_are_more_than_ten_times_as_long_as_is_usual_in_their_text(self):
        # Median 3 (of 1, 2, 3, 31, 30): 31 is longer than 30. Padding, however long, is neither counted nor found.
        states = torch.tensor([[3.0, 31, 1, 30, 2, 900, 900], [0, 0, 1, 1, 1, 1, 10.1]])[..., None]
        mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]]).bool()
        expected = [[False, True, *[False] * 5], [*[False] * 6, True]]
        assert attention_sinks(states, mask).tolist() == expected
        assert attention_sinks(states.masked_fill(~mask[..., None], torch.nan), mask).tolist() == expected
        # Norms, not numbers: (3, 4) times 7 is 35, 30 times -1 is 30.
        states = torch.tensor([[[21.0, 28.0], [-30.0, 0.0], [0.0, 3.0]] + [[3.0, 0.0]] * 3])
        assert attention_sinks(states, torch.ones(1, 6).bool()).tolist() == [[True, *[False] * 5]]

    def test_a_text_of_padding_alone_has_none(self):
        assert not attention_sinks(torch.ones(2, 3, 4), torch.zeros(2, 3).bool()).any()

    def test_norms_that_half_precision_does_not_hold(self):
        states = torch.full((1, 5, 4096), 1.0, dtype=torch.float16)
        states[0, 2] = 60_000.0  # a norm of 3.8 million
        assert attention_sinks(states, torch.ones(1, 5).bool()).tolist() == [[False, False, True, False, False]]

    @given(st.integers(0, 10_000), st.floats(0.01, 1000))
    @settings(max_examples=30, deadline=None)
    def test_the_scale_of_a_host_is_of_no_concern(self, seed, scale):
        generator = torch.Generator().manual_seed(seed)
        states = torch.randn(3, 9, 8, generator=generator) * torch.rand(3, 9, 1, generator=generator) ** -2
        mask = torch.rand(3, 9, generator=generator) < 0.8
        found = attention_sinks(states, mask)
        assert torch.equal(attention_sinks(states * 2.0 ** round(np.log2(scale)), mask), found)
        assert not (found & ~mask).any() and (found.sum(-1) <= mask.sum(-1) / 2).all()

    @pytest.mark.parametrize("layer", [1, 3])
    def test_of_either_layer_do_not_count_streamed_or_from_a_cache(self, host, tokenizer, texts, tmp_path, layer):
        def grow(states):
            return torch.cat([states[:, :2], 100 * states[:, 2:3], states[:, 3:]], dim=1)

        with hooks.edit(host, layer, grow):
            cache = ActivationCache.build(
                tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3, batch_size=8
            )
            batch = TextCollator(tokenizer)(list(tokenize_texts(texts, tokenizer)))
            streamed = HiddenStateExtractor(host, 1, 3)(batch)
        for index, mask in enumerate(batch["attention_mask"].bool()):
            expected = [0, 1, 0, *[1] * (int(mask.sum()) - 4), 0]
            assert streamed["token_mask"][index][mask].tolist() == cache[index]["token_mask"].tolist() == expected
        assert torch.equal(streamed["attention_mask"], batch["attention_mask"]), "they are read all the same"
        assert streamed["token_mask"].dtype == batch["token_mask"].dtype
        assert cache.num_counted.sum() == batch["token_mask"].sum() - len(texts)
        assert cache.counted("hidden_states").norm(dim=-1).max() < 20


def test_collator_pads_and_masks(cache):
    rows = [cache[index] for index in (3, 40)]
    batch = StateCollator()(rows)
    lengths = [len(row["token_mask"]) for row in rows]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["hidden_states"].shape == (2, max(lengths), 32)
    for number, row in enumerate(rows):
        assert torch.equal(batch["hidden_states"][number, : lengths[number]], row["hidden_states"])
    assert np.array_equal(batch["text_index"], [3, 40])
