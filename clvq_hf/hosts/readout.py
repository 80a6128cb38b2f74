"""What a host predicts for a text: one row of logits, and the margin of its prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto

from . import hooks


def margins(logits: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Logit of one class minus the best other one, `(N,)`, from `(N, C)`."""
    chosen = logits.gather(-1, prediction[:, None])[:, 0]
    return chosen - logits.scatter(-1, prediction[:, None], -torch.inf).amax(-1)


@dataclass(frozen=True)
class Readout:
    """What a host predicts for a text, as one row of logits.

    Attributes:
        kind (`str`): `"classification"` (a sequence classification head), `"next_token"` (a causal language model's
            next token, after the last real one) or `"verbalizer"` (the same, among label words alone).
        token_ids (`tuple[int, ...]`): Of the label words; empty for the other kinds.
    """

    kind: str
    token_ids: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        host: Any,
        tokenizer: PreTrainedTokenizerBase | None = None,
        label_words: Sequence[str] | None = None,
    ) -> "Readout":
        """The readout that fits a host.

        Args:
            host (`PreTrainedModel`): With a sequence classification head, or a causal language model.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed for `label_words`.
            label_words (`Sequence[str]`, *optional*): One word per class, as it follows the prompt (`" good"`, with its
                space); the first token of each is looked at.

        Raises:
            ValueError: If the host predicts nothing that can be read, or two label words begin with one token.
        """
        model = hooks.unwrap(host)
        name = type(model).__name__
        if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            if label_words is None:
                return cls("next_token")
            ids = tuple(tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in label_words)
            if len(set(ids)) < len(ids) or len(ids) < 2:
                raise ValueError(
                    f"The label words {list(label_words)} begin with the tokens {list(ids)}; give at least two words "
                    "that begin with different ones."
                )
            return cls("verbalizer", ids)
        if label_words is not None:
            raise ValueError(f"Label words need a causal language model, and the host is a {name}.")
        if name not in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
            raise ValueError(
                f"A {name} predicts nothing that can be read here. Load the host with "
                "AutoModelForSequenceClassification or AutoModelForCausalLM."
            )
        if model.config.num_labels < 2 or model.config.problem_type == "multi_label_classification":
            raise ValueError(
                "The host's head does not choose one of several classes (it has "
                f"{model.config.num_labels} label(s), problem_type={model.config.problem_type!r}), so it has no margin."
            )
        return cls("classification")

    @classmethod
    def of_or_none(cls, host: Any) -> "Readout | None":
        """The readout that fits a host, `None` if it predicts nothing that can be read."""
        try:
            return cls.of(host)
        except ValueError:
            return None

    def __call__(self, output: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits of shape `(B, C)`, float32.

        Args:
            output (`ModelOutput`): What the host returned.
            attention_mask (`torch.Tensor` of shape `(B, S)`): Nonzero on real tokens; padding on either side.
        """
        logits = output.logits
        if self.kind != "classification":
            positions = torch.arange(attention_mask.shape[1], device=logits.device)
            last = (attention_mask.to(logits.device).bool() * positions).argmax(-1)
            logits = logits[torch.arange(len(logits), device=logits.device), last]
            if self.token_ids:
                logits = logits[:, list(self.token_ids)]
        return logits.float()


__all__ = ["Readout", "margins"]
