"""The questions that heads answer: rows of logits by hand, what is attributed, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from helpers.headed_hosts import JIGSAW, TAGS, bert_with
from transformers import AutoModel, BertForSequenceClassification

from clvq_hf.hosts.readout import Readout, class_names, margins

TEXTS = ["a warm film", "a dull and tedious film about nothing at all", "it is what it is"]


def read(readout, logits, mask=None, token_mask=None, positions=None):
    logits = torch.tensor(logits)
    mask = torch.ones(logits.shape[:2], dtype=torch.int64) if mask is None else torch.tensor(mask)
    token_mask = None if token_mask is None else torch.tensor(token_mask)
    positions = None if positions is None else torch.tensor(positions)
    return readout(SimpleNamespace(logits=logits), mask, token_mask, positions)


class TestRows:
    def test_of_a_label(self):
        readout = Readout("multi_label", target=1)
        rows = read(readout, [[3.0, -2.0], [3.0, 0.5]], [[1, 1], [1, 0]])
        assert rows.tolist() == [[0, -2.0], [0, 0.5]]
        torch.testing.assert_close(rows.softmax(-1)[:, 1], torch.sigmoid(torch.tensor([-2.0, 0.5])))
        prediction = readout.predict(rows)
        assert prediction.tolist() == [0, 1]
        assert margins(rows, prediction).tolist() == [2.0, 0.5]
        # What says that a text lacks the label is -z, not the constant 0.
        assert readout.support(rows, prediction).tolist() == [2.0, 0.5]

    def test_of_a_number(self):
        readout = Readout("regression", target=0).with_centre(1.5)
        assert readout.class_names == ("below 1.5", "above 1.5")
        rows = read(readout, [[1.0], [4.0]], [[1], [1]])
        assert rows.tolist() == [[0, -0.5], [0, 2.5]]
        assert readout.support(rows, readout.predict(rows)).tolist() == [0.5, 2.5]
        with pytest.raises(ValueError, match="centre"):
            read(Readout("regression", target=0), [[1.0]], [[1]])

    def test_of_the_surest_token(self):
        # Of class 0, outside, the least sure token decides; of the others the surest.
        p = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]])
        readout = Readout("token_classification", outside=0)
        logits = p.log().tolist()
        torch.testing.assert_close(read(readout, logits).exp(), torch.tensor([[0.2, 0.8]]))
        torch.testing.assert_close(read(readout, logits, token_mask=[[1, 0, 1]]).exp(), torch.tensor([[0.6, 0.4]]))
        torch.testing.assert_close(read(readout, logits, [[1, 0, 0]]).exp(), torch.tensor([[0.9, 0.1]]))
        torch.testing.assert_close(read(readout, logits, positions=[1]).exp(), torch.tensor([[0.2, 0.8]]))
        none = Readout("token_classification")
        torch.testing.assert_close(read(none, logits).exp(), torch.tensor([[0.9, 0.8]]))
        # A text without a token that counts is read at all of its tokens.
        torch.testing.assert_close(read(readout, logits, token_mask=[[0, 0, 0]]).exp(), read(readout, logits).exp())

    def test_of_a_continuation(self):
        # After the text (two real tokens): token 1 with 0.5, then token 0 with 0.2.
        p = torch.tensor([[[0.3, 0.7], [0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]])
        readout = Readout("continuation", (1, 0))
        rows = read(readout, p.log().tolist(), [[1, 1]])
        torch.testing.assert_close(rows.exp(), torch.tensor([[0.9, 0.1]]))
        assert readout.predict(rows).tolist() == [1], "whoever names a continuation asks about it"
        torch.testing.assert_close(readout.support(rows, readout.predict(rows)), torch.tensor([0.1]).log())
        certain = read(Readout("continuation", (0,)), [[[100.0, -100.0]]], [[1]])
        assert certain.isfinite().all()

    def test_a_continuation_follows_each_text(self):
        readout = Readout("continuation", (7, 8))
        batch = {
            "input_ids": torch.tensor([[4, 5, 6], [4, 0, 0]]),
            "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
            "token_mask": torch.tensor([[0, 1, 0], [1, 0, 0]]),
            "text_index": torch.tensor([3, 4]),
        }
        new = readout.append(batch)
        assert new["input_ids"].tolist() == [[4, 5, 6, 7, 8], [4, 7, 8, 0, 0]]
        assert new["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        assert new["token_mask"].tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
        assert new["text_index"] is batch["text_index"]
        assert Readout("next_token").append(batch) is batch


class TestOf:
    def test_a_multi_label_host(self, tokenizer):
        host = bert_with("multi_label", tokenizer, TEXTS)
        for target in ("insult", " INSULT", 4, "4"):
            readout = Readout.of(host, target=target)
            assert (readout.kind, readout.target) == ("multi_label", 4)
            assert readout.class_names == ("not insult", "insult") and readout.outputs == tuple(JIGSAW)
            assert Readout.from_dict(readout.to_dict()) == readout
        with pytest.raises(ValueError, match=r"no output 'rude'. Set target=… to one of 0 \(toxic\), 1"):
            Readout.of(host, target="rude")
        assert Readout.of_or_none(host) is None and class_names(host) is None, "a label must be chosen"

    def test_the_first_label_is_asked_about_and_named(self, tokenizer, monkeypatch):
        messages = []
        monkeypatch.setattr("clvq_hf.hosts.readout.logger.warning_once", messages.append)
        assert Readout.of(bert_with("multi_label", tokenizer, TEXTS)).target == 0
        assert "'toxic'" in messages[0] and "target=…: " in messages[0]
        Readout.of(bert_with("regression", tokenizer, TEXTS))
        assert len(messages) == 1

    def test_a_regression_host(self, tokenizer):
        host = bert_with("regression", tokenizer, TEXTS)
        assert Readout.of(host).needs_centre and Readout.of_or_none(host) is None
        assert Readout.of(host, centre=2).class_names == ("below 2", "above 2")
        host.config.problem_type = "single_label_classification"
        with pytest.raises(ValueError, match="does not choose one of several classes"):
            Readout.of(host)
        host.config.problem_type = "multi_label_classification"
        assert Readout.of(host).kind == "multi_label"

    def test_a_token_classification_host(self, tokenizer):
        readout = Readout.of(bert_with("tokens", tokenizer, TEXTS))
        assert (readout.kind, readout.outside, readout.class_names) == ("token_classification", 0, tuple(TAGS))

    def test_a_continuation(self, causal_host, tokenizer):
        readout = Readout.of(causal_host, tokenizer, continuation=" good film")
        assert readout.token_ids == tuple(tokenizer("good film", add_special_tokens=False)["input_ids"])
        with pytest.raises(ValueError, match="no tokens"):
            Readout.of(causal_host, tokenizer, continuation="")

    def test_what_does_not_fit(self, host, causal_host, tokenizer, minilm_dir):
        for fixed, arguments in ((host, {"target": 1}), (causal_host, {"target": 1}), (host, {"centre": 1.0})):
            with pytest.raises(ValueError, match=f"{next(iter(arguments))}=… does not fit"):
                Readout.of(fixed, **arguments)
        with pytest.raises(ValueError, match="A continuation needs a causal language model"):
            Readout.of(host, tokenizer, continuation=" good")
        with pytest.raises(ValueError, match="AutoModelForTokenClassification"):
            Readout.of(AutoModel.from_config(host.config))

    def test_what_earlier_versions_noted(self):
        assert Readout.from_dict("classification") == Readout("classification")
        assert Readout.from_dict(None) is None


def test_two_labels_are_as_two_classes(tokenizer):
    """A host with the logits 0 and z is the multi-label host with z."""
    labels = bert_with("multi_label", tokenizer, TEXTS, ["a", "b"])
    classes = BertForSequenceClassification(labels.config).eval()
    classes.load_state_dict(labels.state_dict())
    with torch.no_grad():
        classes.classifier.weight[0] = 0
        classes.classifier.bias[0] = 0
    classes.config = type(labels.config)(**{**labels.config.to_dict(), "problem_type": None})
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = [
            readout(host(**encoded), encoded["attention_mask"])
            for host, readout in ((labels, Readout.of(labels, target="b")), (classes, Readout.of(classes)))
        ]
    torch.testing.assert_close(*rows)
