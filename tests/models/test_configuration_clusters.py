import pytest
from transformers import AutoConfig

from clvq_hf import ClusterConfig


@pytest.mark.parametrize("algorithm", ["kmeans", "agglomerative", "random_states", "token_types"])
def test_saved_and_loaded(tmp_path, algorithm):
    config = ClusterConfig(hidden_size=64, lower_layer=2, upper_layer=5, algorithm=algorithm)
    assert (config.model_type, config.codebook_size) == ("concept_clusters", 400)
    config.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is ClusterConfig
    assert ClusterConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": "dbscan"}, "algorithm must be one of"),
        ({"codebook_size": -3}, "codebook_size must be an integer of at least 1"),
        ({"codebook_size": 10**6, "hidden_size": 10**6}, "is refused"),
        ({"lower_layer": 8, "upper_layer": 4}, "swap"),
    ],
)
def test_bad_values_name_the_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        ClusterConfig(**{"hidden_size": 16, **fields})


def test_from_host(causal_host):
    config = ClusterConfig.from_host(causal_host, 1, 3, codebook_size=7, algorithm="token_types")
    assert (config.hidden_size, config.target_hidden_size, config.algorithm) == (32, 32, "token_types")
    assert config.host_architecture == "LlamaForCausalLM"
