from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.metrics import RoutingDivergence
from clvq_hf.metrics.label_purity import token_table as table_of_label_purity
from clvq_hf.metrics.routing_divergence import token_table as table_of_routing
from clvq_hf.metrics.routing_divergence.numerics import (
    count_occurrences,
    eligible_types,
    find_contexts,
    permute_labels,
    routing_divergence,
)
from clvq_hf.metrics.routing_divergence.token_table import draw_halves, read_token_table

QUICK = {"num_permutations": 20, "num_bootstrap": 20}


def compute(columns: dict[str, list], **settings) -> dict:
    return routing_divergence(read_token_table(**columns), **{**QUICK, **settings})


def take(columns: dict[str, list], rows: list[int]) -> dict[str, list]:
    return {name: [column[row] for row in rows] for name, column in columns.items()}


def texts_of(*rows: tuple[int, str]) -> dict[str, list]:
    """Texts out of labels and tokens, written as `word/code` and separated by spaces."""
    tokens = [[token.split("/") for token in row.split()] for _, row in rows]
    return {
        "texts": [f"text {number:03d}" for number in range(len(rows))],
        "codes": [[int(code) for _, code in row] for row in tokens],
        "tokens": [[word for word, _ in row] for row in tokens],
        "labels": [label for label, _ in rows],
    }


def simulate(seed: int, clustered: bool = False, skewed: bool = False, routed: float = 0.0) -> dict[str, list]:
    """Forty random texts of six words.

    Args:
        seed (`int`): Of the draw.
        clustered (`bool`): Whether all tokens of a text have the same code.
        skewed (`bool`): Whether some words are frequent under one label, some under the other.
        routed (`float`): Chance that a token gets code 0 or 1 by its label, in place of any of four.
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    odds = np.array([[8, 6, 4, 2, 1], [1, 2, 4, 6, 8]] if skewed else [[1] * 5] * 2)
    words = np.stack([generator.choice(5, size=6, p=odds[label] / odds[label].sum()) for label in labels])
    codes = generator.integers(4, size=(40, 1 if clustered else 6)).repeat(6 if clustered else 1, axis=1)
    codes = np.where(generator.random(codes.shape) < routed, labels[:, None], codes)
    return {
        "texts": [f"text {number:03d}" for number in range(40)],
        "codes": codes.tolist(),
        "tokens": words.astype(str).tolist(),
        "labels": labels.tolist(),
    }


def test_divergence_of_two_labels_by_hand():
    # "w" has the codes 5, 5, 5, 6 under label 0 and 5, 6, 6, 6 under label 1. The mean is (½, ½): 1 bit. Each has
    # −¾·log2 ¾ − ¼·log2 ¼ = 0.811278 bits. "v" is in texts of one label only.
    columns = texts_of((0, "w/5 w/5 v/9"), (0, "w/5 w/6 v/9"), (1, "w/5 w/6"), (1, "w/6 w/6"))
    results = compute(columns, min_count=4, min_texts=2, details=True)
    assert results["jsd"] == pytest.approx(1 - 0.811278, abs=1e-6)
    assert results["excess_jsd"] == pytest.approx(results["jsd"] - results["null_jsd"])
    assert results["routed_share"] == 1.0
    assert (results["num_types"], results["coverage"]) == (1, 0.8)
    (word,) = results["types"]
    assert {name: word[name] for name in ("type", "labels", "tokens", "texts", "usual_codes", "routed_share")} == {
        "type": "w",
        "labels": [0, 1],
        "tokens": [4, 4],
        "texts": [2, 2],
        "usual_codes": [[5], [6]],
        "routed_share": 1.0,
    }


def test_several_labels_are_compared_in_pairs():
    # Under label 2 the codes are even. Labels 0 and 1: 0.188722 as above. With label 2, the mean is (⅝, ⅜): 0.954434
    # bits, less (0.811278 + 1)/2: 0.048795. Usual codes are 5, 6, and both, which agrees with either: 1 of 3 pairs
    # differs.
    columns = texts_of(
        (0, "w/5 w/5"), (0, "w/5 w/6"), (1, "w/5 w/6"), (1, "w/6 w/6"), (2, "w/5 w/6"), (2, "w/5 w/6"), (3, "w/5 w/7")
    )
    results = compute(columns, min_count=4, min_texts=2, details=True)
    assert results["jsd"] == pytest.approx((0.188722 + 2 * 0.048795) / 3, abs=1e-6)
    assert results["routed_share"] == pytest.approx(1 / 3)
    # Label 3 has too few tokens: its codes do not count.
    assert results["types"][0]["labels"] == [0, 1, 2] and results["types"][0]["usual_codes"] == [[5], [6], [5, 6]]
    assert results["coverage"] == pytest.approx(12 / 14)


def test_types_weigh_the_same_or_by_their_tokens():
    # "w" has no code in common and two tokens a text, "v" one token a text and always the same code.
    columns = texts_of(*[(label, f"w/{label} w/{label} v/7") for label in [0, 1] * 5])
    results = compute(columns, min_count=5)
    assert (results["jsd"], results["routed_share"]) == (0.5, 0.5)
    assert results["token_weighted_jsd"] == pytest.approx(2 / 3)
    assert results["token_weighted_routed_share"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("min_count", "min_texts", "num_types"), [(4, 2, 1), (5, 2, 0), (4, 3, 0)])
def test_eligible_types_have_enough_tokens_in_enough_texts(min_count, min_texts, num_types):
    columns = texts_of((0, "w/1 w/1 w/1"), (0, "w/2"), (1, "w/1 w/1"), (1, "w/1 w/1"), (1, "w/1"))
    results = compute(columns, min_count=min_count, min_texts=min_texts)
    assert results["num_types"] == num_types
    undefined = {name for name, value in results.items() if value is None}
    assert bool(undefined) == (num_types == 0)
    assert results["coverage"] == (1.0 if num_types else 0.0)


def test_ties_do_not_depend_on_the_numbers_of_codes():
    # Under label 0 codes 1 and 2 tie, under label 1 codes 2 and 3 do: code 2 is usual under both.
    rows = [(0, "w/1 w/2")] * 3 + [(1, "w/2 w/3")] * 3
    assert compute(texts_of(*rows), min_count=6, min_texts=3)["routed_share"] == 0.0
    rows = [(0, "w/1 w/2")] * 3 + [(1, "w/0 w/3")] * 3
    assert compute(texts_of(*rows), min_count=6, min_texts=3)["routed_share"] == 1.0


def test_permuted_labels_keep_what_each_type_has():
    table = read_token_table(**simulate(seed=3, skewed=True))
    occurrences = count_occurrences(table)
    contexts = find_contexts(occurrences, table.label, eligible_types(table, occurrences, table.label, 2, 2))
    found = contexts.occurrences
    permuted = permute_labels(contexts, 50, np.random.default_rng(0))
    assert permuted.shape == (len(found.pair_type), 50) and len(found.types) > 3

    def texts_by_label_and_frequency(labels: np.ndarray) -> list:
        return sorted(zip(found.pair_type, np.minimum(found.pair_count, 4), labels, strict=True))

    # Up to three occurrences are classes of their own; four and five are one class, more are rare in six words.
    assert found.pair_count.max() <= 5
    expected = texts_by_label_and_frequency(contexts.pair_label)
    assert all(texts_by_label_and_frequency(draw) == expected for draw in permuted.T)
    assert len({tuple(draw) for draw in permuted.T}) > 40
    # Uniform: a text has each label as often as the type and the class have it.
    several = permute_labels(contexts, 2000, np.random.default_rng(1)).mean(axis=1)
    for token_type, count in {*zip(found.pair_type.tolist(), np.minimum(found.pair_count, 4).tolist(), strict=True)}:
        same = (found.pair_type == token_type) & (np.minimum(found.pair_count, 4) == count)
        np.testing.assert_allclose(several[same], contexts.pair_label[same].mean(), atol=0.06)


@pytest.mark.slow
def test_words_that_are_frequent_under_one_label_are_not_routed():
    excess = [
        compute(simulate(seed, skewed=True), min_count=5, min_texts=3, num_bootstrap=1)["excess_jsd"]
        for seed in range(20)
    ]
    # Labels permuted among all texts would leave 0.04 bits.
    assert abs(np.mean(excess)) < 0.015


def test_routed_words_are_found():
    results = compute(simulate(0, routed=0.6), min_count=5, min_texts=3, num_bootstrap=200)
    assert results["p_value"] == 1 / 21
    assert 0 < results["excess_jsd_low"] < results["excess_jsd"] < results["excess_jsd_high"]
    assert results["routed_share"] == 1.0


def test_words_with_one_code_are_not_significant():
    results = compute(texts_of(*[(label, "w/4 v/4") for label in [0, 1] * 6]), min_count=6)
    assert (results["jsd"], results["null_jsd"], results["excess_jsd"]) == (0.0, 0.0, 0.0)
    assert (results["p_value"], results["routed_share"]) == (1.0, 0.0)


def test_examples_show_the_other_half():
    # "fun" has code 1 under label 0 and code 2 under label 1; "the" always has code 1. With n and m texts of the labels
    # in the half that is shown, n + n of n + n + m tokens of code 1, and no token of code 2, are in texts of label 0.
    columns = texts_of(*[(label, f"fun/{1 + label} film/3 the/1") for label in [0, 1] * 40])
    shown = draw_halves(columns["texts"], 1, 0)[:, 0]
    n, m = (int(shown[label::2].sum()) for label in range(2))
    examples = compute(columns, details=True)["examples"]
    # "film" and "the" have no excess, so they are no examples.
    assert len(examples) == 1 and 0 < examples[0].pop("null_jsd") < 0.1
    assert examples == [
        {
            "word": "fun",
            "jsd": 1.0,
            "labels": [
                {
                    "label": 0,
                    "tokens": n,
                    "code": 1,
                    "share": 1.0,
                    "code_label": 0,
                    "code_purity": 2 * n / (2 * n + m),
                },
                {"label": 1, "tokens": m, "code": 2, "share": 1.0, "code_label": 1, "code_purity": 1.0},
            ],
        }
    ]


def test_examples_need_enough_in_both_halves():
    columns = texts_of(*[(label, f"fun/{1 + label}") for label in [0, 1] * 15])
    half = draw_halves(columns["texts"], 1, 0)[:, 0]
    fewest = min((half[label::2] == side).sum() for label in range(2) for side in range(2))
    assert compute(columns, min_count=fewest + 1, details=True)["examples"] == []
    assert len(compute(columns, min_count=fewest, details=True)["examples"]) == 1


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
    small = {"min_count": 1, "min_texts": 1, "num_permutations": 3, "num_bootstrap": 3}
    results = compute(columns, **small, details=True)
    rows = list(range(len(columns["texts"])))
    random.shuffle(rows)
    assert compute(take(columns, rows), **small, details=True) == results
    repeated = compute(take(columns, rows + rows[:2]), **small, details=True)
    assert repeated == {**results, "num_duplicates": 2}
    renamed = [[100 * names[code] if code >= 0 else -7 for code in row] for row in columns["codes"]]
    renamed_results = compute({**columns, "codes": renamed}, **small, details=True)
    for row in renamed_results["types"]:
        row["usual_codes"] = [sorted(names.index(code // 100) for code in codes) for codes in row["usual_codes"]]
    for example in renamed_results["examples"]:
        for label in example["labels"]:
            label["code"] = names.index(label["code"] // 100)
    assert renamed_results == results
    assert 0 <= results["jsd"] <= 1 and 0 <= results["routed_share"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clustered", "skewed"), [(False, False), (True, False), (False, True)], ids=["plain", "clustered", "skewed"]
)
def test_codes_that_know_nothing_of_the_label_are_rarely_significant(clustered, skewed):
    # 20 equally likely ranks: the smallest p-value, 0.05, in 5 % of the data sets. Of 100, that is 5 with a standard
    # deviation of 2.2.
    rejected = 0
    for seed in range(100):
        columns = simulate(seed, clustered, skewed)
        results = compute(columns, min_count=5, min_texts=3, num_permutations=19, num_bootstrap=1, seed=seed)
        rejected += results["p_value"] <= 0.05
    assert 1 <= rejected <= 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 0]}, "1 different labels: give texts of at least two classes"),
        ({"codes": [[1], [2, 3]]}, "Row 1 has 2 codes and 1 tokens"),
        ({"tokens": [["w"], [None]]}, "Row 1 .* None"),
        ({"texts": ["a"]}, "one row per text"),
    ],
)
def test_unusable_columns_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        compute({"texts": ["a", "b"], "codes": [[1], [2]], "tokens": [["w"], ["w"]], "labels": [0, 1], **change})


@pytest.mark.parametrize("name", ["min_count", "min_texts", "num_permutations", "num_bootstrap"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        compute(texts_of((0, "w/1"), (1, "w/2")), **{name: 0})


def test_copies_of_the_token_table_agree():
    files = (Path(copy.__file__).read_text() for copy in (table_of_label_purity, table_of_routing))
    assert len(set(files)) == 1


def test_metric_takes_arrays_and_empty_rows():
    columns = texts_of(*[(label, f"w/{label} v/7") for label in [0, 1] * 5])
    arrays = {**columns, "codes": [np.array(row) for row in columns["codes"]]}
    with_empty = {name: [*arrays[name], empty] for name, empty in zip(arrays, ["none", [], [], 1], strict=True)}
    results = RoutingDivergence(keep_in_memory=True).compute(**with_empty, min_count=5, **QUICK)
    assert results == {**compute(columns, min_count=5), "num_empty": 1}
