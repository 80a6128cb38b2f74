"""What a concept table answers: the concepts of texts, and the words and texts of concepts."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd
from datasets import Dataset
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformers.utils import logging

from ..hosts.readout import Readout
from .concepts import Concept, Example, short_word
from .curating import CuratedTable
from .schema import TRAINING_SPLITS
from .search import read_slice, score_codes, texts_of_slice, tokens_that_match
from .shading import Shade, shade
from .token_index import TokenIndex

logger = logging.get_logger(__name__)


class TableQueries(CuratedTable):
    """The queries of a [`ConceptTable`][clvq_hf.ConceptTable]. Counts take concepts that were merged by hand as one."""

    tokens: Dataset
    texts: Dataset
    _index: TokenIndex

    @property
    def label_names(self) -> list[str]:
        """`list[str]`: Names of the labels in order; empty without labels."""
        return list(self.metadata["label_names"])

    def label_name(self, label: int) -> str | None:
        """Name of a label; `None` for -1, or if the labels have no names."""
        return self.label_names[label] if 0 <= label < len(self.label_names) else None

    @property
    def active_codes(self) -> np.ndarray:
        """`np.ndarray`: The codes of at least one token that is not special, ascending; merged ones are one."""
        return np.flatnonzero(np.diff(self._index.by_code[1]))

    @property
    def predicts_labels(self) -> bool:
        """`bool`: Whether `prediction` is a label; of a causal language model it is a token or a continuation."""
        return self.readout is None or self.readout.predicts_labels

    @property
    def readout(self) -> Readout | None:
        """[`Readout`][clvq_hf.hosts.readout.Readout] or `None`: What the host was asked; `None` if it had no head."""
        return Readout.from_dict(self.metadata.get("readout"))

    def prediction_name(self, prediction: int) -> str | None:
        """Name of a prediction; `None` if there is none, or it is not a label."""
        return self.label_name(prediction) if self.predicts_labels else None

    @property
    def same_text(self) -> np.ndarray:
        """`np.ndarray`: A number per text that equal texts share; see [`text_hash`][clvq_hf.data.text_hash]."""
        return self._index.same_text

    def column(self, name: str) -> np.ndarray:
        """A column of `tokens` as an array of length N."""
        return self._index.column(name)

    def is_of(self, texts: Sequence[str | None]) -> bool:
        """Whether the table was made from these texts, in this order; empty ones (or `None`) have no row."""
        ids = self.texts["text_id"][:]
        return (
            bool(ids)
            and ids[-1] < len(texts)
            and self.texts["text"][:] == [texts[number] for number in ids]
            and not any((text or "").strip() for text in texts[ids[-1] + 1 :])
        )

    def text_row(self, text_id: int) -> int:
        """The row of a text in `texts`.

        Raises:
            ValueError: If the table has no such text (empty texts have no row).
        """
        return self._index.row(text_id)

    def token_rows(self, text_id: int) -> slice:
        """The rows of a text in `tokens`.

        Raises:
            ValueError: If the table has no such text (empty texts have no row).
        """
        row = self._index.row(text_id)
        return slice(int(self._index.first[row]), int(self._index.first[row + 1]))

    def frequent_codes(self, n: int) -> list[int]:
        """The `n` most frequent codes (special tokens do not count) that are not hidden, in ascending order."""
        counts = np.diff(self._index.by_code[1])
        order = [code for code in np.argsort(-counts, kind="stable").tolist() if code not in self.by_hand.hidden]
        return sorted(code for code in order[:n] if counts[code])

    @cached_property
    def has_labels(self) -> bool:
        """`bool`: Whether any text has a label. Without, `label_names` may still be those of the host's classes."""
        return bool(self.label_names) and bool((self._index.labels >= 0).any())

    def shade(self, concept: Concept) -> Shade:
        """The colour of a concept of this table: by its label; if no text has a label, by its rank in frequency."""
        return shade(concept, self.label_names, None if self.has_labels else self._index.ranks[concept.code])

    def text(self, text_id: int, words: bool = False, special_tokens: bool = True) -> pd.DataFrame:
        """The concepts of a text.

        Args:
            text_id (`int`): The text.
            words (`bool`): Whether rows are words instead of tokens; see [`words`][clvq_hf.ConceptTable.words].
            special_tokens (`bool`): Whether special tokens are included.

        Returns:
            `pandas.DataFrame`: The rows of `tokens`, or words with `word`, `start`, `end`, `code`, `codes`, `salience`.
        """
        rows = self.token_rows(text_id)
        if words:
            return self._index.words_of(np.arange(rows.start, rows.stop))
        frame = pd.DataFrame(self.tokens[rows])
        return frame if special_tokens else frame[~frame["special"]].reset_index(drop=True)

    def words(self, stop_words: bool = True) -> pd.DataFrame:
        """One row per word: sub-words joined, special tokens left out.

        Args:
            stop_words (`bool`): Whether to include English stop words and words without a letter.

        Returns:
            `pandas.DataFrame`: `text_id`, `word_id`, `word`, `start`, `end`, `code` (of its first token), `codes` (of
            all), `salience` (the score of largest absolute value).
        """
        frame = self._index.words_of(np.arange(len(self.tokens)))
        return frame if stop_words else frame[frame["word"].map(_is_content_word)]

    def concept(self, code: int, num_words: int = 10, num_examples: int = 5, stop_words: bool = True) -> Concept:
        """What the table knows about a concept.

        Args:
            code (`int`): Its number. If it was merged by hand, all concepts that are shown with it count as one.
            num_words (`int`): Number of its most frequent words.
            num_examples (`int`): Number of texts that show it best.
            stop_words (`bool`): Whether its words include English stop words and words without a letter.

        Returns:
            [`Concept`][clvq_hf.tables.Concept]: Counts exclude special tokens.
        """
        places = self._index.places(code)
        owners = self._index.owners[places]
        labels = self._index.labels[owners]
        labelled = np.bincount(labels[labels >= 0], minlength=len(self.label_names))
        members = self.by_hand.members(code)
        code = members[0]
        return Concept(
            code=code,
            num_tokens=len(places),
            num_texts=len(np.unique(owners)),
            label_counts=dict(zip(self.label_names, labelled.tolist(), strict=True)) if labelled.any() else {},
            top_words=self.top_words(code, num_words, stop_words=stop_words),
            examples=self.examples(code, num_examples),
            called=self.called(code),
            members=members if len(members) > 1 else (),
            group=self.by_hand.groups.get(code),
        )

    def top_words(
        self, code: int, n: int = 10, stop_words: bool = True, without: int | Sequence[int] | None = None
    ) -> list[tuple[str, int]]:
        """The most frequent words of a concept, in lower case, with the number of their tokens that have the concept.

        Args:
            code (`int`): The concept.
            n (`int`): Number of words.
            stop_words (`bool`): Whether to include English stop words and words without a letter.
            without (`int` or `Sequence[int]`, *optional*): Ids of texts to exclude, together with texts equal to them.

        Returns:
            `list[tuple[str, int]]`: The most frequent first; ties in alphabetical order. Those of more than 80
                characters are cut.
        """
        if n <= 0:
            return []
        counts = Counter(word.lower() for word in self._index.word_strings(self._index.places(code, without)))
        if not stop_words:
            counts = Counter({word: count for word, count in counts.items() if _is_content_word(word)})
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]
        return [(short_word(word), count) for word, count in most]

    def label_distribution(self, code: int) -> dict[str, float]:
        """Share of each label among the concept's tokens (special tokens excluded); empty without labels."""
        counts = self.concept(code, num_words=0, num_examples=0).label_counts
        total = sum(counts.values())
        return {name: count / total for name, count in counts.items()}

    def examples(
        self,
        code: int,
        n: int = 5,
        label: int | None = None,
        num_words: tuple[int, int] = (5, 30),
        without: int | Sequence[int] | None = None,
        by: Literal["share", "closeness", "spread"] = "share",
    ) -> list[Example]:
        """Texts that show a concept, those of readable length first.

        Args:
            code (`int`): The concept.
            n (`int`): Number of texts, without duplicates.
            label (`int`, *optional*): Only texts with this label.
            num_words (`tuple[int, int]`): Shortest and longest preferred length in words.
            without (`int` or `Sequence[int]`, *optional*): Ids of texts to exclude, together with texts equal to them.
            by (`str`): Which texts. `"share"`: those with the largest share of the concept's tokens. `"closeness"`:
                those whose states are closest to the code, which show what the concept stands for. `"spread"`: texts at
                evenly spaced quantiles of the distance, from close to far, which show how far the concept reaches. The
                distance of a text is that of its closest token.

        Returns:
            `list[Example]`: The best or closest first.

        Raises:
            ValueError: If `by` is unknown, or needs distances and the table has none.
        """
        if by not in ("share", "closeness", "spread"):
            raise ValueError(f"by must be 'share', 'closeness' or 'spread', got {by!r}.")
        if n <= 0:
            return []
        places = self._index.places(code, without)
        owners, firsts, counts = np.unique(self._index.owners[places], return_index=True, return_counts=True)
        closest = np.minimum.reduceat(self.column("distance")[places], firsts) if len(places) else np.zeros(0)
        if by != "share" and np.isnan(closest).any():
            raise ValueError(
                f"by={by!r} needs the distances of tokens to their codes, which this concept table lacks. Make it "
                "again with model.concept_table, or use by='share'."
            )
        lengths = np.maximum(self._index.word_counts[owners], 1)
        unreadable = (lengths < num_words[0]) | (num_words[1] < lengths)
        order = np.lexsort((owners, -counts / lengths if by == "share" else closest, unreadable))
        if label is not None:
            order = order[self._index.labels[owners[order]] == label]
        # The first of equal texts.
        order = order[np.sort(np.unique(self.same_text[owners[order]], return_index=True)[1])]
        if by == "spread":
            readable = order[~unreadable[order]]
            order = readable if len(readable) >= n else order[np.argsort(closest[order], kind="stable")]
            n = min(n, len(order))
            order = order[((np.arange(n) + 0.5) / max(n, 1) * len(order)).astype(np.int64)]
        return [self._example(int(owners[row]), places, float(closest[row])) for row in order[:n]]

    def purest(self, n: int, min_tokens: int, min_texts: int = 10, stop_words: bool = True) -> list[Concept]:
        """The concepts with the purest labels, or the most frequent ones if there are no labels; hidden ones left out.

        Args:
            n (`int`): Number of concepts.
            min_tokens (`int`): Minimum number of tokens: the purity of rare concepts means little.
            min_texts (`int`): Minimum number of texts.
            stop_words (`bool`): Whether their words include English stop words and words without a letter. If not,
                concepts that have no other words are left out.

        Returns:
            `list[Concept]`: The purest first, with six words and one example each.
        """
        shown = (code for code in self.active_codes.tolist() if code not in self.by_hand.hidden)
        counts = [self.concept(code, num_words=0, num_examples=0) for code in shown]
        counts = [concept for concept in counts if concept.num_tokens >= min_tokens and concept.num_texts >= min_texts]
        counts.sort(key=lambda concept: (-(concept.purity or 0), -concept.num_tokens, concept.code))
        codes = (c.code for c in counts if stop_words or self.top_words(c.code, 1, stop_words=False))
        return [self.concept(code, 6, 1, stop_words) for code in islice(codes, n)]

    def salient(self) -> pd.DataFrame:
        """The salient token of each text that has one.

        Returns:
            `pandas.DataFrame`: `text_id`, `position`, `word`, `code`, `salience`, `label`, `prediction`.

        Raises:
            ValueError: If the table was made without salience.
        """
        if self.metadata.get("salience") is None:
            raise ValueError(
                "This concept table has no salience. Make it with model.concept_table(…, salience=salient_tokens(…))."
            )
        position = np.asarray(self.texts["salient_position"][:])
        rows = np.flatnonzero(position >= 0)
        places = self._index.first[rows] + position[rows]
        texts = self.texts.with_format("numpy")
        return pd.DataFrame(
            {
                "text_id": texts["text_id"][:][rows],
                "position": position[rows],
                "word": self._index.word_strings(places),
                "code": self.column("code")[places],
                "salience": self.column("salience")[places],
                "label": self._index.labels[rows],
                "prediction": texts["prediction"][:][rows],
            }
        )

    def find(self, pattern: str | None = None, *, slice: str | None = None) -> pd.DataFrame:
        """The concepts that stand for a pattern of characters, or for a slice of the texts.

        Args:
            pattern (`str`, *optional*): A regular expression, in the syntax of the package `regex`; it is searched in
                whole texts, so it may span words. A token is found if it shares a character with a match. Case counts
                unless the expression begins with `(?i)`.
            slice (`str`, *optional*): Instead, texts of which a column has a value: `"label=Sports"`,
                `"prediction=Sports"`, `"split=test"`, `"dataset=ag_news"`. A concept finds a text in which it occurs.

        Returns:
            `pandas.DataFrame`: One row per concept that finds anything, the best first. `code`, `name` (or `None`),
            `found` and `total` (of its tokens, or its texts, those that are wanted and all), `precision` (their
            ratio), `recall` (share of all that are wanted), `f1` (their harmonic mean). Merged concepts are one, hidden
            ones are left out, special tokens do not count.

        Raises:
            ValueError: If not exactly one of both is given, the pattern is none or takes longer than a minute, or no
                text has the value.
        """
        if (pattern is None) == (slice is None):
            raise ValueError("Say either which pattern=… the concepts are to be found by, or which slice=….")
        rows = np.flatnonzero(~self._index.special)
        codes, owners = self.by_hand.shown_codes[self.column("code")[rows]], self._index.owners[rows]
        if pattern is not None:
            spans = np.stack([self.column("start")[rows], self.column("end")[rows]], axis=1)
            is_wanted = tokens_that_match(pattern, self.texts["text"][:], owners, spans)
            found = score_codes(codes, is_wanted, int(is_wanted.sum()), self.codebook_size)
        else:
            is_in = self._texts_of(str(slice))
            pairs = np.unique(np.stack([owners, codes], axis=1), axis=0)
            found = score_codes(pairs[:, 1], is_in[pairs[:, 0]], int(is_in.sum()), self.codebook_size)
        found = found[~found["code"].isin(self.by_hand.hidden)].reset_index(drop=True)
        names = [None if (called := self.called(code)) is None else called.name for code in found["code"]]
        found.insert(1, "name", pd.Series(names, dtype=object))
        return found

    def _texts_of(self, slice: str) -> np.ndarray:
        column, value = read_slice(slice)
        values = self.texts[column][:]
        if column == "label":
            values = [self.label_name(number) for number in values]
        elif column == "prediction":
            values = [self.prediction_name(number) for number in values]
        return texts_of_slice(values, value, column)

    def metric_inputs(
        self, words: bool = False, special_tokens: bool = False, stop_words: bool = True
    ) -> dict[str, list[Any]]:
        """The inputs of the metrics on concept tables: one row per text.

        Args:
            words (`bool`): Whether types are lower-case words, with the code of their first token, instead of tokens.
            special_tokens (`bool`): Whether to include special tokens (tokens only).
            stop_words (`bool`): Whether to include English stop words and words without a letter (words only).

        Returns:
            `dict[str, list]`: `texts` (`str`), `codes` (`list[int]`), `tokens` (`list[str]`), `labels` (`int`,
            -1: none).
        """
        if splits := sorted(set(self.texts["split"][:]) & set(TRAINING_SPLITS)):
            logger.warning(f"These texts were trained on ({', '.join(splits)}): the figures will be too good.")
        if words:
            frame = self.words(stop_words=stop_words)
            owners = np.searchsorted(self._index.text_ids, frame["text_id"].to_numpy())
            codes, types = frame["code"].to_numpy(), frame["word"].str.lower().to_numpy()
        else:
            rows = np.arange(len(self.tokens)) if special_tokens else np.flatnonzero(~self._index.special)
            owners, codes = self._index.owners[rows], self.column("code")[rows]
            types = np.asarray(self.tokens["token"][:], dtype=object)[rows]
        ends = np.searchsorted(owners, np.arange(len(self.texts) + 1))
        spans = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
        codes, types = codes.tolist(), types.tolist()
        return {
            "texts": self.texts["text"][:],
            "codes": [codes[start:end] for start, end in spans],
            "tokens": [types[start:end] for start, end in spans],
            "labels": self._index.labels.tolist(),
        }

    def _example(self, row: int, places: np.ndarray, distance: float) -> Example:
        first, last = np.searchsorted(places, (self._index.first[row], self._index.first[row + 1]))
        text = self.texts[row]
        spans: list[tuple[int, int]] = []
        for start, end in sorted(zip(*map(np.ndarray.tolist, self._index.spans(places[first:last])), strict=True)):
            start, end = _trimmed(text["text"], start, end)
            if spans and start <= spans[-1][1]:  # tokens of one word, or adjacent words
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return Example(
            text_id=text["text_id"],
            text=text["text"],
            spans=spans,
            label=self.label_name(text["label"]),
            prediction=self.prediction_name(text["prediction"]),
            distance=None if np.isnan(distance) else distance,
        )


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the white space around it, unless it is only white space."""
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _is_content_word(word: str) -> bool:
    return any(character.isalpha() for character in word) and word.lower() not in ENGLISH_STOP_WORDS


__all__ = ["TableQueries"]
