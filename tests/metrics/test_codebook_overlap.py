import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from clvq_hf.metrics import CodebookOverlap
from clvq_hf.metrics.codebook_overlap.numerics import codebook_overlap, read_corpus, sample_pairs

STRATA = [(0.0, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 1.01)]
QUICK = {"num_bootstrap": 20, "num_permutations": 20}


def make_rows(num_texts=60, effect=0.5, seed=0, num_types=40, lengths=(6, 12)) -> dict[str, list]:
    """Random texts; a token's code follows its type, or with the chance `effect` the label of the text."""
    generator = np.random.default_rng(seed)
    rows = {"texts": [], "codes": [], "tokens": [], "labels": []}
    for number in range(num_texts):
        label = number % 2
        types = generator.integers(num_types, size=generator.integers(*lengths))
        codes = np.where(generator.random(len(types)) < effect, 1000 + 10 * label + types % 10, types)
        rows["texts"].append(f"text {number:03d}")
        rows["codes"].append(codes.tolist())
        rows["tokens"].append([f"t{kind}" for kind in types])
        rows["labels"].append(label)
    return rows


def take(rows: dict[str, list], order: list[int]) -> dict[str, list]:
    return {name: [column[row] for row in order] for name, column in rows.items()}


def expect_pairs(rows: dict[str, list]) -> list[tuple[float, float, bool, float, float, int]]:
    """All pairs by plain loops: similarity, |Δ log length|, same label, Jaccard of codes and tokens, shared codes."""
    tfidf = TfidfVectorizer(analyzer=lambda tokens: tokens).fit_transform(rows["tokens"]).toarray()
    pairs = []
    for first, second in combinations(range(len(rows["texts"])), 2):
        codes = set(rows["codes"][first]), set(rows["codes"][second])
        tokens = set(rows["tokens"][first]), set(rows["tokens"][second])
        pairs.append(
            (
                float(tfidf[first] @ tfidf[second]),
                abs(np.log(len(rows["codes"][first]) / len(rows["codes"][second]))),
                rows["labels"][first] == rows["labels"][second],
                len(codes[0] & codes[1]) / len(codes[0] | codes[1]),
                len(tokens[0] & tokens[1]) / len(tokens[0] | tokens[1]),
                len(codes[0] & codes[1]),
            )
        )
    return pairs


def test_two_labels_with_codes_of_their_own():
    # Each text is "text" and its number. With 24 texts, idf("text") = ln(25/25) + 1 = 1 and idf(number) = ln(25/2) + 1
    # = 3.526, so any two texts have the cosine 1² / (1² + 3.526²) = 0.0744, in the stratum [.05, .1).
    # Same label: codes {2, 3} and {2, 3}, Jaccard 1, 2 shared. Different: {2, 3} and {2, 1}, Jaccard 1/3, 1 shared.
    # Token types: {text, i} and {text, j}, Jaccard 1/3 in both arms. The token of code -1 doesn't count.
    numbers = range(24)
    results = CodebookOverlap(keep_in_memory=True).compute(
        texts=[f"text {number}" for number in numbers],
        codes=[[-1, 2, 3 - number % 2 * 2] for number in numbers],
        tokens=[["[CLS]", "text", str(number)] for number in numbers],
        labels=[number % 2 for number in numbers],
        details=True,
        **QUICK,
    )
    assert results["ratio"] == pytest.approx(3)
    assert results["ratio_low"] == pytest.approx(3) and results["ratio_high"] == pytest.approx(3)
    assert results["token_ratio"] == pytest.approx(1)
    assert results["p_value"] == pytest.approx(1 / 21)
    assert results["ratio_0.05_0.10"] == pytest.approx(3)
    assert results["ratio_0.00_0.05"] is None and results["ratio_0.30_1.00"] is None
    assert results["shared_ratio_0.05"] == pytest.approx(2)
    assert results["shared_ratio_0.10"] is None
    # 2 · 12 · 11 / 2 pairs of one label, 12 · 12 of both.
    assert (results["num_same_pairs"], results["num_different_pairs"], results["num_strata"]) == (132, 144, 1)
    stratum = results["strata"][1]
    assert stratum["same_jaccard"] == pytest.approx(1) and stratum["different_jaccard"] == pytest.approx(1 / 3)
    assert stratum["same_shared"] == pytest.approx(2) and stratum["different_shared"] == pytest.approx(1)
    assert stratum["same_similarity"] == pytest.approx(0.0744, abs=1e-4)
    json.dumps(results, allow_nan=False)


def test_figures_are_those_of_all_pairs():
    rows = make_rows(num_texts=100)
    pairs = expect_pairs(rows)
    results = codebook_overlap(**rows, **QUICK)
    # By arm and stratum: Jaccard index of codes and of tokens.
    expected = {}
    for stratum, (low, high) in enumerate(STRATA):
        for arm in (False, True):
            expected[stratum, arm] = np.array(
                [
                    (jaccard, token_jaccard)
                    for similarity, difference, same, jaccard, token_jaccard, _ in pairs
                    if low <= similarity < high and similarity > 0 and difference < 0.25 and same is arm
                ]
            )
    used = [stratum for stratum in range(5) if min(len(expected[stratum, arm]) for arm in (False, True)) >= 30]
    assert len(used) >= 3
    for stratum, described in enumerate(results["strata"]):
        if stratum in used:
            same, different = expected[stratum, True].mean(0), expected[stratum, False].mean(0)
            assert [described["ratio"], described["token_ratio"]] == pytest.approx(list(same / different))
        else:
            assert described["ratio"] is None
        assert described["num_same_pairs"] == len(expected[stratum, True])
        assert described["num_different_pairs"] == len(expected[stratum, False])
    # Standardised: the different-label mean of a stratum, as often as it has same-label pairs.
    same = sum(expected[stratum, True].sum(0) for stratum in used)
    different = sum(len(expected[stratum, True]) * expected[stratum, False].mean(0) for stratum in used)
    assert [results["ratio"], results["token_ratio"]] == pytest.approx(list(same / different))


def test_counts_of_the_paper_ignore_lengths():
    rows = make_rows(num_texts=100, lengths=(4, 20))
    pairs = expect_pairs(rows)
    thresholds = codebook_overlap(**rows, **QUICK)["thresholds"]
    assert [described["threshold"] for described in thresholds] == [0.05, 0.1, 0.2, 0.3]
    for described in thresholds:
        shared = {True: [], False: []}
        for similarity, _, same, _, _, num_shared in pairs:
            if similarity >= described["threshold"]:
                shared[same].append(num_shared)
        assert described["num_same_pairs"] == len(shared[True])
        if described["ratio"] is not None:
            assert described["ratio"] == pytest.approx(np.mean(shared[True]) / np.mean(shared[False]))
    assert thresholds[0]["ratio"] is not None


def test_codes_that_name_token_types_have_the_ratio_of_tokens():
    rows = make_rows(effect=0)
    results = codebook_overlap(**rows, **QUICK)
    assert results["ratio"] == pytest.approx(results["token_ratio"])


def test_a_sample_estimates_the_figures_of_all_pairs():
    rows = make_rows(num_texts=200)
    whole = codebook_overlap(**rows, **QUICK)
    sampled = codebook_overlap(**rows, **QUICK, num_pairs=300)
    assert sampled["ratio"] == pytest.approx(whole["ratio"], rel=0.15)
    assert sampled["permuted_ratio"] == pytest.approx(1, abs=0.1)
    for part, all_of_it in zip(sampled["strata"], whole["strata"], strict=True):
        assert part["num_same_pairs"] == all_of_it["num_same_pairs"]
        assert part["num_sampled_same_pairs"] == min(300, part["num_same_pairs"])
        assert part["num_sampled_different_pairs"] == min(300, part["num_different_pairs"])


@pytest.mark.slow
def test_the_sample_is_uniform_over_blocks(monkeypatch):
    # 120 texts in blocks of 10 rows: each text must have its share of the pairs.
    monkeypatch.setattr("clvq_hf.metrics.codebook_overlap.numerics.BLOCK_CELLS", 1200)
    rows = make_rows(num_texts=120, num_types=8)
    corpus = read_corpus(**rows)
    drawn = np.zeros(120)
    for seed in range(30):
        pairs = sample_pairs(corpus, 30, 0.25, np.random.default_rng(seed))
        assert np.bincount(pairs.cell).max() <= 30
        assert (pairs.first < pairs.second).all()
        assert len(set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))) == len(pairs.first)
        drawn += np.bincount(pairs.first, minlength=120) + np.bincount(pairs.second, minlength=120)
    thirds = drawn.reshape(3, 40).sum(1)
    assert thirds / thirds.sum() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_of_many_texts_some_are_drawn():
    results = codebook_overlap(**make_rows(num_texts=200), **QUICK, max_texts=90)
    assert results["num_texts"] == 200 and results["num_sampled_texts"] == 90
    assert (
        sum(stratum["num_same_pairs"] + stratum["num_different_pairs"] for stratum in results["strata"]) <= 90 * 89 / 2
    )
    assert results["ratio"] > 1


@pytest.mark.slow
def test_the_interval_is_as_wide_as_repeated_samples_say():
    repeats = [
        codebook_overlap(**make_rows(seed=seed, num_types=20), num_bootstrap=200, num_permutations=1)
        for seed in range(40)
    ]
    widths = [results["ratio_high"] - results["ratio_low"] for results in repeats]
    # A 95 % interval is 3.92 standard deviations wide. Had pairs been drawn, not texts, it would be far too narrow.
    spread = 3.92 * np.std([results["ratio"] for results in repeats])
    assert 0.8 < np.mean(widths) / spread < 1.5


@pytest.mark.slow
def test_labels_that_mean_nothing_are_found_to_mean_nothing():
    repeats = [
        codebook_overlap(**make_rows(effect=0, seed=seed, num_types=20), num_bootstrap=100, num_permutations=99)
        for seed in range(40)
    ]
    assert np.mean([results["ratio"] for results in repeats]) == pytest.approx(1, abs=0.02)
    assert np.mean([results["permuted_ratio"] for results in repeats]) == pytest.approx(1, abs=0.02)
    assert np.mean([results["ratio_low"] <= 1 <= results["ratio_high"] for results in repeats]) >= 0.9
    p_values = np.array([results["p_value"] for results in repeats])
    assert 0.3 < p_values.mean() < 0.7 and np.mean(p_values <= 0.1) <= 0.25


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_order_names_and_duplicates_change_nothing(seed):
    generator = np.random.default_rng(seed)
    rows = make_rows(num_texts=40, seed=seed, num_types=15)
    names = generator.permutation(5000)
    other = {**rows, "codes": [names[codes].tolist() for codes in rows["codes"]]}
    other = take(other, [*generator.permutation(40), *generator.integers(40, size=7)])
    expected = codebook_overlap(**rows, **QUICK, num_pairs=50)
    results = codebook_overlap(**other, **QUICK, num_pairs=50)
    assert results.pop("num_duplicates") == 7 and expected.pop("num_duplicates") == 0
    assert results == expected


def test_what_is_left_out_is_counted():
    rows = make_rows(num_texts=40)
    expected = codebook_overlap(**rows, **QUICK)
    rows["texts"] += ["unlabelled", "unlabelled", "empty", "padding only", rows["texts"][3], rows["texts"][4]]
    rows["codes"] += [[1], [1], [], [-1, -1], [7, 7], [-1]]
    rows["tokens"] += [["t1"], ["t1"], [], ["t1", "t2"], ["t1", "t2"], ["t3"]]
    # A text that is there with and without a label, or with and without tokens, stays as it was.
    rows["labels"] += [-1, -1, 0, 1, -1, 0]
    results = codebook_overlap(**rows, **QUICK)
    assert (results["num_unlabelled"], results["num_empty"], results["num_duplicates"]) == (1, 2, 3)
    for name in ("num_unlabelled", "num_empty", "num_duplicates"):
        expected.pop(name), results.pop(name)
    assert results == expected


def test_texts_without_a_common_token_make_no_pair():
    numbers = range(20)
    results = CodebookOverlap(keep_in_memory=True).compute(
        texts=[str(number) for number in numbers],
        codes=[[1] for _ in numbers],
        tokens=[[str(number)] for number in numbers],
        labels=[number % 2 for number in numbers],
        **QUICK,
    )
    assert results["ratio"] is None and results["p_value"] is None and results["permuted_ratio"] is None
    assert results["num_strata"] == results["num_same_pairs"] == 0
    json.dumps(results, allow_nan=False)


def test_no_ratio_where_different_labels_share_nothing():
    numbers = range(24)
    results = codebook_overlap(
        texts=[str(number) for number in numbers],
        codes=[[number % 2] * 2 for number in numbers],
        tokens=[["text", str(number)] for number in numbers],
        labels=[number % 2 for number in numbers],
        **QUICK,
    )
    assert results["ratio"] is None and results["ratio_low"] is None and results["ratio_high"] is None
    assert results["strata"][1]["same_jaccard"] == 1 and results["strata"][1]["different_jaccard"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": [[1, 2], [3]]}, "2 codes and 1 tokens"),
        ({"labels": [1, 1]}, "two labels"),
        ({"labels": [-1, -1]}, "two labels"),
        ({"codes": [[-1], [3]]}, "two labels"),
        ({"labels": [0]}, "one row per text"),
        ({"texts": ["a", None]}, "None"),
        ({"codes": [[None], [3]]}, "write -1"),
        ({"num_pairs": 10}, "at least 30"),
        ({"num_bootstrap": 0}, "at least 1"),
        ({"length_caliper": 0}, "more than 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"texts": ["a", "b"], "codes": [[1], [3]], "tokens": [["x"], ["x"]], "labels": [0, 1]}
    with pytest.raises(ValueError, match=message):
        codebook_overlap(**{**good, **change})
