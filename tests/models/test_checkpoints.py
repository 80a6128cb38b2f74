"""Weights and layers that were not saved together are refused, whatever they are loaded as."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clvq_hf import CLVQModel, ConceptModel

EARLIER = Path(__file__).parents[1] / "fixtures" / "checkpoints"


@pytest.fixture
def model(make_model):
    return make_model().eval()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **fields):
    file = folder / "config.json"
    content = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


class TestWeights:
    def test_a_flipped_bit_in_any_tensor(self, model, folder):
        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        places = json.loads(whole[8:header])
        names = [name for name in places if name != "__metadata__"]
        assert {name.split(".")[0] for name in names} >= {"encoder", "quantizer", "decoder"}
        for name in names:
            start, end = places[name]["data_offsets"]
            damaged = bytearray(whole)
            damaged[header + (start + end) // 2] ^= 1
            weights.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"model is damaged.*not those that were saved together\. Get it"):
                CLVQModel.from_pretrained(folder)
        weights.write_bytes(whole)
        assert CLVQModel.from_pretrained(folder).fingerprint() == model.fingerprint()

    def test_of_another_model(self, folder, make_model, tmp_path):
        make_model(seed=1).save_pretrained(tmp_path / "other")
        shutil.copy(tmp_path / "other" / "model.safetensors", folder)
        with pytest.raises(ValueError, match="files are of different models"):
            ConceptModel.from_pretrained(folder)

    def test_of_another_layer(self, folder):
        edit_config(folder, lower_layer=0)
        with pytest.raises(ValueError, match="layers are not those"):
            ConceptModel.from_pretrained(folder)

    def test_that_were_changed_on_purpose(self, folder):
        edit_config(folder, lower_layer=0, fingerprint=None, weights_checksum=None)
        assert ConceptModel.from_pretrained(folder).config.lower_layer == 0

    def test_may_be_loaded_as_something_else(self, model, folder):
        for options in (
            {"dtype": torch.bfloat16},
            {"dtype": torch.float16},
            {"dtype": "auto"},
            {"has_decoder": False},
            {"lower_layer": 0},
            {"config": model.config},
        ):
            ConceptModel.from_pretrained(folder, **options)

    def test_of_a_variant(self, model, tmp_path):
        model.save_pretrained(tmp_path, variant="half")
        for dtype in (torch.float32, torch.float16):
            assert ConceptModel.from_pretrained(tmp_path, variant="half", dtype=dtype).dtype == dtype
        file = tmp_path / "model.half.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        with pytest.raises(ValueError, match="is damaged"):
            ConceptModel.from_pretrained(tmp_path, variant="half")

    def test_of_the_callers_own(self, make_model):
        other = make_model(seed=1)
        loaded = CLVQModel.from_pretrained(None, config=other.config, state_dict=other.state_dict())
        assert loaded.fingerprint() == other.fingerprint()

    def test_the_fingerprint_is_of_what_is_saved(self, model, folder, make_model):
        other = make_model(seed=1)
        model.save_pretrained(folder, state_dict=other.state_dict())
        assert CLVQModel.from_pretrained(folder).fingerprint() == other.fingerprint()

    def test_in_several_files(self, model, tmp_path):
        model.save_pretrained(tmp_path, max_shard_size="10KB")
        assert CLVQModel.from_pretrained(tmp_path).fingerprint() == model.fingerprint()
        shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
        damaged = bytearray(shard.read_bytes())
        damaged[-1] ^= 1
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            CLVQModel.from_pretrained(tmp_path)

    def test_of_earlier_versions(self, tmp_path):
        for version in ("v0.1.0", "v0.2.0"):
            shutil.copytree(EARLIER / version, tmp_path / version)
            ConceptModel.from_pretrained(tmp_path / version)
        file = tmp_path / "v0.2.0" / "model.safetensors"
        tensors = load_file(file)
        tensors["quantizer.ema_sums"][0, 0] += 1e-3
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match="is damaged"):
            ConceptModel.from_pretrained(tmp_path / "v0.2.0")

    @pytest.mark.parametrize("number", [torch.nan, torch.inf])
    @pytest.mark.parametrize("name", ["quantizer.ema_sums", "encoder.mix_logit", "quantizer.ema_counts"])
    def test_that_are_not_finite(self, model, tmp_path, name, number):
        with torch.no_grad():
            model.state_dict()[name].view(-1)[0] = number
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=rf"NaN or infinite numbers in {name}.*codes would mean nothing"):
            ConceptModel.from_pretrained(tmp_path)
