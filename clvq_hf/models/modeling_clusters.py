"""Clusters of hidden states as concepts: a token's concept is its nearest centroid."""

from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .codebook_init import initial_codebook
from .configuration_clusters import ClusterConfig
from .configuration_concepts import ConceptConfig
from .kmeans import kmeans
from .modeling_base import distances_to_vectors
from .modeling_concepts import ConceptModel
from .nearest_codes import nearest_codes
from .quantizer import Float32Module
from .spaces import NEEDS, AffineSpace

if TYPE_CHECKING:
    from ..data.activation_cache import ActivationCache

# Tokens whose distances to all centroids are held at once.
CHUNK = 8192
# Starts of K-means, of which the best goes on, and the most steps; fewer than 100 are usual.
NUM_STARTS, MAX_STEPS = 3, 1000


class Centroids(Float32Module):
    """What a clustering leaves: centroids in its space, how many tokens each has, and the tokens' mean state.

    In a space of its own also the mean state of each centroid's tokens at `lower_layer`.
    """

    def __init__(self, config: ClusterConfig) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(config.codebook_size, config.hidden_size))
        if config.codebook_space != "states":
            self.register_buffer("members", torch.zeros(config.codebook_size, config.hidden_size))
        self.register_buffer("counts", torch.zeros(config.codebook_size))
        self.register_buffer("mean", torch.zeros(config.hidden_size))
        self.register_buffer("initialized", torch.tensor(False))


class UpperMeans(Float32Module):
    """The mean state at `upper_layer` of each cluster's tokens: all that a cluster says of that layer."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(config.codebook_size, config.target_hidden_size))


class ClusterModel(ConceptModel):
    """Clusters as concepts; [`fit`][clvq_hf.ClusterModel.fit] finds them.

    New tokens get the nearest centroid, in the space in which the clusters were found. There are no gradients and
    nothing to train; the states of `upper_layer` are reconstructed as the mean of the cluster's tokens there.

    Args:
        config ([`ClusterConfig`]): Algorithm, number of clusters and host layers.

    Example:
        ```python
        cache = ActivationCache.load("cache/train")
        model = ClusterModel(ClusterConfig.from_host(host, 3, 6, codebook_size=400)).fit(cache)
        ```
    """

    config_class = ClusterConfig
    _keep_in_fp32_modules_strict = ["space", "centroids", "decoder"]
    _not_in_fingerprint = ("decoder.", "centroids.counts", "centroids.mean", "centroids.members")

    def __init__(self, config: ClusterConfig) -> None:
        super().__init__(config)
        self.space = AffineSpace(config.hidden_size) if config.codebook_space != "states" else None
        self.centroids = Centroids(config)
        self.decoder = UpperMeans(config) if config.has_decoder else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Centroids):
            init.normal_(module.vectors)
            init.ones_(module.counts)
            init.zeros_(module.mean)
            if self.space is not None:
                init.zeros_(module.members)
            init.zeros_(module.initialized)
        elif isinstance(module, UpperMeans):
            init.zeros_(module.vectors)
        elif isinstance(module, AffineSpace):
            module.reset()

    @property
    def codebook(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(K, d)`: the centroids, or in a space of their own the mean host states."""
        return self.centroids.vectors if self.space is None else self.centroids.members

    @property
    def member_means(self) -> torch.Tensor:
        return self.codebook

    @property
    def removed_vectors(self) -> torch.Tensor:
        return self.codebook - self.projection_centre

    @property
    def projection_centre(self) -> torch.Tensor:
        return super().projection_centre if self.space is None else self.space.origin

    @property
    def mean_state(self) -> torch.Tensor:
        return self.centroids.mean

    @property
    def is_initialized(self) -> bool:
        return bool(self.centroids.initialized)

    @torch.no_grad()
    def fit(
        self,
        cache: "ActivationCache",
        *,
        min_token_occurrences: int | None = None,
        max_token_occurrences: int | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> "ClusterModel":
        """Find the clusters of the tokens of a cache, without special tokens.

        Args:
            cache ([`ActivationCache`][clvq_hf.ActivationCache]): States of training texts, of the config's layers.
            min_token_occurrences (`int`, *optional*): Only tokens that occur at least this often (the paper: 5).
            max_token_occurrences (`int`, *optional*): Only tokens that occur at most this often (the paper: 20).
            max_tokens (`int`, *optional*): Maximum number of tokens to cluster, drawn with the seed; all if not given.
                Means and counts are of all tokens anyway.
            seed (`int`): Seed of every random choice.

        Returns:
            [`ClusterModel`]: Itself.

        Raises:
            ValueError: If the cache is of other layers, there are fewer tokens (or types) than clusters, or the
                distances of agglomerative clustering would not fit in memory, naming the `max_tokens` that do.
        """
        config = self.config
        cache.check_layers(config)
        cache = cache.filter_by_occurrence(min_token_occurrences, max_token_occurrences)
        num_tokens = int(cache.num_counted.sum())
        clustered = num_tokens if max_tokens is None else min(max_tokens, num_tokens)
        if clustered < config.codebook_size:
            raise ValueError(
                f"codebook_size={config.codebook_size} is larger than the number of tokens to cluster ({clustered}). "
                "Choose fewer clusters, give more text, or filter less."
            )
        if config.algorithm == "agglomerative":
            check_distances(clustered)
        states, ids = cache.counted("hidden_states").float(), cache.counted("input_ids")
        targets = cache.counted("target_hidden_states").float()
        if self.space is not None:
            given = {"target_hidden_states": targets, "input_ids": ids}
            needed = {name: given[name] for name in NEEDS[config.codebook_space] if name in given}
            if "sensitivity" in NEEDS[config.codebook_space]:
                needed["sensitivity"] = cache.sensitivity
            self.space.fit(config.codebook_space, states, seed, **needed)
        chosen = np.random.default_rng(seed).permutation(num_tokens)[:clustered]
        points = self._points(states)
        if config.algorithm == "kmeans_upper":
            centroids = find_centroids("kmeans", targets[chosen], ids[chosen], config.codebook_size, seed)
            groups = nearest_codes(targets, centroids)
            centroids = group_means(points, groups, config.codebook_size)
        else:
            centroids = find_centroids(config.algorithm, points[chosen], ids[chosen], config.codebook_size, seed)
        self.record_training_texts(cache.text_numbers)
        self.centroids.vectors.copy_(centroids)
        self.centroids.initialized.fill_(True)
        self.centroids.mean.copy_(states.mean(0))
        codes = torch.cat([self.nearest(part.to(self.device), 1)[:, 0].cpu() for part in states.split(CHUNK)])
        self.centroids.counts.copy_(torch.bincount(codes, minlength=config.codebook_size))
        if self.space is not None:
            self.centroids.members.copy_(group_means(states, codes, config.codebook_size))
        if self.decoder is not None:
            self.decoder.vectors.copy_(group_means(targets, codes, config.codebook_size))
        self.record_distances(states)
        return self

    def _points(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """States in the space of the centroids, `(…, d)`, float32."""
        return hidden_states.float() if self.space is None else self.space(hidden_states)

    @torch.no_grad()
    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = self._real_tokens(hidden_states, attention_mask)
        return self.nearest(torch.where(mask[..., None], hidden_states, 0), 1)[..., 0].masked_fill(~mask, -1)

    @torch.no_grad()
    def nearest(self, hidden_states: torch.Tensor, k: int = 1) -> torch.Tensor:
        with self.centroids.full_precision(hidden_states.device):
            return nearest_codes(
                self._points(hidden_states), self.centroids.vectors, lambda scores: scores.topk(k, dim=-1).indices
            )

    @torch.no_grad()
    def distances(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        codes = self._codes_of(hidden_states, attention_mask, codes)
        states = torch.where((codes >= 0)[..., None], hidden_states, 0)
        return distances_to_vectors(self._points(states), self.centroids.vectors, codes)

    @torch.no_grad()
    def reconstruct(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self._check_decoder()
        codes = self.encode(hidden_states, attention_mask) if codes is None else codes
        return F.embedding(codes.clamp(min=0), self.decoder.vectors)


def find_centroids(
    algorithm: str, states: torch.Tensor, input_ids: torch.Tensor, num_clusters: int, seed: int
) -> torch.Tensor:
    """Centroids `(K, d)` of states `(N, d)`, float32, by an algorithm of [`ClusterConfig`]."""
    if algorithm == "kmeans":
        return kmeans(states, num_clusters, seed, num_starts=NUM_STARTS, max_steps=MAX_STEPS)[0]
    if algorithm == "random_states":
        return initial_codebook(states, num_clusters, "random", seed)
    if algorithm == "agglomerative":
        from sklearn.cluster import AgglomerativeClustering  # at use: it takes long to import

        groups = AgglomerativeClustering(n_clusters=num_clusters, linkage="ward").fit_predict(states.numpy())
        return group_means(states, torch.from_numpy(groups), num_clusters)
    types, groups, counts = input_ids.unique(return_inverse=True, return_counts=True)
    if len(types) < num_clusters:
        raise ValueError(
            f"codebook_size={num_clusters} is larger than the number of token types ({len(types)}). Choose fewer."
        )
    frequent = counts.argsort(descending=True, stable=True)[:num_clusters]
    return group_means(states, groups, len(types))[frequent]


def check_distances(num_tokens: int) -> None:
    """Refuse a distance matrix that does not fit in half of the memory that is free."""
    # SciPy keeps each pair once, in float64; Ward's method works on a copy.
    needed, free = 2 * 8 * num_tokens * (num_tokens - 1) // 2, psutil.virtual_memory().available // 2
    if needed > free:
        fits = int((free / 8) ** 0.5)
        fits -= fits % 10 ** max(len(str(fits)) - 2, 0)
        raise ValueError(
            f"The distances of {num_tokens:,} tokens need {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB, half "
            f"of what is free, may be used. max_tokens={fits} fits; or use K-means, which needs no distances."
        )


def group_means(states: torch.Tensor, groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Mean states `(K, d)` of groups, float32; of one without a state, which says nothing, the mean of all."""
    states = states.double()
    counts = torch.bincount(groups, minlength=num_groups)[:, None]
    sums = torch.zeros(num_groups, states.shape[1], dtype=torch.float64).index_add_(0, groups, states)
    return torch.where(counts > 0, sums / counts.clamp(min=1), states.mean(0)).float()


__all__ = ["ClusterModel", "UpperMeans", "group_means"]
