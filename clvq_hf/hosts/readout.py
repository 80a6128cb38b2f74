"""`Readout`: the answer of a host to one question about a text, as one row of logits, and its margin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from .host import unwrap

logger = logging.get_logger(__name__)

# Names that datasets and transformers give to classes without one.
_NAMELESS = re.compile(r"(?:LABEL_)?([+-]?\d+)", re.IGNORECASE)
# Heads that give one row per text, and those that give one per token: of a vocabulary, of classes.
_OF_TEXTS = ("classification", "multi_label", "regression")
_OF_VOCABULARIES = ("next_token", "verbalizer", "continuation")
KINDS = (*_OF_TEXTS, *_OF_VOCABULARIES, "token_classification")
# What the class of tokens is called that belong to none, in the usual tag sets.
_OUTSIDE = ("o", "outside", "none")
# A probability of 1 has no finite odds: the least log-probability that the rest keeps is about -14.
_LARGEST_LOG_PROBABILITY = -1e-6


def label_number(name: str) -> int | None:
    """The number in a name that says nothing else (`"LABEL_1"`, `"1"`); `None` for other names."""
    found = _NAMELESS.fullmatch(name.strip())
    return None if found is None else int(found[1])


def class_names(host: PreTrainedModel) -> list[str] | None:
    """Names of the classes that a host chooses from, in the order of their ids; `None` if it has no head for that.

    Classes without names are called `LABEL_0`, `LABEL_1`, …, and so are those that share a name.
    """
    readout = Readout.of_or_none(host)
    return list(readout.class_names) if readout is not None and readout.kind == "classification" else None


def margins(logits: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the logit of each row's class `prediction` `(N,)` minus the best other one, `(N,)`, from `(N, C)`."""
    chosen = logits.gather(-1, prediction[:, None])[:, 0]
    return chosen - logits.scatter(-1, prediction[:, None], -torch.inf).amax(-1)


@dataclass(frozen=True)
class Readout:
    """One question about a text, and how a host's output answers it: always with one row of logits.

    | kind | question | row of logits |
    |---|---|---|
    | `"classification"` | which class? | the head's logits |
    | `"multi_label"` | does the text have the label `target`? | `[0, z]`: their softmax is the sigmoid of `z` |
    | `"regression"` | is the output `target` above `centre`? | `[0, y - centre]` |
    | `"token_classification"` | which class does a token of the text most surely have? | per class the largest |
    | | | log-probability of any token; for the class `outside` the smallest |
    | `"next_token"` | which token follows the text? | the logits over the vocabulary after the last token |
    | `"verbalizer"` | which of the label words `token_ids` follows? | the same, of these tokens only |
    | `"continuation"` | do the tokens `token_ids` follow? | `[log(1 - p), log p]`, `p` the product of their |
    | | | probabilities |

    Attributes:
        kind (`str`): One of the above.
        token_ids (`tuple[int, ...]`): Of the label words, or of the continuation.
        target (`int` or `None`): The label or output that is asked about, of heads with one or several.
        centre (`float` or `None`): In the units of the output. Unknown (`None`) until texts are at hand:
            [`text_readout`][clvq_hf.data.text_readout] takes the median output of these.
        outside (`int` or `None`): The class of tokens that belong to no other (`"O"`).
        class_names (`tuple[str, ...]`): Names of the row's classes; empty for vocabularies.
        outputs (`tuple[str, ...]`): Names of all outputs of the head.
    """

    kind: str
    token_ids: tuple[int, ...] = ()
    target: int | None = None
    centre: float | None = None
    outside: int | None = None
    class_names: tuple[str, ...] = field(default=(), compare=False)
    outputs: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no readout {self.kind!r}; there are {', '.join(KINDS)}.")

    @classmethod
    def of(
        cls,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        label_words: Sequence[str] | None = None,
        *,
        target: str | int | None = None,
        centre: float | None = None,
        continuation: str | None = None,
    ) -> "Readout":
        """Return the readout that fits a host.

        Args:
            host (`PreTrainedModel`): With a head for sequences or tokens, or a causal language model.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed for `label_words` and `continuation`.
            label_words (`Sequence[str]`, *optional*): One word per class, as it follows the prompt (`" good"`, with its
                space); only the first token of each is used.
            target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression head,
                by name or number. The first one if not given, with a warning if there are several.
            centre (`float`, *optional*): What a regression's output is compared with.
            continuation (`str`, *optional*): A text as it follows the prompt (`" because it was late"`).

        Raises:
            ValueError: If the host makes no prediction of these kinds, an argument does not fit it, or two label words
                begin with the same token.
        """
        readout = cls._of(host, tokenizer, label_words, target, centre, continuation)
        if readout.is_choice and target is None:
            logger.warning_once(
                f"The host's head has {len(readout.outputs)} outputs, and one is asked about: "
                f"{readout.outputs[readout.target or 0]!r}. Choose another with target=…: "
                f"{', '.join(readout.outputs[1:9])}{', …' if len(readout.outputs) > 9 else ''}."
            )
        return readout

    @classmethod
    def default(cls, host: PreTrainedModel) -> "Readout":
        """Return the readout of a host, of several outputs that of the first one, without a warning.

        Raises:
            ValueError: If the host makes no prediction.
        """
        return cls._of(host)

    @classmethod
    def of_or_none(cls, host: PreTrainedModel) -> "Readout | None":
        """Return the readout of a host that leaves nothing to choose; `None` if there is none, or a choice is needed.

        A multi-label head needs a label, and a regression head a centre.
        """
        try:
            readout = cls._of(host)
        except ValueError:
            return None
        return None if readout.is_choice or readout.needs_centre else readout

    @classmethod
    def _of(
        cls,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        label_words: Sequence[str] | None = None,
        target: str | int | None = None,
        centre: float | None = None,
        continuation: str | None = None,
    ) -> "Readout":
        model = unwrap(host)
        name = type(model).__name__
        if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            _refuse(name, target=target, centre=centre)
            return cls._of_language_model(tokenizer, label_words, continuation)
        if label_words is not None or continuation is not None:
            what = "Label words need" if label_words is not None else "A continuation needs"
            raise ValueError(f"{what} a causal language model, and the host is a {name}.")
        if name in modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values():
            _refuse(name, target=target, centre=centre)
            outputs = _output_names(model)
            outside = [number for number, each in enumerate(outputs) if each.strip().casefold() in _OUTSIDE]
            return cls(
                "token_classification",
                outside=outside[0] if outside else None,
                class_names=outputs,
                outputs=outputs,
            )
        if name not in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
            raise ValueError(
                f"A {name} predicts neither classes nor next tokens. Load the host with "
                "AutoModelForSequenceClassification, AutoModelForTokenClassification or AutoModelForCausalLM."
            )
        outputs = _output_names(model)
        problem = model.config.problem_type or ("regression" if len(outputs) == 1 else "single_label_classification")
        if problem == "single_label_classification":
            if len(outputs) < 2:
                raise ValueError(
                    f"The host's head does not choose one of several classes (it has {len(outputs)} label(s), "
                    f"problem_type={problem!r}), so it has no margin. If its output is a number, set "
                    'host.config.problem_type = "regression"; if it is the logit of a label, '
                    '"multi_label_classification".'
                )
            _refuse(f"{name} that chooses one of its {len(outputs)} classes", target=target, centre=centre)
            return cls("classification", class_names=outputs, outputs=outputs)
        chosen = _chosen(outputs, target)
        if problem == "multi_label_classification":
            _refuse(f"{name} with labels", centre=centre)
            label = outputs[chosen]
            return cls("multi_label", target=chosen, class_names=(f"not {label}", label), outputs=outputs)
        return cls("regression", target=chosen, outputs=outputs).with_centre(centre)

    @classmethod
    def _of_language_model(
        cls, tokenizer: PreTrainedTokenizerBase | None, label_words: Sequence[str] | None, continuation: str | None
    ) -> "Readout":
        if label_words is None and continuation is None:
            return cls("next_token")
        if tokenizer is None:
            raise ValueError("Label words and continuations need the host's tokenizer.")
        if label_words is not None and continuation is not None:
            raise ValueError("Give label words or a continuation, not both.")
        if continuation is not None:
            ids = tuple(tokenizer(continuation, add_special_tokens=False)["input_ids"])
            if not ids:
                raise ValueError(f"The continuation {continuation!r} has no tokens.")
            return cls("continuation", ids, class_names=(f"not {continuation!r}", repr(continuation)))
        words = list(label_words or ())
        ids = tuple(tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words)
        if len(set(ids)) < len(ids) or len(ids) < 2:
            raise ValueError(
                f"The label words {words} begin with the tokens {list(ids)}; pass at least two words "
                "that begin with different tokens."
            )
        return cls("verbalizer", ids, class_names=tuple(word.strip() for word in words))

    def with_centre(self, centre: float | None) -> "Readout":
        """The same question with a centre, for regression."""
        names = () if centre is None else (f"below {centre:.3g}", f"above {centre:.3g}")
        return replace(self, centre=None if centre is None else float(centre), class_names=names)

    # ---------------------------------------------------------------------------------------------------- on record

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain data for JSON."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the answer, without names, as plain data for JSON."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self) if each.compare}

    @classmethod
    def from_dict(cls, noted: "Mapping[str, Any] | str | None") -> "Readout | None":
        """Return what `to_dict` gave; earlier versions noted only the kind, and `None` where nothing was read."""
        if noted is None:
            return None
        if isinstance(noted, str):
            return cls(noted)
        known = {each.name for each in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in noted.items() if name in known
        }
        return cls(**values)

    # ------------------------------------------------------------------------------------------------- what it is like

    @property
    def is_choice(self) -> bool:
        """`bool`: Whether the head has other outputs that could be asked about."""
        return self.target is not None and len(self.outputs) > 1

    @property
    def needs_centre(self) -> bool:
        """`bool`: Whether it is a regression without a centre, which cannot be answered yet."""
        return self.kind == "regression" and self.centre is None

    @property
    def of_texts(self) -> bool:
        """`bool`: Whether the head gives one row per text, from a position that it chooses itself."""
        return self.kind in _OF_TEXTS

    @property
    def of_vocabulary(self) -> bool:
        """`bool`: Whether the host's logits are over a vocabulary."""
        return self.kind in _OF_VOCABULARIES

    @property
    def predicts_labels(self) -> bool:
        """`bool`: Whether predictions can be compared with labels: not those of next tokens and continuations."""
        return self.kind not in ("next_token", "continuation")

    @property
    def num_classes(self) -> int:
        """`int`: Classes that a text can be predicted to have; 0 if the row is of a vocabulary or a number."""
        if self.kind in ("next_token", "continuation", "regression"):
            return 0
        return (
            len(self.token_ids)
            if self.kind == "verbalizer"
            else 2
            if self.kind == "multi_label"
            else len(self.class_names)
        )

    @property
    def has_probabilities(self) -> bool:
        """`bool`: Whether the softmax of a row means something; that of a regression does not."""
        return self.kind != "regression"

    @property
    def num_added(self) -> int:
        """`int`: Tokens that are appended to each text, see `append`."""
        return len(self.token_ids) if self.kind == "continuation" else 0

    @property
    def title(self) -> str:
        """`str`: Kind and question for people (`"multi_label 'toxic'"`)."""
        if self.kind == "multi_label" and self.class_names:
            return f"{self.kind} {self.class_names[1]!r}"
        if self.kind == "regression" and self.centre is not None:
            of = f" {self.outputs[self.target or 0]!r}" if len(self.outputs) > 1 else ""
            return f"{self.kind}{of}, above or below {self.centre:.3g}"
        if self.kind == "continuation" and self.class_names:
            return f"{self.kind} {self.class_names[1]}"
        return self.kind

    # ----------------------------------------------------------------------------------------------------- what it does

    def append(self, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a batch with the continuation after each text, where it is padded on the right; others as they are.

        Args:
            batch (`Mapping[str, torch.Tensor]`): `attention_mask` and others of shape `(B, S)`, which become
                `(B, S + L)` for L tokens: `attention_mask` is 1 on them, all but `input_ids` 0, so that no mask counts
                them.
        """
        if not self.num_added:
            return batch
        mask = batch["attention_mask"]
        ids = torch.tensor(self.token_ids, device=mask.device)
        places = _last(mask)[:, None] + 1 + torch.arange(self.num_added, device=mask.device)
        new = dict(batch)
        for name, tensor in batch.items():
            if tensor.shape == mask.shape:
                value = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}.get(name, torch.zeros_like(ids))
                wide = F.pad(tensor, (0, self.num_added))
                new[name] = wide.scatter(1, places, value.to(tensor.dtype).expand(len(mask), -1))
        return new

    def __call__(
        self,
        output: Any,
        attention_mask: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits of shape `(B, C)`, float32.

        Args:
            output (`ModelOutput`): The host's output.
            attention_mask (`torch.Tensor` of shape `(B, S)`): Nonzero on real tokens of the texts, without a
                continuation; padding on either side.
            token_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on tokens that a token classification is
                read at, all real ones if not given (or if a text has none).
            positions (`torch.Tensor` of shape `(B,)`, *optional*): Ask about the token at this position of each text
                instead: a token classification gives its logits, a language model goes on after it.

        Raises:
            ValueError: If `positions` are given for a head that gives one row per text, or a regression has no centre.
        """
        logits = output.logits
        device = logits.device
        if self.of_texts:
            if positions is not None:
                raise ValueError(f"The head gives one answer per text, so there is none at a position ({self.title}).")
            return self._of_head(logits.float())
        if self.kind == "token_classification" and positions is None:
            return self._of_any_token(logits.float(), attention_mask.to(device), token_mask)
        at = _last(attention_mask.to(device)) if positions is None else positions.to(device)
        rows = torch.arange(len(logits), device=device)
        if self.kind == "continuation":
            ids = torch.tensor(self.token_ids, device=device)
            follows = at[:, None] + torch.arange(len(ids), device=device)
            log_probabilities = logits[rows[:, None], follows].float().log_softmax(-1)
            log_p = log_probabilities.gather(-1, ids.expand(len(rows), -1)[..., None])[..., 0].sum(-1)
            rest = torch.log(-torch.expm1(log_p.clamp(max=_LARGEST_LOG_PROBABILITY)))
            return torch.stack([rest, log_p], dim=-1)
        logits = logits[rows, at]
        if self.token_ids:
            logits = logits[:, list(self.token_ids)]
        return logits.float()

    def _of_head(self, logits: torch.Tensor) -> torch.Tensor:
        if self.kind == "classification":
            return logits
        value = logits.reshape(len(logits), -1)[:, self.target or 0]
        if self.kind == "regression":
            if self.centre is None:
                raise ValueError("A regression is read relative to a centre: pass centre=…, or use text_readout.")
            value = value - self.centre
        return torch.stack([torch.zeros_like(value), value], dim=-1)

    def _of_any_token(
        self, logits: torch.Tensor, attention_mask: torch.Tensor, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        real = attention_mask.bool()
        counted = real if token_mask is None else real & token_mask.to(real.device).bool()
        counted = torch.where(counted.any(-1, keepdim=True), counted, real)[..., None]
        log_p = logits.log_softmax(-1)
        rows = log_p.masked_fill(~counted, -torch.inf).amax(1)
        if self.outside is None:
            return rows
        least = log_p.masked_fill(~counted, torch.inf).amin(1)
        is_outside = torch.arange(rows.shape[-1], device=rows.device) == self.outside
        return torch.where(is_outside, least, rows)

    def predict(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the class `(B,)` of each row `(B, C)`: the largest logit; of a continuation always that it follows.

        A continuation was named by whoever asks, who wants to know what speaks for it.
        """
        return torch.ones_like(rows[:, 0], dtype=torch.int64) if self.kind == "continuation" else rows.argmax(-1)

    def support(self, rows: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """Return what is attributed, `(B,)`: how much each row `(B, C)` says for its class `prediction` `(B,)`.

        The class's logit. Of multi-label and regression `z` or `-z`: the other class's logit is constantly 0, and by
        itself could not tell why a text lacks a label. Of a continuation its log-probability.
        """
        own = rows.gather(1, prediction[:, None])[:, 0]
        if self.kind in ("multi_label", "regression"):
            return own - rows.gather(1, 1 - prediction[:, None])[:, 0]
        return own


def _last(mask: torch.Tensor) -> torch.Tensor:
    """Position `(B,)` of the last real token, of a mask `(B, S)` with padding on either side."""
    return (mask.bool() * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _output_names(model: PreTrainedModel) -> tuple[str, ...]:
    config: Any = model.config
    # Keys are strings where somebody set them as a config.json has them.
    known = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    names = [known.get(number, f"LABEL_{number}") for number in range(config.num_labels or 0)]
    return tuple(names if len(set(names)) == len(names) else [f"LABEL_{number}" for number in range(len(names))])


def _chosen(outputs: Sequence[str], target: str | int | None) -> int:
    """The number of the output that `target` names."""
    if target is None:
        return 0
    by_name = {name.strip().casefold(): number for number, name in enumerate(outputs)}
    if isinstance(target, str) and len(by_name) == len(outputs) and target.strip().casefold() in by_name:
        return by_name[target.strip().casefold()]
    if isinstance(target, str) and target in outputs:
        return list(outputs).index(target)
    number = label_number(str(target)) if not isinstance(target, bool) else None
    if number is None or not 0 <= number < len(outputs):
        listed = ", ".join(f"{number} ({name})" for number, name in enumerate(outputs[:20]))
        raise ValueError(f"The host has no output {target!r}. Set target=… to one of {listed}.")
    return number


def _refuse(what: str, **given: Any) -> None:
    if names := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{names[0]}=… does not fit the host, a {what}: leave it out.")


__all__ = ["KINDS", "Readout", "class_names", "label_number", "margins"]
