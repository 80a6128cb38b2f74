import json
import re
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from helpers.hook_hosts import count_hooks
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.cluster import hierarchy
from sklearn.cluster import AgglomerativeClustering, KMeans
from transformers import AutoModel, BertForSequenceClassification

from clvq_hf import ActivationCache, ClusterConfig, ClusterModel, CLVQModel
from clvq_hf.hosts import hooks
from clvq_hf.models.modeling_clusters import check_distances


def write_cache(folder: Path, states, targets=None, input_ids=None, token_mask=None) -> ActivationCache:
    """A cache of given states of layers 1 and 3, all in one text, of tokens 0, 1, 2, … if none are given."""
    targets = states if targets is None else targets
    tensors = {
        "hidden_states": states,
        "target_hidden_states": targets.contiguous().clone(),
        "token_mask": torch.ones(len(states), dtype=torch.uint8) if token_mask is None else token_mask,
        "sink_mask": torch.zeros(len(states), dtype=torch.uint8),
        "input_ids": torch.arange(len(states), dtype=torch.int32) if input_ids is None else input_ids.int(),
        "lengths": torch.tensor([len(states)]),
        "text_index": torch.tensor([0]),
        "prediction": torch.tensor([-1]),
    }
    folder.mkdir()
    save_file(tensors, folder / "shard-00000.safetensors")
    metadata = {"shards": ["shard-00000.safetensors"], "lower_layer": 1, "upper_layer": 3, "stack": None}
    metadata |= {"hidden_size": states.shape[1], "target_hidden_size": targets.shape[1]}
    (folder / "activations.json").write_text(json.dumps(metadata))
    return ActivationCache.load(folder)


@pytest.fixture
def make_cache(tmp_path):
    def make(*args, name: str = "made", **kwargs) -> ActivationCache:
        return write_cache(tmp_path / name, *args, **kwargs)

    return make


@pytest.fixture
def make_clusters():
    def make(codebook_size=4, hidden_size=6, **fields) -> ClusterModel:
        return ClusterModel(
            ClusterConfig(
                **{
                    "lower_layer": 1,
                    "upper_layer": 3,
                    "codebook_size": codebook_size,
                    "hidden_size": hidden_size,
                    **fields,
                }
            )
        ).eval()

    return make


def blobs(number: int = 4, size: int = 50, width: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens around far-apart centres, shuffled, and which centre is whose."""
    generator = torch.Generator().manual_seed(seed)
    centres = 100 * torch.randn(number, width, generator=generator)
    groups = torch.arange(number).repeat_interleave(size)[torch.randperm(number * size, generator=generator)]
    return centres[groups] + torch.randn(number * size, width, generator=generator), groups


def matched(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """`found`, in the order of the rows of `expected` that they are nearest to."""
    nearest = torch.cdist(expected.double(), found.double()).argmin(-1)
    assert len(nearest.unique()) == len(found)
    return found[nearest]


class TestKMeans:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_equals_that_of_scikit_learn_on_easy_blobs(self, make_cache, make_clusters, seed):
        states, groups = blobs()
        model = make_clusters().fit(make_cache(states), seed=seed)
        expected = KMeans(4, n_init=10, random_state=0).fit(states.numpy())
        centres = torch.from_numpy(expected.cluster_centers_)
        torch.testing.assert_close(matched(model.codebook, centres), centres, check_dtype=False)
        codes = model.encode(states[None])[0].tolist()
        for labels in (groups.tolist(), expected.labels_.tolist()):
            assert len(set(zip(codes, labels, strict=True))) == 4, "the same clusters"

    def test_it_runs_until_no_assignment_changes(self, make_cache, make_clusters):
        states = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
        model = make_clusters(20).fit(make_cache(states))
        codes = model.encode(states[None])[0]
        means = torch.stack([states[codes == code].mean(0) for code in range(20)])
        torch.testing.assert_close(model.codebook, means)

    def test_rounding_changes_no_cluster(self, make_cache, make_clusters):
        states = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
        noise = 1e-6 * torch.randn(600, 6, generator=torch.Generator().manual_seed(1))
        plain, noisy = (
            make_clusters(20).fit(make_cache(each, name=name))
            for name, each in (("plain", states), ("noisy", states + noise))
        )
        assert torch.equal(plain.encode(states[None]), noisy.encode(states[None]))

    def test_the_same_seed_gives_the_same_clusters(self, make_cache, make_clusters):
        cache = make_cache(torch.randn(300, 6, generator=torch.Generator().manual_seed(0)))
        first, second, other = (make_clusters(20).fit(cache, seed=seed).state_dict() for seed in (5, 5, 6))
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
        assert not torch.equal(first["centroids.vectors"], other["centroids.vectors"])
        # Building a model draws weights; fitting it must not.
        fitted = make_clusters(20)
        before = torch.random.get_rng_state()
        fitted.fit(cache)
        assert torch.equal(torch.random.get_rng_state(), before)


class TestAgglomerative:
    def test_centroids_are_the_means_of_wards_clusters(self, make_cache, make_clusters):
        # Without clear groups, so that another linkage would give others.
        states = torch.randn(120, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1, 1, 1, 1, 1])
        model = make_clusters(9, algorithm="agglomerative").fit(make_cache(states))
        labels = torch.from_numpy(AgglomerativeClustering(9, linkage="ward").fit_predict(states.numpy()))
        expected = torch.stack([states[labels == label].mean(0) for label in range(9)])
        torch.testing.assert_close(matched(model.codebook, expected), expected)
        # SciPy, on its own.
        labels = hierarchy.fcluster(hierarchy.linkage(states.double().numpy(), "ward"), 9, "maxclust")
        expected = torch.stack([states[torch.from_numpy(labels == label)].mean(0) for label in range(1, 10)])
        torch.testing.assert_close(matched(model.codebook, expected), expected)

    def test_distances_that_would_not_fit_name_how_many_would(self, make_cache, make_clusters, monkeypatch):
        def free(number):
            monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=number))

        states, _ = blobs()  # 200 tokens: 8·200·199 bytes are 318,400, of half of what is free
        cache = make_cache(states)
        free(2 * 318_400)
        check_distances(200)
        free(2 * 318_399)
        with pytest.raises(ValueError, match="K-means"):
            check_distances(200)
        free(2 * 100_000)
        with pytest.raises(ValueError, match=r"The distances of 200 tokens need .* max_tokens=\d+ fits") as refused:
            make_clusters(algorithm="agglomerative").fit(cache)
        fits = int(re.search(r"max_tokens=(\d+)", str(refused.value))[1])
        assert fits > 100
        model = make_clusters(algorithm="agglomerative").fit(cache, max_tokens=fits)
        assert model.centroids.counts.sum() == 200, "means are of all"
        make_clusters(algorithm="kmeans").fit(cache)

    @given(st.integers(2, 10**7), st.integers(10**3, 10**13))
    @settings(max_examples=100, deadline=None)
    def test_what_is_said_to_fit_fits(self, number, available):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=available))
            try:
                check_distances(number)
            except ValueError as error:
                fits = int(re.search(r"max_tokens=(\d+)", str(error))[1])
                assert 0 < fits < number
                check_distances(fits)
                with pytest.raises(ValueError):
                    check_distances(2 * fits)


class TestControls:
    def test_token_types_are_the_means_of_the_most_frequent(self, make_cache, make_clusters):
        # Types 7 (three times), 4 and 2 (twice), 9 (once): of 4 and 2, the lower id.
        ids = torch.tensor([9, 7, 4, 7, 2, 4, 7, 2])
        states = torch.tensor([[50.0, 1], [1, 2], [8, 0], [3, 4], [10, 20], [4, 6], [5, 9], [30, 40]])
        model = make_clusters(2, 2, algorithm="token_types").fit(make_cache(states, input_ids=ids))
        assert model.codebook.tolist() == [[3.0, 5.0], [20.0, 30.0]]
        model = make_clusters(4, 2, algorithm="token_types").fit(make_cache(states, input_ids=ids, name="other"))
        assert model.codebook.tolist() == [[3.0, 5.0], [20.0, 30.0], [6.0, 3.0], [50.0, 1.0]]

    def test_fewer_types_than_clusters(self, make_cache, make_clusters):
        cache = make_cache(torch.randn(9, 6), input_ids=torch.tensor([1, 2, 3] * 3))
        with pytest.raises(ValueError, match=r"codebook_size=4 is larger than the number of token types \(3\)"):
            make_clusters(algorithm="token_types").fit(cache)

    def test_random_states_are_states_and_differ(self, make_cache, make_clusters):
        states = torch.randn(60, 6).bfloat16()
        model = make_clusters(30, algorithm="random_states").fit(make_cache(states))
        chosen = (model.codebook[:, None] == states.float()).all(-1)
        assert (chosen.sum(-1) == 1).all() and len(chosen.nonzero()[:, 1].unique()) == 30
        assert (model.centroids.counts >= 1).all()


class TestFit:
    def test_counts_and_means_are_exact(self, make_cache, make_clusters):
        states, _ = blobs()
        targets = torch.randn(200, 5, generator=torch.Generator().manual_seed(3)) + 1000
        model = make_clusters(target_hidden_size=5).fit(make_cache(states, targets))
        codes = model.encode(states[None])[0]
        assert model.centroids.counts.tolist() == [50.0] * 4
        for code in range(4):
            expected = targets[codes == code].double().mean(0).float()
            torch.testing.assert_close(model.decoder.vectors[code], expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(model.mean_state, states.mean(0))
        rebuilt = model.reconstruct(states[None])
        assert torch.equal(rebuilt[0], model.decoder.vectors[codes])
        assert torch.equal(model.reconstruct(states[None], codes=codes[None].flip(1))[0], rebuilt[0].flip(0))
        assert model.is_initialized and not make_clusters().is_initialized

    def test_new_tokens_get_the_nearest_centroid(self, make_cache, make_clusters):
        model = make_clusters(20).fit(make_cache(torch.randn(300, 6) + 50))
        new = torch.randn(3, 40, 6) + 50
        expected = torch.cdist(new.double(), model.codebook.double()[None]).argmin(-1)
        assert torch.equal(model.encode(new), expected)

    def test_of_all_tokens_though_few_are_clustered(self, make_cache, make_clusters):
        states, _ = blobs(size=500)
        cache = make_cache(states)
        some, all_of_them = (make_clusters().fit(cache, max_tokens=number) for number in (40, None))
        assert not torch.equal(some.codebook, all_of_them.codebook)
        assert some.centroids.counts.sum() == 2000
        torch.testing.assert_close(some.mean_state, states.mean(0))
        again = make_clusters().fit(cache, max_tokens=10**6)
        assert torch.equal(again.codebook, all_of_them.codebook)

    def test_a_cluster_without_a_token_says_the_mean(self, make_cache, make_clusters):
        # Two of the type means coincide, and the first one gets all.
        states = torch.tensor([[1.0, 0], [3, 0], [2, 0], [9, 9]])
        ids = torch.tensor([1, 1, 2, 3])
        targets = torch.tensor([[1.0], [2], [3], [10]])
        cache = make_cache(states, targets, ids)
        model = make_clusters(3, 2, algorithm="token_types", target_hidden_size=1).fit(cache)
        empty = int((model.centroids.counts == 0).nonzero())
        assert model.centroids.counts.sort().values.tolist() == [0.0, 1.0, 3.0]
        assert model.decoder.vectors[empty].item() == 4.0
        assert sorted(model.decoder.vectors.flatten().tolist()) == [2.0, 4.0, 10.0]

    def test_only_tokens_that_count(self, make_cache, make_clusters):
        states, _ = blobs()
        mask = torch.ones(200, dtype=torch.uint8)
        mask[::3] = 0
        states[::3] = 1e4
        model = make_clusters().fit(make_cache(states, token_mask=mask))
        assert model.centroids.counts.sum() == mask.sum() and model.codebook.max() < 1e3

    def test_the_filter_of_the_paper(self, make_cache, make_clusters):
        # Types occur 1 to 30 times; with 5 to 20, tokens of the others are neither clustered nor counted.
        ids = torch.arange(1, 31).repeat_interleave(torch.arange(1, 31))
        states = torch.randn(len(ids), 6) + 1000 * ((ids < 5) | (ids > 20))[:, None]
        cache = make_cache(states, input_ids=ids)
        model = make_clusters().fit(cache, min_token_occurrences=5, max_token_occurrences=20)
        assert model.centroids.counts.sum() == sum(range(5, 21)) and model.codebook.max() < 100
        everything = make_clusters().fit(cache)
        assert everything.centroids.counts.sum() == len(ids), "the cache is left as it was"

    def test_fewer_tokens_than_clusters(self, make_cache, make_clusters):
        cache = make_cache(torch.randn(9, 6), input_ids=torch.tensor([1, 1, 2, 2, 2, 3, 4, 5, 6]))
        with pytest.raises(ValueError, match=r"codebook_size=10 .* tokens to cluster \(9\)"):
            make_clusters(10).fit(cache)
        with pytest.raises(ValueError, match=r"codebook_size=4 .* tokens to cluster \(3\)"):
            make_clusters(4).fit(cache, max_tokens=3)
        with pytest.raises(ValueError, match=r"codebook_size=6 .* tokens to cluster \(5\)"):
            make_clusters(6).fit(cache, min_token_occurrences=2)
        make_clusters(9).fit(cache)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"lower_layer": 0}, "lower_layer=0 in the config, but 1 in the activation cache"),
            ({"upper_layer": 4}, "upper_layer=4 in the config, but 3"),
            ({"hidden_size": 7}, "hidden_size=7 in the config, but 6"),
            ({"target_hidden_size": 9}, "target_hidden_size=9 in the config, but 6"),
            ({"stack": "decoder"}, "stack=decoder in the config, but None"),
        ],
    )
    def test_a_cache_of_other_layers(self, make_cache, make_clusters, fields, message):
        with pytest.raises(ValueError, match=message):
            make_clusters(**fields).fit(make_cache(torch.randn(9, 6)))

    @given(st.integers(0, 1000), st.integers(1, 8), st.sampled_from(["kmeans", "random_states", "agglomerative"]))
    @settings(max_examples=20, deadline=None)
    def test_counts_are_those_of_the_codes(self, tmp_path_factory, seed, clusters, algorithm):
        states = torch.randn(30, 3, generator=torch.Generator().manual_seed(seed))
        cache = write_cache(tmp_path_factory.mktemp("cache") / "made", states)
        config = ClusterConfig(
            hidden_size=3, lower_layer=1, upper_layer=3, codebook_size=clusters, algorithm=algorithm
        )
        model = ClusterModel(config).fit(cache, seed=seed)
        counts = torch.bincount(model.encode(states[None])[0], minlength=clusters)
        assert torch.equal(model.centroids.counts, counts.float())
        # Weighted by their tokens, the means of the clusters are the mean of all.
        weighted = (model.decoder.vectors * counts[:, None]).sum(0) / 30
        torch.testing.assert_close(weighted, states.mean(0), atol=1e-5, rtol=1e-4)


@pytest.fixture
def fitted(make_clusters, host, tokenizer, texts, tmp_path):
    """K-means of the states of real sentences in the random BERT."""
    cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3)
    return make_clusters(12, 32).fit(cache)


class TestConcepts:
    def test_padding_changes_nothing(self, fitted):
        states = torch.randn(1, 4, 32)
        alone = fitted.encode(states)
        for place in (slice(0, 4), slice(2, 6)):
            padded, mask = torch.full((1, 6, 32), torch.nan), torch.zeros(1, 6)
            padded[:, place], mask[:, place] = states, 1
            codes = fitted.encode(padded, mask)
            assert torch.equal(codes[:, place], alone) and (codes[mask == 0] == -1).all()
            rebuilt = fitted.reconstruct(padded, mask)
            assert torch.equal(rebuilt[:, place], fitted.reconstruct(states)) and torch.isfinite(rebuilt).all()
            assert torch.equal(fitted.num_active(padded, mask), mask.long())

    def test_ablation_basis_spans_the_nearest_centroids(self, fitted):
        states = torch.randn(7, 32)
        basis = fitted.ablation_basis(states, k=3)
        torch.testing.assert_close(basis @ basis.transpose(1, 2), torch.eye(3).expand(7, 3, 3), atol=1e-5, rtol=0)
        nearest = torch.cdist(states, fitted.codebook).topk(3, largest=False).indices
        vectors = fitted.codebook[nearest]
        torch.testing.assert_close(vectors @ basis.transpose(1, 2) @ basis, vectors, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(basis[:, :1], fitted.directions(nearest[:, 0]))
        with pytest.raises(ValueError, match="no ablation variant 'encoder'"):
            fitted.ablation_basis(states, variant="encoder")

    def test_codebook_only(self, fitted):
        bare, states = fitted.codebook_only(), torch.randn(2, 5, 32)
        assert bare.decoder is None and not bare.training and bare.is_initialized
        assert bare.fingerprint() == fitted.fingerprint()
        assert torch.equal(bare.encode(states), fitted.encode(states))
        assert torch.equal(bare.ablation_basis(states[0]), fitted.ablation_basis(states[0]))
        with pytest.raises(ValueError, match="codebook without its decoder"):
            bare.reconstruct(states)
        assert fitted.decoder is not None

    def test_wrong_shapes_are_refused(self, fitted):
        states = torch.randn(2, 5, 32)
        for call in (
            lambda: fitted.encode(states[..., :-1]),
            lambda: fitted.encode(states[0]),
            lambda: fitted.encode(states, torch.ones(2, 4)),
            lambda: fitted.ablation_basis(states[0, :, :-1]),
            lambda: fitted.reconstruct(states[..., :-1]),
        ):
            with pytest.raises(ValueError, match="shape"):
                call()


class TestSaveAndLoad:
    @pytest.mark.slow
    def test_round_trip_is_exact(self, fitted, tmp_path):
        fitted.save_pretrained(tmp_path / "model")
        for loaded in (
            ClusterModel.from_pretrained(tmp_path / "model"),
            AutoModel.from_pretrained(tmp_path / "model"),
        ):
            assert type(loaded) is ClusterModel and loaded.is_initialized
            assert loaded.config.to_diff_dict() == fitted.config.to_diff_dict()
            assert set(loaded.state_dict()) == set(fitted.state_dict())
            for name, tensor in fitted.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], tensor), name
        with pytest.raises(ValueError, match="of the type 'concept_clusters', but CLVQModel"):
            CLVQModel.from_pretrained(tmp_path / "model")
        bare = ClusterModel.from_pretrained(tmp_path / "model", has_decoder=False)
        assert bare.decoder is None and bare.fingerprint() == fitted.fingerprint()

    @pytest.mark.slow
    def test_every_missing_key_is_an_error(self, fitted, tmp_path):
        fitted.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        assert set(tensors) == set(fitted.state_dict())
        for name in tensors:
            rest = {other: tensor for other, tensor in tensors.items() if other != name}
            save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
            with pytest.raises(ValueError, match=name):
                ClusterModel.from_pretrained(tmp_path)

    def test_half_precision_keeps_it_in_float32(self, fitted, tmp_path):
        fitted.save_pretrained(tmp_path / "model")
        states = torch.randn(2, 9, 32)
        codes, rebuilt = fitted.encode(states), fitted.reconstruct(states)
        vectors = fitted.codebook.clone()
        for half in (
            ClusterModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16),
            fitted.to(torch.bfloat16),
        ):
            assert half.dtype == torch.float32 and torch.equal(half.codebook, vectors)
            assert torch.equal(half.encode(states), codes) and torch.equal(half.reconstruct(states), rebuilt)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(half.encode(states), codes)


class TestOnAHost:
    def states(self, host, inputs, layer):
        with torch.no_grad():
            return hooks.run(host, inputs, [layer])[layer]

    def test_attach_ablate_steer_splice(self, fitted, host, inputs):
        mask = inputs["attention_mask"]
        lower, upper, real = self.states(host, inputs, 1), self.states(host, inputs, 3), mask.bool()
        with fitted.attach(host) as tap:
            host(**inputs)
        codes = fitted.encode(lower, mask)
        assert torch.equal(tap.codes, codes)
        code = int(codes[0, 2])
        unit, here = F.normalize(fitted.codebook[code], dim=-1), codes == code
        with fitted.ablate(host, code):
            changed = self.states(host, inputs, 1)
        assert (changed[here] @ unit).abs().max() < 1e-4 and torch.equal(changed[~here], lower[~here])
        with fitted.ablate(host, code, how="swap"):
            changed = self.states(host, inputs, 1)
        torch.testing.assert_close(changed[here], lower[here] - fitted.codebook[code] + fitted.mean_state)
        with fitted.steer(host, code, -1.0):
            changed = self.states(host, inputs, 1)
        torch.testing.assert_close(changed[real], lower[real] - unit * lower[real].norm(dim=-1, keepdim=True))
        with fitted.splice(host):
            changed = self.states(host, inputs, 3)
        torch.testing.assert_close(changed[real], fitted.decoder.vectors[codes[real]])
        assert torch.equal(changed[~real], upper[~real]) and count_hooks(host) == 0

    @pytest.mark.slow
    def test_concept_table_and_verify(self, fitted, host, tokenizer, texts):
        table = fitted.concept_table(host, tokenizer, texts)
        counts = np.bincount(table.column("code"), minlength=12)
        # The table has the special tokens too, which the clusters were not fitted to.
        assert (counts >= fitted.centroids.counts.numpy()).all()
        assert counts.sum() == fitted.centroids.counts.sum() + 2 * len(texts)
        fitted.record_host(host, tokenizer)
        assert fitted.verify(host, tokenizer)
        assert not fitted.verify(BertForSequenceClassification(host.config).eval())

    @pytest.mark.slow
    def test_on_the_hub(self, hub, hub_host, tokenizer, texts, tmp_path):
        cache = ActivationCache.build(tmp_path / "cache", hub_host, tokenizer, texts, lower_layer=1, upper_layer=3)
        config = ClusterConfig.from_host(hub_host, 1, 3, codebook_size=12, algorithm="agglomerative")
        model = ClusterModel(config).fit(cache)
        model.record_host(hub_host, tokenizer)
        table = model.concept_table(hub_host, tokenizer, texts)
        model.push_to_hub("org/clusters", concepts=table)
        loaded = AutoModel.from_pretrained("org/clusters")
        assert type(loaded) is ClusterModel and loaded.fingerprint() == model.fingerprint()
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert loaded.verify(loaded.load_host(), loaded.load_tokenizer())
        assert loaded.concepts.tokens.to_dict() == table.tokens.to_dict()
