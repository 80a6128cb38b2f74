"""Hosts with every kind of head: salience that adds up, tables, and questions that do not match."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.headed_hosts import bert_with
from transformers import BertForSequenceClassification

from clvq_hf.data import text_readout
from clvq_hf.hosts import hooks
from clvq_hf.hosts.readout import Readout
from clvq_hf.tables.attribution import read_description, salient_tokens

LAYER = 1
KINDS = ["multi_label", "regression", "tokens", "continuation"]


@pytest.fixture
def few(texts):
    return texts.remove_columns("label").select(range(6))


def make(kind, causal_host, tokenizer, few):
    """A host, and a question to it."""
    if kind == "continuation":
        return causal_host, Readout.of(causal_host, tokenizer, continuation="very good")
    host = bert_with(kind, tokenizer, few["text"])
    return host, text_readout(host, tokenizer, few, target="insult" if kind == "multi_label" else None)


def answer(host, readout, tokenizer, text, change=None):
    """The row of one text alone, if wished with other states of its own tokens at the layer."""
    encoded = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
    own = encoded["input_ids"].shape[1]
    ids = torch.cat([encoded["input_ids"], torch.tensor([readout.token_ids], dtype=torch.int64)], dim=1)

    def edit(state):
        return torch.cat([torch.zeros_like(state[:, :own]), state[:, own:]], dim=1)

    with torch.no_grad(), hooks.edit(host, LAYER, edit if change else lambda state: state):
        return readout(host(input_ids=ids), encoded["attention_mask"], 1 - encoded["special_tokens_mask"])


class TestSalience:
    @pytest.mark.parametrize("kind", KINDS)
    def test_scores_add_up_to_what_is_attributed(self, causal_host, tokenizer, few, kind):
        host, readout = make(kind, causal_host, tokenizer, few)
        baseline = {"baseline": "zero"} if kind != "continuation" else {"method": "gradient_x_input"}
        salience = salient_tokens(host, tokenizer, few, LAYER, readout=readout, n_steps=64, max_steps=64, **baseline)
        for row, text in zip(salience, few["text"], strict=True):
            rows = answer(host, readout, tokenizer, text)
            prediction = readout.predict(rows)
            support = readout.support(rows, prediction)
            assert row["prediction"] == int(prediction)
            assert row["logit"] == pytest.approx(float(support), abs=1e-4)
            if kind != "continuation":
                without = readout.support(answer(host, readout, tokenizer, text, change=True), prediction)
                change = float(support - without)
                assert sum(row["scores"]) == pytest.approx(change, rel=0.05, abs=0.02)
                assert abs(change) > 0.05
        assert Readout.from_dict(read_description(salience)[1]["readout"]) == readout
        assert readout.title in salience.info.description

    def test_a_label_that_a_text_lacks_has_its_reasons(self, tokenizer, few):
        host = bert_with("multi_label", tokenizer, few["text"])
        salience = salient_tokens(host, tokenizer, few, LAYER, target="threat", method="gradient_x_input")
        assert set(salience["prediction"]) == {0, 1}
        assert all(np.abs(scores).max() > 0 for scores in salience["scores"])
        assert read_description(salience)[1]["readout"]["target"] == 3

    def test_a_continuation_is_no_part_of_the_text(self, causal_host, tokenizer, few):
        host, readout = make("continuation", causal_host, tokenizer, few)
        together = salient_tokens(host, tokenizer, few, LAYER, readout=readout, method="gradient_x_input")
        for number, row in enumerate(together):
            alone = salient_tokens(
                host, tokenizer, few.select([number]), LAYER, readout=readout, method="gradient_x_input"
            )[0]
            assert len(row["scores"]) == len(tokenizer(few["text"][number])["input_ids"])
            np.testing.assert_allclose(alone["scores"], row["scores"], atol=1e-5)
        steps = salient_tokens(host, tokenizer, few, LAYER, readout=readout, baseline="mean", n_steps=64, max_steps=64)
        assert max(steps["error"]) < 0.05, "what follows a text stays where it is"

    def test_of_one_token(self, tokenizer, few):
        host = bert_with("tokens", tokenizer, few["text"])
        positions = [1, 2, 3, 1, 2, 3]
        salience = salient_tokens(
            host, tokenizer, few, LAYER, positions=positions, method="gradient_x_input", batch_size=4
        )
        for row, text, position in zip(salience, few["text"], positions, strict=True):
            logits = host(**tokenizer(text, return_tensors="pt")).logits[0, position]
            assert row["prediction"] == int(logits.argmax())
            assert row["logit"] == pytest.approx(float(logits.detach().max()), abs=1e-4)
        with pytest.raises(ValueError, match="no position 99"):
            salient_tokens(host, tokenizer, few, LAYER, positions=[99] * 6)
        with pytest.raises(ValueError, match="positions=… needs"):
            salient_tokens(bert_with("regression", tokenizer, few["text"]), tokenizer, few, LAYER, positions=positions)


class TestTable:
    @pytest.mark.parametrize("kind", KINDS)
    def test_holds_the_answers(self, make_model, causal_host, tokenizer, few, fit, tmp_path, kind):
        host, readout = make(kind, causal_host, tokenizer, few)
        model = fit(make_model(is_causal=kind == "continuation"), host, tokenizer, few)
        table = model.concept_table(host, tokenizer, few, readout=readout, output_dir=tmp_path / "table")
        assert table.readout == readout and table.readout.class_names == readout.class_names
        plain = model.concept_table(host, tokenizer, few) if kind == "continuation" else table
        assert table.column("code").tolist() == plain.column("code").tolist()
        for row, text in zip(table.texts, few["text"], strict=True):
            expected = answer(host, readout, tokenizer, text)
            assert row["prediction"] == int(readout.predict(expected))
            np.testing.assert_allclose(row["logits"], expected[0], atol=1e-4)
        if kind != "continuation":
            assert table.label_names == list(readout.class_names)
            assert ("Host is asked", readout.title) in table.facts()

    def test_asks_what_the_salience_is_of(self, make_model, tokenizer, few, fit):
        host = bert_with("multi_label", tokenizer, few["text"])
        model = fit(make_model(), host, tokenizer, few)
        salience = model.salient_tokens(host, tokenizer, few, target="insult", method="gradient_x_input")
        assert model.concept_table(host, tokenizer, few, salience=salience).readout.target == 4
        with pytest.raises(ValueError, match=r"The salience is of something else: readout: target 4, not 1\."):
            model.concept_table(host, tokenizer, few, salience=salience, target="severe_toxic")
        of_tokens = salient_tokens(
            bert_with("tokens", tokenizer, few["text"]),
            tokenizer,
            few,
            1,
            positions=[1] * 6,
            method="gradient_x_input",
        )
        with pytest.raises(ValueError, match="positions"):
            model.concept_table(bert_with("tokens", tokenizer, few["text"]), tokenizer, few, salience=of_tokens)

    def test_the_centre_is_the_median_of_the_texts(self, make_model, tokenizer, few, fit):
        host = bert_with("regression", tokenizer, few["text"])
        with torch.no_grad():
            values = [float(host(**tokenizer(text, return_tensors="pt")).logits[0, 0]) for text in few["text"]]
        scored = few.add_column("score", values)
        table = fit(make_model(), host, tokenizer, few).concept_table(host, tokenizer, scored)
        assert table.readout.centre == pytest.approx(np.median(values), abs=1e-4)
        assert table.texts["prediction"][:] == table.texts["label"][:]
        assert sorted(table.texts["prediction"][:]) == [0, 0, 0, 1, 1, 1]
        assert table.label_names == list(table.readout.class_names)


def test_labels_of_two_are_classes_of_two(make_model, tokenizer, few, fit):
    """Predictions, margins and salience are those of a classifier with the logits 0 and z."""
    labels = bert_with("multi_label", tokenizer, few["text"], ["a", "b"])
    config = type(labels.config)(**{**labels.config.to_dict(), "problem_type": None})
    classes = BertForSequenceClassification(config).eval()
    classes.load_state_dict(labels.state_dict())
    with torch.no_grad():
        classes.classifier.weight[0] = 0
        classes.classifier.bias[0] = 0
    model = fit(make_model(), labels, tokenizer, few)
    arguments = {"method": "gradient_x_input"}
    of_labels, of_classes = (
        salient_tokens(labels, tokenizer, few, 1, target="b", **arguments),
        salient_tokens(classes, tokenizer, few, 1, **arguments),
    )
    tables = [
        model.concept_table(host, tokenizer, few, salience=salience)
        for host, salience in ((labels, of_labels), (classes, of_classes))
    ]
    np.testing.assert_allclose(tables[0].texts["logits"][:], tables[1].texts["logits"][:], atol=1e-5)
    assert tables[0].texts["prediction"][:] == tables[1].texts["prediction"][:]
    assert 1 in of_classes["prediction"]
    for one, other in zip(of_labels, of_classes, strict=True):
        if one["prediction"] == 1:
            np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-5)


def test_earlier_tables_note_the_kind_alone(make_model, host, tokenizer, texts, fit):
    table = fit(make_model(), host, tokenizer, texts).concept_table(host, tokenizer, texts.select(range(3)))
    earlier = type(table)(table.tokens, table.texts, {**table.metadata, "readout": "classification"})
    assert earlier.readout == table.readout == Readout("classification")
    assert isinstance(table.texts, Dataset) and earlier.predicts_labels
