"""Texts as they are found, from a file through every command."""

import json
from pathlib import Path

import pytest
from helpers.command_line import refuse, succeed
from helpers.hostile_texts import ATTACKS, FOUND
from helpers.stub_judge import StubJudge, good_judge

from clvq_hf import ConceptTable

pytestmark = pytest.mark.slow
SMALL = ("--codebook-size", 6, "--max-length", 12, "--epochs", 1, "--set", "intermediate_size=32")


@pytest.fixture(scope="module")
def folder(saved_host, all_texts, tmp_path_factory) -> Path:
    """A model that is trained on such texts and on ordinary ones, and a file with all of them, twice."""
    folder = tmp_path_factory.mktemp("found")
    texts = [*FOUND, *ATTACKS, *all_texts["text"][:60]]
    rows = [{"text": text, "label": ["negative", "positive"][number % 2]} for number, text in enumerate(texts)]
    rows += [{**row, "text": row["text"] + " again"} for row in rows]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    succeed("train", saved_host, "--dataset", folder / "texts.jsonl", "-o", folder / "out", *SMALL)
    return folder


def test_tokens_lie_where_the_table_says(folder):
    succeed("concepts", "build", folder / "out", "--split", "train", "-o", folder / "table", "--show", 40)
    table = ConceptTable.load_from_disk(folder / "table")
    texts = dict(zip(table.texts["text_id"], table.texts["text"], strict=True))
    assert set(texts.values()) & set(FOUND), "such texts are in the table"
    for row in table.tokens:
        assert 0 <= row["start"] <= row["end"] <= len(texts[row["text_id"]])
        assert row["special"] or 0 <= row["code"] < 6
        assert row["special"] or row["start"] < row["end"] or not row["token"].strip("#")


def test_every_text_is_explained(folder, tmp_path):
    succeed("explain", folder / "out", folder / "texts.jsonl", "-o", tmp_path / "why.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "why.jsonl").read_text(encoding="utf-8").splitlines()]
    explained = {row["text"] for row in rows}
    missing = [text for text in (*FOUND, *ATTACKS) if text not in explained]
    assert missing == ["   ", "\n\n", "\u200b\u200b"], "of these the tokenizer leaves nothing, which a warning says"
    for text in FOUND:
        output = "" if text in missing else succeed("explain", folder / "out", "--", text)
        assert not set(map(chr, range(32))) & set(output), "it would control the terminal"


def test_pages_and_cards(folder, tmp_path):
    quick = ("--protocol", "code", "--attribution", "gradient_x_input", "--draws", 1)
    succeed("evaluate", folder / "out", "-o", tmp_path / "results", *quick)
    succeed("report", tmp_path / "results", "-o", tmp_path / "report.html")
    succeed("study", "build", f"a={tmp_path / 'results' / 'concept_table'}", "-o", tmp_path / "study", "--items", 4)
    with StubJudge(good_judge) as judge:
        table = f"a={tmp_path / 'results' / 'concept_table'}"
        succeed("judge", table, "--judge", judge.url, "--texts", 6, "-o", tmp_path / "judged", "--yes")
    for file in tmp_path.rglob("*.html"):
        page = file.read_text(encoding="utf-8")
        assert not any(attack in page for attack in ATTACKS if attack.startswith("<")), file
    for file in tmp_path.rglob("*.md"):
        assert "<script>" not in file.read_text(encoding="utf-8"), file


def test_what_is_no_unicode_is_refused_by_row(folder, tmp_path):
    (tmp_path / "surrogates.jsonl").write_text('{"text": "fine"}\n{"text": "lone \\ud800 surrogate"}\n')
    assert "surrogate" in refuse(
        "explain", folder / "out", tmp_path / "surrogates.jsonl", "-o", tmp_path / "why.jsonl"
    )
    (tmp_path / "latin.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    assert "latin.csv" in refuse("explain", folder / "out", tmp_path / "latin.csv", "-o", tmp_path / "why.jsonl")
