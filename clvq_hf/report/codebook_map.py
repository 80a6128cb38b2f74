"""Where concepts are among each other: which are nearest, and a map of the codebook in two dimensions."""

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from ..models.modeling_concepts import ConceptModel

# Of fewer concepts, neighbourhoods say nothing that the principal components do not.
MIN_NEIGHBOURHOODS = 20
PERPLEXITY = 30


def unit_vectors(model: ConceptModel, codes: Sequence[int]) -> np.ndarray:
    """The concepts' vectors with norm 1, `(N, d)`."""
    return normalize(model.codebook.detach().float().cpu().numpy()[list(codes)])


def nearest_concepts(model: ConceptModel, codes: Sequence[int], n: int) -> dict[int, list[list[float]]]:
    """The nearest of these concepts to each: `[code, cosine]`, the nearest first."""
    vectors = unit_vectors(model, codes)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, : min(n, len(codes) - 1)]
    return {
        code: [[codes[place], round(float(cosine[row, place]), 3)] for place in nearest[row]]
        for row, code in enumerate(codes)
    }


def codebook_map(model: ConceptModel, codes: Sequence[int], seed: int = 0) -> dict[int, list[float]]:
    """`[x, y]` from 0 to 1 by code, near each other where the concepts' directions are.

    By t-SNE of the cosines; by principal components for fewer than 20 concepts; empty for fewer than two.
    """
    if len(codes) < 2:
        return {}
    vectors = unit_vectors(model, codes)
    if len(codes) < MIN_NEIGHBOURHOODS:
        places = PCA(2, random_state=seed).fit_transform(vectors)
    else:
        perplexity = min(PERPLEXITY, (len(codes) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed)
        places = tsne.fit_transform(vectors)
    span = np.maximum(np.ptp(places, axis=0), 1e-12)
    places = (places - places.min(0)) / span
    return {code: [round(float(x), 4), round(float(y), 4)] for code, (x, y) in zip(codes, places, strict=True)}


__all__ = ["codebook_map", "nearest_concepts", "unit_vectors"]
