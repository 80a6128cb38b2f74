import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.metrics import LabelPurity
from clvq_hf.metrics.label_purity.numerics import (
    NUM_SPLITS,
    Votes,
    cast_votes,
    compare_purity,
    cross_fitted_purity,
    jackknife_interval,
    label_purity,
)
from clvq_hf.metrics.label_purity.token_table import draw_halves, read_token_table

QUICK = {"num_permutations": 20}

# Six texts. Code 7 has four tokens of label 0 (in three texts) and one of label 1; code 8 two of label 0 in two texts;
# code 9 four of label 1 in three texts.
SIX_TEXTS = {
    "texts": ["a", "b", "c", "d", "e", "f"],
    "codes": [[7, 7, 8], [7, -1, 8], [7], [7, 9], [9], [9, 9]],
    "tokens": [["x", "x", "y"], ["x", "[SEP]", "y"], ["x"], ["x", "z"], ["z"], ["z", "z"]],
    "labels": [0, 0, 0, 1, 1, 1],
}


def compute(columns: dict[str, list], **settings) -> dict:
    return label_purity(read_token_table(**columns), **{**QUICK, **settings})


def take(columns: dict[str, list], rows: list[int]) -> dict[str, list]:
    return {name: [column[row] for row in rows] for name, column in columns.items()}


def by_parity(num_texts: int, codes, tokens) -> dict[str, list]:
    """Texts with the labels 0, 1, 0, 1, …; codes and tokens of each are functions of its number and label."""
    numbers = range(num_texts)
    return {
        "texts": [f"text {number:03d}" for number in numbers],
        "codes": [codes(number, number % 2) for number in numbers],
        "tokens": [tokens(number, number % 2) for number in numbers],
        "labels": [number % 2 for number in numbers],
    }


def purity_by_loops(columns: dict[str, list], grouping: str, min_count: int, min_texts: int = 5) -> np.ndarray:
    """Cross-fitted purity of distinct texts in each split, counted token by token."""
    halves = draw_halves(columns["texts"], NUM_SPLITS, 0)
    places = defaultdict(set)
    for text, groups in enumerate(columns[grouping]):
        for group in groups:
            places[group].add(text)
    purities = []
    for split in range(NUM_SPLITS):
        counts = defaultdict(Counter)
        for half, groups, label in zip(halves[:, split], columns[grouping], columns["labels"], strict=True):
            for group in groups:
                counts[half, group][label] += 1
        right = known = 0
        for half, groups, label in zip(halves[:, split], columns[grouping], columns["labels"], strict=True):
            for group in groups:
                learned = counts[1 - half, group]
                if len(places[group]) >= min_texts and learned.total() >= min_count:
                    best = [name for name, count in learned.items() if count == max(learned.values())]
                    right += (label in best) / len(best)
                    known += 1
        purities.append(right / known)
    return np.array(purities)


def test_plain_purity_and_counts():
    results = compute(SIX_TEXTS, min_count=2, min_texts=2)
    # Majority tokens 4 + 2 + 4 of 11. Label 0 has 6 tokens, label 1 has 5. Codes 8 and 9 have one label each.
    assert results["purity"] == pytest.approx(10 / 11)
    assert results["majority_share"] == pytest.approx(6 / 11)
    assert results["exclusive_share"] == pytest.approx(2 / 3)
    assert results["rare_purity"] is None
    assert (results["num_codes"], results["num_eligible_codes"], results["num_rare_codes"]) == (3, 3, 0)
    assert (results["num_texts"], results["num_tokens"]) == (6, 11)


def test_rare_codes_are_kept_apart():
    results = compute(SIX_TEXTS, min_count=2, min_texts=3)
    # Without code 8, in two texts: 4 + 4 of 9 tokens; it is pure itself. Of codes 7 and 9, the latter is exclusive.
    assert results["purity"] == pytest.approx(8 / 9)
    assert results["rare_purity"] == 1.0
    assert results["exclusive_share"] == 0.5
    assert (results["num_codes"], results["num_eligible_codes"], results["num_rare_codes"]) == (3, 2, 1)


def test_details_of_codes():
    results = compute(SIX_TEXTS, min_count=2, min_texts=2, details=True)
    # Code 7 is in 3 of the 3 texts of label 0, of 4 texts in all: C(3,3)·C(3,1)/C(6,4) = 0.2, doubled 0.4. Code 8 is
    # in 2 texts, both of label 0: C(3,2)/C(6,2) = 0.2, doubled 0.4. Code 9: 1/C(6,3) = 0.05, doubled 0.1.
    # Benjamini–Hochberg: 0.1·3/1 = 0.3, then min(0.4·3/2, 0.4·3/3) = 0.4.
    assert results["labels"] == [0, 1]
    assert results["codes"] == [
        {
            "code": 7,
            "tokens": 5,
            "texts": 4,
            "label": 0,
            "purity": 0.8,
            "label_counts": [4, 1],
            "text_counts": [3, 1],
            "p_value": pytest.approx(0.4),
            "adjusted_p_value": pytest.approx(0.4),
        },
        {
            "code": 8,
            "tokens": 2,
            "texts": 2,
            "label": 0,
            "purity": 1.0,
            "label_counts": [2, 0],
            "text_counts": [2, 0],
            "p_value": pytest.approx(0.4),
            "adjusted_p_value": pytest.approx(0.4),
        },
        {
            "code": 9,
            "tokens": 4,
            "texts": 3,
            "label": 1,
            "purity": 1.0,
            "label_counts": [0, 4],
            "text_counts": [0, 3],
            "p_value": pytest.approx(0.1),
            "adjusted_p_value": pytest.approx(0.3),
        },
    ]


def test_only_eligible_codes_are_tested():
    codes = compute(SIX_TEXTS, min_count=2, min_texts=3, details=True)["codes"]
    # Of two tests, 0.1·2/1 and 0.4·2/2.
    assert [code["p_value"] for code in codes] == [pytest.approx(0.4), None, pytest.approx(0.1)]
    assert [code["adjusted_p_value"] for code in codes] == [pytest.approx(0.4), None, pytest.approx(0.2)]


def test_cross_fitting_by_hand():
    half_a, half_b = [[3, 1], [2, 2], [1, 0]], [[1, 3], [4, 0], [5, 5]]
    counts = np.moveaxis(np.array([half_a, half_b], float), -1, 0)
    votes = cast_votes(counts, np.array([True, True, True]), min_count=2)
    # Half A names label 0 for the first code, both for the second (half a token each), none for the third, with one
    # token. Of half B, right are 1 of 4, and ½·4 + ½·0 of 4. Half B names label 1, label 0, and both. Of half A, right
    # are 1 of 4, 2 of 4, and ½ of 1.
    assert cross_fitted_purity(counts, votes) == pytest.approx((1 + 2 + 1 + 2 + 0.5) / 17)
    votes = cast_votes(counts, np.array([False, True, True]), min_count=2)
    assert cross_fitted_purity(counts, votes) == pytest.approx((2 + 2 + 0.5) / 9)
    assert math.isnan(cross_fitted_purity(counts, Votes(votes.share, np.zeros((2, 3), bool))))


def test_the_figure_is_the_mean_over_splits():
    generator = np.random.default_rng(0)
    codes = generator.integers(6, size=(40, 7))
    columns = by_parity(40, lambda number, label: [*codes[number], 8 + label], lambda number, label: list("abcdefgh"))
    results = compute(columns, min_count=4)
    by_split = {name: purity_by_loops(columns, name, min_count=4) for name in ("codes", "tokens")}
    assert results["cross_fitted_purity"] == pytest.approx(by_split["codes"].mean())
    assert results["token_purity"] == pytest.approx(by_split["tokens"].mean())
    assert results["lexical_gain_unmatched"] == pytest.approx(by_split["codes"].mean() - by_split["tokens"].mean())
    assert by_split["codes"].std() > 0.01


def test_lexical_gain_compares_the_same_tokens():
    # Each text has "w" with a code that tells the label, and a word of its own with code 3. Codes are right for 24 of
    # the 24 w in any halves; types know only "w". Over the common tokens, all w: 24 of 24 against what "w" tells.
    columns = by_parity(24, lambda number, label: [1 + label, 3], lambda number, label: ["w", f"own {number}"])
    results = compute(columns, min_count=1)
    words = purity_by_loops({**columns, "tokens": [["w"]] * 24}, "tokens", min_count=1).mean()
    assert (results["coverage"], results["token_coverage"], results["common_coverage"]) == (1.0, 0.5, 0.5)
    assert results["token_purity"] == pytest.approx(words)
    assert results["lexical_gain"] == pytest.approx(1 - words)
    assert results["cross_fitted_purity"] == pytest.approx((1 + words) / 2)
    assert results["lexical_gain_unmatched"] == pytest.approx((1 - words) / 2)
    assert results["p_value"] == 1 / 21 and results["excess_purity"] > 0.1


def test_codes_that_are_the_words_gain_nothing():
    generator = np.random.default_rng(0)
    words = [generator.integers(5, size=6).tolist() for _ in range(40)]
    columns = by_parity(40, lambda number, label: words[number], lambda number, label: list(map(str, words[number])))
    results = compute(columns)
    assert (results["lexical_gain"], results["lexical_gain_low"], results["lexical_gain_high"]) == (0, 0, 0)
    assert results["token_purity"] == results["cross_fitted_purity"]


def test_one_code_is_as_pure_as_the_largest_class():
    # Label 0 is named for all tokens in any halves, and right for 21. No permutation changes that.
    columns = by_parity(24, lambda number, label: [5], lambda number, label: ["w"])
    columns["labels"] = [int(number < 3) for number in range(24)]
    results = compute(columns, min_count=3)
    for name in ("cross_fitted_purity", "null_purity", "null_low", "null_high", "majority_share", "token_purity"):
        assert results[name] == pytest.approx(21 / 24)
    assert results["p_value"] == 1.0 and results["excess_purity"] == pytest.approx(0)


def test_the_half_of_a_text_depends_on_itself_and_the_seed():
    texts = [f"text {number}" for number in range(500)]
    halves = draw_halves(texts, 20, 0)
    assert (draw_halves(texts[::-2], 20, 0) == halves[::-2]).all()
    assert (draw_halves(texts, 7, 0) == halves[:, :7]).all()
    assert draw_halves(["\ud800"], 1, 0).shape == (1, 1)
    # 500 fair coins: 250 ± 11. Splits and seeds are independent: half of the texts change sides, ± 11.
    assert np.abs(halves.sum(axis=0, dtype=int) - 250).max() < 45
    for other in (np.roll(halves, 1, axis=1), draw_halves(texts, 20, 1)):
        assert np.abs((halves != other).sum(axis=0) - 250).max() < 45


def test_jackknife_by_hand():
    # Leave-one-out means of 1, 2, 6 are 4, 3.5, 1.5: the variance of the mean is s² ÷ 3 = 7 ÷ 3, whatever the split.
    left_out = np.repeat([[4.0], [3.5], [1.5]], 2, axis=1)
    low, high = jackknife_interval(np.array([3.0, 3.0]), left_out)
    half_width = 4.302653 * math.sqrt(7 / 3)
    assert (low, high) == (pytest.approx(3 - half_width), pytest.approx(3 + half_width))
    # Two splits that differ by 0.2, whatever the texts: a variance of 0.02, halved.
    low, high = jackknife_interval(np.array([0.4, 0.6]), np.array([[0.4, 0.6]] * 3))
    assert (low, high) == (pytest.approx(0.5 - 4.302653 * 0.1), pytest.approx(0.5 + 4.302653 * 0.1))
    # The same on the scale of log odds, where 0.1 is 0.1 ÷ (0.5 · 0.5).
    low, high = jackknife_interval(np.array([0.4, 0.6]), np.array([[0.4, 0.6]] * 3), share=True)
    assert (low, high) == (pytest.approx(1 / (1 + math.exp(4.302653 * 0.4))), pytest.approx(1 - low))
    # A part without which only one split is defined counts with that one.
    assert jackknife_interval(np.array([0.5, math.nan]), np.array([[0.5, math.nan]] * 3)) == (0.5, 0.5)


def test_intervals_are_about_the_figure():
    generator = np.random.default_rng(1)
    codes = [[label if generator.random() < 0.7 else 1 - label for _ in range(5)] for label in [0, 1] * 30]
    columns = by_parity(60, lambda number, label: codes[number], lambda number, label: list("vwxyz"))
    results = compute(columns)
    low, high = results["cross_fitted_purity_low"], results["cross_fitted_purity_high"]
    # 300 tokens, about 70 % right: a standard error of 0.026.
    assert low < results["cross_fitted_purity"] < high and 0.06 < high - low < 0.16


def test_methods_are_compared_on_the_same_tokens():
    # Both methods know label 0 or 1 of the first token, the first by its code. The second one splits the other token
    # over codes that are too rare to be scored.
    generator = np.random.default_rng(0)
    fuzzy = [label if generator.random() < 0.8 else 1 - label for label in [0, 1] * 30]
    first = by_parity(60, lambda number, label: [label, 5], lambda number, label: ["w", "v"])
    second = {**first, "codes": [[fuzzy[number], 10 + number] for number in range(60)]}
    tables = [read_token_table(**columns) for columns in (first, second)]
    sure, unsure = compare_purity(tables, min_count=2)
    alone = purity_by_loops({**first, "codes": [[code] for code in fuzzy]}, "codes", min_count=2).mean()
    assert (sure["purity"], sure["coverage"]) == (1.0, 0.5)
    assert unsure["purity"] == pytest.approx(alone) and unsure["coverage"] == 0.5
    assert unsure["difference"] == pytest.approx(alone - 1)
    # Twelve of sixty are wrong, more or less: a standard error of 0.05.
    assert unsure["difference_low"] == pytest.approx(alone - 1 - 0.11, abs=0.04)
    assert unsure["difference_high"] == pytest.approx(alone - 1 + 0.11, abs=0.04)
    assert sure["difference"] == sure["difference_low"] == sure["difference_high"] == 0
    other = read_token_table(**{**first, "tokens": [["w", "u"]] + [["w", "v"]] * 59})
    with pytest.raises(ValueError, match="same texts, labels and tokens"):
        compare_purity([tables[0], other])


def test_rows_are_counted_once():
    columns = {
        "texts": ["a", "a", "b", "c", "d", "e", "e"],
        "codes": [[1], [1], [1], [-1], [2], [3], [3]],
        "tokens": [["x"], ["x"], ["x"], ["x"], ["y"], ["z"], ["z"]],
        "labels": [0, 0, -1, 1, 1, -1, 0],
    }
    # "b" has no label, "c" no token; "e" has a label in one row, which is the one to keep.
    results = compute(columns)
    assert {name: results[name] for name in results if name.startswith("num_")} == {
        "num_codes": 3,
        "num_eligible_codes": 0,
        "num_rare_codes": 3,
        "num_texts": 3,
        "num_tokens": 3,
        "num_duplicates": 2,
        "num_unlabelled": 1,
        "num_empty": 1,
    }


def test_undefined_figures_are_none():
    results = compute(SIX_TEXTS, min_count=50)
    undefined = {name for name, value in results.items() if value is None}
    assert {"purity", "cross_fitted_purity", "cross_fitted_purity_low", "null_purity", "null_low"} <= undefined
    assert {"p_value", "excess_purity", "lexical_gain", "exclusive_share", "null_exclusive_share"} <= undefined
    assert results["coverage"] == 0.0 and results["majority_share"] is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 0, 0, 0, -1, 0]}, "1 different labels: give texts of at least two classes"),
        ({"labels": [-1] * 6}, "0 different labels"),
        ({"codes": [[-1] * 3, [-1] * 3, [-1], [-1] * 2, [-1], [-1] * 2]}, "0 different labels"),
        ({"codes": [[7], *SIX_TEXTS["codes"][1:]]}, "Row 0 has 1 codes and 3 tokens"),
        ({"codes": SIX_TEXTS["codes"][1:]}, "one row per text"),
        ({"labels": [None, 0, 0, 1, 1, 1]}, "Row 0 .* None"),
        ({"texts": [None, *"bcdef"]}, "Row 0 .* None"),
        ({"codes": [[7, None, 8], *SIX_TEXTS["codes"][1:]]}, "Row 0 .* None"),
        ({"tokens": [None, *SIX_TEXTS["tokens"][1:]]}, "Row 0 .* None"),
    ],
)
def test_unusable_columns_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        compute({**SIX_TEXTS, **change})


@pytest.mark.parametrize("name", ["min_count", "min_texts", "num_permutations"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        compute(SIX_TEXTS, **{name: 0})


@st.composite
def columns_of_texts(draw) -> dict[str, list]:
    token = st.tuples(st.integers(-1, 3), st.sampled_from("xyz"))
    rows = draw(st.lists(st.lists(token, max_size=5), min_size=4, max_size=10))
    # A token that counts in every text, so that there are always two labels.
    rows = [[(4, "w"), *row] for row in rows]
    return {
        "texts": [f"text {number}" for number in range(len(rows))],
        "codes": [[code for code, _ in row] for row in rows],
        "tokens": [[token for _, token in row] for row in rows],
        "labels": [number % 3 for number in range(len(rows))],
    }


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(columns_of_texts(), st.permutations(range(5)), st.randoms(use_true_random=False))
def test_order_repetition_and_names_of_codes_do_not_matter(columns, names, random):
    small = {"min_count": 1, "min_texts": 1, "num_permutations": 5, "details": True}
    results = compute(columns, **small)
    rows = list(range(len(columns["texts"])))
    random.shuffle(rows)
    assert compute(take(columns, rows), **small) == results
    repeated = compute(take(columns, rows + rows[:2]), **small)
    assert repeated == {**results, "num_duplicates": 2}
    renamed = [[100 * names[code] if code >= 0 else -7 for code in row] for row in columns["codes"]]
    renamed_results = compute({**columns, "codes": renamed}, **small)
    by_old_name = sorted(
        ({**row, "code": names.index(row["code"] // 100)} for row in renamed_results["codes"]),
        key=lambda row: row["code"],
    )
    assert {**renamed_results, "codes": by_old_name} == results


@pytest.mark.slow
@pytest.mark.parametrize("clustered", [False, True])
def test_codes_that_know_nothing_of_the_label_are_rarely_significant(clustered):
    # 20 equally likely ranks: the smallest p-value, 0.05, in 5 % of the data sets. Of 200, that is 10 with a standard
    # deviation of 3.1.
    rejected = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        codes = generator.integers(4, size=(40, 1 if clustered else 6)).repeat(6 if clustered else 1, axis=1)
        columns = by_parity(40, lambda number, label, codes=codes: codes[number], lambda number, label: ["w"] * 6)
        results = compute(columns, min_count=5, min_texts=3, num_permutations=19, seed=seed)
        rejected += results["p_value"] <= 0.05
    assert 2 <= rejected <= 20


def test_metric_takes_arrays_and_empty_rows():
    columns = {
        name: [*column, empty] for (name, column), empty in zip(SIX_TEXTS.items(), ["g", [], [], 1], strict=True)
    }
    columns["codes"] = [np.array(row, int) for row in columns["codes"]]
    results = LabelPurity(keep_in_memory=True).compute(**columns, min_count=2, min_texts=2, **QUICK)
    assert results == {**compute(SIX_TEXTS, min_count=2, min_texts=2), "num_empty": 1}


class TestWithinWords:
    def test_what_a_code_knows_that_its_word_does_not(self):
        # "bank" has code 1 in texts of label 0 and code 2 in those of label 1; "the" has one code, and is left out.
        columns = by_parity(120, lambda number, label: [1 + label, 7], lambda number, label: ["bank", "the"])
        results = compute(columns)
        words = {**columns, "tokens": [["bank"] for _ in columns["texts"]]}
        expected = 1 - purity_by_loops(words, "tokens", 10)
        assert results["within_word_gain"] == pytest.approx(expected.mean())
        assert results["within_word_gain"] > 0.45
        assert results["within_word_gain_low"] < results["within_word_gain"] < results["within_word_gain_high"]
        assert results["within_word_coverage"] == 0.5

    def test_codes_that_are_drawn_within_words_know_nothing(self):
        generator = np.random.default_rng(0)
        columns = by_parity(
            200,
            lambda number, label: generator.integers(2, size=4).tolist(),
            lambda number, label: ["a", "b", "a", "b"],
        )
        assert abs(compute(columns)["within_word_gain"]) < 0.03

    def test_one_code_per_word(self):
        columns = by_parity(60, lambda number, label: [3, 4], lambda number, label: ["a", "b"])
        results = compute(columns)
        assert results["within_word_gain"] is results["within_word_gain_low"] is None
        assert results["within_word_coverage"] == 0

    def test_words_that_tell_as_much_as_their_codes(self):
        # The label follows from the word; the two codes of each add nothing.
        columns = by_parity(
            240, lambda number, label: [number // 2 % 2], lambda number, label: ["good" if label else "bad"]
        )
        results = compute(columns)
        assert results["within_word_gain"] == 0 and results["within_word_coverage"] == 1
