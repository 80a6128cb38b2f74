"""How a concept is removed from states, and the means that this takes; the same for an audit and for an edit."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import batches_by_length
from ..data.extraction import HiddenStateExtractor, check_states
from ..data.means import MeansById
from ..data.tokenization import TextCollator, tokenize_texts
from ..tables.concept_table import ConceptTable

HOW = ("mean", "project")
# A mean of fewer states says more of their contexts than of the word; as in `WordMeans`.
MIN_OCCURRENCES = 10


@dataclass(frozen=True)
class StateMeans:
    """Mean host states at `lower_layer`, special tokens and attention sinks left out.

    Attributes:
        mean (`torch.Tensor` of shape `(d,)`): Of all tokens, float32.
        members (`torch.Tensor` of shape `(K, d)`): Of the tokens that have each code.
        member_counts (`torch.Tensor` of shape `(K,)`, int64): Number of these tokens.
        word_ids (`torch.Tensor` of shape `(V,)`, int64): Token ids that occur, ascending.
        words (`torch.Tensor` of shape `(V, d)`): Mean state of each.
        word_counts (`torch.Tensor` of shape `(V,)`, int64): How often each occurs.
    """

    mean: torch.Tensor
    members: torch.Tensor
    member_counts: torch.Tensor
    word_ids: torch.Tensor
    words: torch.Tensor
    word_counts: torch.Tensor

    @classmethod
    def of_references(cls, references: Any) -> "StateMeans":
        """Those of [`fit_references`][clvq_hf.evaluation.fit_references].

        Raises:
            ValueError: If they have no means of codes: those of methods whose codes are directions do not.
        """
        members, words = references.members, references.words
        if members is None:
            raise ValueError(
                "These references have no mean states of codes, which how='mean' needs. Leave them out, or use "
                "how='project'."
            )
        return cls(members.mean, members.means, members.counts, words.ids, words.means, words.counts)

    @classmethod
    def of_texts(
        cls,
        model: Any,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        table: ConceptTable,
        batch_size: int,
    ) -> "StateMeans":
        """Those of the texts of a table, in one pass over the host's lower layers."""
        config = model.config
        tokenized = tokenize_texts(table.texts, tokenizer, "text", table.metadata["max_length"])
        extract = HiddenStateExtractor(host, config.lower_layer, config.lower_layer, config.stack)
        members, words = MeansById(config.hidden_size), MeansById(config.hidden_size)
        for number, (_, batch) in enumerate(batches_by_length(tokenized, TextCollator(tokenizer), batch_size)):
            states = extract(batch, device=torch.device("cpu"))
            check_states(states, f"batch {number} of the audited texts")
            mask = states["token_mask"].bool()
            given = (states[name].to(model.device) for name in ("hidden_states", "attention_mask"))
            members.add(model.encode(*given).cpu()[mask], states["hidden_states"][mask])
            words.add(batch["input_ids"][mask], states["hidden_states"][mask])
        means, counts = members.fill(config.codebook_size)
        mean = (means.double() * counts[:, None]).sum(0) / counts.sum().clamp(min=1)
        return cls(mean.float(), means, counts, *words.means())

    def digest(self) -> str:
        """12 hexadecimal digits of all of it."""
        digest = hashlib.sha256()
        for tensor in vars(self).values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def word_states(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean states `(…, d)` of token ids `(…)`, and for which there are enough tokens `(…)`, bool."""
        if len(self.word_ids) == 0:
            return self.mean.expand(*ids.shape, -1), torch.zeros_like(ids).bool()
        place = torch.searchsorted(self.word_ids, ids).clamp(max=len(self.word_ids) - 1)
        known = (self.word_ids[place] == ids) & (self.word_counts[place] >= MIN_OCCURRENCES)
        return self.words[place], known


def check_how(model: Any, how: str | None) -> str:
    """The way of removal: `"mean"` where codes are states, else `"project"`, unless one is named.

    Raises:
        ValueError: If there is no such way, or it means nothing for the model.
    """
    if how is None:
        return "mean" if model.codes_are_states else "project"
    if how not in HOW:
        raise ValueError(f"how must be one of {HOW}, got {how!r}.")
    if how == "mean" and not model.codes_are_states:
        raise ValueError(
            f"how='mean' replaces a concept's mean state, but the concepts of a {type(model).__name__} are directions: "
            "use how='project'."
        )
    return how


def without_own_concept(
    model: Any, states: torch.Tensor, codes: torch.Tensor, how: str, means: StateMeans
) -> torch.Tensor:
    """States `(B, S, d)`, float32, of which each has lost its own concept; codes `(B, S)` are -1 on padding.

    `"mean"`: the mean state of the concept's tokens makes way for that of all tokens, `x - e + μ`. `"project"`: the
    component along the concept's direction is removed, `x - q qᵀ(x - c)`.
    """
    states, codes = states.float(), codes.clamp(min=0)
    if how == "mean":
        lost = means.members.to(states) - means.mean.to(states)
        # A code that none of the texts had has no mean state.
        lost = torch.where(means.member_counts.to(states.device)[:, None] > 0, lost, 0)
        return states - lost[codes]
    every = torch.arange(model.config.codebook_size, device=model.device)
    own = model.directions(every)[:, 0].detach().to(states)[codes]
    way = states - model.projection_centre.detach().to(states)
    return states - (way * own).sum(-1, keepdim=True) * own


__all__ = ["HOW", "StateMeans", "check_how", "without_own_concept"]
