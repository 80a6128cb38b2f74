"""Labels on the command line: by name, whatever the order, and named by `--label` where a host's classes are not."""

import json
import shutil

import pytest
from helpers.command_line import refuse, succeed

from clvq_hf import ConceptTable

NAMES = ["negative", "positive"]


@pytest.fixture
def build(fitted_model, saved_host, all_texts, tmp_path):
    """Arguments that build a table of 20 texts with given labels, with a host of given names of classes."""

    def build(label, names):
        rows = [{"text": row["text"], "label": label(row["label"])} for row in all_texts.select(range(20))]
        (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        shutil.copytree(saved_host, tmp_path / "host", dirs_exist_ok=True)
        config = json.loads((tmp_path / "host" / "config.json").read_text())
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
        (tmp_path / "host" / "config.json").write_text(json.dumps(config))
        fitted_model.save_pretrained(tmp_path / "model")
        texts = ("--dataset", tmp_path / "texts.jsonl", "--split", "train", "--output-dir", tmp_path / "table")
        return ("concepts", "build", tmp_path / "model", "--host", tmp_path / "host", *texts)

    return build


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
@pytest.mark.parametrize(
    ("label", "options"),
    [(NAMES.__getitem__, ()), (lambda number: number, ("--label", "negative", "--label", "positive"))],
)
def test_one_text_has_one_class(build, tmp_path, all_texts, names, label, options):
    succeed(*build(label, names), *options)
    table = ConceptTable.load_from_disk(tmp_path / "table")
    assert table.label_names == names
    assert [names[number] for number in table.texts["label"]] == [NAMES[n] for n in all_texts[:20]["label"]]


def test_a_host_without_names(build, tmp_path):
    command = build(["bad", "good"].__getitem__, ["LABEL_0", "LABEL_1"])
    output = refuse(*command)
    assert "bad, good" in output and "LABEL_0, LABEL_1" in output and "--label negative" in output
    assert "are bad, good; the names given for them are 0 (a), 1 (b)" in refuse(
        *command, "--label", "a", "--label", "b"
    )
    succeed(*command, "--label", "good", "--label", "bad")
    assert ConceptTable.load_from_disk(tmp_path / "table").label_names == ["good", "bad"]


@pytest.mark.parametrize("values", [[0, 4], [1, 2], [-1, 1], [0.2, 0.9], [[0], [1]], ["ham", "spam"]])
def test_what_is_none_of_the_hosts_classes(build, values):
    assert "The labels in the column 'label' are" in refuse(*build(values.__getitem__, NAMES))
