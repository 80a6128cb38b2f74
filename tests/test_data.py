import json

import pytest
from datasets import ClassLabel, Value

from clvq_hf.data import label_names, load_texts


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_movie_reviews(all_texts):
    assert len(all_texts) == 8530
    assert label_names(all_texts) == ["negative", "positive"]
    assert sum(all_texts["label"]) == 4265
    assert all_texts.column_names == ["text", "label"]


def test_a_file_with_other_names(tmp_path):
    path = write(
        tmp_path / "a.jsonl", [{"sentence": "good", "sentiment": "pos"}, {"sentence": "bad", "sentiment": "neg"}]
    )
    dataset = load_texts(str(path))
    assert dataset.features["text"] == Value("string")
    assert dataset.features["label"] == ClassLabel(names=["neg", "pos"])
    assert dataset["label"][:] == [1, 0]


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_csv_and_tsv(tmp_path, suffix, separator):
    path = tmp_path / f"a.{suffix}"
    path.write_text(f"text{separator}label\ngood film{separator}1\nbad film{separator}0\n")
    dataset = load_texts(str(path))
    assert dataset["text"][:] == ["good film", "bad film"] and dataset["label"][:] == [1, 0]


def test_a_folder_of_splits(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": f"t{number}", "label": number % 2} for number in range(10)])
    write(tmp_path / "test.jsonl", [{"text": "x", "label": 0}])
    assert len(load_texts(str(tmp_path), "train[:30%]")) == 3
    assert load_texts(str(tmp_path), "test")["text"][:] == ["x"]
    with pytest.raises(ValueError, match=r"no split 'dev'; it has \['test', 'train'\]"):
        load_texts(str(tmp_path), "dev")


def test_gaps_in_the_labels_are_closed(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a", "label": 7}, {"text": "b", "label": 3}])
    dataset = load_texts(str(path))
    assert dataset["label"][:] == [1, 0] and label_names(dataset) == ["3", "7"]


def test_texts_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"content": "a"}])
    assert load_texts(str(path)).column_names == ["text"]


def test_columns_by_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a", "body": "b", "label": 0, "stars": 4}])
    dataset = load_texts(str(path), text_column="body", label_column="stars")
    assert dataset["text"][:] == ["b"] and label_names(dataset) == ["4"]
    with pytest.raises(ValueError, match=r"no column 'title'; there are \['text', 'body', 'label', 'stars'\]"):
        load_texts(str(path), text_column="title")


def test_nothing_that_looks_like_a_text(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"x": "a"}])
    with pytest.raises(ValueError, match=r"text_column=… out of \['x'\]"):
        load_texts(str(path))


def test_an_unknown_format(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'\.pkl' is not one of"):
        load_texts(str(tmp_path / "a.pkl"))
