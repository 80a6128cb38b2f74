"""Small random hosts with every kind of head, whose answers vary with the text."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

JIGSAW = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
TAGS = ["O", "PER", "LOC"]


def bert_with(
    kind: str, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], names: Sequence[str] | None = None
) -> PreTrainedModel:
    """A random BERT, 4 blocks and 32 wide, with a head for `"multi_label"`, `"regression"` or `"tokens"`.

    Its outputs are shifted so that their medians over `texts` are 0 (those of tokens are as they come).
    """
    torch.manual_seed(0)
    names = names or {"multi_label": JIGSAW, "regression": ["LABEL_0"], "tokens": TAGS}[kind]
    fields: dict[str, Any] = {"problem_type": "multi_label_classification"} if kind == "multi_label" else {}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        **fields,
    )
    host = (BertForTokenClassification if kind == "tokens" else BertForSequenceClassification)(config).eval()
    with torch.no_grad():
        host.classifier.weight *= 20
        # Without biases a state of zero stays one, and the output jumps there.
        for name, parameter in host.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, 0, 0.3)
        if kind != "tokens":
            encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
            host.classifier.bias -= host(**encoded).logits.median(0).values
    return host
