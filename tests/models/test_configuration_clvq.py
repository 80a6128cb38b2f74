import pytest

from clvq_hf import CLVQConfig, __version__
from clvq_hf.hosts.hooks import UnsupportedHostError


def test_defaults_are_those_of_the_design():
    config = CLVQConfig(hidden_size=768)
    assert (config.codebook_size, config.top_k, config.temperature) == (400, 5, 1.0)
    assert (config.ema_decay, config.ema_epsilon, config.commitment_cost) == (0.99, 1e-5, 0.1)
    assert (config.num_decoder_layers, config.num_attention_heads, config.intermediate_size) == (2, 8, 2048)
    assert (config.dropout, config.decoder_memory, config.is_causal) == (0.1, "quantized", False)
    assert config.target_hidden_size == 768
    assert config.clvq_version == __version__


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lower_layer": 8, "upper_layer": 4}, "swap"),
        ({"lower_layer": -1}, "counts from 0"),
        ({"codebook_size": 0}, "codebook_size must be an integer of at least 1"),
        ({"codebook_size": 400.5}, "codebook_size must be an integer"),
        ({"num_decoder_layers": "6"}, "num_decoder_layers must be an integer"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"ema_decay": 1.0}, "ema_decay must lie in"),
        ({"dropout": 1.5}, "dropout must lie in"),
        ({"hidden_size": 30, "num_attention_heads": 8}, r"Choose one of \[1, 2, 3, 5, 6, 10, 15\]"),
        ({"decoder_memory": "open"}, "decoder_memory must be one of"),
        ({"codebook_init": "zeros"}, "codebook_init must be one of"),
        ({"stack": "both"}, "stack must be one of"),
        ({"revive_after": 0}, "revive_after"),
        ({"commitment_cost": -1.0}, "commitment_cost"),
        ({"encoder_max_mix": 2.0}, "encoder_max_mix"),
    ],
)
def test_bad_values_name_the_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        CLVQConfig(**{"hidden_size": 16, **fields})


def test_equal_layers_make_a_single_layer_vqvae():
    assert CLVQConfig(hidden_size=16, lower_layer=3, upper_layer=3).upper_layer == 3


def test_saved_and_loaded(tmp_path):
    config = CLVQConfig(hidden_size=64, lower_layer=2, upper_layer=5, revive_after=10, is_causal=True)
    config.save_pretrained(tmp_path)
    assert CLVQConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


class TestFromHost:
    def test_reads_widths_and_causality_off_the_host(self, host, causal_host):
        config = CLVQConfig.from_host(host, lower_layer=1, upper_layer=4, codebook_size=7)
        assert (config.hidden_size, config.target_hidden_size, config.is_causal) == (32, 32, False)
        assert (config.lower_layer, config.upper_layer, config.codebook_size) == (1, 4, 7)
        assert CLVQConfig.from_host(causal_host, 0, 4).is_causal

    def test_records_the_host(self, host, tmp_path):
        host.save_pretrained(tmp_path)
        loaded = type(host).from_pretrained(tmp_path)
        loaded.config._commit_hash = "0123abc"
        config = CLVQConfig.from_host(loaded, 1, 4)
        assert config.host_name_or_path == str(tmp_path)
        assert config.host_revision == "0123abc"

    @pytest.mark.parametrize(("lower", "upper"), [(1, 5), (5, 5), (9, 4), (-1, 2)])
    def test_out_of_range_says_how_many_blocks_there_are(self, host, lower, upper):
        with pytest.raises(ValueError, match="4 blocks"):
            CLVQConfig.from_host(host, lower, upper)

    def test_a_misspelt_field_is_not_swallowed(self, host):
        with pytest.raises(ValueError, match="no field 'codebok_size'"):
            CLVQConfig.from_host(host, 1, 3, codebok_size=7)

    def test_swapped_layers(self, host):
        with pytest.raises(ValueError, match="swap"):
            CLVQConfig.from_host(host, 3, 1)

    def test_the_paper_preset_opens_the_memory_and_has_six_layers(self, host):
        paper = CLVQConfig.paper(host, 1, 4)
        assert (paper.decoder_memory, paper.num_decoder_layers) == ("encoder", 6)
        assert CLVQConfig.from_host(host, 1, 4).num_decoder_layers == 2
        assert CLVQConfig.paper(host, 1, 4, codebook_size=50).codebook_size == 50

    def test_a_saved_config_without_the_number_of_layers_has_those_of_its_time(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "clvq", "clvq_version": "0.1.0", "hidden_size": 64}')
        assert CLVQConfig.from_pretrained(tmp_path).num_decoder_layers == 6
        CLVQConfig(hidden_size=64).save_pretrained(tmp_path)
        assert CLVQConfig.from_pretrained(tmp_path).num_decoder_layers == 2

    def test_what_is_no_text_model_is_refused(self):
        import torch

        with pytest.raises((UnsupportedHostError, TypeError)):
            CLVQConfig.from_host(torch.nn.Linear(2, 2), 0, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", float("nan")), ("dropout", float("nan")), ("commitment_cost", float("inf")), ("revive_after", "3"),
     ("is_causal", "yes"), ("lower_layer", "1"), ("host_name_or_path", 5), ("training", [1]), ("stack", ["encoder"]),
     ("top_k", True), ("encoder", []), ("num_decoder_layers", 10**30), ("upper_layer", 10**30)],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        CLVQConfig(**{"lower_layer": 1, "upper_layer": 2, field: value})
