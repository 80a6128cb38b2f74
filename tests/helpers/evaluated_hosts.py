"""A small classifier whose predictions vary, and a concept model whose codes vary within a text."""

from collections.abc import Sequence

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from clvq_hf import CLVQConfig, CLVQModel


def balanced_classifier(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> BertForSequenceClassification:
    """A random BERT, 4 blocks and 32 wide, shifted so that it predicts either class for about half of the texts."""
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
    host = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        host.classifier.weight *= 20
        encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
        host.classifier.bias -= host(**encoded).logits.median(0).values
    return host


def clvq_on_states(
    host: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> CLVQModel:
    """A concept model of layers 1 and 3, fitted to the host's states."""
    torch.manual_seed(0)
    config = CLVQConfig(
        hidden_size=32,
        lower_layer=1,
        upper_layer=3,
        codebook_size=12,
        num_decoder_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    model = CLVQModel(config).eval()
    encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
    states = host(**encoded, output_hidden_states=True).hidden_states[1].detach()
    model.initialize_codebook(states[encoded["attention_mask"].bool()])
    return model
