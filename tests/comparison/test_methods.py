import pytest
import torch

from clvq_hf import ClusterModel, CLVQModel, SparseDictionary
from clvq_hf.comparison.methods import Method, known_methods, make_model
from clvq_hf.hosts import load_host


class TestModels:
    @pytest.mark.parametrize(
        ("name", "kind", "layers"),
        [
            ("clvq", CLVQModel, (1, 3)),
            ("clvq-paper", CLVQModel, (1, 3)),
            ("vqvae", CLVQModel, (1, 1)),
            ("kmeans", ClusterModel, (1, 3)),
            ("agglomerative", ClusterModel, (1, 3)),
            ("sae", SparseDictionary, (1, 3)),
            ("sae-single-layer", SparseDictionary, (1, 1)),
            ("transcoder", SparseDictionary, (1, 3)),
            ("token-types", ClusterModel, (1, 3)),
        ],
    )
    def test_each_method_is_what_its_name_says(self, host, name, kind, layers):
        model = make_model(known_methods()[name], host, 1, 3, None)
        assert type(model) is kind and not model.is_initialized
        assert (model.config.lower_layer, model.config.upper_layer) == layers

    def test_records_of_earlier_runs_stay_valid(self):
        # `family` and `config` are in the digest by which a cell that has run is known again.
        recorded = {name: (method.family, dict(method.config)) for name, method in known_methods().items()}
        assert recorded["kmeans"] == ("clusters", {"algorithm": "kmeans"})
        assert recorded["random-states"] == ("clusters", {"algorithm": "random_states"})
        assert recorded["sae"] == ("sparse", {}) and recorded["clvq"] == ("clvq", {})

    def test_the_paper_leaves_the_memory_open(self, host):
        assert make_model(known_methods()["clvq-paper"], host, 1, 3, None).config.decoder_memory == "encoder"
        assert known_methods()["clvq-paper"].config["num_decoder_layers"] == 6
        assert make_model(known_methods()["clvq"], host, 1, 3, None).config.decoder_memory == "quantized"
        assert known_methods()["clvq-paper"].training["max_token_occurrences"] == 20

    def test_controls_that_cannot_be_ablated_are_not(self):
        not_ablated = {name for name, method in known_methods().items() if not method.ablates}
        assert not_ablated == {"reinitialised-host", "pretrained-host", "permuted-labels"}
        assert all(known_methods()[name].control for name in not_ablated)

    def test_a_saved_model_of_another_host_is_refused(self, fitted_model, saved_host, tokenizer, tmp_path):
        fitted_model.save_pretrained(tmp_path)
        method = Method("mine", "saved", config={"path": str(tmp_path)})
        host = load_host(str(saved_host))
        make_model(method, host, 1, 3, None)
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight.neg_()
        with pytest.raises(ValueError, match="NOT the right host"):
            make_model(method, host, 1, 3, None)

    def test_a_saved_model_takes_part(self, host, make_sparse, tmp_path):
        model = make_sparse(lower_layer=1, upper_layer=3)
        model.save_pretrained(tmp_path)
        loaded = make_model(Method("mine", "saved", config={"path": str(tmp_path)}), host, 1, 3, None)
        assert torch.equal(loaded.codebook, model.codebook)
        with pytest.raises(ValueError, match=r"is of the layers \(1, 3\), and this host is compared at 2 and 3"):
            make_model(Method("mine", "saved", config={"path": str(tmp_path)}), host, 2, 3, None)
