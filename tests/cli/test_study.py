"""`clvq-hf study …`: what it prints, writes and refuses."""

import json
import shutil

import pytest
from helpers.study_fixtures import answer_sheet, folder, key, tables  # noqa: F401
from typer.testing import CliRunner

from clvq_hf.cli import app


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(app, ["study", *map(str, arguments)], env={"COLUMNS": "200"})
        return result.exit_code, " ".join(result.output.split())

    return run


@pytest.fixture
def saved(tables, tmp_path):
    for name, table in tables.items():
        table.save_to_disk(tmp_path / name)
    return [tmp_path / name for name in tables]


@pytest.mark.slow
def test_build_says_how_many_items_and_annotators_it_takes(run, saved, tmp_path):
    code, output = run("build", *saved, "-o", "mine", "--items", 30, "--raters", 3)
    assert code == 0
    assert "Each method needs 127 items to distinguish 78% from 54% (the paper's figures) with 80 % power" in output
    assert "after correction for 9 comparisons" in output
    assert "this study has 30: too few for that" in output
    assert "answers 36 questions, 6 of them checks. 18 annotators cover everything: 6 groups of 3." in output
    # 30 texts have 30 concepts in the table where each has its own, and nothing can be shown of them.
    assert "rare-method │ words │ 30 │ 30 │ 30 │" in output and "plain-method │ sentences │ 30 │ 2 │ 0 │" in output
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == ["key.json", "page.html"]


@pytest.mark.slow
def test_build_says_that_there_are_fewer_texts(run, saved):
    code, output = run("build", *saved, "--checks", 2)
    assert code == 0 and "60 were asked for; the tables have 40 texts" in output and "this study has 38" in output
    assert "use two or more" not in output


@pytest.mark.parametrize(("checks", "advice"), [(1, "1 attention checks say little"), (0, "Without attention checks")])
def test_build_says_that_there_are_too_few_checks(run, saved, checks, advice):
    code, output = run("build", *saved, "--items", 6, "--checks", checks)
    assert code == 0 and advice in output and "use two or more" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "pictures"], "words, sentences"),
        (["--label", "good"], "2 labels"),
        (["--items", "0"], "at least one item"),
        (["nowhere"], "nowhere"),
    ],
)
def test_build_refuses_in_words(run, saved, arguments, message, tmp_path):
    code, output = run("build", *saved, *arguments)
    assert code == 1 and message in output and "Traceback" not in output
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_score_finds_the_key_beside_the_answers_or_above(run, folder, answer_sheet, tmp_path):
    (tmp_path / "study" / "answers").mkdir(parents=True)
    shutil.copy(folder / "key.json", tmp_path / "study")
    for place in ("study", "study/answers"):
        (tmp_path / place / "1.json").write_text(json.dumps(answer_sheet(1)))
        code, output = run("score", f"{place}/1.json")
        assert code == 0 and "One annotator: the intervals do not include differences between people." in output
        assert {file.name for file in (tmp_path / "study").iterdir()} >= {"scores.json", "scores.md"}
    # All that is there, as *.json would give it.
    code, output = run("score", *sorted((tmp_path / "study").glob("*.json")))
    assert code == 0, output


def test_score_lists_who_fails_the_checks(run, folder, answer_sheet, tmp_path):
    sheets = [answer_sheet(1), answer_sheet(2, check=lambda question: None)]
    for sheet in sheets:
        (tmp_path / f"{sheet['annotator']}.json").write_text(json.dumps(sheet))
    arguments = ["score", "1.json", "2.json", "--key", folder / "key.json", "-o", "out"]
    code, output = run(*arguments)
    assert code == 0 and "unfinished; fails the checks, not counted" in output
    code, output = run(*arguments, "--include-failed")
    assert code == 0 and "fails the checks, counted anyway" in output


@pytest.mark.parametrize(("content", "message"), [("{", "damaged"), ("{}", "something else"), (None, "no key.json")])
def test_score_refuses_in_words(run, folder, tmp_path, content, message):
    (tmp_path / "1.json").write_text(content or "{}")
    code, output = run("score", "1.json", *(["--key", folder / "key.json"] if content else []))
    assert code == 1 and message in output and "Traceback" not in output
    assert not (tmp_path / "scores.json").exists()


def test_help(run):
    code, output = run("build", "--help")
    assert code == 0 and "--show-text" in output and "key.json" in output
    code, output = run("score", "--help")
    assert code == 0 and "answers/*.json" in output and "--include-failed" in output
