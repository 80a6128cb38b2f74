"""Explanations of every kind of head, against the host's own outputs."""

import pytest
import torch
from helpers.evaluated_hosts import clvq_on_states
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

TEXTS = ["the quick brown fox jumps over the lazy dog", "a dull film with wonderful actors and a silly end"]
SIZES = {
    **{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64},
    "max_position_embeddings": 128,
}


def make(kind, tokenizer, names, **fields):
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    host = kind(BertConfig(vocab_size=len(tokenizer), **SIZES, **labels, **fields)).eval()
    with torch.no_grad():
        host.classifier.weight *= 20
    return host, clvq_on_states(host, tokenizer, TEXTS)


def outputs(host, tokenizer, text):
    with torch.no_grad():
        return host(**tokenizer(text, return_tensors="pt")).logits[0].double()


class TestLabels:
    @pytest.fixture
    def pair(self, tokenizer):
        return make(
            BertForSequenceClassification,
            *(tokenizer, ["toxic", "insult", "threat"]),
            problem_type="multi_label_classification",
        )

    def test_each_label_is_a_question(self, pair, tokenizer):
        host, model = pair
        logits = outputs(host, tokenizer, TEXTS[0])
        found = model.explain(host, tokenizer, TEXTS[0], target="all")
        assert [explanation.target for explanation in found] == ["toxic", "insult", "threat"]
        for explanation, logit in zip(found, logits.tolist(), strict=True):
            assert explanation.margin == pytest.approx(logit, abs=1e-4)
            assert explanation.probability == pytest.approx(1 / (1 + 2.718281828**-logit), abs=1e-4)
            assert explanation.prediction == (explanation.target if logit > 0 else f"not {explanation.target}")
            assert explanation.error < 0.05

    def test_removal_is_that_of_ablate(self, pair, tokenizer):
        host, model = pair
        explanation = model.explain(host, tokenizer, TEXTS[1], target="insult")
        removal = explanation.salient or explanation.control
        if removal is not None:
            with model.ablate(host, removal.code):
                assert removal.margin == pytest.approx(float(outputs(host, tokenizer, TEXTS[1])[1]), abs=1e-4)

    def test_the_surest_label_is_the_default(self, pair, tokenizer):
        host, model = pair
        strongest = int(outputs(host, tokenizer, TEXTS[0]).argmax())
        assert model.explain(host, tokenizer, TEXTS[0]).target == ["toxic", "insult", "threat"][strongest]


def test_regression_explains_its_number(tokenizer):
    host, model = make(BertForSequenceClassification, tokenizer, ["stars"])
    value = float(outputs(host, tokenizer, TEXTS[0])[0])
    explanation = model.explain(host, tokenizer, TEXTS[0])
    assert explanation.unit == "units of the output" and explanation.probability is None
    assert explanation.prediction == f"{value:.3g}" and explanation.margin == pytest.approx(value, abs=1e-4)
    sizes = [abs(concept.contribution) for concept in explanation.concepts]
    assert sizes == sorted(sizes, reverse=True)
    with model.ablate(host, explanation.salient.code):
        without = float(outputs(host, tokenizer, TEXTS[0])[0])
    assert explanation.salient.change == pytest.approx(without - value, abs=1e-4)
    assert explanation.salient.prediction == f"{without:.3g}" and not explanation.salient.flips
    assert f"predicts {without:.3g}" in str(explanation)


def test_the_first_of_several_numbers_is_the_default(tokenizer):
    host, model = make(BertForSequenceClassification, tokenizer, ["stars", "length"], problem_type="regression")
    with torch.no_grad():
        host.classifier.bias += torch.tensor([-100.0, 100.0])
    assert model.explain(host, tokenizer, TEXTS[0]).target == "stars"
    assert model.explain(host, tokenizer, TEXTS[0], target="length").margin > 50


class TestTokens:
    @pytest.fixture
    def pair(self, tokenizer):
        return make(BertForTokenClassification, tokenizer, ["O", "PER", "LOC"])

    @pytest.mark.parametrize("max_length", [64, 8])
    def test_each_named_word_is_a_question(self, pair, tokenizer, max_length):
        host, model = pair
        found = model.explain(host, tokenizer, TEXTS[0], max_length=max_length)
        assert all(explanation.target in ("PER", "LOC") for explanation in found)
        if max_length == 64:
            logits = outputs(host, tokenizer, TEXTS[0])[1:-1]
            classes = logits.argmax(-1).tolist()
            wanted = [(number, ["O", "PER", "LOC"][each]) for number, each in enumerate(classes) if each]
            assert [(explanation.token, explanation.target) for explanation in found] == wanted
            for explanation in found:
                row = logits[explanation.token]
                assert explanation.margin == pytest.approx(float(row.max() - row.topk(2).values[1]), abs=1e-4)
                assert f"for “{explanation.tokens[explanation.token].text}”" in str(explanation)
        else:
            assert all(len(explanation.tokens) == 6 for explanation in found)

    def test_removal_is_that_of_ablate(self, pair, tokenizer):
        host, model = pair
        host.double()  # the head's weights, twenty times as large as usual, would magnify the host's rounding
        for explanation in model.explain(host, tokenizer, TEXTS[0]):
            if explanation.salient is not None:
                with model.ablate(host, explanation.salient.code):
                    row = outputs(host, tokenizer, TEXTS[0])[1 + explanation.token]
                target = ["O", "PER", "LOC"].index(explanation.target)
                others = torch.cat([row[:target], row[target + 1 :]])
                assert explanation.salient.margin == pytest.approx(float(row[target] - others.max()), abs=1e-4)


class TestLanguageModels:
    @pytest.fixture
    def model(self, causal_host, tokenizer, fit, make_model, texts):
        return fit(make_model(), causal_host, tokenizer, texts)

    def test_the_next_token(self, model, causal_host, tokenizer):
        together = model.explain(causal_host, tokenizer, TEXTS)
        for text, explanation in zip(TEXTS, together, strict=True):
            with torch.no_grad():
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                best = causal_host(input_ids=ids).logits[0, -1].topk(2)
            assert explanation.prediction == explanation.target == tokenizer.decode([int(best.indices[0])])
            assert explanation.margin == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-4)
        with pytest.raises(ValueError, match="a continuation of the text"):
            model.explain(causal_host, tokenizer, TEXTS[0], target=7)

    def test_a_continuation(self, model, causal_host, tokenizer):
        explanation = model.explain(causal_host, tokenizer, TEXTS[0], target="very late")
        ids = tokenizer(TEXTS[0])["input_ids"]
        more = tokenizer("very late", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            log_p = causal_host(input_ids=torch.tensor([ids + more])).logits[0].double().log_softmax(-1)
        expected = sum(float(log_p[len(ids) - 1 + place, token]) for place, token in enumerate(more))
        assert explanation.probability == pytest.approx(2.718281828**expected, rel=1e-3)
        assert explanation.target == "'very late'"
        assert [token.text for token in explanation.tokens] == TEXTS[0].split()
