"""The concept table: what is in it, what it answers, that it survives the disk, and that its size is bounded."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, load_dataset, load_from_disk
from helpers.made_tables import made_table
from huggingface_hub import HfApi
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel
from typer.testing import CliRunner

from clvq_hf import ConceptTable, salient_tokens
from clvq_hf.cli import app
from clvq_hf.data.texts import text_numbers
from clvq_hf.hub.requests import HubError
from clvq_hf.hub.uploads import commit_files
from clvq_hf.tables.concepts import Concept

SENTENCES = [
    "A wonderful, wonderful film.",
    "",
    "Unwatchable nonsense; the plot is nonsense.",
    "A wonderful plot!",
    "The dullest film of the year, and the dullest plot.",
]
LABELS = [1, 0, 0, 1, 0]


@pytest.fixture(scope="module")
def model(make_model):
    model = make_model().eval()
    model.quantizer.set_codebook(torch.randn(12, 32, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_dict({"text": SENTENCES, "label": LABELS})


@pytest.fixture(scope="module")
def table(model, saved_host, dataset):
    host, tokenizer = (
        BertForSequenceClassification.from_pretrained(saved_host),
        AutoTokenizer.from_pretrained(saved_host),
    )
    host.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    return model.concept_table(host, tokenizer, dataset, batch_size=2)


def with_codes(table, assign):
    """The same table with codes by word, so that what it answers is known."""
    words = {}
    for text_id in table.texts["text_id"]:
        for row in table.text(text_id, words=True).itertuples():
            words[(text_id, row.word_id)] = row.word.lower()
    codes = [
        assign(words.get((row["text_id"], row["word_id"])))
        for row in table.tokens.select_columns(["text_id", "word_id"])
    ]
    tokens = table.tokens.remove_columns("code").add_column("code", codes)
    return ConceptTable(tokens, table.texts, table.metadata)


@pytest.fixture(scope="module")
def known(table):
    """Concepts: 0 special tokens and punctuation, 1 praise, 2 blame, 3 nouns, 4 the rest."""
    praise, blame, nouns = {"wonderful"}, {"unwatchable", "nonsense", "dullest"}, {"film", "plot", "year"}

    def assign(word):
        if word is None or not word[0].isalpha():
            return 0
        return 1 if word in praise else 2 if word in blame else 3 if word in nouns else 4

    return with_codes(table, assign)


class TestContents:
    @pytest.mark.slow
    def test_one_row_per_real_token_with_the_codes_of_the_tap(self, table, model, host, tokenizer):
        assert table.texts["text_id"][:] == [0, 2, 3, 4], "the empty text is left out"
        for text_id in (0, 2, 3, 4):
            with model.attach(host) as tap:
                logits = host(**tokenizer(SENTENCES[text_id], return_tensors="pt")).logits
            rows = table.text(text_id)
            assert rows["code"].tolist() == tap.codes[0].tolist()
            assert rows["token"].tolist() == tokenizer.convert_ids_to_tokens(
                tokenizer(SENTENCES[text_id])["input_ids"]
            )
            assert rows["special"].tolist() == [True, *[False] * (len(rows) - 2), True]
            row = table.texts[table.texts["text_id"][:].index(text_id)]
            assert row["prediction"] == int(logits.argmax())
            np.testing.assert_allclose(row["logits"], logits[0].detach(), atol=1e-5)
            assert (row["label"], row["text"], row["num_tokens"]) == (LABELS[text_id], SENTENCES[text_id], len(rows))

    def test_spans_and_words(self, table):
        rows = table.text(2)
        for row in rows[~rows["special"]].itertuples():
            assert SENTENCES[2][row.start : row.end].lower() == row.token.removeprefix("##")
        assert (rows["word_id"][rows["special"]] == -1).all()
        words = table.text(2, words=True)
        assert words["word"].tolist() == ["Unwatchable", "nonsense", ";", "the", "plot", "is", "nonsense", "."]
        assert len(words["codes"][0]) > 1, "the first word is made of several tokens"

    def test_distances_are_those_of_the_model(self, table, model, saved_host):
        host = BertForSequenceClassification.from_pretrained(saved_host)
        tokenizer = AutoTokenizer.from_pretrained(saved_host)
        with model.attach(host) as tap:
            host(**tokenizer(SENTENCES[2], return_tensors="pt"))
        rows = table.text(2)
        np.testing.assert_allclose(rows["distance"], model.distances(tap.hidden_states)[0], rtol=1e-4)
        assert table.column("distance").dtype == np.float32

    def test_a_method_without_distances(self, model, saved_host, dataset, monkeypatch):
        monkeypatch.setattr(type(model), "distances", lambda *args, **kwargs: None)
        host = BertForSequenceClassification.from_pretrained(saved_host)
        table = model.concept_table(host, AutoTokenizer.from_pretrained(saved_host), dataset)
        assert set(table.tokens["distance"][:]) == {None} and np.isnan(table.column("distance")).all()

    @pytest.mark.parametrize("form", ["save_to_disk", "save_as_parquet"])
    def test_tables_of_earlier_versions_have_no_distances(self, table, form, tmp_path, monkeypatch):
        old = copy.copy(table)
        old.tokens = table.tokens.remove_columns("distance")
        getattr(old, form)(tmp_path / "table")
        loaded = ConceptTable.load_from_disk(tmp_path / "table", cache_dir=tmp_path / "cache")
        assert loaded.tokens["distance"][:] == [None] * len(table.tokens)
        assert loaded.text(2).drop(columns="distance").equals(table.text(2).drop(columns="distance"))
        assert loaded.tokens.features == table.tokens.features
        getattr(loaded, form)(tmp_path / "again")
        again = ConceptTable.load_from_disk(tmp_path / "again", cache_dir=tmp_path / "cache")
        assert np.isnan(again.column("distance")).all()
        code = int(again.active_codes[0])
        assert again.examples(code)[0].distance is None
        with pytest.raises(ValueError, match=r"by='spread' needs the distances.*lacks"):
            again.examples(code, by="spread")

    @pytest.mark.slow
    def test_neither_batch_size_nor_chunks_change_a_row(self, table, model, host, tokenizer, dataset, monkeypatch):
        monkeypatch.setattr("clvq_hf.tables.builder.TEXTS_PER_CHUNK", 3)
        other = model.concept_table(host, tokenizer, dataset, batch_size=1)
        assert table.tokens.to_dict() == other.tokens.to_dict()

    def test_metadata(self, table, model):
        assert table.metadata["num_empty"] == 1
        assert table.metadata["model_fingerprint"] == model.fingerprint()
        assert table.label_names == ["LABEL_0", "LABEL_1"]
        json.dumps(table.metadata)

    def test_a_host_without_a_head_and_texts_without_labels(self, model, tokenizer):
        host = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=4,
                                    num_attention_heads=4, intermediate_size=64)).eval()  # fmt: skip
        table = model.concept_table(host, tokenizer, Dataset.from_dict({"text": SENTENCES}))
        assert set(table.texts["prediction"]) == {-1} and set(table.texts["label"]) == {-1}
        assert table.label_names == [] and table.concept(int(table.active_codes[0])).purity is None

    @pytest.mark.slow
    def test_a_causal_language_model_predicts_the_next_token(self, make_model, causal_host, tokenizer):
        model = make_model(is_causal=True).eval()
        model.quantizer.set_codebook(torch.randn(12, 32))
        table = model.concept_table(causal_host, tokenizer, Dataset.from_dict({"text": SENTENCES[2:]}))
        for row in table.texts:
            logits = causal_host(tokenizer(row["text"], return_tensors="pt")["input_ids"]).logits
            assert row["prediction"] == int(logits[0, -1].argmax())

    def test_long_texts_are_truncated(self, model, host, tokenizer, dataset):
        table = model.concept_table(host, tokenizer, dataset, max_length=6)
        assert max(table.texts["num_tokens"]) == 6


class TestQueries:
    def test_concept(self, known):
        praise = known.concept(1)
        assert (praise.num_tokens, praise.num_texts) == (3, 2)
        assert praise.top_words == [("wonderful", 3)]
        assert praise.label_counts == {"LABEL_0": 0, "LABEL_1": 3}
        assert (praise.label, praise.purity) == ("LABEL_1", 1.0)
        # film, plot: twice or thrice each; year once. Two of the six carry the label 1.
        nouns = known.concept(3)
        assert nouns.top_words == [("plot", 3), ("film", 2), ("year", 1)]
        assert nouns.label_counts == {"LABEL_0": 4, "LABEL_1": 2}
        assert known.label_distribution(3) == {"LABEL_0": pytest.approx(2 / 3), "LABEL_1": pytest.approx(1 / 3)}

    def test_special_tokens_never_count_among_words(self, known):
        assert {word for word, _ in known.top_words(0)} == {",", ".", ";", "!"}

    def test_stop_words_can_be_left_out(self, known):
        assert ("the", 4) in known.top_words(4)
        assert known.top_words(4, stop_words=False) == []

    def test_examples_show_the_concept_and_prefer_readable_texts(self, known):
        best = known.examples(1, n=2)
        assert [example.text_id for example in best] == [0, 3]
        assert best[0].marked("[", "]") == "A [wonderful], [wonderful] film."
        assert best[0].label == "LABEL_1"
        assert known.examples(3, label=1)[0].text_id == 0
        assert known.examples(1, n=0) == []

    def test_marks_escape_what_comes_from_data(self, known):
        marked = known.examples(1, n=1)[0].marked("<b>", "</b>", escape=lambda piece: piece.replace("A", "&amp;"))
        assert marked == "&amp; <b>wonderful</b>, <b>wonderful</b> film."

    def test_an_unused_concept_is_empty(self, known):
        assert known.concept(11) == Concept(11, 0, 0, {})

    def test_words(self, known):
        words = known.words()
        assert len(words) == 4 + 2 + 8 + 4 + 12
        assert "the" not in set(known.words(stop_words=False)["word"].str.lower())

    def test_metric_inputs(self, known):
        rows = known.metric_inputs()
        assert rows["labels"] == [1, 0, 1, 0] and rows["texts"][0] == SENTENCES[0]
        assert rows["codes"][0] == [4, 1, 0, 1, 3, 0]
        assert rows["tokens"][0] == ["a", "wonderful", ",", "wonderful", "film", "."]
        assert known.metric_inputs(special_tokens=True)["codes"][0] == [0, 4, 1, 0, 1, 3, 0, 0]
        words = known.metric_inputs(words=True, stop_words=False)
        assert words["tokens"][1] == ["unwatchable", "nonsense", "plot", "nonsense"]

    def test_warns_of_texts_that_were_trained_on(self, model, host, tokenizer, dataset, caplog):
        table = model.concept_table(host, tokenizer, dataset, split="codebook_train")
        with caplog.at_level("WARNING"):
            table.metric_inputs()
        assert "codebook_train" in caplog.text

    @pytest.mark.parametrize("code", [-1, 12])
    def test_a_code_that_does_not_exist(self, known, code):
        with pytest.raises(ValueError, match="0 to 11"):
            known.concept(code)

    def test_a_text_that_does_not_exist(self, known):
        with pytest.raises(ValueError, match="no text 1"):
            known.text(1)


class TestSalience:
    @pytest.fixture
    def scores(self, tokenizer):
        """The third token of each text is the salient one."""
        kept = [0, 2, 3, 4]
        lengths = [len(tokenizer(SENTENCES[row])["input_ids"]) for row in kept]
        return Dataset.from_dict(
            {
                "text_index": kept,
                "scores": [[0.5 if place == 2 else -0.1 for place in range(length)] for length in lengths],
                "salient_position": [2] * 4,
                "error": [0.01] * 4,
            }
        )

    def test_salient_tokens(self, model, host, tokenizer, dataset, scores):
        table = model.concept_table(host, tokenizer, dataset, salience=scores)
        salient = table.salient()
        assert salient["text_id"].tolist() == [0, 2, 3, 4]
        assert salient["word"].tolist() == ["wonderful", "Unwatchable", "wonderful", "dullest"]
        assert salient["salience"].tolist() == [0.5] * 4
        assert salient["code"].tolist() == [table.text(row)["code"][2] for row in (0, 2, 3, 4)]

    def test_of_other_texts(self, model, host, tokenizer, dataset, scores):
        with pytest.raises(ValueError, match="not of these texts"):
            model.concept_table(host, tokenizer, dataset.select([0, 2, 3]), salience=scores)

    def test_none(self, table):
        with pytest.raises(ValueError, match="salient_tokens"):
            table.salient()


class TestDisk:
    def test_round_trip(self, table, tmp_path):
        table.save_to_disk(tmp_path / "table")
        again = ConceptTable.load_from_disk(tmp_path / "table")
        assert again.tokens.to_dict() == table.tokens.to_dict()
        assert again.texts.to_dict() == table.texts.to_dict()
        assert again.metadata == table.metadata

    def test_may_replace_itself(self, table, tmp_path):
        table.save_to_disk(tmp_path / "table")
        ConceptTable.load_from_disk(tmp_path / "table").save_to_disk(tmp_path / "table")
        assert len(ConceptTable.load_from_disk(tmp_path / "table")) == len(table)
        assert [path.name for path in tmp_path.iterdir()] == ["table"]

    def test_replaces_nothing_else(self, table, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(ValueError, match="no concept table"):
            table.save_to_disk(tmp_path)

    @pytest.mark.parametrize("name", ["occupied", "file", "file/table"])
    def test_what_cannot_be_written_is_refused_before_the_host_runs(
        self, model, host, tokenizer, dataset, tmp_path, monkeypatch, name
    ):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "occupied").mkdir()
        (tmp_path / "occupied" / "thesis.tex").write_text("years of work")
        monkeypatch.setattr(type(host), "forward", None)
        with pytest.raises(ValueError, match=r"no concept table|is a file|cannot be written"):
            model.concept_table(host, tokenizer, dataset, output_dir=tmp_path / name)
        result = CliRunner().invoke(app, ["concepts", "build", "nowhere", "-o", str(tmp_path / name)])
        assert result.exit_code == 1 and "hoose another folder" in " ".join(result.output.split())
        assert {path.name for path in tmp_path.iterdir()} == {"file", "occupied"}

    def test_a_failure_leaves_the_earlier_table(self, table, tmp_path, monkeypatch):
        table.save_to_disk(tmp_path / "table")

        def fill_the_disk(self, folder):
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Dataset, "save_to_disk", fill_the_disk)
            with pytest.raises(OSError, match="No space"):
                table.save_to_disk(tmp_path / "table")
        assert len(ConceptTable.load_from_disk(tmp_path / "table")) == len(table)
        assert [path.name for path in tmp_path.iterdir()] == ["table"]

    def test_the_folder_that_a_link_leads_to(self, table, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "disk")
        for _ in range(2):
            table.save_to_disk(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "concept_table.json").is_file()

    @pytest.mark.slow
    def test_written_where_asked(self, model, host, tokenizer, dataset, tmp_path):
        table = model.concept_table(host, tokenizer, dataset, output_dir=tmp_path / "table")
        assert len(ConceptTable.load_from_disk(tmp_path / "table")) == len(table)

    def test_to_pandas(self, table):
        tokens, texts = table.to_pandas()
        assert len(tokens) == len(table) and texts["text"].tolist() == [text for text in SENTENCES if text]

    def test_there_is_none(self, tmp_path):
        with pytest.raises(ValueError, match="no concept table"):
            ConceptTable.load_from_disk(tmp_path)


class TestHost:
    def test_it_knows_host_and_tokenizer_by_content(self, table, host, tokenizer, tmp_path, caplog):
        table.save_to_disk(tmp_path)
        ConceptTable.load_from_disk(tmp_path).check_host(host, tokenizer)
        assert not caplog.text
        with torch.no_grad():
            host.classifier.weight[0, 0] += 1
        with pytest.raises(ValueError, match=r"concept table is of something else: host .* \(head \w{8}\), not "):
            table.check_host(host, tokenizer)

    def test_another_vocabulary(self, table, host, tokenizer):
        other = copy.deepcopy(tokenizer)
        other.add_tokens(["xyzzy"])
        with pytest.raises(ValueError, match=r"something else: tokenizer \w{8}, not \w{8}\. Make it again"):
            table.check_host(host, other)

    @pytest.mark.slow
    def test_it_says_how_many_texts_were_trained_on(self, model, host, tokenizer, dataset, tmp_path, caplog):
        model = copy.deepcopy(model)
        assert model.concept_table(host, tokenizer, dataset).metadata["num_trained_on"] is None
        model.record_training_texts(text_numbers(["a  WONDERFUL plot!", SENTENCES[0], "Another one."]))
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).codebook_only()
        table = loaded.concept_table(host, tokenizer, dataset)
        assert table.metadata["num_trained_on"] == 2
        assert ("Trained on", "2 of these texts: figures of them are too good") in table.facts()
        assert "2 of these 5 texts were trained on" in caplog.text

    @pytest.mark.slow
    def test_it_names_the_host_that_was_run(self, model, host, tokenizer, dataset, tmp_path):
        model = copy.deepcopy(model)
        model.config.host_name_or_path, model.config.host_revision = "org/first", "abc"
        assert model.concept_table(host, tokenizer, dataset).metadata["host_name_or_path"] == "org/first"
        host.save_pretrained(tmp_path / "second")
        second = type(host).from_pretrained(tmp_path / "second")
        metadata = model.concept_table(second, tokenizer, dataset).metadata
        assert (metadata["host_name_or_path"], metadata["host_revision"]) == (str(tmp_path / "second"), None)

    def test_tables_of_earlier_versions_say_that_they_cannot_be_checked(self, table, host, tokenizer, caplog):
        metadata = {name: value for name, value in table.metadata.items() if name not in ("host", "tokenizer")}
        ConceptTable(table.tokens, table.texts, metadata).check_host(host, tokenizer)
        assert "does not say its host, tokenizer" in caplog.text

    def test_another_table(self, table):
        metadata = {**table.metadata, "tokenizer": "0" * 64}
        with pytest.raises(ValueError, match="tokenizer"):
            table.check_same_host(ConceptTable(table.tokens, table.texts, metadata))


@pytest.mark.slow
class TestSalienceOfTheModel:
    @pytest.fixture
    def model(self, model):
        return copy.deepcopy(model)

    @pytest.fixture
    def labelled(self, texts):
        return texts.select(range(8))

    @pytest.fixture
    def compute(self, model, host, tokenizer, labelled):
        def compute(host=host, tokenizer=tokenizer, **options):
            return model.salient_tokens(host, tokenizer, labelled, method="gradient_x_input", **options)

        return compute

    def test_of_the_model_needs_no_layer(self, model, host, tokenizer, labelled, compute, tmp_path, caplog):
        salience = compute()
        expected = salient_tokens(host, tokenizer, labelled, 1, method="gradient_x_input")
        assert salience.to_dict() == expected.to_dict()
        salience.save_to_disk(tmp_path)
        table = model.concept_table(host, tokenizer, labelled, salience=load_from_disk(tmp_path))
        assert table.metadata["salience"] == (
            "gradient_x_input of classification at layer 1, baseline zero, sign positive"
        )
        assert "does not say" not in caplog.text

    def test_of_another_layer_length_host_or_tokenizer(self, model, host, tokenizer, labelled, compute):
        at_3 = salient_tokens(host, tokenizer, labelled, 3, method="gradient_x_input")
        with pytest.raises(ValueError, match=r"salience is of something else: layer 3, not 1\. Compute it again"):
            model.concept_table(host, tokenizer, labelled, salience=at_3)
        with pytest.raises(ValueError, match="max length 100, not 128"):
            model.concept_table(host, tokenizer, labelled, salience=compute(max_length=100))
        larger = copy.deepcopy(tokenizer)
        larger.add_tokens(["xyzzy"])
        with pytest.raises(ValueError, match="something else: tokenizer"):
            model.concept_table(host, tokenizer, labelled, salience=compute(tokenizer=larger))
        other = copy.deepcopy(host)
        with torch.no_grad():
            other.bert.encoder.layer[0].output.dense.weight += 0.1
        with pytest.raises(ValueError, match=r"host .*weights"):
            model.concept_table(host, tokenizer, labelled, salience=compute(host=other))

    def test_of_texts_that_were_edited(self, model, host, tokenizer, labelled, compute):
        edited = labelled.map(lambda row: {"text": row["text"].upper()})
        with pytest.raises(ValueError, match="something else: texts"):
            model.concept_table(host, tokenizer, edited, salience=compute())

    def test_length_and_columns_are_those_of_training(self, model, host, tokenizer, labelled):
        model.config.training = {"settings": {"longest_text": 7}, "text_column": "body", "label_column": "kind"}
        renamed = labelled.rename_columns({"text": "body", "label": "kind"})
        salience = model.salient_tokens(host, tokenizer, renamed, method="gradient_x_input")
        table = model.concept_table(host, tokenizer, renamed, salience=salience)
        assert table.metadata["max_length"] == 7 and max(table.texts["num_tokens"]) == 7
        assert table.texts["label"][:] == labelled["label"][:]
        assert model.concept_table(host, tokenizer, labelled, max_length=9).metadata["max_length"] == 9


class TestHub:
    def test_round_trip(self, hub, table):
        commit = table.push_to_hub("me/concepts", private=True)
        assert commit.commit_url and len(list(HfApi().list_repo_commits("me/concepts", repo_type="dataset"))) == 2
        again = ConceptTable.from_hub("me/concepts")
        assert again.tokens.to_dict() == table.tokens.to_dict() and again.texts.to_dict() == table.texts.to_dict()
        assert again.tokens.features == table.tokens.features and again.texts.features == table.texts.features
        assert again.metadata == table.without_paths().metadata
        with pytest.raises(HubError, match="private"):
            ConceptTable.from_hub("me/concepts", token=False, cache_dir="elsewhere")

    def test_datasets_reads_it_without_this_library(self, hub, table, tmp_path):
        table.push_to_hub("me/concepts", revision="seed-0")
        for name in ("tokens", "texts"):
            found = load_dataset("me/concepts", name, split="train", revision="seed-0", cache_dir=tmp_path / "cache")
            assert found.to_dict() == getattr(table, name).to_dict()
        assert set(hub.files("me/concepts", "dataset")) == {".gitattributes"}
        again = ConceptTable.from_hub("me/concepts", revision="seed-0")
        assert len(again) == len(table)

    def test_a_push_that_fails_can_be_repeated(self, hub, table):
        hub.fail_next(1, path_contains="/commit/", status=500)
        hub.fail_next(1, path_contains="/storage/", status="drop")
        table.push_to_hub("me/concepts")
        assert len(ConceptTable.from_hub("me/concepts")) == len(table)

    def test_a_dataset_of_another_kind_is_left_alone(self, hub, table):
        files = {"train.csv": b"a,b", "README.md": b"# Precious"}
        commit_files(files, "me/precious", repo_type="dataset", commit_message="A")
        with pytest.raises(ValueError, match=r"holds another dataset \(train\.csv"):
            table.push_to_hub("me/precious")
        assert hub.files("me/precious", "dataset")["README.md"] == b"# Precious"

    def test_an_edited_card_stays(self, hub, table):
        table.push_to_hub("me/concepts")
        commit_files({"README.md": b"# Mine"}, "me/concepts", repo_type="dataset", commit_message="A")
        table.push_to_hub("me/concepts")
        assert hub.files("me/concepts", "dataset")["README.md"] == b"# Mine"

    def test_another_dataset(self, hub):
        commit_files({"a.txt": b"a"}, "me/other", repo_type="dataset", commit_message="A")
        with pytest.raises(ValueError, match="holds no concept table"):
            ConceptTable.from_hub("me/other")


class TestFiles:
    def test_parquet_and_arrow_are_alike(self, table, tmp_path):
        table.save_as_parquet(tmp_path / "parquet")
        assert {file.name for file in (tmp_path / "parquet").iterdir()} == {
            *("concept_table.json", "tokens.parquet", "texts.parquet")
        }
        again = ConceptTable.load_from_disk(tmp_path / "parquet")
        assert again.tokens.to_dict() == table.tokens.to_dict() and again.texts.to_dict() == table.texts.to_dict()
        assert again.text(0).equals(table.text(0))

    @pytest.mark.parametrize("name", ["tokens", "texts"])
    def test_damaged_parquet(self, table, tmp_path, name):
        table.save_as_parquet(tmp_path / "table")
        (tmp_path / "table" / f"{name}.parquet").write_bytes(b"PAR1 and nothing more")
        with pytest.raises(ValueError, match=rf"{name}\.parquet is damaged"):
            ConceptTable.load_from_disk(tmp_path / "table", cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "", "..", "a/b.arrow", 7, None])
    def test_names_that_lead_elsewhere(self, table, tmp_path, name):
        table.save_to_disk(tmp_path / "table")
        state = tmp_path / "table" / "tokens" / "state.json"
        content = json.loads(state.read_text())
        content["_data_files"] = [{"filename": name}]
        state.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="not in its folder: this is refused"):
            ConceptTable.load_from_disk(tmp_path / "table")

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("concept_table.json", "{"),
            ("concept_table.json", "[1]"),
            ("tokens/state.json", "{}"),
            ("texts/state.json", None),
        ],
    )
    def test_damage_is_named(self, table, tmp_path, file, content):
        table.save_to_disk(tmp_path / "table")
        if content is None:
            (tmp_path / "table" / file).unlink()
        else:
            (tmp_path / "table" / file).write_text(content)
        with pytest.raises(ValueError, match="damaged"):
            ConceptTable.load_from_disk(tmp_path / "table")


class TestChecksums:
    @pytest.mark.parametrize("form", ["save_to_disk", "save_as_parquet"])
    def test_a_flipped_bit_anywhere_is_found_before_the_file_is_read(self, table, tmp_path, form):
        getattr(table, form)(tmp_path / "table")
        files = [file for file in sorted((tmp_path / "table").rglob("*")) if file.is_file()]
        assert len(files) == (9 if form == "save_to_disk" else 3)
        generator = np.random.default_rng(0)
        for file in files:
            whole = file.read_bytes()
            for place in generator.integers(len(whole), size=3):
                file.write_bytes(bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
                with pytest.raises(ValueError, match=rf"{file.name} is damaged"):
                    ConceptTable.load_from_disk(tmp_path / "table", cache_dir=tmp_path / "cache")
            file.write_bytes(whole)
        assert ConceptTable.load_from_disk(tmp_path / "table").metadata == table.metadata

    def test_a_table_of_an_earlier_version(self, table, tmp_path):
        table.save_to_disk(tmp_path)
        (tmp_path / "concept_table.json").write_text(json.dumps(table.metadata))
        assert len(ConceptTable.load_from_disk(tmp_path)) == len(table)

    def test_names_that_lead_elsewhere(self, table, tmp_path):
        table.save_to_disk(tmp_path)
        (tmp_path / "concept_table.json").write_text(json.dumps({**table.metadata, "files": {"tokens/../x": {}}}))
        with pytest.raises(ValueError, match="not in its folder: this is refused"):
            ConceptTable.load_from_disk(tmp_path)


class TestRefusals:
    def test_a_table_of_another_model(self, table, model, make_model):
        table.check_model(model)
        with pytest.raises(ValueError, match="another model"):
            table.check_model(make_model(seed=1))

    def test_what_the_decoder_is_does_not_matter(self, table, model):
        with torch.no_grad():
            model.decoder.head.weight.zero_()
        table.check_model(model)

    def test_codes_out_of_range(self, table):
        with pytest.raises(ValueError, match="the codebook has 2"):
            ConceptTable(table.tokens, table.texts, {**table.metadata, "codebook_size": 2})

    def test_parts_of_different_tables(self, table):
        with pytest.raises(ValueError, match="do not belong together"):
            ConceptTable(table.tokens.select(range(5)), table.texts, table.metadata)

    def test_an_empty_table(self, table):
        with pytest.raises(ValueError, match="empty"):
            ConceptTable(table.tokens.select([]), table.texts.select([]), table.metadata)

    def test_a_newer_format(self, table):
        with pytest.raises(ValueError, match="format 99"):
            ConceptTable(table.tokens, table.texts, {**table.metadata, "format_version": 99})

    def test_a_missing_column(self, table):
        with pytest.raises(ValueError, match="code"):
            ConceptTable(table.tokens.remove_columns("code"), table.texts, table.metadata)

    def test_an_untrained_model(self, make_model, host, tokenizer, dataset):
        with pytest.raises(ValueError, match="never fitted"):
            make_model().concept_table(host, tokenizer, dataset)

    def test_a_slow_tokenizer(self, model, host, dataset, tokenizer, monkeypatch):
        monkeypatch.setattr(type(tokenizer), "is_fast", False)
        with pytest.raises(ValueError, match="fast"):
            model.concept_table(host, tokenizer, dataset)

    def test_states_that_are_not_finite(self, model, host, tokenizer, dataset):
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids("plot")] = torch.nan
        with pytest.raises(ValueError, match="NaN or Inf"):
            model.concept_table(host, tokenizer, dataset)


class TestMemory:
    @pytest.mark.slow
    def test_does_not_grow_with_the_table(self, minilm_dir):
        """Fifty thousand tokens here; the script's default is five million."""
        script = Path(__file__).parents[2] / "scripts" / "benchmark_table.py"
        command = [sys.executable, str(script), "--tokenizer", str(minilm_dir), "--tokens", "50000"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        tokens, gigabytes = (float(number) for number in re.findall(r"[\d.]+(?= tokens)|[\d.]+(?= GiB)", output)[:2])
        assert tokens >= 50_000
        assert gigabytes < 0.7


class TestLabelsOfTheHost:
    """Predictions and labels are the same classes, whatever their order in the dataset."""

    @pytest.fixture
    def swapped(self, host):
        host.config.id2label, host.config.label2id = {0: "positive", 1: "negative"}, {"positive": 0, "negative": 1}
        return host

    @pytest.mark.slow
    @pytest.mark.parametrize("names", [["negative", "positive"], ["positive", "negative"]])
    def test_by_name(self, model, swapped, tokenizer, dataset, names):
        words = ["negative", "positive"]
        labels = ClassLabel(names=names)
        named = Dataset.from_dict({"text": SENTENCES, "label": [names.index(words[label]) for label in LABELS]})
        table = model.concept_table(swapped, tokenizer, named.cast_column("label", labels))
        assert table.label_names == ["positive", "negative"]
        assert table.texts["label"][:] == [1 - label for label in (1, 0, 1, 0)]
        assert [table.label_name(label) for label in table.texts["label"]] == ["positive", "negative"] * 2

    def test_numbers_get_the_hosts_names(self, model, swapped, tokenizer, dataset):
        table = model.concept_table(swapped, tokenizer, dataset)
        assert table.label_names == ["positive", "negative"] and table.texts["label"][:] == [1, 0, 1, 0]

    def test_texts_without_labels_still_have_named_predictions(self, model, swapped, tokenizer, dataset):
        table = model.concept_table(swapped, tokenizer, dataset.remove_columns("label"))
        assert table.prediction_name(0) == "positive" and table.texts["label"][:] == [-1] * 4
        assert table.concept(int(table.active_codes[0])).purity is None

    @pytest.mark.parametrize("labels", [[0, 4, 0, 4, 0], [-1, 1, 1, -1, 1], ["good", "bad", "bad", "good", "bad"]])
    def test_other_classes_are_refused_before_the_host_runs(self, model, swapped, tokenizer, labels, monkeypatch):
        monkeypatch.setattr(type(swapped), "forward", None)
        with pytest.raises(ValueError, match="The labels in the column 'class' are"):
            model.concept_table(
                swapped,
                tokenizer,
                Dataset.from_dict({"text": SENTENCES, "class": labels}),
                label_column="class",
            )


@pytest.mark.parametrize("size", [500_000_000, 0, -1, "many", None, 1e3, True, 10**30, [5]])
def test_a_codebook_size_that_is_none(table, size):
    # Memory is set aside for each code.
    with pytest.raises(ValueError, match="codebook_size of this concept table"):
        ConceptTable(table.tokens, table.texts, {**table.metadata, "codebook_size": size})


def test_a_table_knows_whether_it_is_of_some_texts():
    table = made_table(["one", "two"], [0, 0], {}, first_id=1)
    assert table.is_of(["", "one", "two"]) and table.is_of([None, "one", "two", " ", None])
    for others in (["one", "two"], ["", "two", "one"], ["", "one"], ["", "one", "two", "three"]):
        assert not table.is_of(others)
