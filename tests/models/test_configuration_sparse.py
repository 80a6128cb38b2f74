import pytest
from transformers import AutoConfig

from clvq_hf import SparseConfig, __version__


def test_defaults_are_those_of_the_design():
    config = SparseConfig(hidden_size=768)
    assert (config.model_type, config.codebook_size, config.activation) == ("sparse_dictionary", 4096, "relu")
    assert (config.num_active, config.sparsity_cost, config.revive_after) == (None, 0.2, None)
    assert (config.scale_states, config.has_skip, config.has_decoder) == (True, False, True)
    assert config.target_hidden_size == 768 and config.clvq_version == __version__


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of"),
        ({"activation": "topk"}, "num_active must be an integer of at least 1, got None"),
        ({"activation": "topk", "num_active": 0}, "num_active must be an integer of at least 1"),
        ({"activation": "topk", "num_active": 9}, "num_active=9 is more than codebook_size=8"),
        ({"num_active": 4}, "num_active applies only to activation='topk', got activation='relu'"),
        ({"sparsity_cost": -1.0}, "sparsity_cost must not be negative"),
        ({"sparsity_cost": "much"}, "sparsity_cost must be a number"),
        ({"revive_after": 0}, "revive_after counts optimizer steps"),
        ({"codebook_size": 0}, "codebook_size must be an integer of at least 1"),
        ({"lower_layer": 8, "upper_layer": 4}, "swap"),
        ({"stack": "both"}, "stack must be one of"),
    ],
)
def test_bad_values_name_the_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        SparseConfig(**{"hidden_size": 16, "codebook_size": 8, **fields})


def test_absurd_sizes():
    for fields in ({"codebook_size": 4 * 10**9}, {"hidden_size": 4 * 10**9}, {"hidden_size": 10**6, "has_skip": True}):
        with pytest.raises(ValueError, match="is refused"):
            SparseConfig(**fields)
    # Without the decoder, half of it.
    SparseConfig(hidden_size=10_000, codebook_size=1_000_000, has_decoder=False)
    with pytest.raises(ValueError, match="75 GiB"):
        SparseConfig(hidden_size=10_000, codebook_size=1_000_000)


def test_saved_and_loaded(tmp_path):
    config = SparseConfig(hidden_size=64, lower_layer=2, upper_layer=5, activation="topk", num_active=7, has_skip=True)
    config.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SparseConfig
    assert SparseConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


class TestFromHost:
    def test_reads_widths_off_the_host(self, host, causal_host):
        for each in (host, causal_host):
            config = SparseConfig.from_host(each, 1, 3, codebook_size=7)
            assert (config.hidden_size, config.target_hidden_size, config.codebook_size) == (32, 32, 7)
            assert config.host_architecture == type(each).__name__
            assert not hasattr(config, "is_causal"), "of a method that sees one token at a time there is no such thing"

    def test_the_sparse_autoencoder_of_the_paper(self, host):
        config = SparseConfig.sae(host, 2, 2)
        assert (config.activation, config.num_active, config.codebook_size) == ("relu", None, 4096)
        assert config.sparsity_cost > 0

    def test_a_transcoder(self, host):
        config = SparseConfig.transcoder(host, 1, 3, codebook_size=100)
        assert (config.activation, config.num_active, config.sparsity_cost) == ("topk", 32, 0.0)
        assert SparseConfig.transcoder(host, 1, 3, codebook_size=100, num_active=5).num_active == 5

    def test_a_misspelt_field_is_not_swallowed(self, host):
        with pytest.raises(ValueError, match="no field 'num_activ'"):
            SparseConfig.transcoder(host, 1, 3, num_activ=7)
