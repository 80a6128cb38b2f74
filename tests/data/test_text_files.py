import json
import re

import pytest
from datasets import Dataset, Value

from clvq_hf.data import host_labels
from clvq_hf.data.text_files import read_file
from clvq_hf.data.texts import load_texts

LINES = ['"Quoted" at the start', '"Only one mark', "plain", 'one more "', "it's"]


def test_quotation_marks_in_a_tsv(tmp_path, caplog):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{row % 2}\n" for row, text in enumerate(LINES)))
    dataset = load_texts(str(path))
    assert dataset["text"][:] == LINES and dataset["label"][:] == [0, 1, 0, 1, 0]
    assert not caplog.records


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_words_that_could_mean_nothing(tmp_path, suffix):
    words = ["NA", "null", "None", "nan", "N/A", "#N/A", "1984", "TRUE", "1e5", " padded ", "01", "a\u2028b\x85c"]
    mark = "," if suffix == "csv" else "\t"
    path = tmp_path / f"a.{suffix}"
    path.write_text(f"text{mark}label\n" + "".join(f"{word}{mark}1\n" for word in words), encoding="utf-8")
    assert load_texts(str(path))["text"][:] == words


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_encodings_with_a_mark(tmp_path, encoding, suffix):
    path = tmp_path / f"a.{suffix}"
    mark = ";" if suffix == "csv" else "\t"
    path.write_text(f"text{mark}label\ncafé{mark}1\nnaïve “film”{mark}0\n", encoding=encoding)
    dataset = load_texts(str(path))
    assert dataset["text"][:] == ["café", "naïve “film”"] and dataset["label"][:] == [1, 0]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_latin_1(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes('{"text": "plain"}\n{"text": "café"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"not stored as UTF-8: the byte 0xE9 in line 2 .* iconv -f WINDOWS-1252"):
        load_texts(str(path))


def test_marks_of_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "café"}\n', encoding="utf-8-sig")
    assert load_texts(str(path))["text"][:] == ["café"]
    path.write_text('{"text": "café"}\n', encoding="utf-16")
    with pytest.raises(ValueError, match="iconv -f UTF-16"):
        load_texts(str(path))


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_delimiters_of_a_csv(tmp_path, mark):
    path = tmp_path / "a.csv"
    path.write_text(
        mark.join(["id", "text", "label"]) + "\n" + mark.join(["7", '"a, ""good""; film"', "1"]) + "\r\n\r\n"
    )
    dataset = load_texts(str(path))
    assert dataset["text"][:] == ['a, "good"; film'] and dataset["label"][:] == [1]


def test_spaces_beside_the_names_of_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(" text , label\n a , 1\nb, 0\n")
    dataset = load_texts(str(path))
    assert dataset["text"][:] == [" a ", "b"] and dataset["label"][:] == [1, 0]


def test_blank_lines_before_the_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n\ntext;label\na, b;1\n")
    assert load_texts(str(path))[:] == {"text": ["a, b"], "label": [1]}


def test_brackets_in_a_path(tmp_path):
    folder = tmp_path / "run[1]*?"
    folder.mkdir()
    (folder / "a.csv").write_text("text\na\n")
    (folder / "b[0].jsonl").write_text('{"text": "b"}\n')
    Dataset.from_dict({"text": ["c"]}).to_parquet(folder / "c[0].parquet")
    for name, text in (("a.csv", "a"), ("b[0].jsonl", "b"), ("c[0].parquet", "c")):
        assert load_texts(str(folder / name))["text"][:] == [text]
    assert load_texts(str(folder), "a")["text"][:] == ["a"]


@pytest.mark.parametrize(
    ("written", "kind", "values"),
    [
        (["1", "10", "9", ""], "int64", [1, 10, 9, None]),
        (["1.0", "0"], "float64", [1.0, 0.0]),
        (["True", "false"], "bool", [True, False]),
        (["1", "NA"], "string", ["1", "NA"]),
        (["pos", "neg"], "string", ["pos", "neg"]),
        (["1_0", "2"], "string", ["1_0", "2"]),
    ],
)
def test_labels_of_a_csv(tmp_path, written, kind, values):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"a,{value}\n" for value in written))
    dataset = read_file(path)
    assert dataset.features == {"text": Value("string"), "label": Value(kind)}
    assert dataset["label"][:] == values


def test_digits_in_quotes_stay_strings_in_json(tmp_path):
    rows = [{"text": "1984", "label": label} for label in ("1", "10", "9")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    for name in ("a.jsonl", "b.json"):
        dataset = read_file(tmp_path / name)
        assert dataset["label"][:] == ["1", "10", "9"] and dataset["text"][:] == ["1984"] * 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_empty_label_is_none(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for label in ("1", "pos"):
        csv = f"text,label\na,{label}\nb,\n"
        jsonl = f'{{"text": "a", "label": "{label}"}}\n{{"text": "b", "label": ""}}\n'
        path.write_text(csv if suffix == "csv" else jsonl)
        texts = load_texts(str(path))
        assert host_labels(texts, None)["label"][:] == [1 if label == "1" else 0, None]
        with pytest.raises(ValueError, match="1 of 2 texts have no label"):
            host_labels(texts, None, complete=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,1\nb, c,1\n", "line 3: 3 fields, and the first line names 2 .* in quotes"),
        ("a.csv", "text,label\na,1\nb\n", "line 3: 1 fields"),
        ("a.csv", 'text,label\n"Nice" film,1\n', "line 2: .* the mark doubled"),
        ("a.csv", 'text,label\na,1\n"never closed,1\n', "line 3: .* the mark doubled"),
        ("a.tsv", "text\tlabel\na\tb\t1\n", r"line 2: 3 fields, .*'\\t' has to be stored in a \.csv or \.jsonl"),
        ("a.csv", "text,text\na,1\n", "each once"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "\n \n", "name the columns"),
        ("a.jsonl", '{"text": "a"} {"text": "b"}\n', "1 lines, and 2 rows"),
        ("a.jsonl", "this is no JSON\n", "cannot be read"),
    ],
)
def test_what_cannot_be_read_without_loss(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        load_texts(str(path))


def test_rows_are_compared_with_lines(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"He said,1\nfine,0\nno",1\nb,0\n')
    assert load_texts(str(path))["text"][:] == ["He said,1\nfine,0\nno", "b"]
    assert "2 rows were read from 4 lines" in caplog.text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines(tmp_path, caplog, end):
    for path, mark in ((tmp_path / "a.csv", ","), (tmp_path / "a.tsv", "\t")):
        path.write_bytes(end.join([f"text{mark}label", f"a{mark}1", "", f"{mark}0", ""]).encode())
        dataset = load_texts(str(path))
        assert dataset["text"][:] == ["a", ""] and dataset["label"][:] == [1, 0]
    assert not caplog.records


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "a.csv"
    for text in ("first", "second"):
        path.write_text(f"text\n{text}\n")
        assert load_texts(str(path))["text"][:] == [text]


def test_a_long_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "a" * 200_000 + ",1\n")
    assert len(load_texts(str(path))["text"][0]) == 200_000
