"""Mean states of token types: what a token says in any context."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.batching import batches_by_length
from ...data.extraction import HiddenStateExtractor, check_states
from ...data.texts import text_hash, without_texts
from ...data.tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts
from ...files import read_json, write_whole
from ...hosts import hooks
from ...hosts.identity import host_identity

# A mean of fewer states says more of their contexts than of the word.
MIN_OCCURRENCES = 10
# Of a type that is as rare as one in 50,000 tokens they hold some twenty occurrences, if they have 50 tokens each.
MAX_TEXTS = 20_000


@dataclass(frozen=True)
class WordMeans:
    """Mean state of each token type, special tokens and attention sinks left out.

    Attributes:
        ids (`torch.Tensor` of shape `(V,)`, int64): The token ids that occur, ascending.
        means (`torch.Tensor` of shape `(V, d)`): Mean state of each at `lower_layer`, float32.
        counts (`torch.Tensor` of shape `(V,)`, int64): How often each occurs.
        text_hashes (`frozenset[str]`): Of the texts, so that nothing is measured on them.
        identity (`dict`): The host and its layer.
    """

    ids: torch.Tensor
    means: torch.Tensor
    counts: torch.Tensor
    text_hashes: frozenset[str]
    identity: dict[str, Any] = field(default_factory=dict)

    def directions(
        self, input_ids: torch.Tensor, centre: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Directions of the mean states of tokens.

        Args:
            input_ids (`torch.Tensor` of shape `(…)`): Token ids.
            centre (`torch.Tensor` of shape `(d,)`, *optional*): Where the directions are from; zero if not given.

        Returns:
            `tuple` of a `torch.Tensor` of shape `(…, d)`, unit vectors, and one of shape `(…)`, bool: whether the type
            occurs at least ten times. Where it does not, the direction means nothing.
        """
        if len(self.ids) == 0:
            return self.means.new_zeros(*input_ids.shape, self.means.shape[-1]), torch.zeros_like(input_ids).bool()
        place = torch.searchsorted(self.ids, input_ids).clamp(max=len(self.ids) - 1)
        known = (self.ids[place] == input_ids) & (self.counts[place] >= MIN_OCCURRENCES)
        means = self.means[place]
        return F.normalize(means if centre is None else means - centre, dim=-1), known

    def save(self, folder: Path) -> None:
        """Write them into a folder, which is made."""
        folder.mkdir(parents=True)
        save_file({name: getattr(self, name) for name in ("ids", "means", "counts")}, folder / "words.safetensors")
        record = {"identity": self.identity, "text_hashes": sorted(self.text_hashes)}
        write_whole(folder / "words.json", json.dumps(record) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` has written."""
        record = read_json(folder / "words.json")
        tensors = load_file(folder / "words.safetensors")
        return cls(**tensors, text_hashes=frozenset(record["text_hashes"]), identity=record["identity"])


def word_identity(host: PreTrainedModel, layer: int, stack: str | None) -> dict[str, Any]:
    """What mean states of words depend on besides the texts."""
    stack = hooks.residual_stream(host, stack).stack
    return {"host": host_identity(host, head=False), "lower_layer": layer, "stack": stack}


def fit_words(
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    layer: int,
    *,
    stack: str | None = None,
    text_column: str = "text",
    max_length: int | None = None,
    batch_size: int = 32,
) -> WordMeans:
    """Estimate the mean states of token types on texts that nothing is measured on.

    Args:
        host (`PreTrainedModel`): The model whose states these are.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        dataset (`datasets.Dataset`): The texts. A text that occurs twice counts once; of more than 20,000 texts as many
            are drawn, by their hashes, so that every run draws the same.
        layer (`int`): Layer of the states.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.
        text_column (`str`): Column of the texts.
        max_length (`int`, *optional*): In tokens; the host's limit if not given.
        batch_size (`int`): Texts per host forward.

    Returns:
        [`WordMeans`]: On the CPU.

    Raises:
        ValueError: If the texts are unusable, or a state is NaN or Inf.
    """
    check_texts(dataset, text_column)
    ensure_pad_token(tokenizer)
    dataset = _drawn(dataset, text_column)
    tokenized = tokenize_texts(dataset, tokenizer, text_column, hooks.max_length(host, tokenizer, max_length))
    extract = HiddenStateExtractor(host, layer, layer, stack)
    words = MeansById(hooks.residual_stream(host, stack).hidden_sizes[layer])
    batches = batches_by_length(tokenized, TextCollator(tokenizer), batch_size)
    total = -(-len(tokenized) // batch_size)
    for number, (_, batch) in enumerate(tqdm(batches, desc="Reading words", unit="batch", total=total)):
        states = extract(batch, device=torch.device("cpu"))
        check_states(states, f"batch {number} of the texts for words")
        mask = states["token_mask"].bool()
        words.add(batch["input_ids"][mask], states["hidden_states"][mask])
    read = dataset.select(tokenized["text_index"][:])
    return words.of_words(
        text_hashes=frozenset(map(text_hash, read[text_column])), identity=word_identity(host, layer, stack)
    )


def _drawn(dataset: Dataset, text_column: str) -> Dataset:
    """At most so many of the texts as are read, in the order of `dataset`, each once."""
    dataset = without_texts(dataset, [], text_column)
    # From its end, because the beginning of a hash decides which part of a dataset a text is in.
    keys = [text_hash(text or "")[::-1] for text in dataset[text_column]]
    return dataset.select(np.sort(np.argsort(keys)[:MAX_TEXTS]))


class MeansById:
    """Running means by an id. Only ids that occur take memory: a vocabulary times a wide state would be gigabytes."""

    def __init__(self, width: int) -> None:
        # Of each id the row of its sum, -1 for none yet.
        self._rows = torch.empty(0, dtype=torch.int64)
        self._sums = torch.zeros(0, width, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._used = 0

    def add(self, ids: torch.Tensor, states: torch.Tensor) -> None:
        """Add states `(N, d)` of ids `(N,)`."""
        if len(ids) == 0:
            return
        ids = ids.long()
        found = ids.unique()
        self._rows = F.pad(self._rows, (0, max(0, int(found[-1]) + 1 - len(self._rows))), value=-1)
        new = found[self._rows[found] < 0]
        self._rows[new] = torch.arange(self._used, self._used + len(new))
        self._used += len(new)
        if (missing := self._used - len(self._counts)) > 0:
            missing = max(missing, len(self._counts))  # twice as many, so that it is seldom
            self._sums, self._counts = F.pad(self._sums, (0, 0, 0, missing)), F.pad(self._counts, (0, missing))
        rows = self._rows[ids]
        self._sums.index_add_(0, rows, states.double())
        self._counts.index_add_(0, rows, torch.ones_like(rows))

    def fill(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Means `(size, d)`, float32, zero where there are none, and counts `(size,)` of the ids from 0."""
        ids, means, counts = self.means()
        filled = means.new_zeros(size, self._sums.shape[1]), counts.new_zeros(size)
        return filled[0].index_copy(0, ids, means), filled[1].index_copy(0, ids, counts)

    def of_words(self, text_hashes: frozenset[str], identity: dict[str, Any]) -> WordMeans:
        """The means, with what they are of."""
        ids, means, counts = self.means()
        return WordMeans(ids, means, counts, text_hashes, identity)

    def means(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids `(V,)`, ascending, their means `(V, d)`, float32, and counts `(V,)`."""
        ids = (self._rows >= 0).nonzero().flatten()
        rows = self._rows[ids]
        counts = self._counts[rows]
        return ids, (self._sums[rows] / counts[:, None]).float(), counts


__all__ = ["MIN_OCCURRENCES", "MeansById", "WordMeans", "fit_words", "word_identity"]
