import json
import re

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Value

from clvq_hf.data import PARTS, label_names, load_texts, split_texts
from clvq_hf.data.texts import texts_fingerprint


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow
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
    assert dataset.features["label"] == Value("string") and dataset["label"][:] == ["pos", "neg"]


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


@pytest.mark.parametrize("labels", [[0, 2, 2, 3], [-1, 0], [1.0, 0.5], [True, False], ["pos", None], [[1, 0], [1, 1]]])
def test_labels_stay_what_they_are(tmp_path, labels):
    dataset = load_texts(str(write(tmp_path / "a.jsonl", [{"text": "a", "label": label} for label in labels])))
    assert dataset["label"][:] == labels


def test_names_for_labels(tmp_path):
    path = str(write(tmp_path / "a.jsonl", [{"text": "a", "label": "pos"}]))
    assert load_texts(path, label_names=["neg", "pos"])["label"][:] == [1]
    with pytest.raises(ValueError, match=r"are pos; the names given for them are 0 \(good\), 1 \(bad\)"):
        load_texts(path, label_names=["good", "bad"])
    numbers = load_texts(str(write(tmp_path / "b.jsonl", [{"text": "a", "label": 1}])), label_names=["neg", "pos"])
    assert numbers["label"][:] == [1] and numbers.features["label"] == ClassLabel(names=["neg", "pos"])
    with pytest.raises(ValueError, match=r"are 1; the names given for them are 0 \(neg\)"):
        load_texts(str(tmp_path / "b.jsonl"), label_names=["neg"])


def test_usual_names_in_any_case(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"Text": "a", "LABEL": 1}])
    assert load_texts(str(path))[:] == {"text": ["a"], "label": [1]}


def test_a_fingerprint_is_of_texts_labels_and_names():
    def fingerprint(labels, names=None, text="a"):
        dataset = Dataset.from_dict({"text": [text], "label": labels})
        return texts_fingerprint(dataset if names is None else dataset.cast_column("label", ClassLabel(names=names)))

    found = [fingerprint([0]), fingerprint([1]), fingerprint([0], ["x", "y"]), fingerprint([0], ["y", "x"])]
    assert len({*found, fingerprint([0], text="b")}) == 5 and fingerprint([0]) == found[0]


def test_texts_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"content": "a"}])
    assert load_texts(str(path)).column_names == ["text"]


def test_columns_by_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a", "body": "b", "label": 0, "stars": 4}])
    dataset = load_texts(str(path), text_column="body", label_column="stars")
    assert dataset["text"][:] == ["b"] and dataset["label"][:] == [4]
    with pytest.raises(ValueError, match=r"'title'; set text_column=… to one of \['text', 'body', 'label', 'stars'\]"):
        load_texts(str(path), text_column="title")


def test_nothing_that_looks_like_a_text(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"x": "a"}])
    with pytest.raises(ValueError, match=r"text_column=… to one of \['x'\]"):
        load_texts(str(path))


def test_a_column_that_holds_no_texts(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "2020-01-01", "id": 7}, {"text": "2021-01-01", "id": 8}])
    for column, kind in ((None, "timestamp"), ("id", "int64")):
        with pytest.raises(ValueError, match=rf"{kind}.*not strings; set text_column=…"):
            load_texts(str(path), text_column=column)


def test_a_folder_of_save_to_disk(tmp_path, all_texts):
    all_texts.select(range(10)).train_test_split(4, seed=0).save_to_disk(tmp_path / "both")
    assert len(load_texts(str(tmp_path / "both"), "test")) == 4
    with pytest.raises(ValueError, match=r"no split 'dev'; it has \['test', 'train'\]"):
        load_texts(str(tmp_path / "both"), "dev")
    all_texts.select(range(3)).save_to_disk(tmp_path / "one")
    assert len(load_texts(str(tmp_path / "one"))) == 3


def test_a_clone_of_a_hub_dataset(tmp_path, all_texts):
    (tmp_path / "data").mkdir()
    all_texts.select(range(5)).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    assert len(load_texts(str(tmp_path))) == 5


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        load_texts(str(tmp_path / "nosuch.csv"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="is empty"):
        load_texts(str(tmp_path / "empty.jsonl"))


def test_a_single_file_is_the_split_that_it_is_called_after(tmp_path):
    rows = [{"text": f"t{number}", "label": number % 2} for number in range(10)]
    path, test = write(tmp_path / "reviews.jsonl", rows), write(tmp_path / "test.jsonl", rows[:3])
    assert len(load_texts(str(path))) == 10
    assert load_texts(str(path), "reviews[8:]")["text"][:] == ["t8", "t9"]
    assert len(load_texts(str(test), "test")) == len(load_texts(str(test))) == 3
    for split in ("train", "test+train", "nonsense"):
        with pytest.raises(ValueError, match=rf"no split '{re.escape(split)}'; it has \['test'\]"):
            load_texts(str(test), split)
    for split in ("validation", "nonsense", "dev[:10%]"):
        with pytest.raises(ValueError, match=r"no split '.*'; it has \['reviews', 'test', 'train'\]"):
            load_texts(str(path), split)
    with pytest.raises(ValueError, match="is not understood"):
        load_texts(str(path), "train[:10percent]")
    with pytest.raises(ValueError, match="has no texts"):
        load_texts(str(path), "train[10:]")
    with pytest.raises(ValueError, match="no subset"):
        load_texts(str(path), subset="plain")


def test_any_other_file_is_cut_by_text_hash(tmp_path):
    rows = [{"tweet": f"text {number}", "label": number % 2} for number in range(1000)]
    first, second = write(tmp_path / "first.jsonl", rows), write(tmp_path / "second.jsonl", rows[::-2])
    train, test = (load_texts(str(first), split, text_column="tweet") for split in ("train", "test"))
    # Four fifths of 1,000: 800 ± 13 is one standard deviation.
    assert len(train) + len(test) == 1000 and 760 < len(train) < 840
    assert not set(train["text"]) & set(test["text"])
    # The same texts, whatever file and order they are in.
    assert set(load_texts(str(second), "test", text_column="tweet")["text"]) <= set(test["text"])
    assert len(load_texts(str(first), "train+test", text_column="tweet")) == 1000
    # Its parts are those of any training split.
    parts = split_texts(train, PARTS)
    assert 0.4 < len(parts["host_train"]) / len(train) < 0.5 and len(parts["select"]) > 40


@pytest.mark.parametrize("name", ["dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"splits": ["../x"], "_data_files": 3}', b"[" * 100_000])
def test_a_damaged_folder_of_save_to_disk(tmp_path, name, content):
    DatasetDict(train=Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})).save_to_disk(tmp_path / "both")
    (tmp_path / "both" / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged|is refused"):
        load_texts(str(tmp_path / "both"), "train")


def test_splits_of_folders_of_save_to_disk(tmp_path):
    texts = Dataset.from_dict({"text": [f"t{number}" for number in range(10)]})
    DatasetDict(train=texts, test=texts.select(range(4))).save_to_disk(tmp_path / "both")
    assert load_texts(str(tmp_path / "both"), "train[:10%]")["text"][:] == ["t0"]
    assert load_texts(str(tmp_path / "both"), "train[9:]+test[:1]")["text"][:] == ["t9", "t0"]
    texts.save_to_disk(tmp_path / "one")
    assert len(load_texts(str(tmp_path / "one"), "train[:30%]")) == 3
    with pytest.raises(ValueError, match=r"no split 'test'; it has \['train'\]"):
        load_texts(str(tmp_path / "one"), "test")
    DatasetDict(test=texts).save_to_disk(tmp_path / "measured")
    assert len(load_texts(str(tmp_path / "measured" / "test"), "train")) == 10
    with pytest.raises(ValueError, match=r"no split 'train'; it has \['test'\]"):
        load_texts(str(tmp_path / "measured"))
    with pytest.raises(ValueError, match="no subset"):
        load_texts(str(tmp_path / "one"), subset="plain")


def test_a_folder_with_only_a_test_split(tmp_path):
    write(tmp_path / "test.jsonl", [{"text": "a", "label": 0}])
    with pytest.raises(ValueError, match=r"no split 'train'; it has \['test'\]"):
        load_texts(str(tmp_path))
    write(tmp_path / "test.csv", [])
    with pytest.raises(ValueError, match=r"both test\.csv and test\.jsonl"):
        load_texts(str(tmp_path), "test")


def test_subsets(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files: a/*.csv\n- config_name: second\n  data_files: b/*.tsv\n"
        '  sep: "\\t"\n---\n'
    )
    for folder in "ab":
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "texts.csv").write_text("text,label\nNA,1\nnull,0\n")
    (tmp_path / "b" / "texts.tsv").write_text('text\tlabel\n"So, he said.\t1\nNone\t0\n')
    assert load_texts(str(tmp_path), subset="first")["text"][:] == ["NA", "null"]
    assert load_texts(str(tmp_path), subset="second")["text"][:] == ['"So, he said.', "None"]
    for subset in (None, "third"):
        with pytest.raises(ValueError, match=r"subsets \['first', 'second'\]; name one with subset=…"):
            load_texts(str(tmp_path), subset=subset)
    (tmp_path / "train.csv").write_text("text,label\nneither,1\n")
    assert load_texts(str(tmp_path), subset="first")["text"][:] == ["NA", "null"], "not the file of the split's name"


def test_an_unknown_format(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'\.pkl' is not one of"):
        load_texts(str(tmp_path / "a.pkl"))


def test_more_columns_are_kept(tmp_path):
    file = tmp_path / "news.jsonl"
    file.write_text(
        '{"text": "one", "label": 1, "source": "a", "day": 3}\n{"text": "two", "label": 0, "source": null}\n'
    )
    texts = load_texts(str(file), more_columns=["source"])
    assert texts.column_names == ["text", "label", "source"] and texts["source"][:] == ["a", None]
    with pytest.raises(ValueError, match="There is no column 'region'"):
        load_texts(str(file), more_columns=["region"])
    with pytest.raises(ValueError, match="'label' is that of the texts or of the labels"):
        load_texts(str(file), more_columns=["label"])


def test_cuts_by_other_digits_are_independent():
    texts = Dataset.from_dict({"text": [f"text {number}" for number in range(2000)]})
    first = split_texts(texts, {"a": 0.5}, start=0)["a"]
    for start in (8, 16):
        # Of the half by one cut, about half is in the other one.
        assert 0.45 < len(split_texts(first, {"a": 0.5}, start=start)["a"]) / len(first) < 0.55
