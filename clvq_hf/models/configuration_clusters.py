"""Configuration of clusters as concepts."""

from collections.abc import Mapping
from typing import ClassVar

from .configuration_concepts import PAPER, SPACES, ConceptConfig, Preset

ALGORITHMS = ("kmeans", "kmeans_upper", "agglomerative", "random_states", "token_types")


class ClusterConfig(ConceptConfig):
    r"""Everything that defines a [`ClusterModel`]: how the clusters are found, how many, on which layers.

    Args:
        algorithm (`str`): How the centroids are found.
            - `"kmeans"`: K-means from k-means++, until no assignment changes; the best of three starts.
            - `"kmeans_upper"`: K-means on the states of `upper_layer`; a centroid is the mean at `lower_layer` of the
              tokens of a cluster.
            - `"agglomerative"`: Ward linkage, as in ConceptX (Dalvi et al., 2022).
            - `"random_states"`: states of random tokens; a control.
            - `"token_types"`: mean states of the most frequent token types; a control, concepts that are words.
        codebook_space (`str`): Where distances are taken: `"states"`, `"functional"`, `"predictive"` or `"residual"`,
            see [`clvq_hf.models.spaces`].
        **kwargs: The fields of [`ConceptConfig`][clvq_hf.models.ConceptConfig]: layers, widths, number
            of concepts, host.

    Raises:
        ValueError: If a value is out of its range.
    """

    model_type = "concept_clusters"

    algorithm: str = "kmeans"
    codebook_space: str = "states"

    source = f"It is one of the methods that {PAPER} compares CLVQ-VAE with."
    hub_tag = "clustering"
    family = "clusters"
    card_settings = ("algorithm", "codebook_space", "codebook_size")
    identity = (*ConceptConfig.identity, "algorithm", "codebook_space")
    presets: ClassVar[Mapping[str, Preset]] = {
        "kmeans": Preset("K-means", config={"algorithm": "kmeans"}),
        **{
            f"kmeans-{space}": Preset(f"K-means, {space} space", config={"codebook_space": space})
            for space in SPACES[1:]
        },
        "kmeans-upper": Preset("K-means on the upper layer", config={"algorithm": "kmeans_upper"}),
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
        names = {
            "kmeans": "K-means",
            "kmeans_upper": "K-means on the upper layer",
            "agglomerative": "agglomerative clustering (Ward)",
        }
        name = names.get(self.algorithm, f"a control ({self.algorithm.replace('_', ' ')})")
        return name if self.codebook_space == "states" else f"{name} in the {self.codebook_space} space"

    def model_bytes(self) -> int:
        space = 0 if self.codebook_space == "states" else (self.hidden_size + self.codebook_size) * self.hidden_size
        codes = self.codebook_size * (self.hidden_size + (self.target_hidden_size if self.has_decoder else 0) + 1)
        return 4 * (codes + space)

    def _check(self) -> None:
        super()._check()
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {self.algorithm!r}.")
        if self.codebook_space not in SPACES:
            raise ValueError(f"codebook_space must be one of {SPACES}, got {self.codebook_space!r}.")
        self._check_size()


__all__ = ["ClusterConfig"]
