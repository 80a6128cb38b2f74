import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from clvq_hf import CLVQConfig, CLVQModel


@pytest.fixture
def encoded(tokenizer):
    return tokenizer(["what a wonderful film", "bad"], return_tensors="pt", padding=True)


def num_hooks(host) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in host.modules())


class TestOneCall:
    def test_codes_and_states_are_those_of_the_host(self, make_model, host, encoded):
        model = make_model().eval()
        with model.attach(host) as tap:
            host(**encoded)
        states = host(**encoded, output_hidden_states=True).hidden_states
        assert torch.equal(tap.hidden_states, states[1])
        assert torch.equal(tap.target_hidden_states, states[3])
        assert torch.equal(tap.codes, model.encode(states[1], encoded["attention_mask"]))
        assert torch.equal(tap.codes == -1, encoded["attention_mask"] == 0)
        assert not tap.hidden_states.requires_grad

    def test_a_second_call_replaces_the_first(self, make_model, host, encoded, tokenizer):
        with make_model().attach(host) as tap:
            host(**encoded)
            other = tokenizer(["a dull and very long plot"], return_tensors="pt")
            host(**other)
        assert tap.codes.shape == other["input_ids"].shape
        assert tap.hidden_states.shape[:2] == other["input_ids"].shape

    def test_active_from_the_call_until_removed(self, make_model, host, encoded):
        before, plain = num_hooks(host), host(**encoded).logits
        tap = make_model().attach(host)
        host(**encoded)
        codes = tap.codes.clone()
        tap.remove()
        tap.remove()
        assert num_hooks(host) == before
        assert torch.equal(host(**encoded).logits, plain)
        assert torch.equal(tap.codes, codes)

    def test_gone_after_an_exception(self, make_model, host, encoded):
        before = num_hooks(host)
        with pytest.raises(RuntimeError, match="mine"), make_model().attach(host):
            host(**encoded)
            raise RuntimeError("mine")
        assert num_hooks(host) == before

    def test_the_hosts_output_is_unchanged_while_attached(self, make_model, host, encoded):
        plain = host(**encoded).logits
        with make_model().attach(host):
            assert torch.equal(host(**encoded).logits, plain)

    def test_codes_only(self, make_model, host, encoded):
        with make_model().attach(host, keep_states=False) as tap:
            host(**encoded)
        assert tap.codes.shape == encoded["input_ids"].shape
        with pytest.raises(RuntimeError, match="keep_states=True"):
            _ = tap.hidden_states

    def test_before_the_first_call(self, make_model, host):
        with make_model().attach(host) as tap, pytest.raises(RuntimeError, match="call the host"):
            _ = tap.codes

    def test_two_taps_at_once(self, make_model, host, encoded):
        with make_model().attach(host) as first, make_model(seed=1, lower_layer=2).attach(host) as second:
            host(**encoded)
        assert not torch.equal(first.hidden_states, second.hidden_states)

    def test_a_model_that_was_never_fitted_says_so(self, make_model, host, monkeypatch):
        messages = []
        monkeypatch.setattr("clvq_hf.models.modeling_concepts.logger.warning", messages.append)
        model = make_model()
        model.attach(host).remove()
        assert len(messages) == 1 and "never fitted" in messages[0]
        model.initialize_codebook(torch.randn(50, 32))
        model.attach(host).remove()
        assert len(messages) == 1

    def test_a_host_that_does_not_fit(self, make_model, host):
        with pytest.raises(ValueError, match=r"hidden_size=16 in the config, but layer 1"):
            make_model(hidden_size=16).attach(host)
        with pytest.raises(ValueError, match="from_host"):
            make_model(lower_layer=None, upper_layer=None).attach(host)
        assert num_hooks(host) == 0


class TestGenerate:
    def generate(self, host, tokenizer, **kwargs):
        tokenizer.padding_side = "left"
        prompt = tokenizer(["what a wonderful film", "bad"], return_tensors="pt", padding=True)
        prompt.pop("token_type_ids")
        return prompt, host.generate(**prompt, max_new_tokens=6, do_sample=False, **kwargs)

    def test_codes_are_those_of_the_whole_text(self, make_model, causal_host, tokenizer):
        model = make_model(is_causal=True).eval()
        with model.attach(causal_host) as tap:
            prompt, text = self.generate(causal_host, tokenizer)
        # The last token is produced, never read.
        read = text[:, :-1]
        mask = torch.cat([prompt["attention_mask"], torch.ones(2, 5, dtype=torch.long)], dim=1)
        with model.attach(causal_host) as whole:
            causal_host(read, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        assert tap.codes.shape == read.shape
        assert torch.equal(tap.codes, whole.codes)
        assert torch.allclose(tap.hidden_states[mask == 1], whole.hidden_states[mask == 1], atol=1e-5)

    def test_without_a_cache_each_step_replaces(self, make_model, causal_host, tokenizer):
        with make_model(is_causal=True).attach(causal_host) as tap:
            _, text = self.generate(causal_host, tokenizer, use_cache=False)
        assert tap.codes.shape == text[:, :-1].shape

    def test_a_second_generation_starts_anew(self, make_model, causal_host, tokenizer):
        with make_model(is_causal=True).attach(causal_host) as tap:
            self.generate(causal_host, tokenizer)
            once = tap.codes.clone()
            self.generate(causal_host, tokenizer)
        assert torch.equal(tap.codes, once)

    def test_assisted_decoding_rolls_back_the_codes_too(self, make_model, causal_host, tokenizer):
        model = make_model(is_causal=True).eval()
        prompt = tokenizer("a film a film a film a", return_tensors="pt", add_special_tokens=False)["input_ids"]
        with model.attach(causal_host) as tap:
            text = causal_host.generate(prompt, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)
        with model.attach(causal_host) as whole:
            causal_host(text)
        length = tap.codes.shape[1]
        assert text.shape[1] - 1 <= length
        shared = min(length, text.shape[1] - 1)
        assert torch.equal(tap.codes[:, :shared], whole.codes[:, :shared])

    def test_beams_are_refused(self, make_model, causal_host, tokenizer):
        with (
            make_model(is_causal=True).attach(causal_host),
            pytest.raises(ValueError, match="generate\\(num_beams=1\\)"),
        ):
            self.generate(causal_host, tokenizer, num_beams=2)
        assert num_hooks(causal_host) == 0

    @pytest.mark.parametrize("stack", ["encoder", "decoder"])
    def test_encoder_decoder(self, tokenizer, stack):
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        t5 = T5ForConditionalGeneration(config).eval()
        concept = CLVQConfig.from_host(t5, 0, 2, stack=stack, codebook_size=5, num_decoder_layers=1)
        assert concept.is_causal is (stack == "decoder")
        prompt = tokenizer(["what a film"], return_tensors="pt")
        with CLVQModel(concept).attach(t5) as tap:
            text = t5.generate(prompt["input_ids"], max_new_tokens=4, min_new_tokens=4, do_sample=False)
        expected = prompt["input_ids"].shape if stack == "encoder" else text[:, :-1].shape
        assert tap.codes.shape == expected
