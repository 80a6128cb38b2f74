"""Scores agree with figures by hand, and intervals know of people and of texts."""

import json
import math
import sys

import numpy as np
import pytest
from scipy.stats import t

from clvq_hf.judging.people import build_study, read_answers, score_study
from clvq_hf.judging.people.intervals import crossed_error, half_width, p_value
from clvq_hf.judging.people.score_report import score_tables
from clvq_hf.judging.people.scoring import _decide


@pytest.fixture
def score(tmp_path, key):
    """Scores of answer sheets, read from files as they would be."""

    def score(sheets, of=key, **settings):
        files = []
        for sheet in sheets:
            files.append(tmp_path / f"{sheet['annotator']}.json")
            files[-1].write_text(json.dumps(sheet))
        return score_study(read_answers(files, of), of, **settings)

    return score


def of_method(scores, method, kind="all"):
    return next(row for row in scores["methods"] if (row["method"], row["kind"]) == (method, kind))


def always_good_if_mixed(question):
    return "good" if question.method == "mixed-method" else question.answer


class TestAccuracy:
    def test_by_method_and_kind(self, score, answer_sheet):
        scores = score([answer_sheet(annotator, always_good_if_mixed) for annotator in range(1, 9)])
        assert (scores["chance"], scores["majority"], scores["num_texts"]) == (0.5, 0.5, 12)
        for kind in ("words", "sentences", "all"):
            plain, mixed = of_method(scores, "plain-method", kind), of_method(scores, "mixed-method", kind)
            assert plain["num_texts"] == mixed["num_texts"] == 12
            assert plain["num_answers"] == (48 if kind == "all" else 24)
            assert (plain["accuracy"], plain["accuracy_low"], plain["accuracy_high"]) == (1, 1, 1)
            assert mixed["accuracy"] == 0.5  # six of the twelve texts are predicted good
            assert 0.1 < mixed["accuracy_low"] < 0.5 < mixed["accuracy_high"] < 0.9
            assert mixed["accuracy_where_model_is_right"] == mixed["accuracy_where_model_is_wrong"] == 0.5
            assert plain["median_seconds"] == 2.5

    def test_below_twenty_texts_nobody_wins(self, score, answer_sheet):
        scores = score([answer_sheet(annotator, always_good_if_mixed) for annotator in range(1, 9)])
        for row in scores["comparisons"]:
            assert row["difference_low"] > 0 and row["p_value"] is row["winner"] is None

    def test_a_difference_wins_by_a_corrected_p_value(self, score, answer_sheet, monkeypatch):
        monkeypatch.setattr("clvq_hf.judging.people.scoring.MIN_TEXTS", 12)
        scores = score([answer_sheet(annotator, always_good_if_mixed) for annotator in range(1, 9)])
        for row in scores["comparisons"]:
            assert (row["first"], row["second"], row["difference"]) == ("plain-method", "mixed-method", 0.5)
            assert row["difference_low"] > 0 and row["winner"] == "plain-method" and row["p_value"] < 0.05

        def always_bad_if_plain(question):
            return "bad" if question.method == "plain-method" else question.answer

        worse = score([answer_sheet(annotator, always_bad_if_plain) for annotator in range(1, 9)])
        assert [row["winner"] for row in worse["comparisons"]] == ["mixed-method"] * 3
        alike = score([answer_sheet(annotator, lambda question: "good") for annotator in range(1, 9)])
        assert [row["winner"] for row in alike["comparisons"]] == [None] * 3

    def test_where_the_model_is_wrong(self, score, answer_sheet):
        # Somebody who sees what is so, not what the model says.
        def judge(question):
            other = {"good": "bad", "bad": "good"}
            return question.answer if question.correct else other[question.answer]

        row = of_method(score([answer_sheet(1, judge)]), "plain-method")
        assert (row["accuracy_where_model_is_right"], row["accuracy_where_model_is_wrong"]) == (1, 0)

    def test_times_are_medians(self, score, answer_sheet):
        sheet = answer_sheet(1)
        for number, answer in enumerate(sheet["answers"]):
            answer["seconds"] = 1000 if number == 0 else 3
        assert {row["median_seconds"] for row in score([sheet])["methods"]} == {3}

    def test_what_nobody_has_answered(self, score, answer_sheet, key):
        scores = score(
            [answer_sheet(1, lambda question: question.answer if question.method == "plain-method" else None)]
        )
        row = of_method(scores, "mixed-method")
        assert row["num_answers"] == 0
        assert row["accuracy"] is row["accuracy_low"] is row["fleiss_kappa"] is row["krippendorff_alpha"] is None
        assert all(row["difference"] is row["winner"] is None for row in scores["comparisons"])
        json.dumps(scores, allow_nan=False)
        assert score_tables(scores)

    def test_one_kind(self, score, answer_sheet, tables, tmp_path):
        key = build_study(tables, tmp_path / "study", num_items=12, num_checks=0, kinds=["words"], raters=1)
        scores = score([answer_sheet(annotator, of=key) for annotator in (1, 2, 3)], of=key)
        assert [(row["method"], row["kind"]) for row in scores["methods"]] == [(name, "words") for name in tables]
        assert len(scores["comparisons"]) == 3
        # Nothing is shown of concepts that are in no other text, which is counted.
        assert of_method(scores, "rare-method", "words")["num_empty"] == 12
        assert of_method(scores, "plain-method", "words")["num_empty"] == 0


class TestAgreement:
    def test_by_hand(self, score, answer_sheet, key):
        """Six items of one method, two raters: both say good of four, one says bad of two."""
        six = sorted(
            question.id for question in key.of_group(0) if question.method == "plain-method"
        )  # three as words, three as sentences
        assert len(six) == 6
        scores = score(
            [
                answer_sheet(1, lambda question: "good"),
                answer_sheet(2, lambda question: "bad" if question.id in six[:2] else "good"),
            ]
        )
        row = of_method(scores, "plain-method")
        # Observed 4/6; by chance (10/12)² + (2/12)² = 26/36; (24 - 26) / (36 - 26).
        assert row["fleiss_kappa"] == pytest.approx(-0.2)
        assert (row["fleiss_items"], row["fleiss_raters"]) == (6, 2)
        # Disagreement: observed 4/12, expected 2·10·2 / (12·11); 1 - (1/3)·(132/40).
        assert row["krippendorff_alpha"] == pytest.approx(-0.1)
        # All say the same of the other method: nothing to agree beyond.
        assert of_method(scores, "mixed-method")["fleiss_kappa"] is None

    def test_all_agree(self, score, answer_sheet):
        row = of_method(score([answer_sheet(1), answer_sheet(2)]), "plain-method")
        assert (row["fleiss_kappa"], row["krippendorff_alpha"]) == (1, 1)

    def test_no_two_raters_of_one_item(self, score, answer_sheet):
        row = of_method(score([answer_sheet(1), answer_sheet(3)]), "plain-method")
        assert row["fleiss_kappa"] is None and row["krippendorff_alpha"] is None

    def test_kappa_needs_equally_many_raters_and_alpha_does_not(self, score, answer_sheet, key):
        first = {question.id for question in key.of_group(0)[:4]}
        sheets = [answer_sheet(1), answer_sheet(2), answer_sheet(9, lambda q: q.answer if q.id in first else None)]
        row = of_method(score(sheets), "plain-method")
        assert row["fleiss_raters"] == 2 and 2 <= row["fleiss_items"] <= 6
        assert row["fleiss_kappa"] == row["krippendorff_alpha"] == 1


def test_a_missing_extra_is_named(score, answer_sheet, monkeypatch):
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "clvq-hf\[judging\]"'):
        score([answer_sheet(1), answer_sheet(2)])


class TestIntervals:
    def test_people_who_differ_make_the_interval_wide(self, score, answer_sheet):
        def wrong(question):
            return {"good": "bad", "bad": "good"}[question.answer]

        sheets = [answer_sheet(annotator, wrong if annotator % 2 else lambda q: q.answer) for annotator in range(1, 9)]
        row = of_method(score(sheets), "plain-method")
        assert row["accuracy"] == 0.5
        # 48 answers as if they were independent: 0.36 to 0.64. There are but eight people.
        assert row["accuracy_low"] < 0.25 and row["accuracy_high"] > 0.75

    def test_more_annotators_of_the_same_texts_are_no_more_texts(self, score, answer_sheet):
        def by_text(question):
            return "good"

        few = of_method(score([answer_sheet(a, by_text) for a in range(1, 9)]), "plain-method")
        many = of_method(score([answer_sheet(a, by_text) for a in range(1, 41)]), "plain-method")
        assert many["accuracy_high"] - many["accuracy_low"] > 0.8 * (few["accuracy_high"] - few["accuracy_low"])

    def test_by_hand(self):
        # Two annotators, three texts; deviations 1, 0, -1 and 2, 0, -2. Annotators sum to 0, texts to 3, 0, -3.
        deviations = np.array([[1, 0, -1], [2, 0, -2]])
        squares = [(deviations.sum(axis) ** 2).sum() for axis in (1, 0)] + [(deviations**2).sum()]
        assert squares == [0, 18, 10]
        # Texts 18·3/2 = 27; annotators 0 - 10, no less than 0: two degrees of freedom, those of three texts.
        assert half_width(*crossed_error(*squares, 2, 3)) == pytest.approx(t.ppf(0.975, 2) * math.sqrt(27))
        # Texts 2·3/2 = 3; annotators 25·2/1 - 10 = 40: 43² / (40²/1 + 3²/2) = 1.15 degrees of freedom.
        assert half_width(*crossed_error(25, 2, 10, 2, 3)) == pytest.approx(
            t.ppf(0.975, 43**2 / 1604.5) * math.sqrt(43)
        )
        # One annotator says nothing of others; one text nothing of texts.
        assert half_width(*crossed_error(25, 2, 2, 1, 3)) == pytest.approx(t.ppf(0.975, 2) * math.sqrt(3))
        assert math.isnan(half_width(*crossed_error(25, 2, 10, 2, 1)))

    def test_a_p_value_is_that_of_the_interval_that_just_holds_zero(self):
        error, freedom = crossed_error(25, 2, 10, 2, 3)
        assert p_value(half_width(error, freedom, 0.9), error, freedom) == pytest.approx(0.1)
        assert (p_value(0.0, 0.0, 5), p_value(-0.5, 0.0, 5)) == (1, 0)

    def test_p_values_are_corrected_for_all_comparisons(self):
        rows = [{"first": "a", "second": "b", "difference": -0.1, "p_value": p} for p in (0.02, 0.04, None, 0.03)]
        _decide(rows)
        assert [row["p_value"] for row in rows] == [
            pytest.approx(0.06),
            pytest.approx(0.06),
            None,
            pytest.approx(0.06),
        ]
        assert [row["winner"] for row in rows] == [None] * 4
        rows = [{"first": "a", "second": "b", "difference": -0.1, "p_value": 0.02}]
        _decide(rows)
        assert rows[0]["winner"] == "b"

    def test_equal_answers_have_no_spread(self):
        assert half_width(*crossed_error(0.0, 0.0, 0.0, 4, 50)) == 0


class TestChecks:
    @pytest.fixture
    def sheets(self, answer_sheet):
        def misses(question):
            return {"good": "bad", "bad": "good"}[question.answer]

        return [
            answer_sheet(1),
            answer_sheet(2, lambda question: "good", check=misses),
            answer_sheet(3, check=lambda question: None),
        ]

    def test_who_fails_is_listed_and_not_counted(self, score, sheets):
        scores = score(sheets)
        assert [(row["passed"], row["counted"]) for row in scores["annotators"]] == [
            (True,) * 2,
            (False,) * 2,
            (False,) * 2,
        ]
        assert [row["checks_missed"] for row in scores["annotators"]] == [0, 3, 0]
        assert scores["num_answers"] == 12
        assert of_method(scores, "plain-method")["accuracy"] == 1
        text = str(score_tables(scores)[-1].rows)
        assert text.count("fails the checks, not counted") == 2 and "unfinished" in text

    def test_who_fails_can_be_counted(self, score, sheets):
        scores = score(sheets, include_failed=True)
        assert scores["num_answers"] == 36
        assert [row["passed"] for row in scores["annotators"]] == [True, False, False]

    def test_how_many_may_be_missed(self, score, sheets, answer_sheet, key):
        def misses_two(question):
            return question.answer if question.id == passed else {"good": "bad", "bad": "good"}[question.answer]

        passed = next(question.id for question in key.of_group(0) if question.is_check)
        sheets[1] = answer_sheet(2, check=misses_two)
        assert score(sheets, max_missed=2)["annotators"][1]["passed"]
        assert not score(sheets, max_missed=1)["annotators"][1]["passed"]

    def test_who_misses_every_check_fails_however_many_may_be_missed(self, score, sheets):
        assert not score(sheets, max_missed=3)["annotators"][1]["passed"]

    def test_a_single_check_checks(self, score, answer_sheet, tables, tmp_path):
        key = build_study(tables, tmp_path / "study", num_items=12, num_checks=1, raters=2)
        sheets = [
            answer_sheet(1, of=key),
            answer_sheet(2, check=lambda q: "good" if q.answer == "bad" else "bad", of=key),
        ]
        assert [row["passed"] for row in score(sheets, of=key)["annotators"]] == [True, False]

    def test_nobody_is_left(self, score, sheets):
        with pytest.raises(ValueError, match=r"annotator 2: 15 answers, 3 checks missed.*--include-failed"):
            score(sheets[1:])

    def test_figures_out_of_range(self, score, sheets):
        with pytest.raises(ValueError, match="must be 0 or more"):
            score(sheets, max_missed=-1)
