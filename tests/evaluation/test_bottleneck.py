"""What passes the bottleneck: figures by hand, and attention sinks that stay where they are."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from clvq_hf.evaluation.bottleneck import bottleneck_figures, splice_texts
from clvq_hf.hosts import hooks

pytestmark = pytest.mark.slow


@pytest.fixture
def few(texts):
    return texts.select(range(12))


@pytest.fixture
def loud_host(host):
    """The random classifier, which listens to what comes up."""
    with torch.no_grad():
        host.classifier.weight *= 20
    return host


def splice(model, host, tokenizer, texts, upper_mean, **kwargs):
    table = model.concept_table(host, tokenizer, texts)
    return splice_texts(model, host, tokenizer, table, upper_mean=upper_mean, **kwargs)


@pytest.mark.parametrize("method", ["clvq", "sparse"])
def test_figures_of_each_text(make_model, make_sparse, loud_host, tokenizer, few, fit, method):
    model = make_model() if method == "clvq" else make_sparse(activation="topk", num_active=4)
    fit(model, loud_host, tokenizer, few)
    mean = torch.linspace(-1, 1, 32)
    outcome = splice(model, loud_host, tokenizer, few, mean, batch_size=5)
    assert outcome["text_id"][:] == list(range(12))
    totals = torch.zeros(4, dtype=torch.float64)
    for row, text in zip(outcome, few["text"], strict=True):
        with torch.no_grad():
            encoded = tokenizer(text, return_tensors="pt")
            plain = loud_host(**encoded, output_hidden_states=True)
            with model.splice(loud_host):
                spliced = loud_host(**encoded).logits
        lower, upper = plain.hidden_states[1], plain.hidden_states[3]
        inner = slice(1, -1)  # [CLS] and [SEP] are spliced too, but not counted
        residual = (upper - model.reconstruct(lower)).square().sum(-1)[0, inner].sum()
        variance = (upper - mean).square().sum(-1)[0, inner].sum()
        active = model.num_active(lower)[0, inner].sum()
        assert row["num_tokens"] == encoded["input_ids"].shape[1] - 2
        assert row["residual"] == pytest.approx(residual.item(), rel=1e-4)
        assert row["variance"] == pytest.approx(variance.item(), rel=1e-4)
        assert row["num_active"] == active
        assert row["num_active"] == row["num_tokens"] or method == "sparse"
        change = plain.logits.log_softmax(-1).exp() * (plain.logits.log_softmax(-1) - spliced.log_softmax(-1))
        assert row["kl_splice"] == pytest.approx(change.sum().item(), rel=1e-3, abs=1e-6)
        totals += torch.tensor([residual, variance, active, row["num_tokens"]])
    figures = bottleneck_figures(outcome)
    # A ratio of sums, not a mean of the texts' ratios.
    assert figures["explained_variance"] == pytest.approx((1 - totals[0] / totals[1]).item(), rel=1e-4)
    assert figures["num_active"] == pytest.approx((totals[2] / totals[3]).item())
    assert (figures["num_active"] == 1) == (method == "clvq")


def test_interval_of_a_fidelity_by_hand():
    # Without each text in turn 2/4, 3/5 and 3/5 of the reference. Jackknife of the logarithms, with t.
    kl = {"kl_splice": [2.0, 1.0, 1.0], "kl_mean": [3.0, 2.0, 2.0], "kl_permuted": [0.0, 0.0, 0.0]}
    same = {name: [0] * 3 for name in ("label", "prediction_plain", "prediction_splice", "prediction_mean")}
    ones = {name: [1.0] * 3 for name in ("residual", "variance", "num_active", "num_tokens")}
    figures = bottleneck_figures(Dataset.from_dict({**kl, **same, **ones}))
    logarithms = np.log([2 / 4, 3 / 5, 3 / 5])
    half_width = 4.302653 * np.sqrt(2 / 3 * ((logarithms - logarithms.mean()) ** 2).sum())
    assert figures["splice_fidelity"] == pytest.approx(1 - 4 / 7)
    assert figures["splice_fidelity_low"] == pytest.approx(1 - 4 / 7 * np.exp(half_width))
    assert figures["splice_fidelity_high"] == pytest.approx(1 - 4 / 7 * np.exp(-half_width))
    # Nothing is lost in any text.
    assert figures["leak"] == figures["leak_low"] == figures["leak_high"] == 1


class TestAttentionSinks:
    @pytest.fixture
    def model(self, make_model, causal_host, tokenizer, few, fit):
        return fit(make_model(is_causal=True), causal_host, tokenizer, few)

    # A sink of the lower layer stays one up to the upper one; one that comes up between them is a sink there alone.
    @pytest.mark.parametrize("layer", [1, 2])
    @pytest.mark.parametrize("spoiled", [1, 2])
    def test_stay_as_they_are_and_do_not_count(self, model, causal_host, tokenizer, few, monkeypatch, layer, spoiled):
        def grow(states):
            return torch.cat([states[:, :1], 500 * states[:, 1:2], states[:, 2:]], dim=1)

        with hooks.edit(causal_host, layer, grow), hooks.capture(causal_host, [3]) as states:

            def all_but_one(lower, mask, codes=None):
                rebuilt = states[3].clone()
                rebuilt[:, spoiled] = 3.0
                return rebuilt

            monkeypatch.setattr(model, "reconstruct", all_but_one)
            outcome = splice(model, causal_host, tokenizer, few, torch.zeros(32), batch_size=4)
        lengths = [len(ids) - 3 for ids in tokenizer(few["text"][:])["input_ids"]]
        assert outcome["num_tokens"][:] == outcome["num_active"][:] == lengths
        if spoiled == 1:  # the sink: whatever is made of it, nothing comes of it
            assert max(outcome["kl_splice"]) < 1e-9 and max(outcome["residual"]) < 1e-9
        else:
            assert min(outcome["kl_splice"]) > 1e-9 and min(outcome["residual"]) > 1
        # Nor do they swell the variance to be explained, or go down to the mean state.
        assert max(variance / tokens for variance, tokens in zip(outcome["variance"], lengths, strict=True)) < 100

    def test_are_left_alone_as_by_a_live_splice(self, model, causal_host, tokenizer, few):
        """Texts of one token and of several, whose first token is a sink from below both layers on."""
        texts = Dataset.from_dict({"text": ["film", *few["text"][:3]]})
        with hooks.edit(causal_host, 0, lambda states: torch.cat([500 * states[:, :1], states[:, 1:]], dim=1)):
            outcome = splice(model, causal_host, tokenizer, texts, torch.zeros(32))
            for row, text in zip(outcome, texts["text"], strict=True):
                ids = tokenizer(text, return_tensors="pt")["input_ids"]
                with torch.no_grad():
                    plain = causal_host(ids).logits[0, -1].double().log_softmax(-1)
                    with model.splice(causal_host):
                        live = causal_host(ids).logits[0, -1].double().log_softmax(-1)
                expected = (plain.exp() * (plain - live)).sum().item()
                assert row["kl_splice"] == pytest.approx(expected, rel=1e-3, abs=1e-7)
