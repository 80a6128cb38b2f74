"""Attributions by hand and by captum, what a batch must not change, and what is left of the host afterwards."""

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from torch import nn
from transformers import BartConfig, BartForSequenceClassification, BertModel, LlamaForSequenceClassification

from clvq_hf.data.extraction import attention_sinks
from clvq_hf.data.tokenization import tokenize_texts
from clvq_hf.hosts import hooks
from clvq_hf.hosts.readout import Readout
from clvq_hf.tables.attribution import _Path, _salient_word, salient_tokens

METHODS = ["integrated_gradients", "gradient_x_input", "occlusion"]
LAYER = 3


@pytest.fixture(autouse=True)
def no_hashing(monkeypatch):
    """Caching hashes the tokenizer's vocabulary in each call, which takes longer than all the rest of these tests."""
    monkeypatch.setattr("datasets.arrow_dataset.update_fingerprint", lambda *_: generate_random_fingerprint())


@pytest.fixture
def few(texts) -> Dataset:
    return texts.select(range(6))


@pytest.fixture
def linear_host(host):
    """BERT that is linear above layer 3: attention takes the mean, no feed-forward, no norms, no tanh."""
    block = host.bert.encoder.layer[LAYER]
    for projection in (block.attention.self.query, block.attention.self.key, block.output.dense):
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
    block.attention.output.LayerNorm = block.output.LayerNorm = host.bert.pooler.activation = nn.Identity()
    return host


@pytest.fixture
def wide_host(host):
    """BERT whose logits move: random weights of the usual size leave them almost constant."""
    with torch.no_grad():
        for parameter in host.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return with_biases(host)


@pytest.fixture
def llama_classifier(causal_host):
    torch.manual_seed(1)
    causal_host.config.num_labels = 3
    return LlamaForSequenceClassification(causal_host.config).eval()


@pytest.fixture
def warnings_of(monkeypatch):
    messages = []
    monkeypatch.setattr("clvq_hf.tables.attribution.logger.warning", messages.append)
    return messages


def with_biases(host):
    """Biases that are not zero: without them a state of zero stays one, and the logit jumps there."""
    for name, parameter in host.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.3)
    return host


def scores_of(result: Dataset) -> list[np.ndarray]:
    return [np.asarray(scores, dtype=np.float32) for scores in result["scores"]]


def assert_same(result: Dataset, other: Dataset, atol: float = 1e-5) -> None:
    assert result["text_index"][:] == other["text_index"][:]
    for scores, expected in zip(scores_of(result), scores_of(other), strict=True):
        np.testing.assert_allclose(scores, expected, atol=atol)


def encode(host, tokenizer, text, **inputs):
    """One text alone, as the host's keyword arguments."""
    encoded = dict(tokenizer(text, return_tensors="pt"), **inputs)
    if not hasattr(host, "bert"):
        encoded.pop("token_type_ids")
    return encoded


def logits_with(host, inputs, layer, change, stack=None):
    """Logits of one text if the host goes on with `change(state)` at `layer`."""
    with torch.no_grad(), hooks.edit(host, layer, change, stack=stack):
        return Readout.of(host)(host(**inputs), inputs["attention_mask"])[0]


class TestScores:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("with_baseline", [False, True])
    def test_by_hand_on_a_linear_host(self, linear_host, tokenizer, few, method, with_baseline):
        baseline = torch.linspace(-1, 1, 32) if with_baseline else "zero"
        result = salient_tokens(linear_host, tokenizer, few, LAYER, method=method, baseline=baseline, n_steps=3)
        attention = linear_host.bert.encoder.layer[LAYER].attention
        mixing = attention.output.dense.weight @ attention.self.value.weight
        for row in result:
            inputs = encode(linear_host, tokenizer, few[row["text_index"]]["text"])
            (state,) = hooks.run(linear_host, inputs, [LAYER])[LAYER]
            away = state - (baseline if with_baseline else 0)
            readout = linear_host.classifier.weight[row["prediction"]] @ linear_host.bert.pooler.dense.weight
            expected = away @ mixing.T @ readout / len(state)
            expected[0] += away[0] @ readout
            if method == "occlusion":
                expected[[0, -1]] = 0
            np.testing.assert_allclose(row["scores"], expected.detach().numpy(), atol=1e-6)
            assert (row["error"] is None) == (method != "integrated_gradients")
            assert row["error"] is None or row["error"] < 1e-3

    @pytest.mark.slow
    def test_the_mean_state_for_a_baseline(self, wide_host, tokenizer, few):
        states = [hooks.run(wide_host, encode(wide_host, tokenizer, text), [2])[2][0].detach() for text in few["text"]]
        arguments = {"method": "gradient_x_input", "batch_size": 4}
        expected = salient_tokens(wide_host, tokenizer, few, 2, baseline=torch.cat(states).mean(0), **arguments)
        result = salient_tokens(wide_host, tokenizer, few, 2, baseline="mean", **arguments)
        assert_same(result, expected)
        assert "baseline mean" in result.info.description

    @pytest.mark.parametrize("layer", [1, 3])
    def test_equal_those_of_captum_on_the_whole_host(self, wide_host, tokenizer, few, layer):
        result = salient_tokens(wide_host, tokenizer, few, layer, n_steps=8, max_steps=8)
        block = wide_host.bert.encoder.layer[layer - 1]
        batch = tokenizer(few["text"][:], padding=True, return_tensors="pt")
        target = wide_host(**batch).logits.argmax(-1)
        # Captum takes the baseline of a layer from a baseline of the input: here a factor on the layer's output.
        factor = []

        def forward(scale, *inputs):
            factor[:] = [scale]
            return wide_host(**dict(zip(batch, inputs, strict=True))).logits

        hook = block.register_forward_hook(lambda block, args, output: output * factor[0][:, None, None])
        expected = LayerIntegratedGradients(forward, block).attribute(
            torch.ones(len(few)),
            torch.zeros(len(few)),
            target=target,
            additional_forward_args=tuple(batch.values()),
            n_steps=8,
        )
        hook.remove()
        assert result["prediction"][:] == target.tolist()
        for scores, whole, mask in zip(scores_of(result), expected.sum(-1), batch["attention_mask"], strict=True):
            assert np.abs(scores).max() > 0.01
            np.testing.assert_allclose(scores, whole[mask.bool()].detach().numpy(), atol=1e-4)
            assert (whole[~mask.bool()] == 0).all()

    @pytest.mark.slow
    def test_add_up_to_the_change_of_the_logit(self, wide_host, tokenizer, few):
        result = salient_tokens(wide_host, tokenizer, few, 2, n_steps=64, max_error=1e-3)
        for row in result:
            inputs = encode(wide_host, tokenizer, few[row["text_index"]]["text"])
            logits = wide_host(**inputs).logits[0].detach()
            assert row["prediction"] == int(logits.argmax())
            assert row["logit"] == pytest.approx(float(logits.max()), abs=1e-5)
            change = float(logits.max() - logits_with(wide_host, inputs, 2, torch.zeros_like)[row["prediction"]])
            assert sum(row["scores"]) == pytest.approx(change, rel=2e-3, abs=1e-5)
            assert row["error"] == pytest.approx(row["absolute_error"] / abs(change), rel=1e-2, abs=1e-4)
            assert row["error"] < 1e-3

    @pytest.mark.slow
    def test_gradient_and_occlusion_on_a_host_that_is_not_linear(self, wide_host, tokenizer, few):
        gradients = salient_tokens(wide_host, tokenizer, few, 2, method="gradient_x_input")
        occlusion = salient_tokens(wide_host, tokenizer, few, 2, method="occlusion", baseline=torch.ones(32))
        for row, occluded in zip(gradients, occlusion, strict=True):
            inputs = encode(wide_host, tokenizer, few[row["text_index"]]["text"])
            seen = []
            with hooks.edit(
                wide_host, 2, lambda state, seen=seen: seen.append(state.detach().requires_grad_()) or seen[0]
            ):
                logit = wide_host(**inputs).logits[0, row["prediction"]]
            (gradient,) = torch.autograd.grad(logit, seen[0])
            np.testing.assert_allclose(row["scores"], (gradient * seen[0]).sum(-1)[0].detach().numpy(), atol=1e-5)

            def without(state, position=4):
                return state.index_fill(1, torch.tensor([position]), 1.0)

            fall = float(logit.detach()) - float(logits_with(wide_host, inputs, 2, without)[row["prediction"]])
            assert occluded["scores"][4] == pytest.approx(fall, abs=1e-5)
            assert occluded["scores"][0] == occluded["scores"][-1] == 0

    def test_padding_gets_nothing(self, wide_host, tokenizer, texts, monkeypatch):
        seen = []
        integrate = _Path.integrate
        monkeypatch.setattr(
            _Path, "integrate", lambda path, steps: seen.append((path, integrate(path, steps))) or seen[-1][1]
        )
        result = salient_tokens(wide_host, tokenizer, texts.select(range(20)), 2, n_steps=2, max_steps=2)
        ((path, scores),) = seen
        assert scores.shape[1] == max(len(row) for row in result["scores"])
        padding = (path.state == path.baseline).all(-1)
        assert padding.any() and (scores[padding] == 0).all() and (scores[~padding] != 0).all()


@pytest.mark.slow
class TestBatches:
    @pytest.mark.parametrize("method", METHODS)
    def test_neither_their_size_nor_the_order_matters(self, wide_host, tokenizer, texts, method):
        texts = texts.select(range(12))
        arguments = {"method": method, "n_steps": 4, "max_steps": 4}
        result = salient_tokens(wide_host, tokenizer, texts, 2, **arguments)
        assert result["text_index"][:] == list(range(12))
        assert_same(salient_tokens(wide_host, tokenizer, texts, 2, batch_size=5, **arguments), result)
        backwards = salient_tokens(wide_host, tokenizer, texts.select(range(11, -1, -1)), 2, batch_size=1, **arguments)
        for row, expected in zip(backwards, reversed(list(result)), strict=True):
            np.testing.assert_allclose(row["scores"], expected["scores"], atol=1e-5)
            assert row["salient_position"] == expected["salient_position"]

    @pytest.mark.parametrize("kind", ["next tokens", "classes by another padding token"])
    def test_texts_of_unlike_length(self, causal_host, llama_classifier, tokenizer, texts, kind):
        host = causal_host if kind == "next tokens" else llama_classifier
        host.config.pad_token_id = 7
        assert tokenizer.pad_token_id == 0
        together = salient_tokens(host, tokenizer, texts.select(range(8)), 2, method="gradient_x_input")
        for index in range(8):
            alone = salient_tokens(host, tokenizer, texts.select([index]), 2, method="gradient_x_input")[0]
            assert alone["prediction"] == together[index]["prediction"]
            np.testing.assert_allclose(alone["scores"], together[index]["scores"], atol=1e-5)


class TestWords:
    scores = np.array([9.0, 0.1, -0.5, 0.3, 0.2, -8.0])
    word_id = np.array([-1, 0, 0, 1, 2, -1])
    counted = np.array([False, True, True, True, True, False])

    def test_the_strongest_token_of_a_word_speaks_for_it(self):
        word_scores, position, word = _salient_word(self.scores, self.word_id, self.counted, "positive")
        np.testing.assert_array_equal(word_scores, [0, -0.5, -0.5, 0.3, 0.2, 0])
        assert (position, word) == (3, 1)
        assert _salient_word(self.scores, self.word_id, self.counted, "abs")[1:] == (2, 0)

    def test_a_token_that_does_not_count_does_not_speak_for_its_word(self):
        counted = np.array([False, True, False, True, True, False])
        word_scores, position, word = _salient_word(self.scores, self.word_id, counted, "abs")
        np.testing.assert_array_equal(word_scores, [0, 0.1, 0, 0.3, 0.2, 0])
        assert (position, word) == (3, 1)

    def test_special_tokens_are_words_of_their_own(self):
        everything = np.ones(6, dtype=bool)
        word_scores, position, word = _salient_word(self.scores, self.word_id, everything, "positive")
        np.testing.assert_array_equal(word_scores, [9, -0.5, -0.5, 0.3, 0.2, -8])
        assert (position, word) == (0, -1)

    def test_no_word_speaks_for_the_prediction(self):
        assert _salient_word(-np.abs(self.scores), self.word_id, self.counted, "positive")[1:] == (4, 2)

    def test_no_word_at_all(self):
        word_scores, position, word = _salient_word(self.scores, self.word_id, np.zeros(6, dtype=bool), "abs")
        assert not word_scores.any() and (position, word) == (-1, -1)

    @pytest.mark.slow
    def test_of_real_texts(self, wide_host, tokenizer, texts):
        result = salient_tokens(wide_host, tokenizer, texts, 2, n_steps=2, max_steps=2)
        tokenized = tokenize_texts(texts, tokenizer, with_words=True)
        for row, tokens in zip(result, tokenized, strict=True):
            assert len(row["scores"]) == len(row["word_scores"]) == tokens["length"]
            assert tokens["token_mask"][row["salient_position"]] == 1
            assert tokens["word_id"][row["salient_position"]] == row["salient_word"]
            assert row["word_scores"][row["salient_position"]] == max(row["word_scores"][1:-1])
            assert row["word_scores"][0] == row["word_scores"][-1] == 0 != row["scores"][0]
            assert row["scores"][row["salient_position"]] == row["word_scores"][row["salient_position"]]

    @pytest.mark.slow
    def test_special_tokens_by_choice(self, linear_host, tokenizer, few):
        # The pooler reads [CLS] alone, and nearly all of the logit comes from its own state.
        result = salient_tokens(linear_host, tokenizer, few, LAYER, sign="abs", special_tokens=True)
        assert result["salient_position"][:] == [0] * 6
        assert result["salient_word"][:] == [-1] * 6
        occluded = salient_tokens(linear_host, tokenizer, few, LAYER, method="occlusion", special_tokens=True)
        assert_same(occluded, result, atol=1e-6)


@pytest.mark.slow
class TestSteps:
    def test_double_for_the_texts_above_the_bound_alone(self, wide_host, tokenizer, texts, monkeypatch):
        texts = texts.select(range(12))
        once = salient_tokens(wide_host, tokenizer, texts, 1, n_steps=4, max_steps=4)
        bound = float(np.median(once["error"][:]))
        calls = []
        integrate = _Path.integrate
        monkeypatch.setattr(
            _Path, "integrate", lambda path, steps: calls.append((steps, len(path.state))) or integrate(path, steps)
        )
        result = salient_tokens(wide_host, tokenizer, texts, 1, n_steps=4, max_steps=500, max_error=bound)
        assert calls[:2] == [(4, 12), (8, 6)]
        for row, first in zip(result, once, strict=True):
            assert row["error"] <= bound
            assert (row["n_steps"] > 4) == (first["error"] > bound)
            assert row["n_steps"] > 4 or row["scores"] == first["scores"]

    def test_texts_that_still_miss_it_are_counted(self, wide_host, tokenizer, few, warnings_of):
        result = salient_tokens(wide_host, tokenizer, few, 1, n_steps=2, max_steps=5, max_error=1e-9)
        assert result["n_steps"][:] == [5] * 6
        [message] = warnings_of
        assert message == (
            "Integrated gradients did not converge for 6 of 6 texts; their salient token is uncertain. More "
            "steps may help (max_steps, at present 5)."
        )

    def test_no_steps_are_spent_on_a_jump_at_the_baseline(self, causal_host, tokenizer, few, warnings_of):
        # Without biases a zero state has logits of zero; each block's norm makes a tiny state as large as any.
        for parameter in causal_host.parameters():
            nn.init.normal_(parameter) if parameter.ndim == 2 else None
        arguments = {"n_steps": 4, "max_steps": 16, "max_error": 1e-3}
        zero = salient_tokens(causal_host, tokenizer, few, 2, **arguments)
        assert zero["n_steps"][:] == [4] * 6
        [message] = warnings_of
        assert "for 6 of 6 texts" in message and "For 6 of them more steps would not help" in message
        assert "baseline='mean'" in message and "max_steps" not in message
        warnings_of.clear()
        mean = salient_tokens(causal_host, tokenizer, few, 2, baseline="mean", **arguments)
        assert mean["n_steps"][:] == [16] * 6
        assert len(warnings_of) == 1


@pytest.mark.slow
class TestHosts:
    def test_next_token_after_the_text(self, causal_host, tokenizer, texts):
        texts = texts.select(range(5))
        result = salient_tokens(causal_host, tokenizer, texts, 2, n_steps=8, max_steps=8, baseline=torch.ones(32))
        for row in result:
            inputs = encode(causal_host, tokenizer, texts[row["text_index"]]["text"])
            logits = causal_host(**inputs).logits[0, -1].detach()
            assert row["prediction"] == int(logits.argmax())
            assert row["logit"] == pytest.approx(float(logits.max()), abs=1e-5)
            change = float(logits.max() - logits_with(causal_host, inputs, 2, torch.ones_like)[row["prediction"]])
            assert sum(row["scores"]) == pytest.approx(change, abs=row["absolute_error"] + 1e-5)

    def test_label_words(self, causal_host, tokenizer, few):
        readout = Readout.of(causal_host, tokenizer, ["good", "bad", "dull"])
        result = salient_tokens(causal_host, tokenizer, few, 2, method="occlusion", readout=readout)
        ids = [tokenizer.vocab[word] for word in ("good", "bad", "dull")]
        for row in result:
            logits = (
                causal_host(**encode(causal_host, tokenizer, few[row["text_index"]]["text"]))
                .logits[0, -1, ids]
                .detach()
            )
            assert row["prediction"] == int(logits.argmax())
            assert row["logit"] == pytest.approx(float(logits.max()), abs=1e-5)

    def test_decoder_with_a_classification_head(self, llama_classifier, tokenizer, few):
        result = salient_tokens(llama_classifier, tokenizer, few, 2, n_steps=64, baseline=torch.ones(32))
        for row in result:
            inputs = encode(llama_classifier, tokenizer, few[row["text_index"]]["text"])
            logits = llama_classifier(**inputs).logits[0].detach()
            assert row["prediction"] == int(logits.argmax())
            change = float(logits.max() - logits_with(llama_classifier, inputs, 2, torch.ones_like)[row["prediction"]])
            assert sum(row["scores"]) == pytest.approx(change, rel=0.06, abs=1e-5)

    @pytest.mark.parametrize("stack", ["encoder", "decoder"])
    def test_encoder_decoder_with_a_classification_head(self, tokenizer, few, stack):
        torch.manual_seed(0)
        config = BartConfig(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=128,
            init_std=0.3,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            decoder_start_token_id=tokenizer.sep_token_id,
            num_labels=2,
        )
        host = with_biases(BartForSequenceClassification(config).eval())
        result = salient_tokens(host, tokenizer, few, 1, stack=stack, n_steps=64)
        for row in result:
            inputs = encode(host, tokenizer, few[row["text_index"]]["text"])
            if stack == "decoder":
                inputs.update(decoder_input_ids=inputs["input_ids"])
            logits = host(**inputs).logits[0].detach()
            assert row["prediction"] == int(logits.argmax())
            assert row["logit"] == pytest.approx(float(logits.max()), abs=1e-5)
            change = float(logits.max() - logits_with(host, inputs, 1, torch.zeros_like, stack)[row["prediction"]])
            assert sum(row["scores"]) == pytest.approx(change, rel=0.06, abs=1e-5)

    def test_is_left_as_it_was(self, host, tokenizer, few):
        host.train()
        host.bert.encoder.layer[2].eval()
        host.bert.embeddings.requires_grad_(False)
        host.classifier.weight.grad = torch.ones_like(host.classifier.weight)
        modes = [module.training for module in host.modules()]
        flags = [parameter.requires_grad for parameter in host.parameters()]

        def check():
            assert [module.training for module in host.modules()] == modes
            assert [parameter.requires_grad for parameter in host.parameters()] == flags
            grads = {name for name, parameter in host.named_parameters() if parameter.grad is not None}
            assert grads == {"classifier.weight"} and (host.classifier.weight.grad == 1).all()
            for module in host.modules():
                assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)

        for method in METHODS:
            salient_tokens(host, tokenizer, few, 2, method=method, n_steps=2, max_steps=2)
            check()
        with torch.no_grad():
            salient_tokens(host, tokenizer, few, 2, n_steps=2, max_steps=2)
            host.classifier.bias.fill_(float("nan"))
        with pytest.raises(ValueError, match="NaN or Inf"):
            salient_tokens(host, tokenizer, few, 2)
        check()

    def test_in_half_precision(self, wide_host, tokenizer, few):
        expected = salient_tokens(wide_host, tokenizer, few, 2, n_steps=4, max_steps=4)
        result = salient_tokens(wide_host.to(torch.bfloat16), tokenizer, few, 2, n_steps=4, max_steps=4)
        for scores, right in zip(scores_of(result), scores_of(expected), strict=True):
            assert np.corrcoef(scores, right)[0, 1] > 0.9


class TestTexts:
    def test_empty_ones_are_left_out(self, host, tokenizer):
        dataset = Dataset.from_dict({"body": ["good", "", "  ", "bad film", None]})
        result = salient_tokens(host, tokenizer, dataset, 2, text_column="body", method="gradient_x_input")
        assert result["text_index"][:] == [0, 3]
        assert result["error"][:] == result["n_steps"][:] == [None, None]
        assert "gradient_x_input" in result.info.description

    def test_one_without_tokens_is_left_out(self, host, tokenizer):
        dataset = Dataset.from_dict({"text": ["\u200b", "good film"]})
        result = salient_tokens(host, tokenizer, dataset, 2, method="gradient_x_input")
        assert result["text_index"][:] == [1] and result["salient_position"][0] in (1, 2)

    def test_long_ones_are_truncated(self, host, tokenizer, few):
        result = salient_tokens(host, tokenizer, few, 2, max_length=7, method="gradient_x_input")
        assert {len(row["scores"]) for row in result} == {7}


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"layer": 5}, "Layer 5 does not exist"),
            ({"stack": "decoder"}, "stack"),
            ({"method": "saliency"}, "method must be one of .*occlusion"),
            ({"sign": "negative"}, "sign must be one of"),
            ({"n_steps": 0}, "n_steps must be"),
            ({"n_steps": 600}, "at most max_steps=500, got 600"),
            ({"max_error": 0}, "max_error must be positive"),
            ({"batch_size": 0}, "batch_size must be"),
            ({"baseline": torch.zeros(2, 32)}, r"shape \(2, 32\); the states of layer 2 have \(32,\)"),
            ({"baseline": torch.full((32,), float("nan"))}, "baseline holds NaN"),
            ({"baseline": "median"}, "baseline must be one of .*zero.*mean"),
            ({"text_column": "body"}, "no column 'body'"),
        ],
    )
    def test_come_before_time_is_spent(self, host, tokenizer, few, monkeypatch, arguments, message):
        monkeypatch.setattr("clvq_hf.tables.attribution.tokenize_texts", None)
        with pytest.raises(ValueError, match=message):
            salient_tokens(host, tokenizer, few, **{"layer": 2, **arguments})

    def test_a_host_that_predicts_nothing(self, host, tokenizer, few):
        with pytest.raises(ValueError, match="predicts neither"):
            salient_tokens(BertModel(host.config), tokenizer, few, 2)

    @pytest.mark.parametrize("arguments", [*({"method": method} for method in METHODS), {"baseline": "mean"}])
    def test_nan_names_the_text(self, host, tokenizer, arguments):
        dataset = Dataset.from_dict({"text": ["a good film", "a dreadful one", "good"]})
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight[tokenizer.vocab["dreadful"]] = float("inf")
        with pytest.raises(ValueError, match=r"texts with the indices \[1\]"):
            salient_tokens(host, tokenizer, dataset, 2, **arguments)


class TestAttentionSinks:
    def test_states_far_longer_than_the_median(self):
        # Norms 1, 11, 1, and padding that would be the longest: only the second is more than 10 times the median.
        state = torch.tensor([[[1.0], [11.0], [1.0], [500.0]], [[2.0], [19.0], [2.0], [2.0]]])
        real = torch.tensor([[True, True, True, False], [True] * 4])
        assert attention_sinks(state, real).tolist() == [[False, True, False, False], [False] * 4]

    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHODS)
    def test_are_never_salient(self, wide_host, tokenizer, few, method):
        plain = salient_tokens(wide_host, tokenizer, few, 1, method=method, n_steps=4, max_steps=4)
        text, place = next((row, place) for row, place in enumerate(plain["salient_position"]) if place > 0)

        def grow(states):
            return torch.cat([states[:, :place], 30 * states[:, place : place + 1], states[:, place + 1 :]], dim=1)

        with hooks.edit(wide_host, 1, grow):
            found = salient_tokens(wide_host, tokenizer, few.select([text]), 1, method=method, n_steps=4, max_steps=4)
        assert found["salient_position"][0] not in (place, -1)
