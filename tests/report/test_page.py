"""The report as a file: whole, small enough, of things that belong together, and it asks nobody for anything."""

import base64
import hashlib
import importlib
import json
import re
import sys
import zlib

import numpy as np
import pytest
from helpers.made_audits import made_audit
from helpers.made_tables import made_table
from typer.testing import CliRunner

from clvq_hf.cli import app
from clvq_hf.report import page, write_report


def contents_of(text):
    """The contents of a report, unpacked."""
    packed = re.search(r'<script type="application/octet-stream" id="contents">([\w+/=]*)</script>', text)[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def text(report_file):
    return report_file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_loads_nothing(text):
    addresses = set(re.findall(r"https?://[^\s\"'<>)]*", text))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "names of SVG, not addresses"
    assert not re.search(r"@import|url\((?!#)|<link|<iframe|<object|\ssrc=", text)


def test_only_the_script_of_ours_may_run(text):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src &#39;none&#39;") or policy.startswith("default-src 'none'")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy.replace("&#39;", "'")


def test_no_text_of_the_data_is_in_the_markup(text):
    assert "hacked=1" not in text
    assert "&lt;made up&gt;" in text, "of the evaluation's tables"
    assert "hacked=1" in json.dumps(contents_of(text))


def test_our_scripts_never_make_markup_of_text(text):
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_the_tables_of_an_evaluation_have_words_and_no_paths(results, tmp_path):
    way = {"label": 0, "code": 7, "code_purity": 1.0, "code_label": 0}
    routing = {"jsd": 0.1, "null_jsd": 0.1, "routed_share": 0.1, "null_routed_share": 0.1, "excess_jsd": 0.1}
    example = {"word": "light", "jsd": 0.5, "labels": [way, {**way, "label": 1, "code": 6, "code_label": 1}]}
    secret = {
        **results,
        "host_name_or_path": str(tmp_path / "host"),
        "texts": {**results["texts"], "dataset": str(tmp_path / "data.csv")},
        "table": {**results["table"], "routing_divergence": {**routing, "num_types": 1, "examples": [example]}},
    }
    cells = [
        cell for table in page._tables(secret, None, {6: ["light"], 7: ["dim"]}) for row in table.rows for cell in row
    ]
    assert "#7 dim (100.0 % bad) / #6 light (100.0 % good)" in cells
    assert not any(str(tmp_path) in cell for cell in cells) and "./host" in cells


@pytest.mark.slow
def test_the_same_table_gives_the_same_file(table, model, evaluation, report_file, tmp_path):
    write_report(table, tmp_path / "again.html", model, evaluation)
    assert (tmp_path / "again.html").read_bytes() == report_file.read_bytes()


def test_without_a_model_or_an_evaluation(table, tmp_path):
    write_report(table, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="map"' not in text and 'id="usage"' in text and "All figures as tables" not in text
    assert all(concept["near"] == [] and concept["effect"] is None for concept in contents_of(text)["concepts"])


@pytest.mark.slow
def test_a_file_that_would_be_too_large_has_fewer_texts_and_says_so(table, model, tmp_path, monkeypatch):
    write_report(table, tmp_path / "whole.html", model)
    whole = (tmp_path / "whole.html").stat().st_size
    monkeypatch.setattr(page, "MAX_BYTES", whole - 300)
    write_report(table, tmp_path / "part.html", model)
    assert (tmp_path / "part.html").stat().st_size <= whole - 300
    text = (tmp_path / "part.html").read_text(encoding="utf-8")
    shown = len(contents_of(text)["texts"])
    assert 0 < shown < 40
    assert f"{shown} of 40 texts have a page here" in text
    assert "have a page here" not in (tmp_path / "whole.html").read_text(encoding="utf-8")


def test_the_suspects_of_an_audit(table, model, tmp_path):
    made_audit(table.metadata["model_fingerprint"], "<b>zebra").save_to_disk(tmp_path / "audit")
    write_report(table, tmp_path / "report.html", model, audit=tmp_path / "audit")
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What the model relies on" in written and "<td>&lt;b&gt;zebra</td>" in written
    made_audit().save_to_disk(tmp_path / "audit")
    with pytest.raises(ValueError, match="the audit of another model"):
        write_report(table, tmp_path / "report.html", model, audit=tmp_path / "audit")


def test_what_does_not_belong_together(table, model, make_model, evaluation, tmp_path):
    with pytest.raises(ValueError, match="another model"):
        write_report(table, tmp_path / "report.html", make_model())
    with pytest.raises(ValueError, match="no results"):
        write_report(table, tmp_path / "report.html", model, tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        write_report(table, tmp_path / "missing" / "report.html", model)
    with pytest.raises(ValueError, match="is a folder"):
        write_report(table, tmp_path, model)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_failure_leaves_the_earlier_report(table, model, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("earlier")
    monkeypatch.setattr(page, "render_page", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(table, tmp_path / "report.html", model)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "earlier"


class TestCommand:
    @pytest.fixture
    def folders(self, table, model, evaluation, tmp_path):
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "results.json").write_bytes((evaluation / "results.json").read_bytes())
        table.save_to_disk(tmp_path / "results" / "concept_table")
        table.save_to_disk(tmp_path / "alone")
        return tmp_path

    def run(self, *arguments):
        return CliRunner().invoke(app, ["report", *map(str, arguments)])

    @pytest.mark.slow
    def test_a_report_with_the_evaluation_that_the_table_is_in(self, folders):
        file = folders / "out.html"
        result = self.run(folders / "model", "--table", folders / "results" / "concept_table", "-o", file)
        assert result.exit_code == 0, result.output
        assert "All figures as tables" in file.read_text(encoding="utf-8")
        assert "No evaluation" not in result.output

    @pytest.mark.slow
    def test_an_evaluation_of_other_texts_is_left_out_unless_it_is_asked_for(self, folders, table):
        some = table.texts.select(range(39)), table.tokens.filter(lambda row: row["text_id"] < 39)
        type(table)(some[1], some[0], table.metadata).save_to_disk(folders / "results" / "fewer")
        arguments = (folders / "model", "--table", folders / "results" / "fewer", "-o", folders / "out.html")
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        output = " ".join(result.output.split())
        assert "Evaluation not used: The evaluation in" in output and "is of other texts" in output
        assert "All figures as tables" not in (folders / "out.html").read_text(encoding="utf-8")
        result = self.run(*arguments, "--evaluation", folders / "results")
        assert result.exit_code == 1 and "is of other texts" in " ".join(result.output.split())
        # The same texts with the names of the classes exchanged.
        metadata = {**table.metadata, "label_names": table.label_names[::-1]}
        type(table)(table.tokens, table.texts, metadata).save_to_disk(folders / "results" / "renamed")
        arguments = (folders / "model", "--table", folders / "results" / "renamed", "-o", folders / "out.html")
        result = self.run(*arguments, "--evaluation", folders / "results")
        assert result.exit_code == 1 and "is of other texts or labels" in " ".join(result.output.split())

    @pytest.mark.slow
    def test_a_table_alone(self, folders):
        result = self.run(folders / "model", "--table", folders / "alone", "-o", folders / "out.html")
        assert result.exit_code == 0 and "--evaluation FOLDER" in result.output
        assert "MB): open it in a browser." in " ".join(result.output.split())

    @pytest.mark.slow
    def test_toxic_labels_are_masked_if_wanted(self, folders, table):
        toxic = type(table)(table.tokens, table.texts, {**table.metadata, "label_names": ["toxic", "clean"]})
        toxic.save_to_disk(folders / "toxic")
        result = self.run(folders / "model", "--table", folders / "toxic", "-o", folders / "out.html", "--mask-toxic")
        assert result.exit_code == 0, result.output
        text = (folders / "out.html").read_text(encoding="utf-8")
        assert "Texts with these labels are masked: toxic." in text and "tedious" not in text
        assert "tedious" not in json.dumps(contents_of(text))

    @pytest.mark.slow
    def test_masking_that_is_not_possible_is_refused(self, folders, table):
        numbered = type(table)(table.tokens, table.texts, {**table.metadata, "label_names": ["0", "1"]})
        numbered.save_to_disk(folders / "jigsaw")
        command = (folders / "model", "--table", folders / "jigsaw", "-o", folders / "out.html")
        result = self.run(*command, "--mask-toxic")
        message = " ".join(result.output.split())
        assert result.exit_code == 1 and "its labels are ['0', '1']" in message and "--mask-label" in message
        assert not (folders / "out.html").exists()
        result = self.run(*command, "--mask-label", "2")
        assert result.exit_code == 1 and "There is no label '2'" in " ".join(result.output.split())
        for options in ((), ("--mask-toxic",)):
            assert self.run(*command, "--mask-label", "0", *options).exit_code == 0
            text = (folders / "out.html").read_text(encoding="utf-8")
            assert "Texts with these labels are masked: 0." in text and "tedious" not in json.dumps(contents_of(text))

    def test_errors_are_readable(self, folders):
        for arguments, message in [
            ((folders / "model", "--table", folders / "missing"), "holds no concept table"),
            ((folders / "missing", "--table", folders / "alone"), "Error:"),
            ((folders / "model", "--table", folders / "alone", "--evaluation", folders), "holds no results.json"),
        ]:
            result = self.run(*arguments, "-o", folders / "out.html")
            assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
            assert message in " ".join(result.output.split())

    def test_a_missing_extra_is_named(self, folders, without_extras):
        result = self.run(folders / "model", "--table", folders / "alone", "-o", folders / "out.html")
        assert result.exit_code == 1 and 'pip install "clvq-hf[report]"' in " ".join(result.output.split())


@pytest.fixture
def without_extras(monkeypatch):
    """As if matplotlib and wordcloud were not installed, and the report not yet imported."""
    for name in [*sys.modules]:
        if name.startswith(("clvq_hf.report", "matplotlib", "wordcloud")):
            monkeypatch.delitem(sys.modules, name)
    for name in ("matplotlib", "wordcloud"):
        monkeypatch.setitem(sys.modules, name, None)


def test_fragments_do_without_the_extra(without_extras, table):
    report = importlib.import_module("clvq_hf.report")
    assert "<div" in report.text_html(table, 3)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "clvq-hf\[report\]"'):
        report.write_report  # noqa: B018
    assert "write_report" in dir(report)


@pytest.mark.slow
def test_concepts_that_are_too_many_are_left_out_and_it_is_said(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    words = ["".join(chr(0x4E00 + number) for number in row) for row in generator.integers(0, 20_000, (30, 400))]
    codes = {word: number for number, word in enumerate(words)}
    about = {"model_type": "clvq", "upper_layer": 3, "stack": None, "salience": None}
    table = made_table(words, [0] * 30, codes, labels=[0] * 30, codebook_size=30, **about)
    contents = page.report_contents(table)
    shown = ["".join(piece for piece, _ in found["examples"][0]["pieces"]) for found in contents["concepts"]]
    assert all(len(text) <= 304 for text in shown), "white space alone does not bound an excerpt"
    # Less than the data alone, beside what is around them.
    limit = len(page._render(table, table.facts(), None, {**contents, "texts": []}, None, None)) - 10_000
    monkeypatch.setattr(page, "MAX_BYTES", limit)
    write_report(table, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size <= limit
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    kept = len(contents_of(text)["concepts"])
    assert 0 < kept < 30 and f"The {kept} most frequent of 30 concepts are shown." in text


@pytest.mark.slow
def test_ten_thousand_texts_and_400_concepts_would_stay_under_five_megabytes(tmp_path, monkeypatch):
    """A fifth of both in a fifth of the bytes."""
    generator = np.random.default_rng(0)
    vocabulary = [f"{''.join(generator.choice(list('abcdefghijklmnopqrstuvwxyz'), 6))}" for _ in range(2000)]
    weights = 1 / np.arange(1, 2001)
    drawn = generator.choice(vocabulary, (2000, 40), p=weights / weights.sum())
    codes = {word: int(code) for word, code in zip(vocabulary, generator.integers(0, 80, 2000), strict=True)}
    labels = generator.integers(0, 2, 2000).tolist()
    about = {"model_type": "clvq", "upper_layer": 3, "stack": None, "salience": None}
    table = made_table([" ".join(row) for row in drawn], labels, codes, labels=labels, codebook_size=80, **about)
    monkeypatch.setattr(page, "MAX_BYTES", 1_000_000)
    write_report(table, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(contents_of(text)["texts"]) == 2000 and len(contents_of(text)["concepts"]) == 80
