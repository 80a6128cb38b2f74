"""Code fidelity: what stands in for a token, by hand on a small host, and what a codebook of classes scores."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from clvq_hf.data import ActivationCache, TextCollator, tokenize_texts
from clvq_hf.evaluation import fidelity_figures, fidelity_texts, fit_references
from clvq_hf.hosts import hooks
from clvq_hf.hosts.readout import Readout
from clvq_hf.models import ClassOnlyConfig, ClassOnlyModel, ClusterConfig, ClusterModel
from tests.helpers.evaluated_hosts import balanced_classifier, clvq_on_states
from tests.helpers.headed_hosts import bert_with


@pytest.fixture(scope="module")
def tokenizer(minilm_dir):
    return AutoTokenizer.from_pretrained(minilm_dir)


@pytest.fixture(scope="module")
def measured(tokenizer, all_texts):
    """Host, model, references and outcome; made once."""
    train, test = all_texts.select(range(60)), all_texts.select(range(60, 84))
    host = balanced_classifier(tokenizer, all_texts["text"][:])
    model = clvq_on_states(host, tokenizer, train["text"][:])
    references = fit_references(model, host, tokenizer, train)
    table = model.concept_table(host, tokenizer, test)
    outcome = fidelity_texts(model, host, tokenizer, table, references.statistics, batch_size=7)
    return host, model, train, test, references, outcome


def states_of(host, tokenizer, text):
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        output = host(**encoded, output_hidden_states=True)
    return encoded, output.hidden_states[1][0], output.hidden_states[3][0], output.logits[0]


def divergence(plain, changed):
    plain, changed = plain.double().log_softmax(-1), changed.double().log_softmax(-1)
    return float((plain.exp() * (plain - changed)).sum())


class Sums:
    """Means of the training tokens by an id, the long way."""

    def __init__(self, host, model, tokenizer, texts, id_of):
        self.rows = {}
        self.every = []
        for text in texts:
            encoded, lower, upper, logits = states_of(host, tokenizer, text)
            codes = model.encode(lower[None])[0]
            for place in range(1, len(lower) - 1):
                both = lower[place], upper[place]
                self.rows.setdefault(id_of(encoded["input_ids"][0], codes, logits, place), []).append(both)
                self.every.append(both)

    def mean(self, key, layer):
        return torch.stack([each[layer] for each in self.rows.get(key, self.every)]).mean(0)


IDS = {
    "coded": lambda ids, codes, logits, place: int(codes[place]),
    "word": lambda ids, codes, logits, place: int(ids[place]),
    "class": lambda ids, codes, logits, place: int(logits.argmax()),
    "mean": lambda ids, codes, logits, place: 0,
}


@pytest.mark.parametrize("condition", list(IDS))
def test_each_token_is_replaced_by_a_mean_of_training_tokens(measured, tokenizer, condition):
    host, model, train, test, _, outcome = measured
    of_token = IDS[condition]
    sums = Sums(host, model, tokenizer, train["text"], of_token)
    estimate = {"coded": "code"}.get(condition, condition)
    deviation = torch.stack([each[1] for each in sums.every]).double().std(0, correction=0)
    for row, text in zip(outcome, test["text"], strict=True):
        encoded, lower, upper, logits = states_of(host, tokenizer, text)
        codes = model.encode(lower[None])[0]
        keys = [of_token(encoded["input_ids"][0], codes, logits, place) for place in range(1, len(lower) - 1)]
        changed = lower.clone()
        changed[1:-1] = torch.stack([sums.mean(key, 0) for key in keys])
        with torch.no_grad(), hooks.edit(host, 1, lambda _, changed=changed: changed[None]):
            expected = divergence(logits, host(**encoded).logits[0])
        assert row[f"kl_{condition}"] == pytest.approx(expected, rel=1e-2, abs=1e-6)
        errors = upper[1:-1] - torch.stack([sums.mean(key, 1) for key in keys])
        assert row[f"residual_{estimate}"] == pytest.approx(float((errors / deviation).square().sum()), rel=1e-3)
        assert row["codes"] == codes[1:-1].tolist() and row["num_tokens"] == len(keys)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_of_one_label_and_of_a_number(tokenizer, all_texts, kind):
    train, test = (all_texts.select(rows).remove_columns("label") for rows in (range(40), range(60, 72)))
    host = bert_with(kind, tokenizer, all_texts["text"][:40])
    readout = Readout.of(host, target="insult") if kind == "multi_label" else None
    model = clvq_on_states(host, tokenizer, train["text"])
    references = fit_references(model, host, tokenizer, train, readout=readout)
    table = model.concept_table(host, tokenizer, test)
    outcome = fidelity_texts(model, host, tokenizer, table, references.statistics, readout=readout)
    sums = Sums(host, model, tokenizer, train["text"], IDS["coded"])
    for row, text in zip(outcome, test["text"], strict=True):
        encoded, lower, _, logits = states_of(host, tokenizer, text)
        changed = lower.clone()
        codes = model.encode(lower[None])[0][1:-1].tolist()
        changed[1:-1] = torch.stack([sums.mean(code, 0) for code in codes])
        with torch.no_grad(), hooks.edit(host, 1, lambda _, changed=changed: changed[None]):
            coded = host(**encoded).logits[0]
        if kind == "regression":
            expected = float((coded - logits).square().sum())
            assert row["squared_change_coded"] == pytest.approx(expected, rel=1e-2, abs=1e-6)
            assert row["kl_coded"] is None
        else:
            # Of the label, yes or no: the other labels of the head do not count.
            with_no = [torch.stack([torch.zeros(()), each[readout.target]]) for each in (logits, coded)]
            assert row["kl_coded"] == pytest.approx(divergence(*with_no), rel=1e-2, abs=1e-6)
    figures = fidelity_figures(outcome)
    lost = "kl" if kind == "multi_label" else "squared_change"
    rows = outcome.to_pandas()
    assert figures["code_fidelity"] == pytest.approx(1 - rows[f"{lost}_coded"].sum() / rows[f"{lost}_mean"].sum())


def test_all_tokens_are_coded_with_the_means_of_all(measured, tokenizer):
    host, model, train, test, _, outcome = measured
    rows = {}
    for text in train["text"]:
        _, lower, _, _ = states_of(host, tokenizer, text)
        for code, state in zip(model.encode(lower[None])[0].tolist(), lower, strict=True):
            rows.setdefault(code, []).append(state)
    encoded, lower, _, logits = states_of(host, tokenizer, test["text"][0])
    changed = torch.stack([torch.stack(rows[code]).mean(0) for code in model.encode(lower[None])[0].tolist()])
    with torch.no_grad(), hooks.edit(host, 1, lambda _: changed[None]):
        expected = divergence(logits, host(**encoded).logits[0])
    assert outcome[0]["kl_coded_all"] == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_figures_by_hand():
    outcome = Dataset.from_dict(
        {
            "codes": [[0, 0], [1], [0]],
            "kl_coded": [1.0, 0.5, 2.5],
            "kl_mean": [10.0, 10.0, 20.0],
            "kl_class": [2.0, 3.0, 3.0],
            "kl_word": [4.0, 4.0, 2.0],
            "kl_random": [8.0, 8.0, 4.0],
            "kl_coded_all": [2.0, 2.0, 4.0],
            "residual_code": [1.0, 2.0, 1.0],
            "residual_cell": [1.0, 1.0, 1.0],
            "residual_class": [2.0, 2.0, 2.0],
            "residual_word": [3.0, 3.0, 2.0],
            "residual_random": [2.0, 2.0, 2.0],
            "residual_mean": [4.0, 4.0, 8.0],
        }
    )
    figures = fidelity_figures(outcome)
    expected = {
        "code_fidelity": 0.9,
        "fidelity_beyond_class": 0.5,
        "code_fidelity_all_tokens": 0.8,
        "word_fidelity": 0.75,
        "random_fidelity": 0.5,
        "class_fidelity": 0.8,
        "explained_variance": 0.75,
        "explained_variance_within_class": 0.5,
        "word_explained_variance": 0.5,
        "random_explained_variance": 0.625,
        "class_explained_variance": 0.625,
        "bits_per_token": 0.811278,  # of 3/4 and 1/4
        "num_texts": 3,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert figures["code_fidelity_low"] < 0.9 < figures["code_fidelity_high"]


def test_a_host_without_classes_has_no_figures_of_classes(measured):
    outcome = measured[-1].remove_columns(["kl_class", "residual_class", "residual_cell"])
    none = [None] * len(outcome)
    for name in ("kl_class", "residual_class", "residual_cell"):
        outcome = outcome.add_column(name, none)
    figures = fidelity_figures(outcome)
    assert figures["fidelity_beyond_class"] is None and figures["class_fidelity"] is None
    assert figures["code_fidelity"] is not None


def test_statistics_of_other_codes_are_refused(measured, tokenizer):
    host, _, _, test, references, _ = measured
    other = ClusterModel(ClusterConfig(hidden_size=32, lower_layer=1, upper_layer=3, codebook_size=12))
    other.centroids.initialized.fill_(True)
    table = other.concept_table(host, tokenizer, test)
    with pytest.raises(ValueError, match="another model's codes"):
        fidelity_texts(other, host, tokenizer, table, references.statistics)


class TestClassOnly:
    @pytest.fixture(scope="class")
    def cache(self, measured, tokenizer, tmp_path_factory):
        host, _, train, *_ = measured
        folder = tmp_path_factory.mktemp("cache")
        return ActivationCache.build(folder, host, tokenizer, train, lower_layer=1, upper_layer=3)

    @pytest.fixture(scope="class")
    def model(self, measured, cache):
        config = ClassOnlyConfig.from_host(measured[0], 1, 3, codebook_size=9)
        return ClassOnlyModel(config).fit(cache).eval()

    def test_a_code_is_class_and_position(self, model, cache):
        assert model.config.num_classes == 2
        text = cache[3]
        codes = model.encode(text["hidden_states"][None])[0]
        length = len(codes)
        own = int(text["prediction"])
        # Four positions of each class; the ninth code is of none.
        assert codes.tolist() == [4 * own + place * 4 // length for place in range(length)]

    def test_padding_changes_nothing(self, model, cache):
        states = cache[3]["hidden_states"]
        padded = torch.cat([states, torch.full((3, 32), torch.nan)])[None]
        mask = torch.tensor([[1] * len(states) + [0] * 3])
        codes = model.encode(padded, mask)[0]
        assert codes[: len(states)].tolist() == model.encode(states[None])[0].tolist()
        assert codes[len(states) :].tolist() == [-1] * 3

    def test_scores_nothing_beyond_the_class(self, measured, model, cache, tokenizer):
        host, _, train, test, *_ = measured
        references = fit_references(model, host, tokenizer, train, cache=cache)
        table = model.concept_table(host, tokenizer, test)
        figures = fidelity_figures(fidelity_texts(model, host, tokenizer, table, references.statistics))
        assert abs(figures["explained_variance_within_class"]) < 0.05
        assert figures["fidelity_beyond_class_low"] < 0.1

    def test_is_saved_and_rebuilds_the_upper_layer(self, model, cache, tmp_path):
        model.save_pretrained(tmp_path)
        again = ClassOnlyModel.from_pretrained(tmp_path)
        states = cache[5]["hidden_states"][None]
        assert torch.equal(again.encode(states), model.encode(states))
        codes = torch.cat([model.encode(cache[row]["hidden_states"][None])[0][1:-1] for row in range(len(cache))])
        upper = cache.counted("target_hidden_states")
        code = int(codes[0])
        torch.testing.assert_close(again.decoder.vectors[code], upper[codes == code].mean(0))

    def test_without_classes(self, cache, monkeypatch):
        monkeypatch.setattr(ActivationCache, "predictions", None)
        config = ClassOnlyConfig(hidden_size=32, lower_layer=1, upper_layer=3, codebook_size=8)
        with pytest.raises(ValueError, match="needs a host that chooses classes"):
            ClassOnlyModel(config).fit(cache)


def test_a_cache_and_a_pass_of_the_host_give_the_same(measured, tokenizer, tmp_path):
    host, model, train, _, references, _ = measured
    cache = ActivationCache.build(tmp_path, host, tokenizer, train, lower_layer=1, upper_layer=3)
    cached = fit_references(model, host, tokenizer, train, cache=cache).statistics
    for name in ("codes", "codes_with_special", "words", "classes", "cells"):
        first, second = getattr(references.statistics, name), getattr(cached, name)
        assert np.array_equal(first.ids, second.ids)
        torch.testing.assert_close(first.lower, second.lower, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(first.upper, second.upper, atol=1e-4, rtol=1e-4)


def test_a_model_that_is_asked_for_the_next_token_is_compared_after_every_token(causal_host, tokenizer, all_texts):
    host, train, test = causal_host.eval(), all_texts.select(range(20)), all_texts.select(range(60, 66))
    config = ClusterConfig.from_host(host, 1, 3, codebook_size=6, algorithm="random_states")
    model = ClusterModel(config)
    model.centroids.vectors.copy_(torch.randn(6, config.hidden_size, generator=torch.Generator().manual_seed(0)))
    model.centroids.initialized.fill_(True)
    texts = [dataset.remove_columns("label") for dataset in (train, test)]
    references = fit_references(model, host, tokenizer, texts[0])
    table = model.concept_table(host, tokenizer, texts[1])
    outcome = fidelity_texts(model, host, tokenizer, table, references.statistics, readout=Readout("next_token"))
    means = references.statistics.codes
    text, row = test["text"][0], outcome[0]
    encoded = TextCollator(tokenizer)(tokenize_texts(test.select([0]), tokenizer).to_list())
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        plain = host(**inputs).logits[0]
        lower = hooks.run(host, inputs, [1])[1]
        codes = model.encode(lower)
        counted = encoded["token_mask"].bool()
        changed = torch.where(counted[..., None], means.lower_of(codes), lower)
        with hooks.edit(host, 1, lambda _: changed):
            coded = host(**inputs).logits[0]
    expected = np.mean([divergence(first, second) for first, second in zip(plain, coded, strict=True)])
    assert row["kl_coded"] == pytest.approx(expected, rel=1e-3), text
    assert row["kl_class"] is None
    assert fidelity_figures(outcome)["fidelity_beyond_class"] is None
