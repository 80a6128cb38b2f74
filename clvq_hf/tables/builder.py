"""Texts → the rows of a concept table, in one pass over the host with bounded memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.batching import batches_by_length, in_order
from ..data.extraction import check_finite
from ..data.labels import host_labels
from ..data.readouts import host_question, text_limit, text_readout
from ..data.texts import texts_fingerprint
from ..data.tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts
from ..files import ScratchFolder
from ..hosts import hooks
from ..hosts.identity import check_identity, host_identity, tokenizer_fingerprint
from ..hosts.readout import Readout
from ..hosts.runner import HostRunner
from ..hub.provenance import describe_host
from ..version import __version__
from .attribution import read_description
from .by_hand import read_by_hand
from .concept_table import ConceptTable
from .schema import FEATURES, FORMAT_VERSION, CodeModel
from .table_files import table_folder

logger = logging.get_logger(__name__)

# Texts whose codes are kept in memory until they are written in the order of the dataset.
TEXTS_PER_CHUNK = 512
# Fields of the model's config that go into the metadata.
CONFIG_FIELDS = (*("model_type", "codebook_size", "lower_layer", "upper_layer", "stack"),)
# Logits are stored for classes, not for vocabularies.
MAX_LOGITS = 1000

# From a batch of B texts and S tokens to codes (B, S), distances to them (B, S), or None if the method does not say,
# and logits (B, C) and predictions (B,) with a readout.
BatchCodes = Callable[
    [Mapping[str, torch.Tensor]],
    tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None],
]


@dataclass(frozen=True)
class SourceTexts:
    """The texts that a table is made from: row numbers become `text_id`, and labels are -1 without a column of them."""

    dataset: Dataset
    text_column: str = "text"
    label_column: str = "label"
    split: str = "test"
    dataset_name: str = ""

    @property
    def has_labels(self) -> bool:
        """`bool`: Whether the dataset has a column of labels."""
        return self.label_column in self.dataset.column_names


class TableWriter:
    """Writes the two Arrow files of a concept table, chunk by chunk."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: folder / f"{name}.arrow" for name in FEATURES}
        self._writers = {
            name: ArrowWriter(path=str(file), features=FEATURES[name]) for name, file in self._files.items()
        }

    def write(self, name: str, columns: Mapping[str, Any]) -> None:
        """Append rows to `"tokens"` or `"texts"`; the columns are arrays or lists of the same length."""
        schema = FEATURES[name].arrow_schema
        arrays = [pa.array(columns[field.name], type=field.type, from_pandas=False) for field in schema]
        self._writers[name].write_table(pa.Table.from_arrays(arrays, schema=schema))

    def finish(self) -> dict[str, Dataset]:
        """Close the files and open them memory-mapped."""
        for writer in self._writers.values():
            writer.finalize()
        return {name: Dataset.from_file(str(file)) for name, file in self._files.items()}


def host_codes(model: CodeModel, host: PreTrainedModel, readout: Readout | None) -> BatchCodes:
    """A function that runs the host on a batch; without a readout the host stops at `lower_layer`."""
    layer, stack = model.config.lower_layer, model.config.stack
    runner = HostRunner(host, stack, readout)

    @torch.no_grad()
    def run(
        batch: Mapping[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None]:
        mask = batch["attention_mask"].bool()
        answers = None
        with hooks.evaluation_mode(host), hooks.capture(host, [layer], stack=stack, stop=readout is None) as states:
            output = host(**runner.inputs(batch))
            if readout is not None:
                rows = readout(output, mask, batch["token_mask"]).cpu()
                answers = rows, readout.predict(rows)
        lower = states[layer][:, : mask.shape[1]]
        check_finite(lower, batch["text_index"], f"the hidden states of layer {layer}", mask)
        lower, mask = lower.to(model.device), mask.to(model.device)
        codes = model.encode(lower, mask)
        distances = model.distances(lower, mask, codes)
        return codes.cpu(), None if distances is None else distances.cpu(), answers

    return run


def build_table(*args: Any, output_dir: str | Path | None, **options: Any) -> ConceptTable:
    """See [`ConceptModel.concept_table`][clvq_hf.ConceptModel.concept_table]."""
    if output_dir is None:
        return _temporary_table(*args, **options)
    with table_folder(Path(output_dir)) as building:  # a folder that cannot be written is refused before the host runs
        table = _temporary_table(*args, **options)
        try:
            # What people decided about the concepts of this model holds for its table of other texts, too.
            table.set_by_hand(read_by_hand(Path(output_dir), table.metadata))
        except ValueError as error:
            logger.warning(f"What was decided by hand about the concepts of the earlier table is not kept: {error}")
        table.save_to_disk(building)
    return ConceptTable.load_from_disk(output_dir)


def _temporary_table(
    model: CodeModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    *,
    split: str,
    dataset_name: str,
    num_trained_on: int | None,
    salience: Dataset | None,
    readout: Readout | None,
    target: str | int | None,
    text_column: str,
    label_column: str,
    max_length: int | None,
    batch_size: int,
) -> ConceptTable:
    """A table whose files exist as long as it does."""
    check_texts(dataset, text_column)
    ensure_pad_token(tokenizer)
    noted = None if salience is None else read_description(salience)[1]
    if readout is None and target is None and noted is not None:
        readout = Readout.from_dict(noted.get("readout"))
    readout = readout or host_question(host, target)
    if readout is not None:
        sizes = {"text_column": text_column, "max_length": max_length, "batch_size": batch_size}
        readout = text_readout(host, tokenizer, dataset, readout, stack=model.config.stack, target=target, **sizes)
    dataset = host_labels(dataset, host, label_column, readout=readout)
    texts = SourceTexts(dataset, text_column, label_column, split, dataset_name)
    max_length = text_limit(host, tokenizer, max_length, readout)
    identity = {"host": host_identity(host), "tokenizer": tokenizer_fingerprint(tokenizer)}
    if salience is not None:
        of_these = {
            **identity,
            "layer": model.config.lower_layer,
            "stack": hooks.residual_stream(host, model.config.stack).stack,
            "max_length": max_length,
            "texts": texts_fingerprint(dataset, [text_column]),
        }
        if readout is not None:
            of_these |= {"readout": readout.identity(), "positions": None}
        remedy = "Compute it again, with model.salient_tokens(host, tokenizer, texts)."
        check_identity(noted, of_these, "The salience", remedy)
    folder = ScratchFolder()
    writer = TableWriter(folder.path)
    run = host_codes(model, host, readout)
    sizes = write_rows(writer, run, texts, tokenizer, max_length=max_length, batch_size=batch_size, salience=salience)
    parts = writer.finish()
    metadata = {
        "format_version": FORMAT_VERSION,
        "clvq_version": __version__,
        "model_fingerprint": model.fingerprint(),
        "method": model.config.title,
        **{name: getattr(model.config, name) for name in CONFIG_FIELDS},
        **_host_fields(model, host),
        **identity,
        "readout": None if readout is None else readout.to_dict(),
        "label_names": _label_names(texts, readout),
        "max_length": max_length,
        "num_trained_on": num_trained_on,
        "salience": None if salience is None else read_description(salience)[0] or "given",
        **sizes,
    }
    table = ConceptTable(parts["tokens"], parts["texts"], metadata)
    table.folder = folder
    return table


def _label_names(texts: SourceTexts, readout: Readout | None) -> list[str]:
    if texts.has_labels:
        return texts.dataset.features[texts.label_column].names
    return [] if readout is None or readout.of_vocabulary else list(readout.class_names)


def _host_fields(model: CodeModel, host: PreTrainedModel) -> dict[str, str | None]:
    """Name and commit of the host that was run: those in the model's config, unless that names another one."""
    found, config = describe_host(host), model.config
    if found["host_name_or_path"] in (None, config.host_name_or_path):
        return {name: getattr(config, name) for name in ("host_name_or_path", "host_revision")}
    return {name: found[name] for name in ("host_name_or_path", "host_revision")}


def write_rows(
    writer: TableWriter,
    run: BatchCodes,
    texts: SourceTexts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    batch_size: int,
    salience: Dataset | None = None,
) -> dict[str, int]:
    """Tokenize the texts, compute their codes with `run`, and write the rows of both parts.

    Returns:
        `dict[str, int]`: `num_texts`, `num_tokens`, `num_empty`.

    Raises:
        ValueError: If the salience belongs to other texts.
    """
    tokenized = tokenize_texts(texts.dataset, tokenizer, texts.text_column, max_length, with_words=True)
    if salience is not None:
        _check_salience(salience, tokenized)
    collate = TextCollator(tokenizer)
    num_tokens = 0
    with tqdm(total=len(tokenized), desc="Building the concept table", unit="text") as bar:
        for start in range(0, len(tokenized), TEXTS_PER_CHUNK):
            rows = range(start, min(start + TEXTS_PER_CHUNK, len(tokenized)))
            chunk = tokenized.select(rows)
            codes: dict[int, np.ndarray] = {}
            distances: dict[int, np.ndarray] = {}
            answers: dict[int, tuple[np.ndarray, int]] = {}
            for places, batch in batches_by_length(chunk, collate, batch_size):
                batch_codes, batch_distances, of_batch = run(batch)
                for row, (place, mask) in enumerate(zip(places, batch["attention_mask"].bool(), strict=True)):
                    codes[place] = batch_codes[row][mask].numpy()
                    if batch_distances is not None:
                        distances[place] = batch_distances[row][mask].numpy()
                    if of_batch is not None:
                        answers[place] = of_batch[0][row].numpy(), int(of_batch[1][row])
                bar.update(len(places))
            part = None if salience is None else salience.select(rows)
            tokens = _token_columns(chunk, in_order(codes), tokenizer, part)
            tokens["distance"] = np.concatenate(in_order(distances)) if distances else [None] * len(tokens["code"])
            writer.write("tokens", tokens)
            of_chunk = [answers.get(place) for place in range(len(chunk))]
            writer.write("texts", _text_columns(chunk, texts, of_chunk, part))
            num_tokens += len(tokens["code"])
    return {"num_texts": len(tokenized), "num_tokens": num_tokens, "num_empty": len(texts.dataset) - len(tokenized)}


def _check_salience(salience: Dataset, tokenized: Dataset) -> None:
    lengths = [len(scores) for scores in salience["scores"]]
    if salience["text_index"][:] != tokenized["text_index"][:] or lengths != tokenized["length"][:]:
        raise ValueError(
            "The salience is not of these texts, or was computed with another tokenizer or max_length: run "
            "salient_tokens on the same dataset with the same arguments."
        )


def _token_columns(
    chunk: Dataset, codes: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase, salience: Dataset | None
) -> dict[str, Any]:
    columns = chunk.with_format("arrow")[:]
    lengths, ids = columns["length"].to_numpy(), _joined(columns["input_ids"], np.int32)
    scores = None if salience is None else salience.with_format("arrow")[:]["scores"]
    return {
        "text_id": np.repeat(columns["text_index"].to_numpy().astype(np.int64), lengths),
        "position": np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        "token": tokenizer.convert_ids_to_tokens(ids.tolist()),
        "token_id": ids,
        "special": _joined(columns["token_mask"], np.int8) == 0,
        **{name: _joined(columns[name], np.int32) for name in ("word_id", "start", "end")},
        "code": np.concatenate(codes).astype(np.int32),
        "salience": [None] * int(lengths.sum()) if scores is None else _joined(scores, np.float32),
    }


def _text_columns(
    chunk: Dataset, texts: SourceTexts, answers: Sequence[tuple[np.ndarray, int] | None], salience: Dataset | None
) -> dict[str, Any]:
    indices = chunk["text_index"][:]
    rows = texts.dataset.select(indices)
    missing = [-1] * len(indices)
    labels = rows[texts.label_column] if texts.has_labels else missing
    return {
        "text_id": indices,
        "text": rows[texts.text_column][:],
        "label": [-1 if label is None else label for label in labels],
        "prediction": [-1 if answer is None else answer[1] for answer in answers],
        "logits": [[] if row is None or len(row[0]) > MAX_LOGITS else row[0].tolist() for row in answers],
        "split": [texts.split] * len(indices),
        "dataset": [texts.dataset_name] * len(indices),
        "num_tokens": chunk["length"][:],
        "salient_position": missing if salience is None else salience["salient_position"][:],
        "salience_error": [None] * len(indices) if salience is None else salience["error"][:],
    }


def _joined(rows: pa.ChunkedArray, dtype: type) -> np.ndarray:
    """The values of all lists, one after the other."""
    return rows.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False)


__all__ = ["SourceTexts", "TableWriter", "build_table", "host_codes", "write_rows"]
