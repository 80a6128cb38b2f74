from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from clvq_hf.models.kmeans import MIN_SAMPLE, kmeans


def make_states(number, width, seed=0):
    """Blobs that overlap, so that it takes many steps."""
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(15, width, generator=generator)
    owners = torch.randint(15, (number,), generator=generator)
    return centers[owners] + torch.randn(number, width, generator=generator)


def inertia(states, centroids, labels):
    return (states.double() - centroids.double()[labels]).square().sum().item()


def check_fixed_point(states, centroids, labels):
    """Every state is in its nearest cluster, and every centroid is the mean of its states."""
    distances = torch.cdist(states.double(), centroids.double())
    own = distances.gather(1, labels[:, None])[:, 0]
    assert (own - distances.min(1).values).max() <= 1e-5 * distances.max() + 1e-6
    for cluster in labels.unique():
        assert torch.allclose(centroids[cluster], states[labels == cluster].double().mean(0).float(), atol=1e-5)


@pytest.mark.parametrize("number", [1500, MIN_SAMPLE + 4000])
def test_it_ends_where_lloyds_algorithm_ends(number):
    states = make_states(number, 6)
    centroids, labels = kmeans(states, 30, max_steps=1000)
    assert (centroids.dtype, labels.dtype, len(labels.unique())) == (torch.float32, torch.int64, 30)
    check_fixed_point(states, centroids, labels)
    # Started from there, an independent implementation finds nothing to change.
    again = KMeans(30, init=centroids.double().numpy(), n_init=1, tol=0, max_iter=1).fit(states.double().numpy())
    assert torch.equal(torch.from_numpy(again.labels_).long(), labels)


def test_it_is_as_good_as_another_implementation():
    states = make_states(MIN_SAMPLE + 4000, 16)
    ours = [inertia(states, *kmeans(states, 60, seed)) for seed in range(5)]
    theirs = [KMeans(60, n_init=1, random_state=seed).fit(states.numpy()).inertia_ for seed in range(5)]
    assert sum(ours) < 1.01 * sum(theirs)
    best = [inertia(states, *kmeans(states, 60, seed, num_starts=5)) for seed in range(5)]
    assert sum(best) < sum(ours)


def test_threads_change_nothing():
    states = make_states(MIN_SAMPLE + 20_000, 8)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(kmeans(states, 40))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for centroids, labels in found[1:]:
        assert torch.equal(centroids, found[0][0]) and torch.equal(labels, found[0][1])


def test_callers_modes_and_settings_change_nothing_and_stay():
    states = make_states(2000, 6)
    plain = kmeans(states, 20)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with torch.inference_mode():
        inferred = kmeans(states, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = kmeans(states, 20)
    torch.set_float32_matmul_precision("medium")
    try:
        coarse = kmeans(states, 20)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[1])
    for found in (inferred, cast, coarse, kmeans(states.clone().requires_grad_(), 20)):
        assert torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[1])
        assert not found[0].is_inference() and not found[0].requires_grad
    with pytest.raises(ValueError, match="NaN or infinite"):
        kmeans(torch.cat([states, torch.full((1, 6), torch.nan)]), 20)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_several_callers_at_once():
    states, before = make_states(MIN_SAMPLE + 2000, 6), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda seed: kmeans(states, 15, seed)[1], [0, 0, 0, 0]))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(labels, found[0]) for labels in found)


def test_clusters_that_nothing_is_near_to_are_given_states():
    # Two thousand states of which most are copies: the sample does not hold as many as there are clusters.
    few, many = make_states(1500, 4), make_states(400, 4, seed=1)
    states = torch.cat([few, many[torch.randint(40, (MIN_SAMPLE * 6,), generator=torch.Generator().manual_seed(0))]])
    centroids, labels = kmeans(states, 700, max_steps=1000)
    assert len(labels.unique()) == 700
    check_fixed_point(states, centroids, labels)


def test_labels_are_of_the_nearest_also_when_it_is_stopped():
    states = make_states(1500, 6)
    centroids, labels = kmeans(states, 30, max_steps=1)
    assert torch.equal(torch.cdist(states.double(), centroids.double()).argmin(1), labels)


def test_a_large_common_mean_drowns_no_difference():
    states = make_states(2000, 6)
    moved = (states + 1000.0).double()
    plain, labels = kmeans(states.double(), 20)
    shifted, same = kmeans(moved, 20)
    assert (labels == same).double().mean() > 0.99  # float32 of the shifted states is rounded to 6e-5
    assert torch.allclose(shifted - 1000, plain, atol=0.05)


def test_rounding_of_float32_changes_next_to_nothing():
    states = make_states(MIN_SAMPLE + 4000, 32)
    noise = 1e-7 * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    _, plain = kmeans(states, 40)
    _, noisy = kmeans(states * (1 + noise), 40)
    assert (plain != noisy).sum() < 5


@settings(max_examples=30, deadline=None)
@given(number=st.integers(1, 60), clusters=st.integers(1, 60), distinct=st.integers(1, 60))
def test_any_size_and_any_number_of_equal_states(number, clusters, distinct):
    clusters = min(clusters, number)
    states = make_states(distinct, 3)[torch.arange(number) % distinct]
    centroids, labels = kmeans(states, clusters)
    assert torch.isfinite(centroids).all() and labels.min() >= 0 and labels.max() < clusters
    check_fixed_point(states, centroids, labels)
    if clusters >= min(number, distinct):
        assert inertia(states, centroids, labels) < 1e-6 * number
