"""Texts of any length as windows that a host can read, and where each of their tokens is in the text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .tokenization import word_ids

LONG_TEXTS = ("windows", "truncate", "end")
# Windows share a quarter of their tokens, so that each token has context on one side at least.
OVERLAP = 0.25


@dataclass(frozen=True)
class WindowedText:
    """A text, cut into windows of tokens; one window if it is short enough.

    Attributes:
        text (`str`): The text.
        token_ids (`np.ndarray` of shape `(N,)`): Its tokens, special ones included, as if there were no limit. Tokens
            that were cut off are left out.
        start, end (`np.ndarray` of shape `(N,)`): Characters of each token.
        word_id (`np.ndarray` of shape `(N,)`): Number of each token's word, -1 for special tokens.
        special (`np.ndarray` of shape `(N,)`, bool): Special tokens.
        windows (`list[dict]`): What [`TextCollator`][clvq_hf.data.TextCollator] takes: one row per window.
        places (`list[np.ndarray]`): For each window, the numbers of its tokens among the N.
        weights (`np.ndarray`): Share of the text's tokens that each window adds; they sum to 1.
        num_cut (`int`): Number of tokens that were cut off.
    """

    text: str
    token_ids: np.ndarray
    start: np.ndarray
    end: np.ndarray
    word_id: np.ndarray
    special: np.ndarray
    windows: list[dict[str, Any]]
    places: list[np.ndarray]
    weights: np.ndarray
    num_cut: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)


def cut_into_windows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int | None, long_texts: str = "windows"
) -> list[WindowedText | None]:
    """Tokenize texts, and cut those that are longer than a limit.

    Args:
        texts (`Sequence[str]`): The texts.
        tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
        limit (`int`, *optional*): Most tokens of a window, including special ones. Default: no limit.
        long_texts (`str`): `"windows"`: as many as are needed, which share a quarter of their tokens. `"truncate"`: the
            beginning of the text. `"end"`: its end, for the next token.

    Returns:
        `list[WindowedText | None]`: `None` for texts without a token.

    Raises:
        ValueError: If the tokenizer is a slow one, the limit leaves no room for a token, or the argument is unknown.
    """
    if long_texts not in LONG_TEXTS:
        raise ValueError(f"long_texts must be one of {LONG_TEXTS}, got {long_texts!r}.")
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not know the characters of its tokens. Load the fast tokenizer: "
            "AutoTokenizer.from_pretrained(…, use_fast=True)."
        )
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        return_special_tokens_mask=True,
        return_offsets_mapping=True,
        verbose=False,  # which would warn of the length
    )
    return [_windows(text, encoded, row, limit, long_texts) for row, text in enumerate(texts)]


def _windows(text: str, encoded: Any, row: int, limit: int | None, long_texts: str) -> WindowedText | None:
    special = np.asarray(encoded["special_tokens_mask"][row], dtype=bool)
    spans = encoded["offset_mapping"][row]
    if special.all() or not text.strip():
        return None
    words = np.asarray(word_ids(text, encoded.word_ids(row), spans, special.astype(int).tolist()))
    content = np.flatnonzero(~special)
    first, last = int(content[0]), int(content[-1]) + 1
    prefix, suffix = np.arange(first), np.arange(last, len(special))
    room = last - first if limit is None else limit - len(prefix) - len(suffix)
    if room < 1:
        raise ValueError(f"A limit of {limit} tokens leaves no room beside the special ones; choose a longer one.")
    bounds = list(_bounds(first, last, room, long_texts))
    places = [np.concatenate([prefix, np.arange(*bound), suffix]) for bound in bounds]
    inputs = {
        name: np.asarray(values[row])
        for name, values in encoded.items()
        if name not in ("special_tokens_mask", "offset_mapping")
    }
    windows = [
        {
            **{name: values[place].tolist() for name, values in inputs.items()},
            "token_mask": (~special[place]).astype(int).tolist(),
            "length": len(place),
            "text_index": number,
        }
        for number, place in enumerate(places)
    ]
    # Of an overlap, the first half belongs to the window before it.
    ends = [first, *(end for _, end in bounds)]
    new = np.asarray([end - max(begin, ends[number]) for number, (begin, end) in enumerate(bounds)])
    kept = np.unique(np.concatenate(places))
    number_of = np.full(len(special), -1)
    number_of[kept] = np.arange(len(kept))
    start, end = (np.asarray([span[side] for span in spans])[kept] for side in (0, 1))
    return WindowedText(
        text=text,
        token_ids=inputs["input_ids"][kept],
        start=start,
        end=end,
        word_id=words[kept],
        special=special[kept],
        windows=windows,
        places=[number_of[place] for place in places],
        weights=new / new.sum(),
        num_cut=len(special) - len(kept),
    )


def _bounds(first: int, last: int, room: int, long_texts: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each window among the tokens `first` to `last`."""
    if last - first <= room:
        yield first, last
    elif long_texts == "truncate":
        yield first, first + room
    elif long_texts == "end":
        yield last - room, last
    else:
        step = max(room - int(room * OVERLAP), 1)
        begin = first
        while begin + room < last:
            yield begin, begin + room
            begin += step
        # The last one is full, too: a window of three tokens would lack context.
        yield last - room, last


__all__ = ["LONG_TEXTS", "WindowedText", "cut_into_windows"]
