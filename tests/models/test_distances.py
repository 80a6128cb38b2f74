import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from clvq_hf import ClusterConfig, ClusterModel, ConceptModel
from clvq_hf.hub.repositories import DISTANCES_NAME
from clvq_hf.models.distances import LEVELS, DistanceQuantiles


def made_quantiles() -> DistanceQuantiles:
    """Code 0 has 100 tokens at distances 1 to 100, code 1 has 10 at 1,000, code 2 has none."""
    distances = np.concatenate([np.arange(1.0, 101), np.full(10, 1000.0)])
    codes = np.repeat([0, 1], [100, 10])
    order = np.random.default_rng(0).permutation(110)
    return DistanceQuantiles.of(distances[order], codes[order], 3, "mine")


class TestDistanceQuantiles:
    def test_are_per_code_and_overall(self):
        found = made_quantiles()
        assert found.counts.tolist() == [100, 10, 0]
        # Of 1, …, 100: 1 + 99 · level.
        np.testing.assert_allclose(found.quantiles[0], 1 + 99 * np.array(LEVELS), rtol=1e-6)
        assert (found.quantiles[1] == 1000).all() and np.isnan(found.quantiles[2]).all()
        assert found.overall[LEVELS.index(0.5)] == 55.5 and found.overall[LEVELS.index(0.95)] == 1000

    def test_outliers_are_beyond_the_quantile_of_their_code(self):
        found = made_quantiles()
        distances = torch.tensor([[99.0, 99.5, torch.nan], [50.0, 51.0, 0.0]])
        codes = torch.tensor([[0, 0, -1], [0, 0, 0]])
        assert found.outliers(distances, codes).tolist() == [[False, True, False], [False] * 3]  # 99.01
        assert found.outliers(distances, codes, 0.5).tolist() == [[True, True, False], [False, True, False]]  # 50.5

    def test_rare_codes_are_judged_by_all_tokens(self):
        found = made_quantiles()
        codes = np.array([1, 2])
        np.testing.assert_allclose(found.limits(codes, 0.5), 55.5)
        assert found.outliers(np.array([56.0, 56.0]), codes, 0.5).all()
        assert not found.outliers(np.array([55.0, 1000.0]), codes, 0.95).any()

    def test_an_unknown_level_names_those_there_are(self):
        with pytest.raises(ValueError, match=r"level must be one of \[0.05, .*0.99\], got 0.8"):
            made_quantiles().outliers(np.ones(1), np.zeros(1, dtype=int), 0.8)

    @pytest.mark.parametrize("distances", [[], [1.0, np.nan], [np.inf]])
    def test_refuse_what_has_no_quantiles(self, distances):
        with pytest.raises(ValueError, match="at least one token"):
            DistanceQuantiles.of(np.array(distances), np.zeros(len(distances), dtype=int), 3, "mine")

    def test_are_the_same_after_saving(self, tmp_path):
        made_quantiles().save(tmp_path / DISTANCES_NAME)
        loaded = DistanceQuantiles.load(tmp_path / DISTANCES_NAME)
        for name, value in vars(made_quantiles()).items():
            np.testing.assert_array_equal(getattr(loaded, name), value)

    @pytest.mark.parametrize("content", ["bytes", "other tensors", "no fingerprint"])
    def test_damaged_files_are_refused(self, content, tmp_path):
        file = tmp_path / DISTANCES_NAME
        if content == "bytes":
            file.write_bytes(b"nothing")
        elif content == "other tensors":
            save_file({"levels": np.ones(1)}, file, metadata={"fingerprint": "mine"})
        else:
            arrays = {name: value for name, value in vars(made_quantiles()).items() if name != "fingerprint"}
            save_file(arrays, file)
        with pytest.raises(ValueError, match="damaged"):
            DistanceQuantiles.load(file)


class TestDistances:
    """Each method's are re-derived here from its public parts, in float64."""

    def test_of_clvq_are_in_the_encoders_space(self, make_model, batch):
        states, mask, _ = batch
        model = make_model(encoder_mix_logit=1.0).eval()
        model.quantizer.set_codebook(torch.randn(12, 32))
        output = model(states, mask)
        found = model.distances(states, mask)
        expected = (output.encoder_states - output.quantized).double().square().sum(-1).sqrt()
        assert found.dtype == torch.float32 and torch.equal(found.isnan(), mask == 0)
        torch.testing.assert_close(found[mask == 1].double(), expected[mask == 1])
        # The code is the nearest one: no other is nearer.
        for code in range(12):
            other = model.distances(states, mask, codes=torch.full(mask.shape, code))
            assert torch.equal(other.isnan(), mask == 0) and (found <= other + 1e-5)[mask == 1].all()

    def test_of_centred_clvq_do_not_depend_on_a_shift(self, make_model, batch):
        states, mask, _ = batch
        model = make_model(center_states=True).eval()
        model.quantizer.set_codebook(torch.randn(12, 32))
        before = model.distances(states, mask)
        model.encoder.center.add_(100)
        torch.testing.assert_close(model.distances(states + 100, mask), before, equal_nan=True, rtol=1e-4, atol=1e-4)

    def test_of_clusters_are_to_the_centroid(self, batch):
        states, mask, _ = batch
        model = ClusterModel(ClusterConfig(hidden_size=32, codebook_size=4, lower_layer=1, upper_layer=3)).eval()
        expected = torch.cdist(states.double(), model.codebook.double().expand(3, -1, -1)).amin(-1)
        torch.testing.assert_close(model.distances(states, mask)[mask == 1].double(), expected[mask == 1])

    def test_of_sparse_dictionaries_are_angles(self, make_sparse, batch):
        states, mask, _ = batch
        model = make_sparse(activation="relu").eval()
        model.initialize_codebook(states[mask == 1], states[mask == 1])
        codes = model.encode(states, mask)
        centred = model.encoder.centred(states).double()
        rows = model.encoder.weight.double()[codes.clamp(min=0)]
        expected = 1 - (centred * rows).sum(-1) / centred.norm(dim=-1) / rows.norm(dim=-1)
        found = model.distances(states, mask)
        torch.testing.assert_close(found[mask == 1].double(), expected[mask == 1], rtol=1e-4, atol=1e-6)
        assert torch.equal(found.isnan(), mask == 0)
        torch.testing.assert_close(model.codebook_only().distances(states, mask), found, equal_nan=True)
        # A state in the direction of a neuron's row is as near to it as can be.
        row = (model.encoder.weight[5] + model.encoder.input_bias) / model.encoder.input_scale
        assert abs(model.distances(row[None, None], codes=torch.tensor([[5]]))) < 1e-5

    def test_of_other_methods_are_relative(self, make_model, batch):
        states, mask, _ = batch
        model = make_model().eval()
        model.quantizer.set_codebook(torch.randn(12, 32))
        codes = model.encode(states, mask)
        found = super(type(model), model).distances(states, mask)
        lengths = states.double().norm(dim=-1)
        expected = (states - model.codebook[codes.clamp(min=0)]).double().norm(dim=-1) / lengths
        torch.testing.assert_close(found[mask == 1].double(), expected[mask == 1])
        model.codes_are_states = False
        assert super(type(model), model).distances(states, mask) is None
        assert ConceptModel.record_distances(_Directions(model), states[0]) is None

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_are_float32_for_states_of_any_dtype(self, dtype, make_model, make_sparse, batch):
        states, mask, _ = batch
        for model in (make_model().eval(), make_sparse().eval()):
            found = model.distances(states.to(dtype), mask)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, model.distances(states.to(dtype).float(), mask), equal_nan=True)

    def test_nan_on_padding_stays_there(self, make_model, make_sparse, batch):
        states, mask, _ = batch
        broken = torch.where(mask[..., None] == 1, states, torch.nan)
        for model in (make_model().eval(), make_sparse().eval()):
            assert torch.equal(model.distances(broken, mask).isnan(), mask == 0)

    def test_codes_of_other_texts_are_refused(self, make_model, batch):
        states, mask, _ = batch
        with pytest.raises(ValueError, match="codes has the shape"):
            make_model().distances(states, mask, codes=torch.zeros(3, 5, dtype=torch.long))


class _Directions:
    """A method whose codes are no states."""

    def __init__(self, model):
        self.device, self.encode = model.device, model.encode

    def distances(self, hidden_states, attention_mask=None, codes=None):
        return None


class TestKeptWithTheModel:
    @pytest.fixture
    def model(self, make_model):
        model = make_model().eval()
        model.quantizer.set_codebook(torch.randn(12, 32, generator=torch.Generator().manual_seed(0)))
        return model

    @pytest.fixture
    def states(self):
        return torch.randn(300, 32, generator=torch.Generator().manual_seed(2))

    def test_quantiles_are_those_of_the_states(self, model, states, monkeypatch):
        monkeypatch.setattr("clvq_hf.models.modeling_saved.TOKENS_AT_ONCE", 70)
        found = model.record_distances(states)
        codes, distances = model.encode(states[None])[0], model.distances(states[None])[0]
        assert found.counts.tolist() == torch.bincount(codes, minlength=12).tolist()
        code = int(found.counts.argmax())
        np.testing.assert_allclose(
            found.quantiles[code, LEVELS.index(0.5)], distances[codes == code].median(), rtol=0.1
        )
        np.testing.assert_allclose(found.overall, np.quantile(distances.numpy(), LEVELS), rtol=1e-5)
        assert 0.005 < model.distance_quantiles.outliers(distances, codes).mean() < 0.02

    def test_are_saved_and_loaded(self, model, states, tmp_path):
        assert model.distance_quantiles is None
        found = model.record_distances(states)
        model.save_pretrained(tmp_path)
        loaded = ConceptModel.from_pretrained(tmp_path)
        np.testing.assert_array_equal(loaded.distance_quantiles.quantiles, found.quantiles)
        bare = loaded.codebook_only()
        np.testing.assert_array_equal(bare.distance_quantiles.overall, found.overall)
        loaded.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / DISTANCES_NAME).is_file()

    def test_of_other_codes_are_refused(self, model, states, tmp_path):
        model.record_distances(states)
        model.save_pretrained(tmp_path)
        with torch.no_grad():
            model.quantizer.ema_sums.mul_(2)
        assert model.distance_quantiles is None
        kept = (tmp_path / DISTANCES_NAME).read_bytes()
        model.save_pretrained(tmp_path)
        assert not (tmp_path / DISTANCES_NAME).exists()
        (tmp_path / DISTANCES_NAME).write_bytes(kept)
        assert ConceptModel.from_pretrained(tmp_path).distance_quantiles is None

    def test_a_damaged_file_does_not_keep_a_model_from_being_saved(self, model, states, tmp_path):
        model.record_distances(states)
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / DISTANCES_NAME).write_bytes(b"nothing")
        loaded = ConceptModel.from_pretrained(tmp_path / "model")
        with pytest.raises(ValueError, match="damaged"):
            _ = loaded.distance_quantiles
        loaded.save_pretrained(tmp_path / "again")
        assert not (tmp_path / "again" / DISTANCES_NAME).exists()

    def test_models_of_earlier_versions_have_none(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert ConceptModel.from_pretrained(tmp_path).distance_quantiles is None
