"""Scores: by hand on a few judgements, and by what judges of known kinds must get."""

import json

import numpy as np
import pytest

from clvq_hf.judging.agreement import chance_agreement, kendall_w, krippendorff_alpha
from clvq_hf.judging.language_models.protocol import CONTROLS, RANDOM_CODE, SALIENT_WORD
from clvq_hf.judging.language_models.scores import (
    bootstrap_mean,
    bootstrap_rating,
    collect_judgements,
    score_judgements,
)
from clvq_hf.metrics.ablation_drop.statistics import holm, sign_flip_p_value

METHODS = ["a", "b"]
ARMS = [*METHODS, *CONTROLS]


def scores_of(rows):
    return score_judgements(collect_judgements(rows, "words", METHODS))


def rating(judge, text, arm, value):
    return {"judge": judge, "kind": "words", "text_id": text, "task": "rating", "arm": arm, "rating": value,
            "asked": True, "malformed": 0, "error": None, "model": "m"}  # fmt: skip


def empty_rating(judge, text, arm):
    return {**rating(judge, text, arm, 1), "asked": False}


def ranking(judge, text, order, best_first, backwards, empty=()):
    return {"judge": judge, "kind": "words", "text_id": text, "task": "ranking", "arms": list(order),
            "backwards": backwards, "ranking": best_first and list(best_first), "empty": list(empty), "asked": True,
            "malformed": 0, "error": None, "model": "m"}  # fmt: skip


def judged_by(rank, num_texts=40, judges=("j",), rate=lambda arm, generator: 2, seed=0):
    """Judgements of judges who rank by `rank(order, generator)`."""
    rows, generator = [], np.random.default_rng(seed)
    for text in range(num_texts):
        order = [ARMS[n] for n in generator.permutation(len(ARMS))]
        for judge in judges:
            rows += [rating(judge, text, arm, rate(arm, generator)) for arm in ARMS]
            for backwards in (False, True):
                shown = order[::-1] if backwards else order
                rows.append(ranking(judge, text, shown, rank(shown, generator), backwards))
    return rows


def by_quality(order, generator):
    return sorted(order, key=ARMS.index)


def by_position(order, generator):
    return order


def at_random(order, generator):
    return [order[n] for n in generator.permutation(len(order))]


class TestByHand:
    ROWS = [
        # Both orders agree that a is before b; on the rest they do not.
        ranking("j", 0, ARMS, ["a", "b", SALIENT_WORD, RANDOM_CODE], False),
        ranking("j", 0, ARMS[::-1], [SALIENT_WORD, "a", RANDOM_CODE, "b"], True),
        *(rating("j", 0, arm, value) for arm, value in zip(ARMS, (3, 2, 1, 1), strict=True)),
    ]

    def test_arrays(self):
        judged = collect_judgements(self.ROWS, "words", METHODS)
        assert judged.ranks[0, 0].tolist() == [[1, 2, 3, 4], [2, 4, 1, 3]]
        assert judged.firsts[0, 0].tolist() == [0.5, 0, 0.5, 0]
        # Rows against columns: a-b won, a-word 0, a-random won; b-word: 2<3 but 4>1: 0; b-random: 2<4, 4>3: 0.
        assert judged.duels[0, 0].tolist() == [[0, 1, 0, 1], [-1, 0, 0, 0], [0, 0, 0, 1], [-1, 0, -1, 0]]

    def test_figures(self):
        figures = scores_of(self.ROWS)
        assert figures["arms"]["a"]["first"]["mean"] == 0.5 and figures["arms"]["a"]["rating"]["mean"] == 3
        assert figures["arms"]["a"]["against_methods"] == {"won": 1, "tied": 0, "lost": 0}
        pair = figures["pairs"][0]
        assert (pair["one"], pair["other"], pair["won"], pair["verdict"]) == ("a", "b", 1, "unknown")
        assert len(figures["pairs"]) == 1 + 2 * 2
        judge = figures["judges"]["j"]
        # Pairs that turn around: a-word, b-word, b-random of six.
        assert judge["orders_disagree"] == pytest.approx(3 / 6)
        # First shown: a, ranked first; then random active code, not first.
        assert (judge["first_shown_first"], judge["first_shown_first_chance"]) == (0.5, 0.25)
        # a wins against the random code, b ties; ratings 2.5 against 1.
        assert judge["against_random_code"]["mean"] == 0.5 and judge["rating_above_random_code"]["mean"] == 1.5
        assert [place["first"] for place in figures["positions"]] == [0.5, 0.5, 0, 0]
        assert figures["agreement"] is None
        json.dumps(figures, allow_nan=False)

    def test_what_is_empty_shares_the_last_ranks(self):
        order = ["a", RANDOM_CODE]
        rows = [
            *(ranking("j", 0, order, ["a", RANDOM_CODE], way, empty=["b", SALIENT_WORD]) for way in (False, True)),
            rating("j", 0, "a", 3),
        ]
        judged = collect_judgements(rows, "words", METHODS)
        assert judged.ranks[0, 0, 0].tolist() == [1, 3.5, 3.5, 2]
        assert judged.duels[0, 0, 1].tolist() == [-1, 0, 0, -1], "lost against what is shown, tied with what is not"
        assert score_judgements(judged)["arms"]["b"]["empty"] == 1

    def test_ratings_by_rule_do_not_outweigh_answers_that_are_missing(self):
        # Four texts: a is empty in one; of the three that were shown two have no valid answer.
        rows = [empty_rating("j", 0, "a"), ranking("j", 0, ARMS[1:], None, False, empty=["a"])]
        for text, value in ((1, 3), (2, None), (3, None)):
            rows += [rating("j", text, "a", value), ranking("j", text, ARMS, None, False)]
        found = scores_of(rows)["arms"]["a"]["rating"]
        assert found["mean"] == pytest.approx(3 / 4 * 3 + 1 / 4 * 1) and found["num_texts"] == 2
        assert 1 <= found["low"] < found["high"] == 3
        unanswered = [{**row, "rating": None} if row.get("rating") == 3 else row for row in rows]
        assert scores_of(unanswered)["arms"]["a"]["rating"]["mean"] is None

    def test_with_every_answer_it_is_the_mean(self):
        ratings = np.array([3, np.nan, 2, 1, np.nan])
        found = bootstrap_rating(ratings, ~np.isnan(ratings), 5)
        assert found == pytest.approx(bootstrap_mean(np.nan_to_num(ratings, nan=1), 5, 1, 3))

    def test_what_was_decided_by_rule_says_nothing_of_the_judge(self):
        # In half of the texts the random code is empty, in the others b; whatever is asked, random is preferred to a.
        rows = []
        for text in range(8):
            gone = RANDOM_CODE if text % 2 else "b"
            shown = [arm for arm in (RANDOM_CODE, "a", "b", SALIENT_WORD) if arm != gone]
            rows += [ranking("j", text, shown, shown, way, empty=[gone]) for way in (False, True)]
            rows.append(empty_rating("j", text, gone))
            rows += [rating("j", text, arm, 3 if arm == RANDOM_CODE else 2) for arm in shown]
        judge = scores_of(rows)["judges"]["j"]
        for name in ("against_random_code", "rating_above_random_code"):
            assert (judge[name]["mean"], judge[name]["num_texts"]) == (-1, 4)

    def test_half_an_answer_is_left_out(self):
        rows = [*self.ROWS[:1], ranking("j", 0, ARMS[::-1], None, True), *self.ROWS[2:]]
        figures = scores_of(rows)
        assert figures["pairs"][0]["net"]["num_texts"] == 0 and figures["pairs"][0]["won"] is None
        assert figures["judges"]["j"]["malformed"] == 1 and figures["arms"]["a"]["rating"]["mean"] == 3


class TestJudgesOfKnownKinds:
    def test_one_who_knows(self):
        figures = scores_of(judged_by(by_quality))
        assert [arm["first"]["mean"] for arm in figures["arms"].values()] == [1, 0, 0, 0]
        assert {pair["verdict"] for pair in figures["pairs"]} == {"won"}
        strengths = [arm["strength"]["mean"] for arm in figures["arms"].values()]
        assert strengths == sorted(strengths, reverse=True) and np.isfinite(strengths).all()
        assert figures["judges"]["j"]["orders_disagree"] == 0
        assert figures["judges"]["j"]["against_random_code"]["mean"] == 1

    def test_one_who_goes_by_position_wins_nothing_for_anybody(self):
        figures = scores_of(judged_by(by_position))
        assert {pair["tied"] for pair in figures["pairs"]} == {1} and {p["verdict"] for p in figures["pairs"]} == {
            "tie"
        }
        judge = figures["judges"]["j"]
        assert judge["orders_disagree"] == 1 and judge["first_shown_first"] == 1
        assert [place["first"] for place in figures["positions"]] == [1, 0, 0, 0]

    def test_one_who_guesses(self):
        figures = scores_of(judged_by(at_random, 400))
        assert figures["judges"]["j"]["orders_disagree"] == pytest.approx(0.5, abs=0.04)
        assert figures["arms"]["a"]["first"]["mean"] == pytest.approx(0.25, abs=0.05)
        for pair in figures["pairs"]:
            assert pair["won"] == pytest.approx(0.25, abs=0.08) and pair["tied"] == pytest.approx(0.5, abs=0.08)

    def test_guesses_win_no_more_often_than_they_may(self):
        """In 5 % of the runs at most one pair has a verdict, whatever the number of pairs."""
        runs = [scores_of(judged_by(at_random, 30, seed=seed))["pairs"] for seed in range(60)]
        assert {len(pairs) for pairs in runs} == {len(runs[0])} and len(runs[0]) > 3
        assert sum(any(pair["verdict"] != "tie" for pair in pairs) for pairs in runs) <= 7

    def test_p_values_are_those_of_sign_flips_corrected_for_all_pairs(self):
        judgements = collect_judgements(judged_by(at_random, 25), "words", METHODS)
        pairs = score_judgements(judgements)["pairs"]
        net = judgements.duels[0]
        arms = [(judgements.arms.index(pair["one"]), judgements.arms.index(pair["other"])) for pair in pairs]
        expected = holm([sign_flip_p_value(net[:, one, other]) for one, other in arms])
        assert [pair["p_value"] for pair in pairs] == pytest.approx(expected)

    def test_nothing_but_malformed_answers(self):
        rows = judged_by(lambda order, generator: None, rate=lambda arm, generator: None)
        figures = scores_of(rows)
        assert figures["judges"]["j"]["answered"] == 0 and figures["judges"]["j"]["malformed"] == len(rows)
        assert figures["arms"]["a"]["first"]["mean"] is None
        assert {pair["verdict"] for pair in figures["pairs"]} == {"unknown"}
        json.dumps(figures, allow_nan=False)

    def test_few_texts_decide_nothing(self):
        for number, expected in ((19, "unknown"), (20, "won")):
            figures = scores_of(judged_by(by_quality, number))
            assert figures["pairs"][0]["verdict"] == expected


class TestAgreement:
    @pytest.mark.slow
    def test_three_who_guess_agree_as_by_chance(self):
        rows = judged_by(at_random, 500, "xyz", rate=lambda arm, generator: int(generator.integers(1, 4)))
        agreement = scores_of(rows)["agreement"]
        chance = chance_agreement(3, len(ARMS))
        for name in ("kendall_w", "unanimous_first", "majority_first", "krippendorff_alpha"):
            assert agreement[name]["chance"] == pytest.approx(chance[name])
            assert agreement[name]["value"] == pytest.approx(chance[name], abs=0.05)
        assert agreement["pearson"]["value"] == pytest.approx(0, abs=0.05)

    @pytest.mark.slow
    def test_judges_who_all_go_by_position_do_not_agree(self):
        agreement = scores_of(judged_by(by_position, 400, "xyz"))["agreement"]
        assert agreement["unanimous_first"]["value"] == pytest.approx(1 / 16, abs=0.04)
        assert agreement["kendall_w"]["value"] is None

    def test_a_judge_who_never_answers_does_not_silence_the_others(self):
        rows = judged_by(by_quality, 10, "xy", rate=lambda arm, generator: 3 if arm == "a" else 1)
        silent = judged_by(lambda order, generator: None, 10, "z", rate=lambda arm, generator: None)
        agreement = scores_of(rows + silent)["agreement"]
        assert agreement["num_texts_ranked"] == 10
        assert agreement["kendall_w"] == {"value": pytest.approx(1), "chance": 0.5}
        assert agreement["unanimous_first"] == {"value": 1, "chance": chance_agreement(2, 4)["unanimous_first"]}
        alone = judged_by(by_quality, 10, "x", rate=lambda arm, generator: 3)
        agreement = scores_of(alone + silent)["agreement"]
        assert agreement["num_texts_ranked"] == 0 and agreement["kendall_w"] == {"value": None, "chance": None}

    def test_those_who_know_agree(self):
        rows = judged_by(by_quality, 10, "xy", rate=lambda arm, generator: 3 if arm == "a" else 1)
        agreement = scores_of(rows)["agreement"]
        for name in ("kendall_w", "unanimous_first", "krippendorff_alpha", "pearson", "spearman"):
            assert agreement[name]["value"] == pytest.approx(1)

    def test_figures_are_those_of_the_arrays(self):
        rows = judged_by(at_random, 30, "xyz", rate=lambda arm, generator: int(generator.integers(1, 4)))
        judged = collect_judgements(rows, "words", METHODS)
        agreement = score_judgements(judged)["agreement"]
        assert agreement["krippendorff_alpha"]["value"] == krippendorff_alpha(judged.ratings.reshape(3, -1), "ordinal")
        w = [kendall_w(judged.ranks.mean(2)[:, text]) for text in range(30)]
        assert agreement["kendall_w"]["value"] == pytest.approx(np.nanmean(w))
