"""The whole evaluation of a small model on real sentences: from the command line, resumed, refused, rendered."""

import copy
import dataclasses
import json

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from typer.testing import CliRunner

from clvq_hf import CLVQModel, ConceptTable
from clvq_hf.cli import app
from clvq_hf.data.texts import PARTS, load_texts, split_texts, text_numbers
from clvq_hf.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate_concepts
from clvq_hf.files import locked
from clvq_hf.hub.repositories import read_results
from clvq_hf.metrics.results_tables import report_tables
from clvq_hf.metrics.verdict import verdict
from clvq_hf.rendering.text_tables import ReportTable, to_markdown

pytestmark = pytest.mark.slow

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


class TestOutcome:
    def test_what_was_written_in_part_is_computed_again(self, tmp_path, monkeypatch):
        evaluation = Evaluation(tmp_path, QUICK)
        rows = Dataset.from_dict({"margin": [1.0, 2.0]})

        def fill_the_disk(self, folder):
            (folder / "state.json").write_text("{}")  # which datasets write first
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Dataset, "save_to_disk", fill_the_disk)
            with pytest.raises(OSError, match="No space"):
                evaluation.outcome("splice", lambda: rows)
        assert evaluation.outcome("splice", lambda: rows)["margin"][:] == [1.0, 2.0]
        assert [path.name for path in tmp_path.iterdir()] == ["splice"]

    def test_those_of_an_evaluation_that_is_gone_are_not_taken(self, model, host, tokenizer, test_texts, tmp_path):
        evaluation = Evaluation(tmp_path, QUICK)
        evaluation.outcome("splice", lambda: Dataset.from_dict({"margin": [1.0]}))
        arguments = (model, host, tokenizer, test_texts, None, None)
        with pytest.raises(
            ValueError, match=r"splice is of an evaluation whose results\.json is missing.*--overwrite"
        ):
            evaluation.begin(*arguments)
        evaluation.begin(*arguments, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


class TestEvaluate:
    @pytest.mark.slow
    def test_measures_everything_and_goes_on_where_it_stopped(
        self, model, host, tokenizer, texts, test_texts, tmp_path
    ):
        arguments = (model, host, tokenizer, test_texts, tmp_path)
        results = evaluate_concepts(*arguments, train=texts, settings=QUICK)
        assert set(results["ablation"]) == {"code", "all", "probe"}
        assert {"label_purity", "routing_divergence", "codebook_overlap", "codebook_usage"} <= set(results["table"])
        assert not [name for name in results["ablation"]["probe"] if "_matched" in name], "nothing is matched there"
        assert "token_specificity_matched" in results["ablation"]["code"]
        assert 0 <= results["ablation"]["code"]["other_text_same_excluded_share"] <= 1
        assert "splice_fidelity" in results["bottleneck"]["splice"]
        assert read_results(tmp_path / "results.json") == results
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

    @pytest.mark.slow
    def test_a_codebook_without_its_decoder_is_measured_but_for_the_splice(
        self, model, host, tokenizer, texts, test_texts, tmp_path
    ):
        whole = evaluate_concepts(model, host, tokenizer, test_texts, tmp_path / "whole", train=texts, settings=QUICK)
        bare = model.codebook_only()
        arguments = (bare, host, tokenizer, test_texts, tmp_path / "bare")
        results = evaluate_concepts(*arguments, train=texts, settings=QUICK)
        assert "bottleneck" in whole and "bottleneck" not in results
        assert results["fidelity"] == whole["fidelity"] and results["table"] == whole["table"]
        assert evaluate_concepts(*arguments, train=texts, settings=QUICK) == results
        assert report_tables(results) and verdict(results)

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

    def test_words_come_from_every_text_that_is_not_measured(
        self, model, host, tokenizer, all_texts, test_texts, tmp_path
    ):
        settings = EvaluationSettings(
            protocols=("code",),
            conditions=("salient", "word_residual"),
            attribution="gradient_x_input",
            num_draws=1,
            num_bootstrap=10,
        )
        shares = []
        for folder, every in (("few", None), ("every", all_texts.select_columns("text"))):
            arguments = (model, host, tokenizer, test_texts, tmp_path / folder)
            results = evaluate_concepts(
                *arguments, train=all_texts.select(range(20)), word_texts=every, settings=settings
            )
            figures = results["ablation"]["code"]
            shares.append(figures.get("word_residual_text_share", 0.0))
        assert shares[1] > shares[0]
        assert "of texts" in to_markdown(report_tables(results))
        with pytest.raises(ValueError, match="word texts"):
            evaluate_concepts(*arguments, train=all_texts.select(range(20)), settings=settings)

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

    def test_takes_out_what_the_model_was_trained_on(self, model, host, tokenizer, test_texts, tmp_path):
        model.record_training_texts(text_numbers([*test_texts["text"][:31], "Another text."]))
        settings = EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)
        results = evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=settings)
        assert (results["texts"]["num_texts"], results["texts"]["num_left_out"]) == (19, 31)
        with pytest.raises(ValueError, match="nothing to measure"):
            evaluate_concepts(model, host, tokenizer, test_texts.select(range(31)), tmp_path / "other")

    def test_a_table_of_other_texts_is_not_taken(self, model, host, tokenizer, texts, test_texts, tmp_path):
        model.concept_table(host, tokenizer, texts, output_dir=tmp_path / "concept_table")
        with pytest.raises(ValueError, match=r"is of other texts than those that are measured.*--overwrite"):
            evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=QUICK)

    def test_one_process_at_a_time(self, model, host, tokenizer, test_texts, tmp_path):
        with locked(tmp_path), pytest.raises(ValueError, match="Another run is at work"):
            evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=QUICK)
        assert [file.name for file in tmp_path.iterdir()] == [".lock"], "it has changed nothing"

    def test_nothing_left(self, model, host, tokenizer, texts, tmp_path):
        with pytest.raises(ValueError, match="nothing to measure"):
            evaluate_concepts(model, host, tokenizer, texts, tmp_path, train=texts, settings=QUICK)

    def test_refuses_a_folder_of_something_else(self, model, host, tokenizer, texts, test_texts, tmp_path):
        settings = EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)
        evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=settings)
        with pytest.raises(ValueError, match=r"settings: num draws 5, not 1.*overwrite=True \(--overwrite\)"):
            evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=QUICK)

    def test_goes_on_with_the_same_host_alone(self, model, host, tokenizer, test_texts, tmp_path, monkeypatch):
        arguments = {"settings": EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)}

        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(type(model), "concept_table", interrupt)
            with pytest.raises(KeyboardInterrupt):
                evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, **arguments)
        (tmp_path / "notes.txt").write_text("mine")
        # Trained on in place: same class, same name, same folder.
        other = copy.deepcopy(host)
        with torch.no_grad():
            other.classifier.weight += 1
        message = r"evaluation in .* is of something else: host .*head.*--overwrite"
        with pytest.raises(ValueError, match=message):
            evaluate_concepts(model, other, tokenizer, test_texts, tmp_path, **arguments)
        larger = copy.deepcopy(tokenizer)
        larger.add_tokens(["xyzzy"])
        with pytest.raises(ValueError, match="tokenizer"):
            evaluate_concepts(model, host, larger, test_texts, tmp_path, **arguments)
        results = evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, **arguments)
        anew = evaluate_concepts(model, other, tokenizer, test_texts, tmp_path, overwrite=True, **arguments)
        assert anew["host"]["head"] != results["host"]["head"]
        table = ConceptTable.load_from_disk(tmp_path / "concept_table")
        table.check_host(other, tokenizer)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_texts_that_were_edited_in_place(self, model, host, tokenizer, test_texts, tmp_path):
        settings = EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)
        evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=settings)
        edited = test_texts.map(lambda row: {"text": row["text"] + "!"})
        with pytest.raises(ValueError, match=r"something else: texts sha256 \w{8}, not \w{8}\. Choose"):
            evaluate_concepts(model, host, tokenizer, edited, tmp_path, settings=settings)

    def test_a_folder_of_an_earlier_version_goes_on_with_a_warning(
        self, model, host, tokenizer, test_texts, tmp_path, caplog
    ):
        settings = EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)
        results = evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=settings)
        earlier = {name: value for name, value in results.items() if name not in ("host", "tokenizer")}
        (tmp_path / "results.json").write_text(json.dumps(earlier))
        again = evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=settings)
        assert "does not say its host, tokenizer" in caplog.text and "host" not in again

    def test_texts_are_cut_as_in_training(self, model, host, tokenizer, test_texts, tmp_path):
        model.config.training = {"settings": {"longest_text": 9}}
        settings = EvaluationSettings(protocols=(), attribution="gradient_x_input", num_bootstrap=10)
        results = evaluate_concepts(model, host, tokenizer, test_texts, tmp_path, settings=settings)
        assert results["settings"]["max_length"] == 9
        assert ConceptTable.load_from_disk(tmp_path / "concept_table").metadata["max_length"] == 9

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
    def test_training_texts_are_taken_out_before_any_are_drawn(self, folders, all_texts):
        # 20 of the 60 test texts are in the training split, of which 10 texts are drawn.
        all_texts.select(range(100, 160)).to_json(folders / "data" / "train.jsonl")
        command = ["evaluate", str(folders / "model"), "--dataset", str(folders / "data"), "--protocol", "probe"]
        options = ["--max-texts", "30", "--max-train-texts", "10", "--attribution", "gradient_x_input"]
        result = CliRunner().invoke(app, [*command, *options, "--output-dir", str(folders / "results")])
        assert result.exit_code == 0, result.output
        texts = json.loads((folders / "results" / "results.json").read_text())["texts"]
        assert (texts["num_texts"], texts["num_left_out"]) == (30, 20)

    def test_a_file_is_refused_if_all_of_it_is_trained_on(self, folders):
        file = str(folders / "data" / "test.jsonl")
        command = ["evaluate", str(folders / "model"), "--dataset", file, "--train-dataset", file]
        result = CliRunner().invoke(app, [*command, "--output-dir", str(folders / "results")])
        assert result.exit_code == 1 and "--part select and --train-part codebook_train" in result.output
        result = CliRunner().invoke(app, [*command[:4], "--output-dir", str(folders / "results")])
        assert result.exit_code == 1 and "has no split 'train'; it has ['test']" in result.output

    @pytest.mark.slow
    def test_all_parts_of_a_training_split_are_left_out(self, folders, all_texts):
        """A host is trained on another part than its concepts."""
        train = all_texts.select(range(100, 300))
        train.to_json(folders / "data" / "train.jsonl")
        all_texts.select(range(140, 200)).to_json(folders / "data" / "test.jsonl")
        command = ["evaluate", str(folders / "model"), "--dataset", str(folders / "data"), "--protocol", "probe"]
        options = ["--train-part", "codebook_train", "--attribution", "gradient_x_input"]
        options += ["--output-dir", str(folders / "results")]
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 1 and "All of these texts are among the training texts" in result.output
        # A part that is held out of the same split stays.
        options += ["--split", "train", "--part", "select"]
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.output
        texts = json.loads((folders / "results" / "results.json").read_text())["texts"]
        assert texts["num_texts"] == len(split_texts(train, PARTS)["select"]) and texts["num_left_out"] == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("files", ["one", "two"])
    def test_files(self, folders, all_texts, files):
        """One that is cut into training and test texts, or one of each."""
        all_texts.select(range(400)).to_json(folders / "reviews.jsonl")
        cut = load_texts(str(folders / "reviews.jsonl"), "test")
        assert 50 < len(cut) < 110
        command = ["evaluate", str(folders / "model"), "--protocol", "probe", "--attribution", "gradient_x_input"]
        dataset = ["--dataset", str(folders / "reviews.jsonl")]
        if files == "two":
            dataset = [
                "--dataset",
                str(folders / "new.jsonl"),
                "--train-dataset",
                str(folders / "data" / "train.jsonl"),
            ]
            all_texts.select(range(150, 210)).to_json(folders / "new.jsonl")
        result = CliRunner().invoke(app, [*command, *dataset, "--output-dir", str(folders / "results")])
        assert result.exit_code == 0, result.output
        texts = json.loads((folders / "results" / "results.json").read_text())["texts"]
        expected = (len(cut), 0, "test") if files == "one" else (60, 0, "new")
        assert (texts["num_texts"], texts["num_left_out"], texts["split"]) == expected

    @pytest.mark.parametrize("command", [["concepts", "build"], ["evaluate"]])
    def test_another_host_is_refused_at_once(self, folders, model, host, tokenizer, command):
        model.record_host(host, tokenizer)
        model.save_pretrained(folders / "model")
        with torch.no_grad():
            host.bert.encoder.layer[0].output.dense.weight *= -1
        host.save_pretrained(folders / "other")
        tokenizer.save_pretrained(folders / "other")
        command = [*command, str(folders / "model"), "--dataset", str(folders / "data"), "--output-dir", "never"]
        result = CliRunner().invoke(app, [*command, "--host", str(folders / "other")])
        assert result.exit_code == 1 and "NOT the right host" in result.output
        # The folder that the model names, trained on in place.
        host.save_pretrained(folders / "host")
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and "NOT the right host" in result.output

    @pytest.mark.slow
    def test_evaluate(self, folders):
        command = ["evaluate", str(folders / "model"), "--dataset", str(folders / "data"), "--draws", "1"]
        options = ["--protocol", "code", "--steps", "4", "--max-steps", "4", "--output-dir", str(folders / "results")]
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.output
        page = (folders / "results" / "results.md").read_text()
        said = " ".join(verdict(json.loads((folders / "results" / "results.json").read_text())))
        assert "token specificity" in page and page.startswith(f"# Results\n\n{said}\n")
        assert said in " ".join(result.output.split()), "printed first"
        assert "Written to" in result.output

    def test_errors_are_readable(self, folders):
        command = ["evaluate", str(folders / "nothing"), "--dataset", str(folders / "data")]
        result = CliRunner().invoke(app, [*command, "--output-dir", str(folders / "results")])
        assert result.exit_code == 1 and "Error:" in result.output and "Traceback" not in result.output
