"""The whole evaluation of a small model on real sentences: from the command line, resumed, refused, rendered."""

import dataclasses
import json

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from typer.testing import CliRunner

from clvq_hf import CLVQModel, ConceptTable
from clvq_hf.cli import app
from clvq_hf.evaluation.evaluate import EvaluationSettings, evaluate_concepts
from clvq_hf.metrics.results_tables import report_tables
from clvq_hf.rendering.text_tables import ReportTable, to_markdown

QUICK = EvaluationSettings(num_draws=1, n_steps=2, max_steps=2, num_bootstrap=20)


@pytest.fixture
def host(host, tokenizer, texts):
    """The random classifier, shifted so that it predicts either class for about half of the texts."""
    with torch.no_grad():
        host.classifier.weight *= 20
        encoded = tokenizer(texts["text"][:], padding=True, return_tensors="pt")
        host.classifier.bias -= host(**encoded).logits.median(0).values
    return host


@pytest.fixture
def model(make_model, host, tokenizer, texts):
    model = make_model().eval()
    encoded = tokenizer(texts["text"][:40], padding=True, return_tensors="pt")
    states = host(**encoded, output_hidden_states=True).hidden_states[1].detach()
    model.initialize_codebook(states[encoded["attention_mask"].bool()])
    return model


@pytest.fixture
def test_texts(all_texts):
    return all_texts.select(range(60, 110))


class TestEvaluate:
    @pytest.mark.slow
    def test_measures_everything_and_goes_on_where_it_stopped(
        self, model, host, tokenizer, texts, test_texts, tmp_path
    ):
        arguments = (model, host, tokenizer, test_texts, tmp_path)
        results = evaluate_concepts(*arguments, train=texts, settings=QUICK)
        assert set(results["ablation"]) == {"code", "all", "probe"}
        assert {"label_purity", "routing_divergence", "codebook_overlap", "codebook_usage"} <= set(results["table"])
        assert "splice_fidelity" in results["bottleneck"]["splice"]
        assert json.loads((tmp_path / "results.json").read_text()) == results
        assert len(ConceptTable.load_from_disk(tmp_path / "concept_table").texts) == 50
        # As after a crash: the figures of one protocol are missing, its rows are there.
        unfinished = {**results, "ablation": {name: results["ablation"][name] for name in ("code", "probe")}}
        (tmp_path / "results.json").write_text(json.dumps(unfinished))
        written = (tmp_path / "ablation-code" / "state.json").stat().st_mtime_ns
        again = evaluate_concepts(*arguments, train=texts, settings=QUICK)
        assert again["ablation"]["all"] == results["ablation"]["all"]
        assert (tmp_path / "ablation-code" / "state.json").stat().st_mtime_ns == written, "nothing is computed twice"

        markdown = to_markdown(report_tables(results))
        for title in ("What was measured", "contrasts", "Specificity", "Overlap", "Codebook and bottleneck"):
            assert title in markdown
        assert "nan" not in markdown.lower()

    def test_takes_out_what_was_trained_on(self, model, host, tokenizer, texts, test_texts, tmp_path):
        results = evaluate_concepts(
            model,
            host,
            tokenizer,
            texts,
            tmp_path,
            train=texts.select(range(30)),
            settings=EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10),
        )
        assert results["texts"]["num_texts"] == 30 and results["texts"]["num_left_out"] == 30

    @pytest.mark.parametrize("names", [["negative", "positive"], ["positive", "negative"]])
    def test_the_hosts_classes_in_any_order(self, model, host, tokenizer, texts, tmp_path, names):
        host.config.id2label = dict(enumerate(names))
        settings = EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)
        evaluate_concepts(model, host, tokenizer, texts, tmp_path, settings=settings)
        table = ConceptTable.load_from_disk(tmp_path / "concept_table")
        assert table.label_names == names
        assert [names[label] for label in table.texts["label"]] == texts.features["label"].int2str(texts["label"][:])

    def test_other_labels_are_refused_before_the_host_runs(self, model, host, tokenizer, texts, tmp_path, monkeypatch):
        others = Dataset.from_dict({"text": ["one", "two"], "label": [0, 4]})
        monkeypatch.setattr(type(host), "forward", None)
        for test, train in ((others, texts), (texts, others)):
            with pytest.raises(ValueError, match="are 0, 4; the host's classes are 0, 1"):
                evaluate_concepts(model, host, tokenizer, test, tmp_path, train=train, settings=QUICK)

    def test_nothing_left(self, model, host, tokenizer, texts, tmp_path):
        with pytest.raises(ValueError, match="nothing to measure"):
            evaluate_concepts(model, host, tokenizer, texts, tmp_path, train=texts, settings=QUICK)

    def test_refuses_a_folder_of_something_else(self, model, host, tokenizer, texts, test_texts, tmp_path):
        settings = EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)
        evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=settings)
        with pytest.raises(ValueError, match="another settings"):
            evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=QUICK)

    def test_texts_without_labels(self, model, host, tokenizer, test_texts, tmp_path, caplog):
        results = evaluate_concepts(
            model,
            host,
            tokenizer,
            test_texts.remove_columns("label"),
            tmp_path,
            settings=EvaluationSettings(
                protocols=("code", "probe"),
                attribution="gradient_x_input",
                conditions=("salient", "other_code"),
                num_bootstrap=10,
            ),
        )
        assert "label_purity" not in results["table"] and "probe" not in results["ablation"]
        assert results["ablation"]["code"]["accuracy"] is None
        assert results["ablation"]["code"]["salient_margin_change"] is not None
        assert "fewer than two labels" in caplog.text

    def test_texts_of_which_the_tokenizer_leaves_nothing(self, model, host, tokenizer, texts, test_texts, tmp_path):
        # In the texts that are measured, and in those for the references.
        for blank in ("\u200b", "\ufeff"):
            train, measured = (
                concatenate_datasets(
                    [
                        Dataset.from_dict({"text": [text], "label": [1]}, features=texts.features),
                        each.select(range(30)),
                    ]
                )
                for text, each in (("\u00ad", texts), (blank, test_texts))
            )
            results = evaluate_concepts(
                model,
                host,
                tokenizer,
                measured,
                tmp_path / str(ord(blank)),
                train=train,
                settings=dataclasses.replace(QUICK, protocols=("code", "probe"), attribution="gradient_x_input"),
            )
            assert (
                set(results["ablation"]) == {"code", "probe"} and "splice_fidelity" in results["bottleneck"]["splice"]
            )
            table = ConceptTable.load_from_disk(tmp_path / str(ord(blank)) / "concept_table")
            assert table.texts["text_id"][:] == list(range(1, 31)) and table.metadata["num_empty"] == 1

    def test_unknown_protocol(self):
        with pytest.raises(ValueError, match="no protocol 'magic'"):
            EvaluationSettings(protocols=("magic",))


class TestMarkdown:
    def test_escapes_what_comes_from_data(self):
        table = ReportTable("T", ["word", "n"], [["a|b <script> *x*", "1"]], "note")
        assert to_markdown([table]) == (
            "## T\n\n| word | n |\n|---|---:|\n| a\\|b &lt;script&gt; \\*x\\* | 1 |\n\nnote\n"
        )


class TestCommands:
    @pytest.fixture
    def folders(self, model, host, tokenizer, all_texts, tmp_path):
        model.config.host_name_or_path = str(tmp_path / "host")
        model.save_pretrained(tmp_path / "model")
        host.save_pretrained(tmp_path / "host")
        tokenizer.save_pretrained(tmp_path / "host")
        (tmp_path / "data").mkdir()
        for name, rows in (("train", range(100, 140)), ("test", range(140, 200))):
            all_texts.select(rows).to_json(tmp_path / "data" / f"{name}.jsonl")
        return tmp_path

    def test_concepts(self, folders):
        command = ["concepts", "build", str(folders / "model"), "--dataset", str(folders / "data")]
        result = CliRunner().invoke(
            app, [*command, "--output-dir", str(folders / "table"), "--min-tokens", "5", "--show", "3"]
        )
        assert result.exit_code == 0, result.output
        table = ConceptTable.load_from_disk(folders / "table")
        assert len(table.texts) == 60
        table.check_model(CLVQModel.from_pretrained(folders / "model"))
        assert "purity" in result.output and "Written to" in result.output

    @pytest.mark.slow
    def test_evaluate(self, folders):
        command = ["evaluate", str(folders / "model"), "--dataset", str(folders / "data"), "--draws", "1"]
        options = ["--protocol", "code", "--steps", "4", "--max-steps", "4", "--output-dir", str(folders / "results")]
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.output
        assert "token specificity" in (folders / "results" / "results.md").read_text()
        assert "Written to" in result.output

    def test_errors_are_readable(self, folders):
        command = ["evaluate", str(folders / "nothing"), "--dataset", str(folders / "data")]
        result = CliRunner().invoke(app, [*command, "--output-dir", str(folders / "results")])
        assert result.exit_code == 1 and "Error:" in result.output and "Traceback" not in result.output
