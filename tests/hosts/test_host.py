import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    BartModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from clvq_hf.hosts import hooks, load_host

SMALL = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


class TestMaxLength:
    def test_the_least_of_tokenizer_config_and_wish(self, host, tokenizer):
        assert tokenizer.model_max_length == 512
        assert hooks.max_length(host, tokenizer) == 128
        assert hooks.max_length(host, tokenizer, 50) == 50
        assert hooks.max_length(host, tokenizer, 5000) == 128
        tokenizer.model_max_length = 30
        assert hooks.max_length(host, tokenizer) == 30

    def test_roberta_reserves_positions_for_padding(self, tokenizer):
        roberta = RobertaModel(
            RobertaConfig(**SMALL, intermediate_size=16, max_position_embeddings=66, pad_token_id=1)
        )
        assert hooks.max_length(roberta, tokenizer) == 64
        # As the host itself says: 64 tokens go through, 65 do not.
        roberta(torch.full((1, 64), 5))

    def test_other_names_for_it(self, tokenizer):
        gpt2 = GPT2Model(GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2, n_positions=77))
        bart = BartModel(
            BartConfig(vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1, max_position_embeddings=88)
        )
        assert (hooks.max_length(gpt2, tokenizer), hooks.max_length(bart, tokenizer)) == (77, 88)

    def test_no_limit(self, tokenizer):
        tokenizer.model_max_length = int(1e30)
        t5 = T5Model(T5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
        assert hooks.max_length(t5, tokenizer) is None


def test_input_device(host):
    assert hooks.input_device(host) == torch.device("cpu")


@pytest.mark.parametrize(
    ("gguf_file", "expected"), [("m.gguf", AutoModelForCausalLM), (None, AutoModel)], ids=["gguf", "safetensors"]
)
def test_a_gguf_file_is_loaded_with_its_head(gguf_file, expected, monkeypatch):
    """Its config names no class; the bare model of it could neither predict nor generate."""
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **kwargs: LlamaConfig())
    for kind in (AutoModel, AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", lambda *args, kind=kind, **kwargs: (kind, kwargs))
    kind, kwargs = load_host("folder", gguf_file=gguf_file)
    assert kind is expected and kwargs["gguf_file"] == gguf_file
