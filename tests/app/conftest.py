"""Explorers of real and of tiny hosts, with concepts fitted to real sentences."""

import pytest
import torch
from helpers.app_helpers import fitted
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from clvq_hf.app import Explorer


@pytest.fixture(scope="session")
def minilm(minilm_dir, all_texts, tmp_path_factory) -> Explorer:
    """The real MiniLM with a random head for two classes, concepts of its third layer, and their table."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
    torch.manual_seed(0)
    host = AutoModelForSequenceClassification.from_pretrained(
        minilm_dir, num_labels=2, id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1}
    ).eval()
    # A pretrained pooler and a random head tell all texts alike; a larger head does not.
    torch.nn.init.normal_(host.classifier.weight, std=0.5)
    model = fitted(host, tokenizer, all_texts.select(range(60)), 3, 6, 60)
    table = model.concept_table(
        host, tokenizer, all_texts.select(range(60, 200)), output_dir=tmp_path_factory.mktemp("minilm") / "table"
    )
    return Explorer(model, host, tokenizer, table)


@pytest.fixture(scope="session")
def llama(minilm_dir, all_texts) -> Explorer:
    """A tiny random Llama that goes on with texts; without a concept table."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.3,  # else all prompts lead to the same token
    )
    host = LlamaForCausalLM(config).eval()
    return Explorer(fitted(host, tokenizer, all_texts.select(range(60)), 1, 3, 12), host, tokenizer)
