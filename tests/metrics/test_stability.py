import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.metrics import Stability
from clvq_hf.metrics.stability.numerics import match, matched_cosine, shuffled_axes, stability


def make_codebook(generator: np.random.Generator, num_codes=60, width=16, skewed=False) -> np.ndarray:
    """Unrelated vectors of a large common mean and of a spread that differs by axis."""
    scores = (
        generator.exponential(size=(num_codes, width)) - 1 if skewed else generator.normal(size=(num_codes, width))
    )
    return 10 + scores * np.arange(1, width + 1) ** -0.7


def make_codes(generator: np.random.Generator, num_codes=60) -> list[list[int]]:
    """Every code at least once, in texts of twenty tokens."""
    codes = np.concatenate([np.arange(num_codes), generator.integers(num_codes, size=200)])
    return np.resize(generator.permutation(codes), (10, 26)).tolist()


def test_agreement_computed_by_hand():
    # Six tokens have both codes: (0, 5) twice, (0, 6) once, (1, 6) three times.
    # H(codes) = ln 2 = 0.6931 (3 of 6 each), and so H(reference) of (2, 4) of 6 = 0.6365.
    # MI = 2/6 ln(2·6 / (3·2)) + 1/6 ln(1·6 / (3·4)) + 3/6 ln(3·6 / (3·4)) = 0.2310 - 0.1155 + 0.2027 = 0.3183.
    # By chance, two of six tokens have reference code 5: both of one code with the chance 2 · 3/15 = 2/5 (MI as above),
    # else one of each (MI 0). Expected MI = 0.4 · 0.3183 = 0.1273.
    # AMI = (0.3183 - 0.1273) / ((0.6931 + 0.6365) / 2 - 0.1273) = 0.1910 / 0.5375 = 0.3553.
    results = Stability(keep_in_memory=True).compute(
        codes=[[0, 0, -1, 0], [1, 1, 1, 2]], reference_codes=[[5, 5, 5, 6], [6, 6, 6, -7]]
    )
    assert results["ami"] == pytest.approx(0.3553, abs=1e-4)
    assert (results["num_tokens"], results["num_codes"], results["num_reference_codes"]) == (6, 2, 2)
    assert results["matched_cosine"] is None and results["null_active_matched_cosine"] is None
    assert "match" not in results


def test_match_computed_by_hand():
    # Less their means (4, 4) and (-1, 0), the vectors are a (1, 0), b (-1, 0), c (0, 1), d (0, -1), and
    # A (-2, 0), B (3, 4), C (-1, -4). Cosines: a: -1, .6, -.2425; b: 1, -.6, .2425; c: 0, .8, -.9701; d: 0, -.8, .9701.
    # Best: b-A 1, c-B 0.8, d-C 0.9701; a is left over.
    codebook = np.array([[5.0, 4.0], [3.0, 4.0], [4.0, 5.0], [4.0, 3.0]])
    reference = np.array([[-3.0, 0.0], [2.0, 4.0], [-2.0, -4.0]])
    results = Stability(keep_in_memory=True).compute(
        codes=[[0, 1, 1, 2, 2, 3]],
        reference_codes=[[2, 0, 0, 1, 1, 2]],
        codebook=codebook,
        reference_codebook=reference,
        details=True,
    )
    assert results["matched_cosine"] == pytest.approx((1 + 0.8 + 4 / 17**0.5) / 3)
    assert [(pair["code"], pair["reference_code"], round(pair["cosine"], 4)) for pair in results["match"]] == [
        (1, 0, 1.0),
        (2, 1, 0.8),
        (3, 2, 0.9701),
    ]
    # A match weighs the uses of both its codes: 2 + 2, 2 + 2, 1 + 2.
    assert results["active_matched_cosine"] == pytest.approx((4 * 1 + 4 * 0.8 + 3 * 4 / 17**0.5) / 11)
    assert [(pair["count"], pair["reference_count"]) for pair in results["match"]] == [(2, 2), (2, 2), (1, 2)]
    json.dumps(results, allow_nan=False)


def test_only_codes_in_use_enter_the_active_match():
    generator = np.random.default_rng(0)
    codebook = make_codebook(generator)
    reference = codebook[::-1].copy()
    # Half of the codes are dead, and their vectors are noise.
    reference[:30] = make_codebook(generator, 30)
    codes = [list(range(30))]
    results = stability(codes, [[59 - code for code in codes[0]]], codebook, reference)
    assert results["ami"] == pytest.approx(1)
    assert results["active_matched_cosine"] == pytest.approx(1)
    assert results["matched_cosine"] < 0.95


def test_the_match_is_the_best_there_is():
    generator = np.random.default_rng(0)
    codebook, reference = generator.normal(size=(6, 3)), generator.normal(size=(6, 3))
    units, reference_units = (
        (vectors - vectors.mean(0)) / np.linalg.norm(vectors - vectors.mean(0), axis=1, keepdims=True)
        for vectors in (codebook, reference)
    )
    cosines = units @ reference_units.T
    best = max(np.mean([cosines[row, column] for row, column in enumerate(order)]) for order in permutations(range(6)))
    assert matched_cosine(codebook, reference) == pytest.approx(best)


@pytest.mark.parametrize("skewed", [False, True])
def test_the_null_is_what_unrelated_codebooks_give(skewed):
    generator = np.random.default_rng(0)
    observed, null, related = [], [], []
    for _ in range(20):
        codebook, other = (make_codebook(generator, 120, skewed=skewed) for _ in range(2))
        observed.append(matched_cosine(codebook, other))
        null.append(matched_cosine(codebook, shuffled_axes(other, generator)))
        related.append(matched_cosine(codebook, shuffled_axes(0.9 * codebook + 0.1 * other, generator)))
    assert np.mean(observed) > 0.6
    assert np.mean(null) == pytest.approx(np.mean(observed), abs=0.03)
    # That a codebook is related leaves no trace in its null.
    assert np.mean(related) == pytest.approx(np.mean(null), abs=0.03)


def test_shuffled_axes_keep_mean_and_spread():
    generator = np.random.default_rng(0)
    codebook = make_codebook(generator, 500, 4)
    shuffled = shuffled_axes(codebook, generator)
    np.testing.assert_allclose(shuffled.mean(0), codebook.mean(0))
    axes = np.linalg.svd(codebook - codebook.mean(0), full_matrices=False)[2]
    before, after = ((vectors - codebook.mean(0)) @ axes.T for vectors in (codebook, shuffled))
    np.testing.assert_allclose(np.sort(after, axis=0), np.sort(before, axis=0))
    np.testing.assert_allclose(np.cov(after.T), np.cov(before.T), atol=0.1)


def test_the_same_concepts_stand_out_from_the_null():
    generator = np.random.default_rng(0)
    codebook, codes = make_codebook(generator), make_codes(generator)
    noisy = codebook + 0.1 * generator.normal(size=codebook.shape)
    results = stability(codes, codes, codebook, noisy)
    assert results["matched_cosine"] > results["null_matched_cosine"] + 0.15
    assert results["active_matched_cosine"] > results["null_active_matched_cosine"] + 0.15


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_names_and_order_change_nothing(seed):
    generator = np.random.default_rng(seed)
    codebook, reference = make_codebook(generator), make_codebook(generator, 50)
    codes = make_codes(generator)
    reference_codes = (np.array(codes) % 50).tolist()
    expected = stability(codes, reference_codes, codebook, reference, num_null=2)
    names, reference_names, rows = generator.permutation(60), generator.permutation(50), generator.permutation(10)
    results = stability(
        names[np.array(codes)][rows].tolist(),
        reference_names[np.array(reference_codes)][rows].tolist(),
        codebook[np.argsort(names)],
        reference[np.argsort(reference_names)],
        num_null=2,
    )
    expected.pop("match"), results.pop("match")
    assert results == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_which_model_is_the_reference_changes_no_agreement(seed):
    generator = np.random.default_rng(seed)
    codebook, reference = make_codebook(generator, 20), make_codebook(generator, 20)
    codes, reference_codes = make_codes(generator, 20), make_codes(generator, 20)
    one_way = stability(codes, reference_codes, codebook, reference, num_null=1)
    back = stability(reference_codes, codes, reference, codebook, num_null=1)
    for name in ("ami", "matched_cosine", "active_matched_cosine"):
        assert back[name] == pytest.approx(one_way[name])
    # Vectors added at the mean have no direction: nothing is matched with them.
    padded = stability(codes, reference_codes, np.vstack([codebook, codebook.mean(0)]), reference, num_null=1)
    assert padded["matched_cosine"] == pytest.approx(one_way["matched_cosine"])


def test_unrelated_codes_have_no_agreement():
    generator = np.random.default_rng(0)
    codes, reference = generator.integers(20, size=(2, 50, 20)).tolist()
    assert stability(codes, reference)["ami"] == pytest.approx(0, abs=0.03)


def test_a_single_vector_has_no_match():
    results = stability([[0, 0]], [[0, 1]], [[1.0, 2.0]], [[1.0, 2.0], [3.0, 1.0]])
    assert results["matched_cosine"] is None and results["null_matched_cosine"] is None
    assert results["match"] == [] and len(match(np.ones((1, 2)), np.eye(2))[0]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_codes": [[0]]}, "2 codes and 1 reference codes"),
        ({"reference_codes": [[0, 1], [0, 1]]}, "the same texts"),
        ({"codes": [[0, None]]}, "write -1"),
        ({"codes": [[-1, 0]], "reference_codes": [[0, -1]]}, "No token"),
        ({"codebook": [[1.0], [2.0]]}, "Only one codebook"),
        ({"codebook": [[1.0], [2.0]], "reference_codebook": [[1.0, 2.0], [2.0, 3.0]]}, "1 and 2 wide"),
        ({"codebook": [[1.0]], "reference_codebook": [[1.0], [2.0]]}, "code 1 has no vector"),
        ({"codebook": [[1.0], [float("inf")]], "reference_codebook": [[1.0], [2.0]]}, "finite"),
        ({"codebook": [[1.0], [2.0, 3.0]], "reference_codebook": [[1.0], [2.0]]}, "one width"),
        ({"num_null": 0}, "at least 1"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        stability(**{"codes": [[0, 1]], "reference_codes": [[0, 1]], **change})
