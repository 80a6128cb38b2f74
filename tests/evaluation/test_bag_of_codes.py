"""Sparse probes on tables written down by hand, and mean states of a host."""

import numpy as np
import pytest
import torch
from helpers.made_tables import made_table
from scipy.sparse import csr_array

from clvq_hf.evaluation.bag_of_codes import _bag, _between_share, _Probe, mean_states, probe_bags

# Each class has one code and twenty words.
CODES = {**{f"water{n}": 1 for n in range(20)}, **{f"coin{n}": 2 for n in range(20)}}


def table(num_texts: int = 60, **fields):
    texts = [f"the bank {'coin' if number % 2 else 'water'}{number % 20} {number}" for number in range(num_texts)]
    predictions = [number % 2 for number in range(num_texts)]
    return made_table(texts, predictions, CODES, **{"labels": predictions, **fields})


def test_bag_by_hand():
    bag = _bag([[3, 1, 3], [], [1]]).toarray()
    assert bag == pytest.approx(np.log([[2, 3], [1, 1], [2, 1]]))


def test_one_code_tells_what_one_word_does_not():
    figures = probe_bags(table())
    assert figures["prediction_codes_1"] == figures["prediction_codes_16"] == 1
    # Each word is in a twentieth of the texts at most; all others go to one class.
    assert 0.4 < figures["prediction_words_1"] < 0.65 < figures["prediction_words_16"]
    gain = figures["prediction_codes_1"] - figures["prediction_words_1"]
    assert figures["prediction_gain_1"] == pytest.approx(gain)
    assert figures["prediction_gain_1_low"] > 0
    assert figures["label_codes_1"] == 1 and figures["label_classes"] == figures["prediction_classes"] == 2
    assert figures["num_texts"] == 60 and "prediction_dense" not in figures


def test_codes_that_say_nothing_are_at_chance():
    figures = probe_bags(made_table([f"text {n}" for n in range(60)], [n % 3 for n in range(60)], {}))
    # All texts have the same bag, so any one class is named: one third of the classes.
    assert figures["prediction_codes_1"] == pytest.approx(1 / 3)
    assert not any(name.startswith("label") for name in figures), "there are none"


def test_the_dense_states_are_a_ceiling():
    states = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    states[:, 2] += 9 * (np.arange(60) % 2)
    assert probe_bags(table(), states, sizes=(1,))["prediction_dense"] == 1


def test_rare_classes_are_left_out_and_one_class_has_no_probe():
    predictions = [0] * 30 + [1] * 4
    one = probe_bags(made_table([f"text {n}" for n in range(34)], predictions, {}), sizes=(2,))
    assert one["prediction_classes"] == 1 and one["prediction_codes_2"] is one["prediction_gain_2_low"] is None
    many = [n // 5 for n in range(105)]
    assert (
        probe_bags(made_table([f"text {n}" for n in range(105)], many, {}), sizes=(1,))["prediction_codes_1"] is None
    )


def test_rows_in_another_order_and_copies_change_nothing():
    texts = [f"the bank {'coin' if number % 3 else 'water'}{number % 20} {number}" for number in range(40)]
    predictions = [number % 2 for number in range(40)]
    order = [*np.random.default_rng(0).permutation(40).tolist(), 5, 5, 9]
    other = made_table([texts[row] for row in order], [predictions[row] for row in order], CODES)
    assert probe_bags(other, sizes=(2,)) == probe_bags(made_table(texts, predictions, CODES), sizes=(2,))


@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_between_share_by_hand(form):
    # Values 1, 3 and 5, 7: means 2 and 6 around 4, so 4 of 5. The others: all of it, none of it, constant.
    features = form(np.array([[1.0, 1, 1, 1], [3, 1, 3, 1], [5, 0, 1, 1], [7, 0, 3, 1]]))
    assert _between_share(features, np.array([4, 4, 7, 7])) == pytest.approx([4 / 5, 1, 0, 0])


def test_interval_by_hand():
    probe = _Probe(np.array([0, 0, 0, 1, 1]), [])
    centre, low, high = probe.interval(np.array([1.0, 0.0, 0.5, 1.0, 0.5]))
    # Means 0.5 and 0.75, variances 0.25 and 0.125, t with 3 degrees of freedom.
    assert centre == pytest.approx(0.625)
    assert high - centre == centre - low == pytest.approx(3.182446 * np.sqrt(0.25 / 3 + 0.125 / 2) / 2)


def test_mean_states(make_model, host, tokenizer, texts, fit):
    few = texts.select(range(6))
    model = fit(make_model(), host, tokenizer, few)
    means = mean_states(model, host, tokenizer, model.concept_table(host, tokenizer, few), batch_size=4)
    for mean, text in zip(means, few["text"], strict=True):
        with torch.no_grad():
            states = host(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1]
        assert np.allclose(mean, states[0, 1:-1].mean(0), atol=1e-5)
