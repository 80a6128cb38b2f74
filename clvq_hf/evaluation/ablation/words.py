"""Mean states of token types: what a token says in any context."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checksums import read_metadata, read_tensors, write_metadata, write_tensors
from ...data.batching import batches_by_length
from ...data.extraction import HiddenStateExtractor, check_states
from ...data.means import MeansById
from ...data.texts import text_hash, without_texts
from ...data.tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts
from ...hosts import hooks
from ...hosts.identity import host_identity

# A mean of fewer states says more of their contexts than of the word.
MIN_OCCURRENCES = 10
# Of a type that is as rare as one in 50,000 tokens they hold some twenty occurrences, if they have 50 tokens each.
MAX_TEXTS = 20_000
WORDS_NAME = "words.safetensors"
_TENSORS = ("ids", "means", "counts")


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
        write_tensors(folder / WORDS_NAME, {name: getattr(self, name).numpy() for name in _TENSORS})
        record = {"identity": self.identity, "text_hashes": sorted(self.text_hashes)}
        write_metadata(folder / "words.json", record, [WORDS_NAME])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` has written.

        Raises:
            ValueError: If it is damaged.
        """
        remedy = f"Remove {folder}, and run the same command again."
        record, _ = read_metadata(folder / "words.json", remedy)
        arrays, _ = read_tensors(folder / WORDS_NAME, _TENSORS, remedy)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
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
    return WordMeans(
        *words.means(),
        text_hashes=frozenset(map(text_hash, read[text_column])),
        identity=word_identity(host, layer, stack),
    )


def _drawn(dataset: Dataset, text_column: str) -> Dataset:
    """At most so many of the texts as are read, in the order of `dataset`, each once."""
    dataset = without_texts(dataset, [], text_column)
    # From its end, because the beginning of a hash decides which part of a dataset a text is in.
    keys = [text_hash(text or "")[::-1] for text in dataset[text_column]]
    return dataset.select(np.sort(np.argsort(keys)[:MAX_TEXTS]))


__all__ = ["MIN_OCCURRENCES", "WordMeans", "fit_words", "word_identity"]
