"""Indices of a concept table: tokens by text, by code and by word, each computed when it is first needed."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ..data.texts import text_hash
from ..rendering.pages import visible


class TokenIndex:
    """Indices of N tokens, in the order of their M texts, of a [`ConceptTable`][clvq_hf.ConceptTable], as arrays.

    `shown_codes` `(K,)` says under which number each concept is counted, see [`ByHand`][clvq_hf.tables.by_hand.ByHand].
    """

    def __init__(self, tokens: Dataset, texts: Dataset, shown_codes: np.ndarray) -> None:
        self.tokens = tokens
        self.texts = texts
        self.shown_codes = shown_codes

    def column(self, name: str) -> np.ndarray:
        """A column of `tokens`, `(N,)`."""
        return self._arrow[name][:].to_numpy()

    @cached_property
    def _arrow(self) -> Dataset:
        # The numpy format would copy row by row. Cached, because changing the format copies everything but the data.
        return self.tokens.with_format("arrow")

    @cached_property
    def _strings(self) -> Any:
        # Not read at once, for tables may be large. Cached, because selecting a column copies the features.
        return self.texts["text"]

    @cached_property
    def num_tokens(self) -> np.ndarray:
        """Tokens of each text, `(M,)`."""
        return np.asarray(self.texts["num_tokens"][:], dtype=np.int64)

    @cached_property
    def first(self) -> np.ndarray:
        """Row of each text's first token, `(M + 1,)`; the last entry is the number of tokens."""
        return np.concatenate([[0], np.cumsum(self.num_tokens)])

    @cached_property
    def text_ids(self) -> np.ndarray:
        """`text_id` of each text, `(M,)`, ascending."""
        return np.asarray(self.texts["text_id"][:], dtype=np.int64)

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of each text, `(M,)`; -1 if it has none."""
        return np.asarray(self.texts["label"][:], dtype=np.int64)

    @cached_property
    def owners(self) -> np.ndarray:
        """Row in `texts` of each token, `(N,)`."""
        return np.repeat(np.arange(len(self.texts), dtype=np.int32), self.num_tokens)

    @cached_property
    def special(self) -> np.ndarray:
        """Which tokens are special, `(N,)` bool."""
        return self.column("special")

    @cached_property
    def by_code(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the tokens that are not special, sorted by shown code, and the start of each code, `(K + 1,)`."""
        rows = np.flatnonzero(~self.special)
        codes = self.shown_codes[self.column("code")[rows]]
        order = np.argsort(codes, kind="stable")
        return rows[order], np.searchsorted(codes[order], np.arange(len(self.shown_codes) + 1))

    @cached_property
    def ranks(self) -> list[int]:
        """Rank in frequency of each code, the most frequent first: K numbers."""
        counts = np.diff(self.by_code[1])
        return np.argsort(np.argsort(-counts, kind="stable"), kind="stable").tolist()

    @cached_property
    def word_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the first and the last token of each token's word, both `(N,)`."""
        word, owner = self.column("word_id"), self.owners
        starts = np.ones(len(word), dtype=bool)
        starts[1:] = (word[1:] != word[:-1]) | (owner[1:] != owner[:-1]) | (word[1:] < 0)
        firsts = np.flatnonzero(starts)
        lasts = np.append(firsts[1:], len(word)) - 1
        number = np.cumsum(starts) - 1
        return firsts[number], lasts[number]

    @cached_property
    def word_counts(self) -> np.ndarray:
        """Number of words of each text, `(M,)`."""
        firsts = np.unique(self.word_bounds[0][~self.special])
        return np.bincount(self.owners[firsts], minlength=len(self.texts))

    def row(self, text_id: int) -> int:
        """Row of a text in `texts`; raises a `ValueError` if there is none."""
        row = int(np.searchsorted(self.text_ids, text_id))
        if row == len(self.text_ids) or self.text_ids[row] != text_id:
            raise ValueError(f"The table has no text {text_id}; it has {len(self.texts)} texts.")
        return row

    @cached_property
    def same_text(self) -> np.ndarray:
        """A number per text, `(M,)`, that equal texts share (see [`text_hash`][clvq_hf.data.text_hash])."""
        hashes = [text_hash(text) for text in self.texts["text"][:]]
        return np.unique(hashes, return_inverse=True)[1]

    def places(self, code: int, without: int | Sequence[int] | None = None) -> np.ndarray:
        """Rows of a code's tokens, ascending, except special tokens and tokens of texts equal to those in `without`."""
        if not 0 <= code < len(self.shown_codes):
            raise ValueError(f"Codes run from 0 to {len(self.shown_codes) - 1}, got {code}.")
        by_code, begins = self.by_code
        code = self.shown_codes[code]
        places = by_code[begins[code] : begins[code + 1]]
        if without is None:
            return places
        rows = [self.row(text_id) for text_id in ([without] if isinstance(without, int | np.integer) else without)]
        excluded = self.same_text[np.asarray(rows, dtype=np.int64)]
        return places[~np.isin(self.same_text[self.owners[places]], excluded)]

    def spans(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end, in characters, of the words of these tokens."""
        firsts, lasts = self.word_bounds
        return self.column("start")[firsts[places]], self.column("end")[lasts[places]]

    def word_strings(self, places: np.ndarray) -> list[str]:
        """The words of these tokens; white space in a word that is nothing else is replaced by visible signs."""
        rows, numbers = np.unique(self.owners[places], return_inverse=True)
        texts = self._strings[rows] if len(rows) else []
        starts, ends = self.spans(places)
        pieces = [
            texts[number][start:end]
            for number, start, end in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True)
        ]
        # For some tokenizers, the space before a word belongs to it.
        return [piece.strip() or visible(piece) for piece in pieces]

    def words_of(self, rows: np.ndarray) -> pd.DataFrame:
        """One row per word that starts in these rows; see [`ConceptTable.words`][clvq_hf.ConceptTable.words]."""
        firsts, lasts = self.word_bounds
        places = rows[(firsts[rows] == rows) & ~self.special[rows]]
        lasts = lasts[places]
        codes, salience = self.column("code"), self.column("salience")
        starts, ends = self.spans(places)
        return pd.DataFrame(
            {
                "text_id": self.text_ids[self.owners[places]],
                "word_id": self.column("word_id")[places],
                "word": self.word_strings(places),
                "start": starts,
                "end": ends,
                "code": codes[places],
                "codes": [codes[a : b + 1].tolist() for a, b in zip(places, lasts, strict=True)],
                "salience": [_strongest(salience[a : b + 1]) for a, b in zip(places, lasts, strict=True)],
            }
        )


def _strongest(scores: np.ndarray) -> float:
    return float(scores[np.abs(scores).argmax()])


__all__ = ["TokenIndex"]
