"""Configuration of clusters as concepts."""

from collections.abc import Mapping
from typing import ClassVar

from .configuration_concepts import PAPER, ConceptConfig, Preset

ALGORITHMS = ("kmeans", "agglomerative", "random_states", "token_types")


class ClusterConfig(ConceptConfig):
    r"""Everything that defines a [`ClusterModel`]: how the clusters are found, how many, on which layers.

    Args:
        algorithm (`str`): How the centroids are found.
            - `"kmeans"`: K-means from k-means++, until no assignment changes; the best of three starts.
            - `"agglomerative"`: Ward linkage, as in ConceptX (Dalvi et al., 2022).
            - `"random_states"`: states of random tokens; a control.
            - `"token_types"`: mean states of the most frequent token types; a control, concepts that are words.
        **kwargs: The fields of [`ConceptConfig`][clvq_hf.models.ConceptConfig]: layers, widths, number
            of concepts, host.

    Raises:
        ValueError: If a value is out of its range.
    """

    model_type = "concept_clusters"

    algorithm: str = "kmeans"

    source = f"It is one of the methods that {PAPER} compares CLVQ-VAE with."
    hub_tag = "clustering"
    family = "clusters"
    card_settings = ("algorithm", "codebook_size")
    identity = (*ConceptConfig.identity, "algorithm")
    presets: ClassVar[Mapping[str, Preset]] = {
        "kmeans": Preset("K-means", config={"algorithm": "kmeans"}),
        "agglomerative": Preset(
            "agglomerative",
            config={"algorithm": "agglomerative"},
            training={"min_token_occurrences": 5, "max_token_occurrences": 20},
        ),
        "random-states": Preset("random token states", config={"algorithm": "random_states"}, control=True),
        "token-types": Preset("token-type means", config={"algorithm": "token_types"}, control=True),
    }

    @property
    def title(self) -> str:
        """What the algorithm is called in a sentence."""
        names = {"kmeans": "K-means", "agglomerative": "agglomerative clustering (Ward)"}
        return names.get(self.algorithm, f"a control ({self.algorithm.replace('_', ' ')})")

    def model_bytes(self) -> int:
        return 4 * self.codebook_size * (self.hidden_size + (self.target_hidden_size if self.has_decoder else 0) + 1)

    def _check(self) -> None:
        super()._check()
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {self.algorithm!r}.")
        self._check_size()


__all__ = ["ClusterConfig"]
