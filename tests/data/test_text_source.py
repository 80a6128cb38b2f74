import json

import pytest

from clvq_hf.data.text_source import TextSource, select_part


@pytest.fixture
def file(tmp_path, all_texts):
    def write(name):
        rows = [json.dumps({"text": text}) for text in all_texts["text"][:100]]
        (tmp_path / name).write_text("\n".join(rows))
        return str(tmp_path / name)

    return write


def test_what_is_recorded_is_read_again():
    source = TextSource("org/data", text_column="tweet", label_names=["a", "b"], split="train", eval_split="test")
    assert TextSource.of(json.loads(json.dumps(source.to_dict()))) == source


@pytest.mark.parametrize(
    "training", [None, "x", {}, {"dataset": None}, {"dataset": 1}, {"dataset": "d", "split": [1]}]
)
def test_a_damaged_record_names_no_texts(training):
    assert TextSource.of(training) is None


def test_columns_that_the_trainer_was_given_are_not_those_of_the_dataset():
    source = TextSource.of({"dataset": "org/data", "text_column": "text", "label_column": "label"})
    assert (source.text_column, source.label_column) == (None, None)


def test_held_out_texts_are_a_split_or_a_tenth(file):
    source = TextSource(file("notes.jsonl"))
    held_out, split, part = source.load_held_out()
    assert (split, part) == ("test", None) and held_out["text"][:] == source.load("test")["text"][:]
    # A file called after a split has no other.
    source = TextSource(file("train.jsonl"))
    held_out, split, part = source.load_held_out()
    assert (split, part) == ("train", "select")
    rest = select_part(source.load("train"), "host_train+codebook_train")
    assert len(held_out) + len(rest) == 100 and not set(held_out["text"]) & set(rest["text"])
    with pytest.raises(ValueError, match="no split 'dev'"):
        TextSource(source.dataset, eval_split="dev").load_held_out()


def test_there_is_no_other_part(file):
    with pytest.raises(ValueError, match="no part 'rest'"):
        select_part(TextSource(file("notes.jsonl")).load("train"), "select+rest")
