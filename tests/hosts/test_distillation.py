"""Differences of logits by hand, and a small host that learns to answer as another."""

import copy
from itertools import repeat

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from clvq_hf.hosts import distillation
from clvq_hf.hosts.distillation import compare_logits, distil, imitation_loss

LOG = torch.log


def batch(rows):
    return {"x": torch.tensor(rows)}, torch.ones(len(rows), dtype=torch.bool)


class TestCompare:
    def test_classes_by_hand(self):
        first = {0: LOG(torch.tensor([[0.8, 0.2], [0.5, 0.5]])), 1: LOG(torch.tensor([[0.6, 0.4]]))}
        second = {0: LOG(torch.tensor([[0.6, 0.4], [0.5, 0.5]])), 1: LOG(torch.tensor([[0.3, 0.7]]))}
        batches = [({"n": 0}, torch.tensor([True, True])), ({"n": 1}, torch.tensor([True]))]
        found = compare_logits(lambda x: first[x["n"]], lambda x: second[x["n"]], batches, "classification")
        assert found.num_rows == 3 and found.agreement == pytest.approx(2 / 3)
        assert found.mean_probability == pytest.approx((0.2 + 0 + 0.3) / 3, abs=1e-6)
        assert found.largest_probability == pytest.approx(0.3, abs=1e-6)
        own = 0.8 * LOG(torch.tensor(0.8 / 0.6)) + 0.2 * LOG(torch.tensor(0.2 / 0.4))
        other = 0.6 * LOG(torch.tensor(0.6 / 0.3)) + 0.4 * LOG(torch.tensor(0.4 / 0.7))
        assert found.kl == pytest.approx(float(own + other) / 3, abs=1e-6)

    def test_each_label_by_itself(self):
        first, second = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        batches = [({}, torch.tensor([True]))]
        found = compare_logits(lambda x: first, lambda x: second, batches, "multi_label")
        assert found.agreement == 0 and found.num_rows == 1, "all labels of a text must be the same"
        assert found.largest_probability == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))) * 2 - 1, abs=1e-6)
        # σ(−1)·(ln σ(−1) − ln σ(1)) + σ(1)·(ln σ(1) − ln σ(−1)) = 2σ(1) − 1 = 0.4621.
        assert found.kl == pytest.approx(0.4621, abs=1e-4)

    def test_numbers_have_no_probabilities(self):
        batches = [({}, torch.tensor([True, True]))]
        first, second = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [2.0]])
        found = compare_logits(lambda x: first, lambda x: second, batches, "regression")
        assert (found.agreement, found.kl, found.largest_logit) == (None, None, 0.5)
        assert imitation_loss(second, first, "regression") == pytest.approx(0.125)

    def test_only_real_tokens_count(self):
        first, second = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
        second[0, 2] = torch.tensor([9.0, 0.0])
        batches = [({}, torch.tensor([[True, True, False]]))]
        found = compare_logits(lambda x: first, lambda x: second, batches, "token_classification")
        assert found.num_rows == 2 and found.largest_logit == 0


def test_a_host_learns_the_answers_of_another(host, tokenizer):
    other = copy.deepcopy(host)
    with torch.no_grad():
        other.classifier.bias += torch.tensor([2.0, -1.0])
    words = ["a wonderful film", "a dull film", "an odd story", "long and slow"]
    encoded = dict(tokenizer(words, padding=True, return_tensors="pt"))
    given = (encoded, torch.ones(4, dtype=torch.bool))
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}

    def teach(inputs):
        return other(**inputs).logits

    student, told = distil(host, teach, repeat(given), [given], "classification", max_steps=60, learning_rate=2e-2)
    found = compare_logits(teach, lambda inputs: student(**inputs).logits, [given], "classification")
    unedited = compare_logits(teach, lambda inputs: host(**inputs).logits, [given], "classification")
    assert found.kl < 0.05 * unedited.kl and 0 < told["best_step"] <= told["steps"] <= 60
    assert not student.training and all(torch.equal(before[name], own) for name, own in host.state_dict().items())


def test_a_student_has_the_types_of_the_host(tokenizer):
    """As if it were saved and loaded: what is not saved, such as rotary frequencies, stays as precise as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    host = LlamaForSequenceClassification(config)
    host.to(torch.bfloat16)
    host.model.rotary_emb.inv_freq = host.model.rotary_emb.inv_freq.float()
    given = (dict(tokenizer("a film", return_tensors="pt")), torch.ones(1, dtype=torch.bool))
    given[0].pop("token_type_ids", None)

    def teach(inputs):
        return -host(**inputs).logits.float()

    student, _ = distil(host, teach, repeat(given), [given], "classification", max_steps=2, learning_rate=1e-2)
    types = [{name: each.dtype for name, each in own.named_buffers()} for own in (host, student)]
    assert types[0] == types[1] and student.dtype == torch.bfloat16
    assert not torch.equal(student.score.weight, host.score.weight)


def test_a_student_that_learns_nothing_stops(host, tokenizer, monkeypatch):
    monkeypatch.setattr(distillation, "STEPS_PER_LOOK", 2)
    given = (dict(tokenizer("a film", return_tensors="pt")), torch.ones(1, dtype=torch.bool))

    def teach(inputs):
        return host(**inputs).logits

    _, told = distil(host, teach, repeat(given), [given], "classification", max_steps=50, learning_rate=1e-9)
    assert told["steps"] == 8, "four looks, two steps apart"
