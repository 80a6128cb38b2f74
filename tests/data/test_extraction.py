"""The extracted states are the host's own, whatever the padding; attention sinks do not count; NaN is an error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import FNetConfig, FNetModel, GPT2Config, GPT2Model, T5Config, T5ForConditionalGeneration

from clvq_hf import ActivationCache
from clvq_hf.data.extraction import HiddenStateExtractor, attention_sinks, check_finite, check_states
from clvq_hf.data.tokenization import TextCollator, tokenize_texts
from clvq_hf.hosts import hooks
from clvq_hf.hosts.hooks import UnsupportedHostError


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
        check_states(states, "batch 3")
        states["target_hidden_states"][1, 2, 5] = float("inf")
        with pytest.raises(ValueError, match=r"target_hidden_states of batch 3, .* indices \[7\]"):
            check_states(states, "batch 3")

    def test_any_value_that_is_not_finite_names_its_text(self):
        scores = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [0.0, float("-inf")]])
        check_finite(scores[:1], [5], "the scores")
        with pytest.raises(ValueError, match=r"NaN or Inf in the scores, .* indices \[6, 7\].* float32"):
            check_finite(scores, [5, 6, 7], "the scores")


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

    def test_a_text_of_one_token_or_of_sinks_alone_is_compared_with_what_is_usual(self):
        states = torch.tensor([[500.0, 0], [500, 400], [2, 0], [2, 500]])[..., None]
        mask = torch.tensor([[1, 0], [1, 1], [1, 0], [1, 1]]).bool()
        found = attention_sinks(states, mask, usual_norms=(1.0, 2.0, 3.0, 900.0))
        assert found.tolist() == [[True, False], [True, True], [False, False], [False, True]]
        assert not attention_sinks(states, mask)[:3].any()

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

    @pytest.mark.slow
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
