"""Hosts with every kind of head through the whole evaluation, and what removal does to them."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.headed_hosts import JIGSAW, bert_with
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
from typer.testing import CliRunner

from clvq_hf import CLVQConfig, CLVQModel, ablate_texts
from clvq_hf.cli import app
from clvq_hf.evaluation import fit_references
from clvq_hf.evaluation.bottleneck import bottleneck_figures, splice_texts
from clvq_hf.evaluation.evaluate import EvaluationSettings, evaluate_concepts
from clvq_hf.hosts.readout import Readout
from clvq_hf.metrics.ablation_drop.numerics import ablation_drop
from clvq_hf.metrics.results_tables import report_tables
from clvq_hf.rendering.text_tables import to_markdown

QUICK = EvaluationSettings(
    protocols=("code",),
    attribution="gradient_x_input",
    num_draws=1,
    num_bootstrap=20,
    conditions=("salient", "other_code", "class_ceiling", "leace"),
)


@pytest.fixture
def few(texts):
    return texts.remove_columns("label").select(range(12))


class TestRemoval:
    @pytest.fixture
    def both(self, make_model, tokenizer, few, fit):
        """A host of labels, the classifier with the logits 0 and z, a model, and the texts with labels."""
        labels = bert_with("multi_label", tokenizer, few["text"], ["a", "b"])
        config = type(labels.config)(**{**labels.config.to_dict(), "problem_type": None})
        classes = BertForSequenceClassification(config).eval()
        classes.load_state_dict(labels.state_dict())
        with torch.no_grad():
            classes.classifier.weight[0] = 0
            classes.classifier.bias[0] = 0
        return labels, classes, fit(make_model(), labels, tokenizer, few)

    def test_two_labels_lose_what_two_classes_lose(self, both, tokenizer, few):
        labels, classes, model = both
        has_b = [number % 3 == 0 for number in range(12)]
        outcomes, figures = [], []
        for host, column in (
            (labels, [["b"] if has else ["a"] for has in has_b]),
            (classes, ["b" if has else "a" for has in has_b]),
        ):
            named = few.add_column("label", column)
            # The same salient tokens: why a text lacks a label is no question to a classifier.
            salience = model.salient_tokens(labels, tokenizer, few, target="b", method="gradient_x_input")
            if host is classes:
                own = model.salient_tokens(classes, tokenizer, few, method="gradient_x_input")
                salience.info.description = own.info.description
            table = model.concept_table(host, tokenizer, named, salience=salience)
            assert [label == 1 for label in table.texts["label"]] == has_b
            outcomes.append(ablate_texts(model, host, tokenizer, table, num_draws=2).to_dict())
            figures.append(bottleneck_figures(splice_texts(model, host, tokenizer, table, upper_mean=torch.zeros(32))))
        assert set(outcomes[0]["prediction_plain"]) == {0, 1}
        for name, column in outcomes[0].items():
            if isinstance(column[0], str):
                assert column == outcomes[1][name]
            else:
                np.testing.assert_allclose(column, outcomes[1][name], atol=1e-4, err_msg=name)
        assert figures[0] == pytest.approx(figures[1], abs=1e-4)

    def test_of_a_number_is_in_its_own_units(self, make_model, tokenizer, few, fit):
        host = bert_with("regression", tokenizer, few["text"])
        model = fit(make_model(), host, tokenizer, few)
        salience = model.salient_tokens(host, tokenizer, few, method="gradient_x_input")
        table = model.concept_table(host, tokenizer, few, salience=salience)
        centre = table.readout.centre
        outcome = ablate_texts(model, host, tokenizer, table, conditions=("salient",), positions="all")
        for row in outcome:
            encoded = tokenizer(few["text"][row["text_id"]], return_tensors="pt")
            with torch.no_grad():
                plain = float(host(**encoded).logits[0, 0])
                with model.ablate(host, row["code"], positions="all"):
                    changed = float(host(**encoded).logits[0, 0])
            side = 1 if plain > centre else -1
            assert row["margin_plain"] == pytest.approx(abs(plain - centre), abs=1e-4)
            assert row["margin"] == pytest.approx(side * (changed - centre), abs=1e-4)
            assert row["prediction"] == int(changed > centre) or abs(changed - centre) < 1e-4
            assert row["kl"] is row["probability"] is row["gold_probability"] is None and row["probabilities"] == []
        figures = ablation_drop(outcome.to_dict(), num_bootstrap=20)
        change = np.asarray(outcome["margin"][:]) - np.asarray(outcome["margin_plain"][:])
        assert figures["salient_margin_change"] == pytest.approx(change.mean())
        assert figures["salient_kl"] is figures["salient_probability_change"] is figures["salient_macro_auc"] is None
        spliced = splice_texts(model, host, tokenizer, table, upper_mean=torch.zeros(32))
        lost = np.asarray(spliced["squared_change_splice"][:]) / sum(spliced["squared_change_mean"])
        assert bottleneck_figures(spliced)["splice_fidelity"] == pytest.approx(1 - lost.sum())
        assert set(spliced["kl_splice"]) == {None}

    def test_of_a_continuation(self, make_model, causal_host, tokenizer, few, fit):
        model = fit(make_model(is_causal=True), causal_host, tokenizer, few)
        readout = Readout.of(causal_host, tokenizer, continuation="very good")
        salience = model.salient_tokens(causal_host, tokenizer, few, readout=readout, method="gradient_x_input")
        table = model.concept_table(causal_host, tokenizer, few, salience=salience)
        outcome = ablate_texts(model, causal_host, tokenizer, table, conditions=("salient",), batch_size=5)
        ids = torch.tensor([readout.token_ids])
        changes = []
        for row in outcome:
            text = tokenizer(few["text"][row["text_id"]], return_tensors="pt")["input_ids"]
            where = torch.zeros(1, text.shape[1] + ids.shape[1], dtype=torch.bool)
            codes = table.column("code")[table.token_rows(row["text_id"])]
            where[0, : text.shape[1]] = torch.as_tensor(codes == row["code"]) & (torch.arange(text.shape[1]) > 0)

            def log_p(text=text):
                with torch.no_grad():
                    logits = causal_host(torch.cat([text, ids], dim=1)).logits[0].double().log_softmax(-1)
                places = torch.arange(text.shape[1] - 1, text.shape[1] + ids.shape[1] - 1)
                return float(logits[places, ids[0]].sum())

            plain = log_p()
            with model.ablate(causal_host, row["code"], positions=where):
                changed = log_p()
            assert row["prediction"] == row["prediction_plain"] == 1
            # log p is far below 0 here, so that log(1 - p) is nothing.
            assert row["margin_plain"] == pytest.approx(plain, abs=1e-3)
            changes.append((row["margin"] - row["margin_plain"], changed - plain))
        close = [abs(one - other) < 1e-3 for one, other in changes]
        # The live edit was given a mask that may name a sink, which measured edits leave alone.
        assert sum(close) >= 10 and max(abs(other) for _, other in changes) > 1e-3
        spliced = splice_texts(model, causal_host, tokenizer, table, upper_mean=torch.zeros(32))
        assert bottleneck_figures(spliced)["agreement"] == 1

    def test_classes_of_another_label_are_refused(self, make_model, tokenizer, texts, fit):
        few, more = (
            texts.remove_columns("label").select(range(12)),
            texts.remove_columns("label").select(range(20, 50)),
        )
        host = bert_with("multi_label", tokenizer, few["text"])
        model = fit(make_model(), host, tokenizer, few)
        salience = model.salient_tokens(host, tokenizer, few, target="insult", method="gradient_x_input")
        table = model.concept_table(host, tokenizer, few, salience=salience)
        for name in ("threat", "insult"):
            more = more.add_column(name, [number % 2 for number in range(30)])
        threats = fit_references(model, host, tokenizer, more, target="threat")
        with pytest.raises(ValueError, match=r"readout: target 3, not 4.*readout=table\.readout"):
            ablate_texts(model, host, tokenizer, table, references=threats)
        insults = fit_references(model, host, tokenizer, more, readout=table.readout)
        outcome = ablate_texts(model, host, tokenizer, table, references=insults, conditions=("salient", "leace"))
        assert set(outcome["condition"]) == {"salient", "leace"}


@pytest.mark.slow
class TestEvaluate:
    def check(self, results):
        markdown = to_markdown(report_tables(results))
        assert "nan" not in markdown.lower()
        assert results["ablation"]["code"]["salient_margin_change"] is not None
        return markdown

    @pytest.mark.parametrize("kind", ["multi_label", "regression", "tokens", "continuation"])
    def test_every_head(self, make_model, causal_host, tokenizer, all_texts, fit, tmp_path, kind):
        texts = all_texts.remove_columns("label")
        test, train = texts.select(range(24)), texts.select(range(30, 70))
        readout, labels = None, {}
        if kind == "continuation":
            host, readout = causal_host, Readout.of(causal_host, tokenizer, continuation="good")
        else:
            host = bert_with(kind, tokenizer, test["text"])
        if kind == "multi_label":
            labels = {"labels": lambda number: [name for place, name in enumerate(JIGSAW) if (number + place) % 2]}
        if kind == "regression":
            labels = {"label": lambda number: number / 7 - 2.5}
        test, train = (
            part.add_column("label", [next(iter(labels.values()))(number) for number in range(len(part))])
            if labels
            else part
            for part in (test, train)
        )
        model = fit(make_model(is_causal=kind == "continuation"), host, tokenizer, train)
        target = "insult" if kind == "multi_label" else None
        results = evaluate_concepts(
            model, host, tokenizer, test, tmp_path, train=train, settings=QUICK, readout=readout, target=target
        )
        markdown = self.check(results)
        asked = results["readout"]
        assert asked["kind"] == {"tokens": "token_classification"}.get(kind, kind)
        if kind == "multi_label":
            assert results["texts"]["label_names"] == ["not insult", "insult"]
            assert "not insult or insult?" in markdown and "label_purity" in results["table"]
            with pytest.raises(ValueError, match="readout: target 4, not 0"):
                evaluate_concepts(model, host, tokenizer, test, tmp_path, train=train, settings=QUICK, target="toxic")
        if kind == "regression":
            assert "in units of the output" in markdown and "| KL" not in markdown and "| AUC" not in markdown
            assert "leace_margin_change" in results["ablation"]["code"]
        again = evaluate_concepts(
            model, host, tokenizer, test, tmp_path, train=train, settings=QUICK, readout=readout, target=target
        )
        assert again == results

    def test_a_real_host_of_six_labels(self, minilm_dir, all_texts, fit, tmp_path):
        config = AutoConfig.from_pretrained(
            minilm_dir,
            problem_type="multi_label_classification",
            id2label=dict(enumerate(JIGSAW)),
            label2id={name: number for number, name in enumerate(JIGSAW)},
        )
        torch.manual_seed(0)
        host = AutoModelForSequenceClassification.from_pretrained(minilm_dir, config=config).eval()
        tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
        texts = all_texts.remove_columns("label").select(range(60))
        with torch.no_grad():
            encoded = tokenizer(texts["text"][:40], padding=True, return_tensors="pt")
            host.classifier.weight *= 20
            host.classifier.bias -= host(**encoded).logits.median(0).values
        for place, name in enumerate(JIGSAW):
            texts = texts.add_column(name, [(number >> place) & 1 for number in range(60)])
        model = CLVQModel(CLVQConfig.from_host(host, 2, 4, codebook_size=16, num_decoder_layers=1))
        fit(model, host, tokenizer, texts)
        arguments = {"train": texts.select(range(24, 60)), "settings": QUICK, "target": "threat"}
        results = evaluate_concepts(model, host, tokenizer, texts.select(range(24)), tmp_path, **arguments)
        self.check(results)
        # The numbers 8 to 15 have bit 3.
        assert results["ablation"]["code"]["majority_accuracy"] == pytest.approx(16 / 24)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi_label", "regression", "tokens"])
def test_from_an_empty_folder(tokenizer, all_texts, fit, tmp_path, kind):
    """As somebody would on the command line: a saved host, a CSV, a codebook, a table, an evaluation."""
    texts = all_texts.remove_columns("label").select(range(90))
    host = bert_with(kind, tokenizer, texts["text"][:40])
    host.save_pretrained(tmp_path / "host")
    tokenizer.save_pretrained(tmp_path / "host")
    columns = {"text": texts["text"][:]}
    if kind == "multi_label":
        columns |= {name: [(number >> place) & 1 for number in range(90)] for place, name in enumerate(JIGSAW)}
    elif kind == "regression":
        columns["score"] = [number / 30 - 1.5 for number in range(90)]
    Dataset.from_dict(columns).to_csv(tmp_path / "texts.csv")
    config = CLVQConfig.from_host(
        host, 1, 3, codebook_size=12, num_decoder_layers=1, num_attention_heads=4, intermediate_size=48
    )
    model = fit(CLVQModel(config), host, tokenizer, texts)
    model.save_pretrained(tmp_path / "out")
    target = ["--target", "insult"] if kind == "multi_label" else []
    common = ["--dataset", str(tmp_path / "texts.csv"), "--host", str(tmp_path / "host"), *target]

    def run(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments)])
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.output

    run("concepts", "build", tmp_path / "out", "--output-dir", tmp_path / "table", *common)
    quick = ["--attribution", "gradient_x_input", "--draws", "1", "--protocol", "code", "--protocol", "probe"]
    output = run("evaluate", tmp_path / "out", "--output-dir", tmp_path / "results", *common, *quick)
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["ablation"]["code"]["num_texts"] > 5
    if kind == "multi_label":
        assert "not insult or insult?" in output
        assert results["texts"]["label_names"] == ["not insult", "insult"]
        wrong = CliRunner().invoke(
            app, ["evaluate", str(tmp_path / "out"), "--output-dir", "x", *common, "--label-column", "toxic"]
        )
        assert wrong.exit_code == 1 and "--label-column, or the label with --target" in wrong.output
    if kind == "regression":
        assert results["texts"]["label_names"][0].startswith("below ")
    table = tmp_path / "results" / "concept_table"
    run("report", tmp_path / "out", "--table", table, "--output", tmp_path / "report.html")
