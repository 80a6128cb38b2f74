"""`Auditor`: the effect of every concept of a model on every class of its host, and the signals of suspects."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.texts import texts_fingerprint
from ..data.tokenization import TextCollator, ensure_pad_token
from ..explanations.answers import Answers
from ..explanations.group import Reading
from ..files import locked
from ..hosts import hooks
from ..hosts.identity import host_identity, tokenizer_fingerprint
from ..hosts.runner import HostRunner
from ..metrics.ablation_drop.statistics import MIN_TEXTS
from ..tables.concept_table import ConceptTable
from ..version import __version__
from .effects import effect_figures
from .occurrences import asks_words, chosen_occurrences, occurrences_of, read_occurrences, remove_drafts
from .phrases import with_phrases
from .removal import StateMeans, check_how
from .result import AUDIT_NAME, FORMAT_VERSION, Audit, check_order, check_same_audit
from .signals import checked_groups, signal_figures

logger = logging.get_logger(__name__)

# Tables of a codebook of thousands, and of as many classes, would take longer to compute than to read.
MAX_CLASSES = 100


class Auditor:
    """Measures what a host loses with each concept; made once, so that the cost is known before.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are, with a head.
        tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts that are audited.
        references, how, phrases, slices, groups, max_texts_per_concept, batch_size: See
            [`ConceptModel.audit`][clvq_hf.ConceptModel.audit].

    Raises:
        ValueError: If host, table, references or an argument do not fit, or the host predicts one of too many tokens.
    """

    def __init__(
        self,
        model: Any,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        table: ConceptTable,
        *,
        references: Any = None,
        how: str | None = None,
        phrases: bool = True,
        slices: Mapping[str, Sequence[Any]] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        max_texts_per_concept: int | None = 100,
        batch_size: int = 32,
    ) -> None:
        model.check_host(host)
        table.check_model(model)
        table.check_host(host, tokenizer)
        ensure_pad_token(tokenizer)
        if references is not None:
            references.check_source(model, host)
        self._how = check_how(model, how)
        check_order(None, slices or (), groups or ())
        self._references = references
        self._slices, self._groups = _checked_slices(slices, table), checked_groups(groups)
        if phrases:
            table = with_phrases(table)
        self._model, self._host, self._tokenizer, self._table = model, host, tokenizer, table
        if max_texts_per_concept is not None and max_texts_per_concept < MIN_TEXTS:
            raise ValueError(f"max_texts_per_concept must be at least {MIN_TEXTS}: fewer texts prove nothing.")
        self._max_texts, self._pairs = max_texts_per_concept, chosen_occurrences(table, max_texts_per_concept)
        self._texts_sha256 = texts_fingerprint(table.texts, ["text_id", "text"])
        self._batch_size, self._answers = batch_size, answers_of(host, tokenizer, table)

    def cost(self) -> str:
        """What the audit takes, in a sentence: known from the table, before the host runs."""
        layers = len(hooks.residual_stream(self._host, self._model.config.stack).hidden_sizes) - 1
        pairs, texts = self._pairs, len(self._table.texts)
        runs = (len(pairs) + asks_words(self._table)[pairs[:, 0]].sum()) * (
            1 - self._model.config.lower_layer / layers
        )
        return (
            f"{len(pairs):,} removals from {texts:,} texts: about as much as running the host on these texts "
            f"{max(runs / texts, 1):,.0f} times."
        )

    def run(self, output_dir: str | Path | None = None, overwrite: bool = False) -> Audit:
        """Audit; with a folder, what an earlier run of the same audit has left there is used.

        Raises:
            ValueError: If the folder cannot be written, holds an audit of another model or of other texts and
                `overwrite` is not set, or another process is at work there.
        """
        folder = None if output_dir is None else Path(output_dir)
        if folder is not None and not overwrite:
            check_same_audit(folder, model_fingerprint=self._model.fingerprint(), texts_sha256=self._texts_sha256)
        with nullcontext() if folder is None else locked(folder):
            audit = self._run(folder)
            if folder is not None:
                audit.save_to_disk(folder)
                remove_drafts(folder)
        return audit

    def _run(self, folder: Path | None) -> Audit:
        model, host, tokenizer, table = self._model, self._host, self._tokenizer, self._table
        if self._references is not None:
            means = StateMeans.of_references(self._references)
        else:
            means = StateMeans.of_texts(model, host, tokenizer, table, self._batch_size)
        reading = Reading(
            model=model,
            host=host,
            runner=HostRunner(host, model.config.stack, self._answers.readout),
            answers=self._answers,
            collate=TextCollator(tokenizer),
            method="",
            max_error=0.0,
            batch_size=self._batch_size,
            shown_codes=table.by_hand.shown_codes,
        )
        identity = {
            "format_version": FORMAT_VERSION,
            "clvq_version": __version__,
            "model_fingerprint": model.fingerprint(),
            "host": host_identity(host),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "texts_sha256": self._texts_sha256,
            "max_length": table.metadata["max_length"],
            "readout": self._answers.readout.identity(),
            "how": self._how,
            "max_texts_per_concept": self._max_texts,
            "means": means.digest(),
            "merged": [list(decision.codes) for decision in table.by_hand.decisions if decision.kind == "merge"],
        }
        rows = finished_rows(folder, identity)
        if rows is None:
            rows = read_occurrences(reading, table, self._pairs, means, self._how, folder, identity)
        names = list(self._answers.names)
        num_texts = np.bincount(occurrences_of(table)[:, 1], minlength=table.codebook_size)
        effects = effect_figures(row_arrays(rows, len(names)), num_texts)
        concepts = signal_figures(table, rows.to_pandas(), effects, self._answers, self._slices, self._groups)
        metadata = {
            **identity,
            "host_name_or_path": table.metadata["host_name_or_path"],
            "lower_layer": model.config.lower_layer,
            "codebook_size": model.config.codebook_size,
            "classes": names,
            "unit": self._answers.unit,
            "num_texts": len(table.texts),
            "references": self._references is not None,
            "slices": sorted(self._slices),
            "groups": sorted(self._groups),
        }
        return Audit(rows, Audit.dataset(effects), Audit.dataset(concepts), metadata)


def finished_rows(folder: Path | None, identity: Mapping[str, Any]) -> Dataset | None:
    """The rows of a finished audit in a folder, if they depend on the same; other slices and groups change no row."""
    if folder is None or not (folder / AUDIT_NAME).is_file():
        return None
    try:
        audit = Audit.load_from_disk(folder)
    except ValueError:  # damaged, or of another version: it is made anew
        return None
    if any(audit.metadata.get(name) != value for name, value in json.loads(json.dumps(identity)).items()):
        return None
    # In memory, because their file is replaced.
    return Dataset.from_pandas(audit.rows.to_pandas(), features=audit.rows.features, preserve_index=False)


def answers_of(host: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, table: ConceptTable) -> Answers:
    """The classes on which effects are measured; of a language model the label words that the table asks about.

    Labels of a table are in the ids of the host's classes, so these have the names of the labels: those of a dataset,
    where the host has none.

    Raises:
        ValueError: If the host predicts one of all tokens, or of too many classes.
    """
    readout = table.readout
    if readout is not None and readout.kind in ("verbalizer", "continuation"):
        answers = Answers(readout.kind, readout, readout.class_names, lambda number: tokenizer.decode([number]))
    else:
        answers = Answers.of(host, tokenizer)
        if answers.kind in ("classification", "token_classification") and len(table.label_names) == len(answers.names):
            answers = replace(answers, names=tuple(table.label_names))
    if not 0 < len(answers.names) <= MAX_CLASSES:
        raise ValueError(
            f"An audit needs a host that chooses one of at most {MAX_CLASSES} classes, and this one has "
            f"{len(answers.names) or 'a whole vocabulary'}. Audit a language model with a table that was made with "
            "readout=Readout.of(host, tokenizer, label_words=[…])."
        )
    return answers


def row_arrays(rows: Any, num_classes: int) -> dict[str, np.ndarray]:
    """The columns of rows per text and concept as arrays; word effects that are not known are NaN."""
    frame = rows.to_pandas()
    unknown = np.full(num_classes, np.nan, dtype=np.float32)
    lists = ("effect", "word_effect", "logits")
    columns = {name: frame[name].to_numpy() for name in frame.columns if name not in lists}
    words = [values if len(values) else unknown for values in frame["word_effect"]]
    return {**columns, "effect": np.stack(frame["effect"].to_list()), "word_effect": np.stack(words)}


def _checked_slices(slices: Mapping[str, Sequence[Any]] | None, table: ConceptTable) -> dict[str, np.ndarray]:
    """Of each slice column the values of the table's texts, as strings."""
    ids = np.asarray(table.texts["text_id"][:])
    found = {}
    for name, values in (slices or {}).items():
        if len(values) <= ids.max():
            raise ValueError(
                f"slices[{name!r}] has {len(values):,} values, but the table has texts up to number {ids.max():,}. "
                "Give one value per text of the dataset that the table was made from."
            )
        found[name] = np.asarray([str(values[int(number)]) for number in ids], dtype=object)
    return found


__all__ = ["Auditor", "answers_of", "finished_rows", "row_arrays"]
