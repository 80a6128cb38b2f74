import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.metrics import CodebookUsage
from clvq_hf.metrics.codebook_usage.numerics import codebook_usage


def test_figures_of_a_few_tokens():
    # Counts are 4, 2, 2, 0: p = ½, ¼, ¼. H = ½·1 + 2·¼·2 = 1.5 bits, perplexity 2^1.5. In ascending order 0, 2, 2, 4,
    # with the weights 2i − K − 1 = −3, −1, 1, 3: Gini = (0 − 2 + 2 + 12) / (4·8) = 0.375. The texts have 3, 1 and 2
    # distinct codes; the last one has no token.
    codes = [[0, 1, 2, 0], [-1, 0, 0], [2, 1, -1], [-1]]
    assert codebook_usage(codes, 4, details=True) == {
        "perplexity": pytest.approx(2**1.5),
        "entropy": pytest.approx(1.5),
        "gini": pytest.approx(0.375),
        "active_codes": 3,
        "active_share": 0.75,
        "codes_per_text": 2.0,
        "num_tokens": 8,
        "num_texts": 3,
        "num_empty": 1,
        "counts": [4, 2, 2, 0],
    }


def test_one_code_and_all_codes_are_the_extremes():
    one, every = codebook_usage([[3] * 10], 8), codebook_usage([list(range(8))], 8)
    assert (one["perplexity"], one["entropy"], one["gini"]) == (1.0, 0.0, 7 / 8)
    assert (every["perplexity"], every["entropy"], every["gini"]) == (pytest.approx(8), pytest.approx(3), 0.0)


def test_equal_texts_count_as_often_as_they_occur():
    once, twice = codebook_usage([[0, 1], [2]], 4, details=True), codebook_usage([[0, 1], [2], [2]], 4, details=True)
    assert (once["counts"], twice["counts"]) == ([1, 1, 1, 0], [1, 1, 2, 0])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(-1, 9), max_size=6), min_size=1, max_size=6).filter(
        lambda rows: any(code >= 0 for row in rows for code in row)
    ),
    st.permutations(range(10)),
    st.randoms(use_true_random=False),
)
def test_order_of_rows_and_names_of_codes_do_not_matter(rows, names, random):
    renamed = [[names[code] if code >= 0 else -1 for code in row] for row in rows]
    random.shuffle(renamed)
    usage = codebook_usage(rows, 10)
    assert codebook_usage(renamed, 10) == pytest.approx(usage)
    assert 1 - 1e-9 <= usage["perplexity"] <= usage["active_codes"] + 1e-9
    assert 0 <= usage["gini"] <= 0.9


@pytest.mark.parametrize(
    ("codes", "size", "message"),
    [
        ([[0, 4]], 4, r"Code 4 .* 4 codes, 0 to 3"),
        ([[-1], []], 4, "No token has a code"),
        ([], 4, "No token has a code"),
        ([[0, None]], 4, "write -1"),
        ([[0], None], 4, "write -1"),
        ([[0]], 0, "codebook_size"),
    ],
)
def test_what_cannot_be_counted_is_refused(codes, size, message):
    with pytest.raises(ValueError, match=message):
        codebook_usage(codes, size)


def test_metric_takes_arrays_and_empty_rows():
    metric = CodebookUsage(keep_in_memory=True)
    results = metric.compute(codes=[[], np.array([0, 1]), np.array([-1, 1])], codebook_size=2, details=True)
    assert results["counts"] == [1, 2] and results["num_empty"] == 1
