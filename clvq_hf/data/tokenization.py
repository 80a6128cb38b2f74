"""Texts → token ids, with masks that exclude padding and special tokens from every statistic."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .transforms import map_rows

logger = logging.get_logger(__name__)

ADDED = ("token_mask", "length", "num_counted", "text_index", "truncated")


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Use the end-of-sequence token for padding if a tokenizer has no padding token, with a warning.

    Only the attention mask marks padding, so the choice affects neither states nor codes.

    Raises:
        ValueError: If the tokenizer has no end-of-sequence token either.
    """
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise ValueError(
            "The tokenizer has neither a padding nor an end-of-sequence token. Choose one: "
            "tokenizer.pad_token = '<a token of the vocabulary>'."
        )
    tokenizer.pad_token = tokenizer.eos_token
    logger.warning(f"The tokenizer has no padding token; using its end-of-sequence token {tokenizer.eos_token!r}.")


def check_texts(dataset: Dataset, text_column: str) -> None:
    """Check that a dataset contains texts, before time is spent on it.

    Raises:
        ValueError: If it does not, or the dataset is empty or consists of several splits.
    """
    if not isinstance(dataset, Dataset):
        splits = f" Choose one of its splits: {list(dataset)}." if isinstance(dataset, Mapping) else ""
        raise ValueError(f"Texts must be a datasets.Dataset, got {type(dataset).__name__}.{splits}")
    if len(dataset) == 0:
        raise ValueError("The dataset is empty.")
    if text_column not in dataset.column_names:
        raise ValueError(
            f"The dataset has no column {text_column!r}; it has {dataset.column_names}. Set text_column=… to the "
            "column of the texts."
        )
    if getattr(dataset.features[text_column], "dtype", None) not in ("string", "large_string"):
        raise ValueError(f"Column {text_column!r} contains {dataset.features[text_column]}, not strings.")


def _identify(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What decides the tokens of a tokenizer; of a slow one nobody knows, so that each call is another one."""
    if not tokenizer.is_fast:
        return secrets.token_hex(8)
    settings = {name: value for name, value in vars(tokenizer).items() if isinstance(value, str | int)}
    # Before the added tokens are truncation and padding of the last call, which the next call sets anew.
    backend = tokenizer.backend_tokenizer.to_str().partition('"added_tokens"')[2]
    return type(tokenizer).__qualname__, sorted(settings.items()), backend


def tokenize_texts(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    text_column: str = "text",
    max_length: int | None = None,
    count_special_tokens: bool = False,
    with_words: bool = False,
) -> Dataset:
    """Tokenize texts, unpadded.

    Empty texts, and those of which the tokenizer leaves nothing (a zero-width space), are skipped, and texts longer
    than `max_length` truncated; a warning states the number of each.

    Args:
        dataset (`datasets.Dataset`): With a column `text_column`.
        tokenizer (`PreTrainedTokenizerBase`): The host's tokenizer.
        text_column (`str`): Column of the texts.
        max_length (`int`, *optional*): Limit in tokens, including special ones. Default: no limit.
        count_special_tokens (`bool`): Whether `token_mask` is 1 on special tokens too.
        with_words (`bool`): Whether to add `start` and `end` (characters of each token in its text) and `word_id`
            (number of its word in the text, -1 on special tokens). Needs a fast tokenizer.

    Returns:
        `datasets.Dataset`: The tokenizer's columns (`input_ids`, …), `token_mask` (1 on the tokens that count),
        `length`, `num_counted` (the sum of `token_mask`) and `text_index` (row of `dataset`).

    Raises:
        ValueError: If no text has a token besides special ones, or `with_words` is set and the tokenizer is not a fast
            one.
    """
    if with_words and not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not know the characters of its tokens. Load the fast tokenizer: "
            "AutoTokenizer.from_pretrained(…, use_fast=True)."
        )

    def encode(texts: list[str], limit: int | None) -> dict[str, list[Any]]:
        encoded = tokenizer(
            texts,
            truncation=limit is not None,
            max_length=limit,
            return_special_tokens_mask=True,
            return_offsets_mapping=with_words,
        )
        columns: dict[str, list[Any]] = dict(encoded)
        if not with_words:
            return columns
        spans = columns.pop("offset_mapping")
        columns["start"] = [[start for start, _ in row] for row in spans]
        columns["end"] = [[end for _, end in row] for row in spans]
        columns["word_id"] = [
            word_ids(text, encoded.word_ids(row), spans[row], encoded["special_tokens_mask"][row])
            for row, text in enumerate(texts)
        ]
        return columns

    def tokenize(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        nonempty = [row for row, text in enumerate(batch[text_column]) if text and not text.isspace()]
        texts = [batch[text_column][row] for row in nonempty]
        if not texts:
            return {name: [] for name in (*encode(["a"], None), *ADDED) if name != "special_tokens_mask"}
        # One token more than allowed distinguishes truncated texts from those that just fit.
        columns = encode(texts, max_length and max_length + 1)
        truncated = [max_length is not None and len(ids) > max_length for ids in columns["input_ids"]]
        if any(truncated):
            rows = [row for row, is_truncated in enumerate(truncated) if is_truncated]
            for name, values in encode([texts[row] for row in rows], max_length).items():
                for row, value in zip(rows, values, strict=True):
                    columns[name][row] = value
        # Of some characters, such as a zero-width space, tokenizers leave nothing: these texts are empty, too.
        filled = [row for row, mask in enumerate(columns["special_tokens_mask"]) if not all(mask)]
        columns = {name: [values[row] for row in filled] for name, values in columns.items()}
        specials = columns.pop("special_tokens_mask")
        columns["token_mask"] = [[int(count_special_tokens or not special) for special in mask] for mask in specials]
        columns["length"] = [len(ids) for ids in columns["input_ids"]]
        columns["num_counted"] = [sum(mask) for mask in columns["token_mask"]]
        columns["text_index"] = [indices[nonempty[row]] for row in filled]
        columns["truncated"] = [truncated[row] for row in filled]
        return columns

    tokenized = map_rows(
        dataset,
        tokenize,
        (_identify(tokenizer), text_column, max_length, count_special_tokens, with_words),
        with_indices=True,
        batched=True,
        remove_columns=dataset.column_names,
        desc="Tokenizing",
    )
    if len(tokenized) == 0:
        limit = "" if max_length is None else f" within {max_length} tokens, which count special ones"
        raise ValueError(f"Every one of the {len(dataset)} texts is empty{limit}.")
    if len(tokenized) < len(dataset):
        logger.warning(f"Skipped {len(dataset) - len(tokenized)} empty texts of {len(dataset)}.")
    if num_truncated := sum(tokenized["truncated"]):
        logger.warning(f"Truncated {num_truncated} texts of {len(dataset)} to {max_length} tokens.")
    return tokenized.remove_columns("truncated")


def word_ids(text: str, words: list[int | None], spans: list[tuple[int, int]], special: list[int]) -> list[int]:
    """Number of each token's word, -1 on special tokens.

    If the tokenizer has no pre-tokenizer (some SentencePiece models), it reports a whole text as one word: then a word
    begins after white space.
    """
    if len(set(words) - {None}) > 1 or len(text.split()) < 2:
        return [-1 if word is None or mark else word for word, mark in zip(words, special, strict=True)]
    numbers: list[int] = []
    current, previous_end = -1, 0
    for (start, end), mark in zip(spans, special, strict=True):
        if mark:
            numbers.append(-1)
            continue
        gap = text[previous_end:start]
        if current < 0 or text[start:end][:1].isspace() or gap.strip() != gap:
            current += 1
        previous_end = end
        numbers.append(current)
    return numbers


def filter_by_occurrence(tokenized: Dataset, minimum: int | None, maximum: int | None) -> Dataset:
    """Set `token_mask` to 0 for tokens that occur less than `minimum` or more than `maximum` times in `tokenized`.

    The paper trains on tokens that occur 5 to 20 times. The other tokens remain as context.
    """
    if minimum is None and maximum is None:
        return tokenized
    wanted = occurs_between([np.asarray(row["input_ids"]) for row in tokenized], minimum, maximum)

    def mask(batch: Mapping[str, list[list[int]]]) -> dict[str, list[Any]]:
        masks = [
            (np.asarray(old) & wanted[np.asarray(ids)]).tolist()
            for old, ids in zip(batch["token_mask"], batch["input_ids"], strict=True)
        ]
        return {"token_mask": masks, "num_counted": [sum(row) for row in masks]}

    return map_rows(tokenized, mask, (minimum, maximum), batched=True, desc="Filtering tokens by occurrence")


def occurs_between(input_ids: Sequence[np.ndarray], minimum: int | None, maximum: int | None) -> np.ndarray:
    """Which ids of these one-dimensional arrays occur `minimum` to `maximum` times: `(largest id + 1,)`, bool."""
    occurrences = np.bincount(np.concatenate(input_ids))
    wanted = occurrences >= (minimum or 0)
    return wanted if maximum is None else wanted & (occurrences <= maximum)


class TextCollator:
    """Pads tokenized texts on the right into a batch of tensors, whatever the tokenizer's own padding side.

    Hosts with absolute positions (GPT-2) would number the tokens of a left-padded text wrongly, so that its states
    would depend on the other texts of the batch. Nothing is generated from these batches, so left padding has no use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the tokenizer's inputs and `token_mask`, all `(B, S)` int64, and `text_index` `(B,)`."""
        names = [name for name in self.tokenizer.model_input_names if name in rows[0]]
        unpadded = [{name: row[name] for name in names} for row in rows]
        batch = dict(
            self.tokenizer.pad(unpadded, padding_side="right", return_attention_mask=True, return_tensors="pt")
        )
        token_mask = torch.zeros_like(batch["input_ids"])
        for row, real in enumerate(batch["attention_mask"].bool()):
            token_mask[row, real] = torch.as_tensor(rows[row]["token_mask"])
        text_index = torch.tensor([row["text_index"] for row in rows])
        return {**batch, "token_mask": token_mask, "text_index": text_index}
