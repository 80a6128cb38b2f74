"""`ConceptTable`: which concept each token of a set of texts has, with the queries that everything downstream uses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from huggingface_hub import CommitInfo
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..hosts.identity import check_identity, host_identity, tokenizer_fingerprint
from ..hosts.readout import Readout
from ..hub.provenance import public_name
from ..hub.repositories import TABLE_NAME, Source
from ..rendering.pages import render_summary
from ..typed import MAX_CODES, check_value
from .concepts import Concept, Example, short_word
from .names import NAMES_FILE, ConceptName, name_note
from .schema import ADDED_LATER, FEATURES, FORMAT_VERSION, TRAINING_SPLITS, CodeModel
from .shading import Shade, shade
from .table_files import TableParts, push_table, read_table, write_table
from .token_index import TokenIndex

if TYPE_CHECKING:
    from ..files import ScratchFolder

logger = logging.get_logger(__name__)


class ConceptTable:
    """The concepts of a set of texts: one row per token, one row per text, and how they were made.

    [`ConceptModel.concept_table`][clvq_hf.ConceptModel.concept_table] makes it; on disk it is Arrow, memory-mapped.

    Attributes:
        tokens (`datasets.Dataset`): `text_id`, `position`, `token`, `token_id`, `special`, `word_id` (-1 for special
            tokens), `start` and `end` (in characters), `code`, `salience` (null if there is none), `distance` of the
            state from its code, see [`distances`][clvq_hf.ConceptModel.distances] (null if it is not known, as in
            tables of earlier versions). One row per token, special ones included and padding excluded, in the order of
            the texts.
        texts (`datasets.Dataset`): `text_id`, `text`, `label` and `prediction` (-1: none), `logits`, `split`,
            `dataset`, `num_tokens`, `salient_position` (-1: none), `salience_error`. Sorted by `text_id`.
        metadata (`dict`): Format version, the model's fingerprint, host, layers, label names, settings.
        names (`dict[int, ConceptName]`): Names that a language model gave to some of the concepts, by code.
    """

    def __init__(
        self,
        tokens: Dataset,
        texts: Dataset,
        metadata: dict[str, Any],
        names: Mapping[int, ConceptName] | None = None,
    ) -> None:
        for name in sorted(set(ADDED_LATER) - set(tokens.column_names)):
            feature = FEATURES["tokens"][name]
            tokens = tokens.add_column(name, pa.nulls(len(tokens), feature.pa_type), feature=feature)
        self.tokens = tokens
        self.texts = texts
        self.metadata = metadata
        self.names = dict(names or {})
        # Temporary files of a table that was not saved exist as long as the table does.
        self.folder: ScratchFolder | None = None
        self._check()

    def _check(self) -> None:
        version = self.metadata.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"This concept table has the format {version!r}, and this version of clvq_hf reads {FORMAT_VERSION}. "
                "Make it again with model.concept_table, or install the version that wrote it: "
                f"{self.metadata.get('clvq_version')}."
            )
        for name, features in FEATURES.items():
            dataset = getattr(self, name)
            if missing := sorted(set(features) - set(dataset.column_names)):
                raise ValueError(f"The {name} of this concept table lack the columns {missing}.")
            if len(dataset) == 0:
                raise ValueError(f"This concept table is empty: it has no {name}.")
        size = self.metadata.get("codebook_size")
        if not 1 <= check_value(size, int, "codebook_size of this concept table") <= MAX_CODES:
            raise ValueError(
                f"codebook_size of this concept table is {size:,}; it must be 1 to {MAX_CODES:,}. Is it damaged?"
            )
        self._index = TokenIndex(self.tokens, self.texts, self.codebook_size)
        if (total := int(self._index.num_tokens.sum())) != len(self.tokens):
            raise ValueError(
                f"The texts of this concept table should have {total} tokens, but it has {len(self.tokens)}: its two "
                "parts do not belong together."
            )
        codes, size = self.column("code"), self.codebook_size
        if codes.min() < 0 or codes.max() >= size:
            raise ValueError(
                f"The codes run from {codes.min()} to {codes.max()}, but the codebook has {size} entries: the table is "
                "damaged or belongs to another model."
            )

    # ------------------------------------------------------------------------------------------------ on disk, Hub

    @property
    def _parts(self) -> TableParts:
        return TableParts(self.tokens, self.texts, self.metadata, self.names)

    def save_to_disk(self, path: str | Path) -> None:
        """Write the table to a folder as Arrow files: `tokens/`, `texts/` and `concept_table.json`.

        An earlier table in the folder is replaced once the new one is complete.

        Raises:
            ValueError: If the folder contains something else.
        """
        write_table(Path(path), self._parts)

    def save_as_parquet(self, path: str | Path) -> None:
        """Write the table in its form on the Hub: `tokens.parquet`, `texts.parquet` and `concept_table.json`.

        Raises:
            ValueError: If the folder contains something else.
        """
        write_table(Path(path), self._parts, as_parquet=True)

    @classmethod
    def load_from_disk(cls, path: str | Path, cache_dir: str | Path | None = None) -> "ConceptTable":
        """Open a saved table of either form, memory-mapped.

        Args:
            path (`str` or `Path`): The folder.
            cache_dir (`str` or `Path`, *optional*): Where Parquet is converted to Arrow. Default: the cache of
                `datasets`.

        Raises:
            ValueError: If the folder contains no table, or a damaged one.
        """
        return cls(*read_table(Path(path), cache_dir))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload concept table",
    ) -> CommitInfo:
        """Upload the table as a dataset repository with the configurations `tokens` and `texts`, in one commit.

        To store it next to the weights instead: `model.push_to_hub(…, concepts=table)`.

        Args:
            repo_id (`str`): `"org/name"`; created if needed.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): Default: the token you are logged in with.
            revision (`str`, *optional*): A branch, created if needed. Default: the main branch.
            create_pr (`bool`): Whether to open a pull request instead.
            commit_message (`str`): The commit message.

        Returns:
            `huggingface_hub.CommitInfo`: The commit.

        Raises:
            HubError: If the Hub cannot be reached, or refuses.
            ValueError: If the repository holds another dataset.
        """
        return push_table(
            self.without_paths()._parts,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )

    def without_paths(self) -> "ConceptTable":
        """The same table with paths and URLs shortened to names that can be published."""
        metadata = public_metadata(self.metadata)
        texts, datasets = self.texts, self.texts["dataset"][:]
        if (public := [public_name(name) or "" for name in datasets]) != datasets:
            columns, feature = texts.column_names, texts.features["dataset"]
            texts = texts.remove_columns("dataset").add_column("dataset", public, feature=feature)
            texts = texts.select_columns(columns)
        public_names = {
            code: replace(name, judge=public_name(name.judge) or "", detector=public_name(name.detector))
            for code, name in self.names.items()
        }
        return ConceptTable(self.tokens, texts, metadata, public_names)

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
    ) -> "ConceptTable":
        """Download a table that [`push_to_hub`][clvq_hf.ConceptTable.push_to_hub] has uploaded.

        Raises:
            HubError: If the Hub cannot be reached, or there is no such repository.
            ValueError: If the repository holds no concept table.
        """
        source = Source(
            repo_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            repo_type="dataset",
        )
        return cls.load_from_disk(source.fetch(TABLE_NAME, "tokens.parquet", "texts.parquet", NAMES_FILE))

    def to_pandas(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tokens and texts as data frames, in memory."""
        return self.tokens.to_pandas(), self.texts.to_pandas()

    # ----------------------------------------------------------------------------------------------------- contents

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return (
            f"ConceptTable({len(self.texts)} texts, {len(self.tokens)} tokens, {len(self.active_codes)} of "
            f"{self.codebook_size} concepts, host {self.metadata['host_name_or_path']!r}, "
            f"layer {self.metadata['lower_layer']})"
        )

    def _repr_html_(self) -> str:
        concepts = [self.concept(code, 8, 0) for code in self.frequent_codes(10)]
        rows = [
            {
                "concept": concept,
                "name_note": name_note(self.names[concept.code]) if concept.name else None,
                "shade": self.shade(concept),
            }
            for concept in sorted(concepts, key=lambda concept: -concept.num_tokens)
        ]
        return render_summary("ConceptTable", self.facts(), rows)

    def facts(self, method: str | None = None) -> list[tuple[str, str]]:
        """Name and value of each fact about the table: host, layers, method, texts, concepts, labels, salience.

        Args:
            method (`str`, *optional*): What the method is called; tables of earlier versions know only its type.
        """
        metadata, texts = self.metadata, self.texts
        labels, predictions = self._index.labels, np.asarray(texts["prediction"][:])
        comparable = (labels >= 0) & (predictions >= 0) & self.predicts_labels
        datasets = (
            ", ".join(dict.fromkeys(str(public_name(name)) for name in texts["dataset"][:] if name)) or "unnamed"
        )
        stack = f" ({metadata['stack']})" if metadata["stack"] else ""
        facts = [
            ("Host", public_name(metadata["host_name_or_path"]) or "not recorded"),
            ("Layers", f"{metadata['lower_layer']} → {metadata['upper_layer']}{stack}"),
            ("Method", method or metadata.get("method") or metadata["model_type"]),
            ("Texts", f"{len(texts):,} of {datasets} ({', '.join(dict.fromkeys(texts['split'][:]))})"),
            ("Tokens", f"{len(self):,}"),
            ("Concepts in use", f"{len(self.active_codes):,} of {self.codebook_size:,}"),
        ]
        if trained_on := metadata.get("num_trained_on"):
            facts.append(("Trained on", f"{trained_on:,} of these texts: figures of them are too good"))
        if self.label_names:
            facts.append(("Labels", ", ".join(self.label_names)))
        if comparable.any():
            facts.append(("Accuracy of the host here", f"{(labels == predictions)[comparable].mean():.1%}"))
        if (readout := self.readout) is not None and readout.kind not in ("classification", "next_token"):
            facts.append(("Host is asked", readout.title))
        return [*facts, ("Salience", metadata["salience"] or "none")]

    def frequent_codes(self, n: int) -> list[int]:
        """The `n` most frequent codes (special tokens do not count), in ascending order."""
        counts = np.diff(self._index.by_code[1])
        return sorted(int(code) for code in np.argsort(-counts, kind="stable")[:n] if counts[code])

    @cached_property
    def has_labels(self) -> bool:
        """`bool`: Whether any text has a label. Without, `label_names` may still be those of the host's classes."""
        return bool(self.label_names) and bool((self._index.labels >= 0).any())

    def shade(self, concept: Concept) -> Shade:
        """The colour of a concept of this table: by its label; if no text has a label, by its rank in frequency."""
        return shade(concept, self.label_names, None if self.has_labels else self._ranks[concept.code])

    @cached_property
    def _ranks(self) -> list[int]:
        counts = np.diff(self._index.by_code[1])
        return np.argsort(np.argsort(-counts, kind="stable"), kind="stable").tolist()

    @property
    def codebook_size(self) -> int:
        """`int`: K, the number of concepts of the model."""
        return int(self.metadata["codebook_size"])

    @property
    def label_names(self) -> list[str]:
        """`list[str]`: Names of the labels in order; empty without labels."""
        return list(self.metadata["label_names"])

    def label_name(self, label: int) -> str | None:
        """Name of a label; `None` for -1, or if the labels have no names."""
        return self.label_names[label] if 0 <= label < len(self.label_names) else None

    @cached_property
    def active_codes(self) -> np.ndarray:
        """`np.ndarray`: The codes of at least one token that is not special, in ascending order."""
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

    def check_model(self, model: CodeModel) -> None:
        """Check that a model made this table.

        Raises:
            ValueError: If the fingerprints differ.
        """
        if model.fingerprint() != self.metadata["model_fingerprint"]:
            raise ValueError(
                "This concept table was made with another model (their fingerprints differ): its codes mean something "
                "else. Make it again with model.concept_table."
            )

    def check_host(self, host: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that this host and this tokenizer made this table; warn if an earlier version did not note them.

        Raises:
            ValueError: If either is another one; the message names both.
        """
        given = {"host": host_identity(host), "tokenizer": tokenizer_fingerprint(tokenizer)}
        remedy = "Make it again with model.concept_table."
        check_identity(self.metadata, given, "The concept table", remedy)

    def check_same_host(self, other: "ConceptTable") -> None:
        """Check that another table is of the same host and tokenizer, as far as both have noted them.

        Raises:
            ValueError: If either differs; the message names both.
        """
        given = {name: other.metadata[name] for name in ("host", "tokenizer") if name in other.metadata}
        remedy = "Compare tables of one host."
        check_identity(self.metadata, given, "The concept table", remedy)

    # ------------------------------------------------------------------------------------------------------ queries

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
            code (`int`): Its number.
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
        return Concept(
            code=code,
            num_tokens=len(places),
            num_texts=len(np.unique(owners)),
            label_counts=dict(zip(self.label_names, labelled.tolist(), strict=True)) if labelled.any() else {},
            top_words=self.top_words(code, num_words, stop_words=stop_words),
            examples=self.examples(code, num_examples),
            name=self.names[code].name if code in self.names else None,
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
        """The concepts with the purest labels, or the most frequent ones if there are no labels.

        Args:
            n (`int`): Number of concepts.
            min_tokens (`int`): Minimum number of tokens: the purity of rare concepts means little.
            min_texts (`int`): Minimum number of texts.
            stop_words (`bool`): Whether their words include English stop words and words without a letter. If not,
                concepts that have no other words are left out.

        Returns:
            `list[Concept]`: The purest first, with six words and one example each.
        """
        counts = [self.concept(int(code), num_words=0, num_examples=0) for code in self.active_codes]
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


def public_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a table, or the results of an evaluation, without paths to the host."""
    public = {**metadata, "host_name_or_path": public_name(metadata.get("host_name_or_path"))}
    if (host := metadata.get("host")) is not None:
        public["host"] = {**host, "name": public_name(host.get("name"))}
    return public


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the white space around it, unless it is only white space."""
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _is_content_word(word: str) -> bool:
    return any(character.isalpha() for character in word) and word.lower() not in ENGLISH_STOP_WORDS


__all__ = ["ConceptTable", "public_metadata"]
