import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from clvq_hf.models.codebook_init import initial_codebook


@pytest.fixture(scope="module")
def blobs():
    """Three tight clusters of different length and direction, and the norms of their members."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[10.0, 0, 0], [0, 2.0, 0], [0, 0, -5.0]])
    return (centers[:, None] + 0.05 * torch.randn(3, 200, 3, generator=generator)).flatten(0, 1)


def sorted_rows(codebook):
    return codebook[torch.argsort(codebook.norm(dim=1))]


def test_kmeans_finds_the_means(blobs):
    means = blobs.unflatten(0, (3, 200)).mean(1)
    found = initial_codebook(blobs, 3, "kmeans++")
    assert torch.allclose(sorted_rows(found), sorted_rows(means), atol=0.02)


def test_spherical_clusters_directions_and_keeps_the_mean_norm(blobs):
    found = sorted_rows(initial_codebook(blobs, 3, "spherical-kmeans++"))
    norms = blobs.norm(dim=1).unflatten(0, (3, 200)).mean(1).sort().values
    assert torch.allclose(found.norm(dim=1), norms, atol=0.02)
    # Two clusters in one direction are one to the sphere: by angle, not by distance.
    line = torch.cat([blobs[:200], 3 * blobs[:200], blobs[200:400]])
    codebook = sorted_rows(initial_codebook(line, 2, "spherical-kmeans++"))
    assert codebook[1].norm().item() == pytest.approx(20, rel=0.02), "mean norm of members 10 and 30 long"


def test_random_draws_distinct_states(blobs):
    found = initial_codebook(blobs, 50, "random")
    positions = (found[:, None] == blobs[None]).all(-1)
    assert positions.any(1).all() and positions.any(0).sum() == 50


@pytest.mark.parametrize("method", ["random", "kmeans++", "spherical-kmeans++"])
def test_seeded_and_private(blobs, method):
    np.random.seed(1)
    torch.manual_seed(1)
    first = initial_codebook(blobs, 20, method, seed=5)
    np.random.seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(first, initial_codebook(blobs, 20, method, seed=5))
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
    assert not torch.equal(first, initial_codebook(blobs, 20, method, seed=6))


def test_nearly_as_good_as_full_kmeans():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3000, 8, generator=generator)
    full = KMeans(30, n_init=1, random_state=0).fit(states.numpy()).inertia_
    codebook = initial_codebook(states, 30, "kmeans++")
    assert torch.cdist(states, codebook).min(1).values.square().sum().item() < 1.06 * full


@settings(max_examples=25, deadline=None)
@given(
    states=st.integers(2, 40),
    codes=st.integers(1, 40),
    method=st.sampled_from(["random", "kmeans++", "spherical-kmeans++"]),
)
def test_any_size_gives_finite_codes_or_a_clear_error(states, codes, method):
    sample = torch.randn(states, 4, generator=torch.Generator().manual_seed(states))
    sample[0] = 0  # a zero state has no direction
    if codes > states:
        with pytest.raises(ValueError, match=f"codebook_size={codes} is larger .* \\({states}\\)"):
            initial_codebook(sample, codes, method)
        return
    codebook = initial_codebook(sample, codes, method)
    assert codebook.shape == (codes, 4) and codebook.dtype == torch.float32
    assert torch.isfinite(codebook).all()


def test_nan_and_unknown_methods_are_refused(blobs):
    with pytest.raises(ValueError, match="NaN"):
        initial_codebook(torch.full((5, 2), float("nan")), 2)
    with pytest.raises(ValueError, match="Unknown method 'zeros'"):
        initial_codebook(blobs, 2, "zeros")
    with pytest.raises(ValueError, match="shape"):
        initial_codebook(blobs[None], 2)
