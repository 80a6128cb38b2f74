import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from clvq_hf.metrics import CodebookSimilarity
from clvq_hf.metrics.codebook_similarity.numerics import codebook_similarity

FIGURES = (
    "mean_cosine",
    "mean_centred_cosine",
    "mean_euclidean",
    "nearest_cosine",
    "nearest_centred_cosine",
    "mean_norm_ratio",
)


def make_codebook(num_codes=50, width=6, mean=3.0, seed=0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (mean + generator.normal(size=(num_codes, width))).astype(np.float32)


def expect(vectors: np.ndarray) -> dict[str, float]:
    """All figures from whole matrices of pairs."""
    vectors = vectors.astype(np.float64)
    centred = vectors - vectors.mean(0)
    cosines, centred_cosines = (squareform(1 - pdist(each, "cosine")) for each in (vectors, centred))
    others = ~np.eye(len(vectors), dtype=bool)
    return {
        "mean_cosine": cosines[others].mean(),
        "mean_centred_cosine": centred_cosines[others].mean(),
        "mean_euclidean": pdist(vectors).mean(),
        "nearest_cosine": np.where(others, cosines, -2).max(1).mean(),
        "nearest_centred_cosine": np.where(others, centred_cosines, -2).max(1).mean(),
        "mean_norm_ratio": np.linalg.norm(vectors.mean(0)) / np.linalg.norm(vectors, axis=1).mean(),
    }


def test_a_codebook_computed_by_hand():
    # a = (3, 0), b = (0, 4), c = (3, 4), d = 0. Cosines: ab 0, ac 3/5, bc 4/5; d has none.
    # Distances: ab 5, ac 4, bc 3, ad 3, bd 4, cd 5. Norms 3, 4, 5, 0. Mean (1.5, 2), of norm 2.5.
    # Less the mean: a (1.5, -2), b (-1.5, 2), c (1.5, 2), d (-1.5, -2), all of norm 2.5, with a = -b and c = -d.
    # Centred cosines: ab = cd = -1; ac = bd = (2.25 - 4) / 6.25 = -0.28; bc = ad = 0.28.
    results = CodebookSimilarity(keep_in_memory=True).compute(
        vectors=[[3.0, 0.0], [0.0, 4.0], [3.0, 4.0], [0.0, 0.0]], counts=[2, 0, 1, 0], details=True
    )
    assert results["mean_cosine"] == pytest.approx((0 + 3 / 5 + 4 / 5) / 3)
    assert results["mean_centred_cosine"] == pytest.approx(-2 / 6, abs=1e-6)
    assert results["mean_euclidean"] == pytest.approx(24 / 6)
    # The nearest of a and of b is c, that of c is b.
    assert results["nearest_cosine"] == pytest.approx((3 / 5 + 4 / 5 + 4 / 5) / 3)
    assert results["nearest_centred_cosine"] == pytest.approx(0.28)
    assert results["mean_norm_ratio"] == pytest.approx(2.5 / (12 / 4))
    # In use are a and c. Their mean is (3, 2): less it, they are opposite.
    assert [results["active_mean_cosine"], results["active_nearest_cosine"]] == pytest.approx([3 / 5] * 2)
    assert results["active_mean_centred_cosine"] == pytest.approx(-1)
    assert results["active_mean_euclidean"] == pytest.approx(4)
    assert results["active_mean_norm_ratio"] == pytest.approx(13**0.5 / 4)
    assert (results["num_codes"], results["num_active"], results["num_zero"]) == (4, 2, 1)
    assert [code["nearest_code"] for code in results["codes"]] == [2, 2, 1, None]
    assert [code["nearest_centred_code"] for code in results["codes"]] == [3, 2, 1, 0]
    assert [code["norm"] for code in results["codes"]] == [3, 4, 5, 0]
    assert [code["count"] for code in results["codes"]] == [2, 0, 1, 0]
    json.dumps(results, allow_nan=False)


@pytest.mark.parametrize("tile", [7, 25, 2048])
def test_tiles_give_the_figures_of_the_whole(monkeypatch, tile):
    monkeypatch.setattr("clvq_hf.metrics.codebook_similarity.numerics.TILE", tile)
    vectors = make_codebook()
    counts = np.arange(50) % 3
    results = codebook_similarity(vectors, counts)
    whole, active = expect(vectors), expect(vectors[counts > 0])
    assert [results[name] for name in FIGURES] == pytest.approx([whole[name] for name in FIGURES], abs=1e-5)
    assert [results[f"active_{name}"] for name in FIGURES] == pytest.approx(
        [active[name] for name in FIGURES], abs=1e-5
    )


def test_nearest_is_found_across_tiles(monkeypatch):
    monkeypatch.setattr("clvq_hf.metrics.codebook_similarity.numerics.TILE", 10)
    vectors = make_codebook(num_codes=45)
    vectors[44] = 2 * vectors[3]
    codes = codebook_similarity(vectors, np.ones(45, int), details=True)["codes"]
    assert codes[3]["nearest_code"] == 44 and codes[44]["nearest_code"] == 3
    assert codes[3]["nearest_cosine"] == pytest.approx(1) and codes[3]["nearest_cosine"] <= 1


def test_a_large_mean_hides_behind_the_plain_cosine_only():
    near, far = make_codebook(mean=0), make_codebook(mean=1000)
    counts = np.ones(50, int)
    near, far = codebook_similarity(near, counts), codebook_similarity(far, counts)
    assert far["mean_cosine"] > 0.99999 > 0.1 > near["mean_cosine"]
    assert far["mean_norm_ratio"] > 0.999 > 0.5 > near["mean_norm_ratio"]
    for name in ("mean_centred_cosine", "nearest_centred_cosine", "mean_euclidean"):
        assert far[name] == pytest.approx(near[name], abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_order_and_scale_change_no_cosine(seed, num_codes):
    vectors = make_codebook(num_codes, seed=seed)
    counts = np.arange(num_codes) % 2 + np.arange(num_codes) % 3
    order = np.random.default_rng(seed).permutation(num_codes)
    expected = codebook_similarity(vectors, counts)
    results = codebook_similarity(5 * vectors[order], counts[order])
    for name, value in expected.items():
        value = 5 * value if name.endswith("euclidean") and value is not None else value
        assert results[name] == (value if value is None else pytest.approx(value, abs=2e-5))


def test_equal_vectors_have_no_centred_cosine():
    results = codebook_similarity([[0.1, 0.7]] * 3, [1, 1, 1])
    assert results["mean_cosine"] == pytest.approx(1) and results["nearest_cosine"] == pytest.approx(1)
    assert results["mean_centred_cosine"] is None and results["nearest_centred_cosine"] is None
    assert results["mean_euclidean"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 3, 0]])
def test_fewer_than_two_codes_in_use_have_no_figures(counts):
    results = codebook_similarity(np.eye(3), counts)
    assert all(results[f"active_{name}"] is None for name in FIGURES)
    assert results["num_active"] == sum(count > 0 for count in counts)
    assert results["mean_euclidean"] == pytest.approx(2**0.5)


def test_a_codebook_of_zeros_has_distances_only():
    results = codebook_similarity(np.zeros((3, 2)), [1, 1, 1])
    assert results["num_zero"] == 3 and results["mean_euclidean"] == 0
    assert all(results[name] is None for name in FIGURES if name != "mean_euclidean")


@pytest.mark.parametrize(
    ("vectors", "counts", "message"),
    [
        ([[1.0, 2.0]], [1], "at least two"),
        ([[1.0, 2.0], [1.0]], [1, 1], "one width"),
        ([[], []], [1, 1], "rows of numbers"),
        ([[1.0, float("nan")], [1.0, 2.0]], [1, 1], "NaN"),
        ([[1.0], [2.0]], [1, -1], "0 or more"),
        ([[1.0], [2.0]], [1], "one number of tokens per vector"),
    ],
)
def test_bad_input_is_refused(vectors, counts, message):
    with pytest.raises(ValueError, match=message):
        codebook_similarity(vectors, counts)
