"""`Readout`: the prediction of a host for a text, as one row of logits, and its margin."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto

from .host import unwrap

# Names that datasets and transformers give to classes without one.
_NAMELESS = re.compile(r"(?:LABEL_)?([+-]?\d+)", re.IGNORECASE)


def label_number(name: str) -> int | None:
    """The number in a name that says nothing else (`"LABEL_1"`, `"1"`); `None` for other names."""
    found = _NAMELESS.fullmatch(name.strip())
    return None if found is None else int(found[1])


def class_names(host: PreTrainedModel) -> list[str] | None:
    """Names of the classes that a host chooses from, in the order of their ids; `None` if it has no head for that.

    Classes without names are called `LABEL_0`, `LABEL_1`, …, and so are those that share a name.
    """
    readout = Readout.of_or_none(host)
    if readout is None or readout.kind != "classification":
        return None
    config: Any = unwrap(host).config
    if config.problem_type not in (None, "single_label_classification"):
        return None
    # Keys are strings where somebody set them as a config.json has them.
    known = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    names = [known.get(number, f"LABEL_{number}") for number in range(config.num_labels)]
    return names if len(set(names)) == len(names) else [f"LABEL_{number}" for number in range(len(names))]


def margins(logits: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the logit of each row's class `prediction` `(N,)` minus the best other one, `(N,)`, from `(N, C)`."""
    chosen = logits.gather(-1, prediction[:, None])[:, 0]
    return chosen - logits.scatter(-1, prediction[:, None], -torch.inf).amax(-1)


@dataclass(frozen=True)
class Readout:
    """Reads a host's prediction for a text as one row of logits.

    Attributes:
        kind (`str`): `"classification"` (a sequence classification head), `"next_token"` (the token that a causal
            language model predicts after the last real one) or `"verbalizer"` (the same, among label words only).
        token_ids (`tuple[int, ...]`): Ids of the label words; empty for the other kinds.
    """

    kind: str
    token_ids: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        label_words: Sequence[str] | None = None,
    ) -> "Readout":
        """Return the readout that fits a host.

        Args:
            host (`PreTrainedModel`): With a sequence classification head, or a causal language model.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed for `label_words`.
            label_words (`Sequence[str]`, *optional*): One word per class, as it follows the prompt (`" good"`, with its
                space); only the first token of each is used.

        Raises:
            ValueError: If the host makes no prediction of these kinds, or two label words begin with the same token.
        """
        model = unwrap(host)
        name = type(model).__name__
        if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            if label_words is None:
                return cls("next_token")
            if tokenizer is None:
                raise ValueError("Label words need the host's tokenizer.")
            ids = tuple(tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in label_words)
            if len(set(ids)) < len(ids) or len(ids) < 2:
                raise ValueError(
                    f"The label words {list(label_words)} begin with the tokens {list(ids)}; pass at least two words "
                    "that begin with different tokens."
                )
            return cls("verbalizer", ids)
        if label_words is not None:
            raise ValueError(f"Label words need a causal language model, and the host is a {name}.")
        if name not in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
            raise ValueError(
                f"A {name} predicts neither classes nor next tokens. Load the host with "
                "AutoModelForSequenceClassification or AutoModelForCausalLM."
            )
        if (model.config.num_labels or 0) < 2 or model.config.problem_type == "multi_label_classification":
            raise ValueError(
                "The host's head does not choose one of several classes (it has "
                f"{model.config.num_labels} label(s), problem_type={model.config.problem_type!r}), so it has no margin."
            )
        return cls("classification")

    @classmethod
    def of_or_none(cls, host: PreTrainedModel) -> "Readout | None":
        """Return the readout that fits a host, or `None` if its prediction is of another kind."""
        try:
            return cls.of(host)
        except ValueError:
            return None

    def __call__(self, output: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(B, C)`, float32.

        Args:
            output (`ModelOutput`): The host's output.
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


__all__ = ["Readout", "class_names", "label_number", "margins"]
