"""`clvq-hf train`, and what the other commands find in the model that it leaves."""

import csv
import json
import shutil

import pytest
from helpers.command_line import refuse, succeed
from transformers import AutoModelForSequenceClassification

from clvq_hf import ConceptModel, ConceptTable
from clvq_hf.files import locked

SMALL = ("--codebook-size", 6, "--max-length", 12, "--epochs", 1, "--set", "intermediate_size=32")


@pytest.fixture
def comments(tmp_path, monkeypatch, all_texts):
    """A file as annotators leave it: a byte order mark, ids first, and columns of other names."""
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "comments.csv").open("w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "comment_text", "target"])
        rows.writerows(
            [number, row["text"], ["negative", "positive"][row["label"]]]
            for number, row in enumerate(all_texts.select(range(90)))
        )
    return tmp_path / "comments.csv"


@pytest.mark.slow
def test_from_a_file_to_a_report_without_repeating_an_option(comments, saved_host, tmp_path):
    # Integrated gradients of a random host with a tiny head are slow for what they are worth here.
    output = succeed("train", saved_host, "--dataset", "comments.csv", "-o", "out", *SMALL)
    assert "concepts at layer 2 of 4, from which layer 4 is reconstructed" in output
    assert "Estimate:" in output and "GiB of memory at most" in output
    assert "of the split train to train on" in output and "of the split test held out" in output
    assert "clvq-hf evaluate out -o out-results" in output
    training = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    assert training["dataset"] == str(comments) and training["settings"]["longest_text"] == 12
    assert (training["split"], training["part"], training["eval_split"]) == ("train", None, "test")
    model = ConceptModel.from_pretrained("out")
    table = model.concepts
    assert table.metadata["salience"] is not None and table.label_names == ["negative", "positive"]
    assert table.metadata["num_trained_on"] == 0 and table.metadata["max_length"] == 12

    succeed("concepts", "build", "out", "-o", "table", "--no-salience", "--show", 0)
    built = ConceptTable.load_from_disk("table")
    assert built.metadata["salience"] is None and built.metadata["max_length"] == 12
    assert sorted(built.texts["text"][:]) == sorted(table.texts["text"][:])

    options = ("--protocol", "code", "--attribution", "gradient_x_input", "--draws", 1, "--max-texts", 10)
    succeed("evaluate", "out", "-o", "results", *options)
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["texts"]["split"] == "test" and results["texts"]["num_left_out"] == 0
    assert results["model"] == "../out"
    assert str(tmp_path) not in (tmp_path / "results" / "results.json").read_text()
    assert str(tmp_path) not in (tmp_path / "results" / "results.md").read_text()
    assert "report.html" in succeed("report", "results")
    assert "report.html" in succeed("report", "out")

    # A run that was broken off before the model was saved.
    shutil.rmtree("out/concepts")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "out" / name).unlink()
    assert "6 concepts" in succeed("info", "out")
    succeed("concepts", "build", "out", "-o", "again", "--no-salience", "--show", 0)
    assert "Resuming" in succeed("train", saved_host, "--dataset", "comments.csv", "-o", "out", *SMALL, "--resume")


@pytest.mark.slow
def test_a_causal_host_and_texts_without_labels(causal_host, tokenizer, all_texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    causal_host.save_pretrained("host")
    tokenizer.save_pretrained("host")
    # Called after a split, so there is no other: a tenth is held out by the texts' hashes.
    rows = [json.dumps({"text": text}) for text in all_texts["text"][:80]]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    settings = tmp_path / "settings.yaml"
    settings.write_text("codebook_size: 6\nmax-length: 12\nepochs: 1\nlower_layer: 1\nlearning_rate: 1e-3\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    output = succeed("train", "host", "--dataset", "train.jsonl", "-o", "out", "--config", settings)
    assert "concepts at layer 1 of 4" in output and "part select held out" in output
    assert "Salience by gradient × input" in output and "The most frequent concepts" in output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    training = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    assert (training["part"], training["eval_part"]) == ("host_train+codebook_train", "select")
    output = succeed("concepts", "build", "out", "-o", "table", "--no-salience", "--show", 0)
    assert "trained on" not in output
    assert len(ConceptTable.load_from_disk("table").texts) == len(ConceptModel.from_pretrained("out").concepts.texts)


def test_clusters_are_fitted(comments, saved_host, tmp_path, monkeypatch):
    """States lie in the folder until the model does, and the other commands need no more names."""
    run = ("train", saved_host, "--dataset", "comments.csv", "-o", "out", "--method", "kmeans", "--max-length", 12)
    run = (*run, "--codebook-size", 6, "--lower-layer", 1, "--set", "max_tokens=200", "--batch-size", 8)

    def interrupted(*_, **__):
        raise ValueError("interrupted")

    with monkeypatch.context() as broken:
        broken.setattr("clvq_hf.models.modeling_clusters.find_centroids", interrupted)
        assert "interrupted" in refuse(*run)
    assert (tmp_path / "out" / "states").is_dir() and not (tmp_path / "out" / "model.safetensors").exists()
    output = succeed(*run)
    assert "concepts at layer 1 of 4" in output and "GiB on disk until" in output and "Fitting 6 concepts" in output
    assert not (tmp_path / "out" / "states").exists()
    model = ConceptModel.from_pretrained("out")
    assert model.config.model_type == "concept_clusters" and model.concepts.metadata["num_trained_on"] == 0
    assert model.config.training["dataset"] == str(comments)
    assert model.config.training["settings"] == {"longest_text": 12, "max_tokens": 200, "seed": 42}
    model.verify(AutoModelForSequenceClassification.from_pretrained(saved_host)).raise_if_wrong()
    assert "6 concepts" in succeed("info", "out")
    assert "holds a checkpoint" in refuse("train", saved_host, "--dataset", "comments.csv", "-o", "out", *SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "layers"), [("transcoder", (2, 4)), ("vqvae", (2, 2)), ("clvq-functional", (2, 4))]
)
def test_other_methods_are_trained(comments, saved_host, method, layers):
    own = () if method == "transcoder" else ("--set", "intermediate_size=32")
    own = ("--set", "num_active=2") if method == "transcoder" else own
    succeed("train", saved_host, "--dataset", comments, "-o", "out", "--method", method, *SMALL[:-2], *own)
    config = ConceptModel.from_pretrained("out").config
    assert (config.lower_layer, config.upper_layer) == layers
    assert getattr(config, "codebook_space", "states") == ("functional" if method.endswith("functional") else "states")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "umap"), "no method 'umap'; there are clvq, clvq-paper"),
        (("--method", "kmeans", "--epochs", 3), "not trained by gradients, so it has no --set num_train_epochs"),
        (("--method", "kmeans", "--paper"), "those of CLVQ-VAE"),
        (("--method", "kmeans", "--set", "top_k=3"), "ClusterConfig and the arguments of ClusterModel.fit"),
        (("--method", "kmeans", "--codebook-size", 4000), "smaller --codebook-size"),
        (("--method", "vqvae", "--upper-layer", 4), "leave out --upper-layer"),
        (("--set", "learning_rat=1"), "no setting 'learning_rat'. Did you mean learning_rate?"),
        (("--set", "top_k=few"), "top_k must be a whole number; got 'few'"),
        (("--set", "top_k"), "write --set NAME=VALUE"),
        (("--text-column", "tweet"), "set --text-column to one of ['id', 'comment_text', 'target']"),
        (("--split", "training"), "no split 'training'"),
        (("--part", "rest"), "no part 'rest'"),
        (("--lower-layer", 9), "Layer 9 does not exist"),
        (("--codebook-size", 4000), "smaller --codebook-size"),
        (("--label", "good", "--label", "bad"), "the names given for them are"),
    ],
)
def test_mistakes_are_named_with_the_flag(comments, saved_host, options, message):
    assert message in refuse("train", saved_host, "--dataset", comments, "-o", "out", *options)


def test_one_process_at_a_time(comments, saved_host, tmp_path):
    with locked(tmp_path / "out"):
        assert "Another run is at work in" in refuse("train", saved_host, "--dataset", comments, "-o", "out", *SMALL)


def test_what_does_not_fit_into_memory_is_refused(comments, saved_host, monkeypatch):
    monkeypatch.setattr("clvq_hf.training.estimate.available_memory", lambda device: 2**20)
    output = refuse("train", saved_host, "--dataset", comments, "-o", "out", "--codebook-size", 6)
    assert "GiB are available" in output and "--max-length" in output and "--set num_decoder_layers=…" in output
