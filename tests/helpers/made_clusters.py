"""Clusters with centroids that a test chooses."""

from clvq_hf import ClusterConfig, ClusterModel


def clusters_by_hand(host, layer=1, vectors=None):
    """Three clusters of a host's states, with known centroids and mean."""
    model = ClusterModel(ClusterConfig.from_host(host, layer, 3, codebook_size=3))
    if vectors is not None:
        model.centroids.vectors.copy_(vectors)
    model.centroids.counts.fill_(2)
    model.centroids.mean.copy_(model.centroids.vectors.mean(0))
    model.centroids.initialized.fill_(True)
    return model.eval()
