"""What a config refuses, and the checkpoints of every released version, which load for ever."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clvq_hf import CLVQConfig, CLVQModel, __version__
from clvq_hf.models.configuration_concepts import MAX_MODEL_BYTES, check_version

CHECKPOINTS = sorted((Path(__file__).parents[1] / "fixtures" / "checkpoints").iterdir())


class TestReleasedVersions:
    def test_there_is_one_of_this_version(self):
        assert f"v{__version__}" in [folder.name for folder in CHECKPOINTS]

    @pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
    def test_it_gives_what_it_gave(self, folder):
        model = CLVQModel.from_pretrained(folder)
        expected = json.loads((folder / "expected.json").read_text())
        states, mask = torch.tensor(expected["hidden_states"]), torch.tensor(expected["attention_mask"])
        assert model.encode(states, mask).tolist() == expected["codes"]
        assert model.fingerprint() == expected["fingerprint"]
        found = model(states, mask).reconstruction * mask[..., None]
        assert torch.allclose(found, torch.tensor(expected["reconstruction"]), atol=1e-5)
        assert model.config.clvq_version == folder.name.removeprefix("v")
        if "reference_codes" in expected:
            assert [text.codes for text in model.reference.texts] == expected["reference_codes"]
            assert model.concepts.column("code").tolist() == expected["table_codes"]

    @pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
    def test_saved_again_it_is_the_same(self, folder, tmp_path):
        CLVQModel.from_pretrained(folder).save_pretrained(tmp_path)
        before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
        assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)
        # The version that made it, not the one that saved it.
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["clvq_version"] == folder.name.removeprefix("v")


class TestVersions:
    def test_a_newer_major_version_is_refused(self, make_config, tmp_path):
        make_config().save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**content, "clvq_version": "7.2.1"}))
        with pytest.raises(ValueError, match=r"made with clvq-hf 7\.2\.1.*pip install 'clvq-hf>=7'"):
            CLVQConfig.from_pretrained(tmp_path)

    def test_others_are_read(self):
        for version in (None, "0.0.1", "0.99.0", "0.2.0.dev1", __version__):
            check_version(version)
        for version in ("new", "", "x.1"):
            with pytest.raises(ValueError, match="is no version"):
                check_version(version)

    def test_unknown_fields_warn_and_are_left_out(self, make_config, tmp_path, caplog):
        make_config().save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text())
        newer = {**content, "clvq_version": "0.9.0", "gate": "soft", "auto_map": {"AutoModel": "evil.Evil"}}
        (tmp_path / "config.json").write_text(json.dumps(newer))
        config = CLVQConfig.from_pretrained(tmp_path)
        assert "does not know the fields ['auto_map', 'gate']" in caplog.text and "0.9.0" in caplog.text
        assert not hasattr(config, "gate") and not hasattr(config, "auto_map")
        assert config.codebook_size == 12

    def test_known_fields_do_not_warn(self, make_config, tmp_path, caplog):
        make_config(training={"dataset": "x"}, dtype="bfloat16").save_pretrained(tmp_path)
        CLVQConfig.from_pretrained(tmp_path, codebook_size=13)
        assert caplog.text == ""

    def test_another_way_to_count_layers(self, make_config):
        with pytest.raises(ValueError, match="its layer numbers mean other states"):
            make_config(layer_convention="blocks")


class TestSizes:
    @pytest.mark.parametrize(
        "fields",
        [
            {"codebook_size": 10**9},
            {"hidden_size": 10**6},
            {"num_decoder_layers": 10**9},
            {"intermediate_size": 10**12},
            {"target_hidden_size": 10**9},
            {"hidden_size": 8, "codebook_size": 10**9},
            {"hidden_size": 8, "num_decoder_layers": 10**5},
        ],
    )
    def test_what_no_machine_holds_is_refused_at_once(self, fields):
        with pytest.raises(ValueError, match=r"would take [\d,]+ GiB; more than 64 GiB is refused|is a mistake"):
            CLVQConfig(**{"hidden_size": 1024, **fields})

    def test_what_is_large_is_not(self):
        # A codebook of a million for an 8B host.
        assert CLVQConfig(hidden_size=4096, codebook_size=10**6).model_bytes() < MAX_MODEL_BYTES

    @pytest.mark.parametrize("has_decoder", [True, False])
    def test_the_estimate_is_about_right(self, make_config, has_decoder):
        config = make_config(hidden_size=64, intermediate_size=256, codebook_size=500, has_decoder=has_decoder)
        model = CLVQModel(config)
        actual = sum(tensor.nbytes for tensor in model.state_dict().values())
        assert config.model_bytes() == pytest.approx(actual, rel=0.15)


@pytest.mark.parametrize(
    "fields", [{"temperature": "1"}, {"dropout": None}, {"lower_layer": "3"}, {"hidden_size": True + 0.5}]
)
def test_values_of_another_type(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        CLVQConfig(**{"hidden_size": 16, **fields})
