"""Answer files: what is whole counts, what is not is refused by its name."""

import json

import pytest

from clvq_hf.judging.people import read_answers


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_a_whole_file(write, answer_sheet, key):
    (found,) = read_answers([write("a.json", answer_sheet(3))], key)
    assert (found.annotator, found.group, found.is_complete) == (3, 1, True)
    assert (len(found.items), len(found.checks)) == (12, 3)
    assert all(answer.is_right and answer.seconds == 2.5 for answer in found.answers)


def test_files_come_in_the_order_of_annotators(write, answer_sheet, key):
    files = [write(f"{annotator}.json", answer_sheet(annotator)) for annotator in (5, 1, 4)]
    assert [found.annotator for found in read_answers(files, key)] == [1, 4, 5]


def test_an_unfinished_file_counts_as_far_as_it_goes(write, answer_sheet, key):
    sheet = answer_sheet(1)
    sheet["answers"], sheet["complete"] = sheet["answers"][:5], False
    (found,) = read_answers([write("a.json", sheet)], key)
    assert not found.is_complete and len(found.answers) == 5


def test_a_file_without_an_answer_yet(write, answer_sheet, key):
    (found,) = read_answers([write("a.json", {**answer_sheet(1), "answers": [], "complete": False})], key)
    assert found.answers == []


def row(**change):
    return lambda sheet: sheet["answers"][0].update(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sheet: sheet.update(format="something"), "something else.*annotators download it"),
        (lambda sheet: sheet.pop("format"), "something else"),
        (lambda sheet: sheet.update(format_version=2, clvq_version="9.9"), "Install.*9.9"),
        (lambda sheet: sheet.update(study="0000"), "is from the study '0000'"),
        (lambda sheet: sheet.update(annotator=0), "its annotator is"),
        (lambda sheet: sheet.update(annotator=True), "its annotator is"),
        (lambda sheet: sheet.update(annotator="1"), "its annotator is"),
        (lambda sheet: sheet.update(annotator=3), "answer 1: .*belongs to group 1.*group 2.*changed"),
        (lambda sheet: sheet.update(answers={}), "no list of answers"),
        (lambda sheet: sheet["answers"].pop(), "claims to be complete but has 14 of 15"),
        (lambda sheet: sheet["answers"].append(sheet["answers"][0]), "answer 16: .*twice"),
        (lambda sheet: sheet["answers"].__setitem__(0, "good"), "answer 1: .*is not an answer"),
        (row(item="ffff"), "answer 1: .*no question 'ffff'"),
        (row(item=[]), "no question"),
        (row(choice="great"), "answer 1: 'great' is not one of the labels bad, good"),
        (row(choice=["good"]), "not one of the labels"),
        (row(seconds=-1), "-1 is not a number of seconds"),
        (row(seconds=float("nan")), "nan is not a number"),
        (row(seconds=None), "not a number of seconds"),
        (row(seconds=True), "not a number of seconds"),
        (row(seconds=10**400), "not a number of seconds"),
        (row(seconds=1e9), "not a number of seconds"),
    ],
)
def test_files_that_say_what_cannot_be(write, answer_sheet, key, change, message):
    sheet = answer_sheet(1)
    change(sheet)
    files = [write("fine.json", answer_sheet(2)), write("wrong.json", sheet)]
    with pytest.raises(ValueError, match=message) as caught:
        read_answers(files, key)
    assert "wrong.json" in str(caught.value) and "fine.json" not in str(caught.value)


@pytest.mark.parametrize("content", ["", '{"format": "clvq-hf study ans', "[" * 100_000, "null", "[1]", "1" * 5000])
def test_files_that_are_cut_off_or_something_else(write, key, content):
    with pytest.raises(ValueError, match=r"wrong\.json.*answer file"):
        read_answers([write("wrong.json", content)], key)


def test_files_that_are_no_text_or_not_there(tmp_path, key):
    (tmp_path / "wrong.json").write_bytes(b"\xff\xfe\x00")
    for name in ("wrong.json", "absent.json"):
        with pytest.raises(ValueError, match=name):
            read_answers([tmp_path / name], key)
    with pytest.raises(ValueError, match="no answer file"):
        read_answers([], key)


def test_keys_and_scores_among_the_files_are_passed_over(write, answer_sheet, key, folder):
    own = [folder / "key.json", write("scores.json", {"format": "clvq-hf study scores", "format_version": 1})]
    (found,) = read_answers([*own, write("a.json", answer_sheet(3))], key)
    assert found.annotator == 3
    with pytest.raises(ValueError, match="no answer file"):
        read_answers(own, key)


def test_two_files_of_one_annotator(write, answer_sheet, key):
    files = [write("a.json", answer_sheet(1)), write("b.json", answer_sheet(1))]
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json are both from annotator 1.*15 and 15"):
        read_answers(files, key)
