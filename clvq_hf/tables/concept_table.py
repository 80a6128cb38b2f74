"""`ConceptTable`: which concept each token of a set of texts has, with the queries that everything downstream uses."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..hosts.identity import check_identity, host_identity, tokenizer_fingerprint
from ..hub.provenance import public_name
from ..hub.repositories import TABLE_NAME, Source
from ..rendering.pages import render_summary
from ..typed import MAX_CODES, check_value
from .by_hand import BY_HAND_FILE, ByHand
from .names import NAMES_FILE, ConceptName
from .queries import TableQueries
from .schema import ADDED_LATER, FEATURES, FORMAT_VERSION, CodeModel
from .table_files import TableParts, push_table, read_table, write_table
from .token_index import TokenIndex

if TYPE_CHECKING:
    from ..files import ScratchFolder

logger = logging.get_logger(__name__)


class ConceptTable(TableQueries):
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
        names (`dict[int, ConceptName]`): Names that a language model gave to some of the concepts, by code. What a
            concept is called, whoever named it, says [`called`][clvq_hf.tables.ConceptTable.called].
        by_hand (`ByHand`): What people decided: names, merges, groups, and which concepts are not listed.
    """

    def __init__(
        self,
        tokens: Dataset,
        texts: Dataset,
        metadata: dict[str, Any],
        names: Mapping[int, ConceptName] | None = None,
        by_hand: ByHand | None = None,
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
        if by_hand is not None:
            self.set_by_hand(by_hand)

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
        self.set_by_hand(ByHand(self.codebook_size))
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
        return TableParts(self.tokens, self.texts, self.metadata, self.names, self.by_hand)

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
        return ConceptTable(self.tokens, texts, metadata, public_names, self.by_hand)

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
        return cls.load_from_disk(
            source.fetch(TABLE_NAME, "tokens.parquet", "texts.parquet", NAMES_FILE, BY_HAND_FILE)
        )

    def to_pandas(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tokens and texts as data frames, in memory."""
        return self.tokens.to_pandas(), self.texts.to_pandas()

    def set_by_hand(self, by_hand: ByHand) -> None:
        """Replace all decisions that people made about concepts; counts are made again.

        Raises:
            ValueError: If they are about another number of concepts.
        """
        if by_hand.codebook_size != self.codebook_size:
            raise ValueError(
                f"These decisions are about {by_hand.codebook_size} concepts, and this table has {self.codebook_size}."
            )
        super().set_by_hand(by_hand)
        self._index = TokenIndex(self.tokens, self.texts, by_hand.shown_codes)

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


def public_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a table, or the results of an evaluation, without paths to the host."""
    public = {**metadata, "host_name_or_path": public_name(metadata.get("host_name_or_path"))}
    if (host := metadata.get("host")) is not None:
        public["host"] = {**host, "name": public_name(host.get("name"))}
    return public


__all__ = ["ConceptTable", "public_metadata"]
