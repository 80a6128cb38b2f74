"""Texts → the rows of a concept table, in one pass over the host with bounded memory."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.batching import batches_by_length
from ..data.tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts
from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.runner import HostRunner
from ..version import __version__
from .concept_table import ConceptTable
from .schema import FORMAT_VERSION, TEXT_FEATURES, TOKEN_FEATURES

# Texts whose codes are held until they are written, in the order of the dataset.
TEXTS_PER_CHUNK = 512
# Logits are kept for classes, not for vocabularies.
MAX_LOGITS = 1000

# What a chunk's batch gives for each of its texts: codes (S,) and logits (C,) or None.
BatchCodes = Callable[[Mapping[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor | None]]


class TableWriter:
    """Writes the two Arrow files of a concept table, chunk by chunk."""

    def __init__(self, folder: Path) -> None:
        self._files = {"tokens": folder / "tokens.arrow", "texts": folder / "texts.arrow"}
        features = {"tokens": TOKEN_FEATURES, "texts": TEXT_FEATURES}
        self._writers = {
            name: ArrowWriter(path=str(file), features=features[name]) for name, file in self._files.items()
        }

    def write(self, name: str, columns: Mapping[str, Any]) -> None:
        """Append rows to `"tokens"` or `"texts"`; the columns are arrays or lists of one length."""
        features = TOKEN_FEATURES if name == "tokens" else TEXT_FEATURES
        schema = features.arrow_schema
        arrays = [pa.array(columns[field], type=schema.field(field).type, from_pandas=False) for field in features]
        self._writers[name].write_table(pa.Table.from_arrays(arrays, schema=schema))

    def finish(self) -> dict[str, Dataset]:
        """Close the files and open them memory-mapped."""
        for writer in self._writers.values():
            writer.finalize()
        return {name: Dataset.from_file(str(file)) for name, file in self._files.items()}


def host_codes(model: Any, host: Any, readout: Readout | None) -> BatchCodes:
    """Codes and logits of batches, by running the host; it stops at `lower_layer` where it predicts nothing."""
    config = model.config
    runner = HostRunner(host, config.stack)
    layer = config.lower_layer

    @torch.no_grad()
    def run(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = batch["attention_mask"].bool()
        logits = None
        with (
            hooks.evaluation_mode(host),
            hooks.capture(host, [layer], stack=config.stack, stop=readout is None) as states,
        ):
            output = host(**runner.inputs(batch))
            logits = readout(output, mask).cpu() if readout is not None else None
        lower = states[layer]
        finite = torch.isfinite(lower).all(-1) | ~mask.to(lower.device)
        if not finite.all():
            rows = batch["text_index"][~finite.all(-1).cpu()].tolist()
            raise ValueError(
                f"NaN or Inf in the hidden states of the texts {rows[:10]}. Look at these texts, or run the host in a "
                "wider dtype (bfloat16 or float32 in place of float16)."
            )
        return model.encode(lower.to(model.device), mask.to(model.device)).cpu(), logits

    return run


def build_table(
    model: Any,
    host: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    *,
    split: str,
    dataset_name: str,
    salience: Dataset | None,
    text_column: str,
    label_column: str,
    max_length: int | None,
    batch_size: int,
    output_dir: str | Path | None,
) -> ConceptTable:
    """See [`ConceptModel.concept_table`][clvq_hf.ConceptModel.concept_table]."""
    check_texts(dataset, text_column)
    ensure_pad_token(tokenizer)
    max_length = hooks.max_length(host, tokenizer, max_length)
    readout = Readout.of_or_none(host)
    folder = tempfile.TemporaryDirectory(prefix="concept-table-")
    writer = TableWriter(Path(folder.name))
    sizes = write_table(
        writer,
        host_codes(model, host, readout),
        dataset,
        tokenizer,
        text_column=text_column,
        label_column=label_column,
        split=split,
        dataset_name=dataset_name,
        max_length=max_length,
        batch_size=batch_size,
        salience=salience,
    )
    parts = writer.finish()
    config = model.config
    metadata = {
        "format_version": FORMAT_VERSION,
        "clvq_version": __version__,
        "model_fingerprint": model.fingerprint(),
        "model_type": config.model_type,
        "method": config.title,
        "codebook_size": config.codebook_size,
        "lower_layer": config.lower_layer,
        "upper_layer": config.upper_layer,
        "stack": config.stack,
        "host_name_or_path": config.host_name_or_path,
        "host_revision": config.host_revision,
        "readout": None if readout is None else readout.kind,
        "label_names": _label_names(dataset, label_column, host, parts["texts"]),
        "max_length": max_length,
        "salience": None if salience is None else salience.info.description or "given",
        **sizes,
    }
    table = ConceptTable(parts["tokens"], parts["texts"], metadata)
    # The files are there for as long as the table is.
    table.folder = folder
    if output_dir is None:
        return table
    table.save_to_disk(output_dir)
    return ConceptTable.load_from_disk(output_dir)


def _label_names(dataset: Dataset, label_column: str, host: Any, texts: Dataset) -> list[str]:
    if label_column not in dataset.column_names:
        return []
    feature = dataset.features[label_column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    highest = max(texts["label"][:])
    names = getattr(hooks.unwrap(host).config, "id2label", None) or {}
    return [str(names.get(label, label)) for label in range(highest + 1)]


def write_table(
    writer: TableWriter,
    run: BatchCodes,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    text_column: str,
    label_column: str,
    split: str,
    dataset_name: str,
    max_length: int | None,
    batch_size: int,
    salience: Dataset | None,
) -> dict[str, int]:
    """Tokenize the texts, run them, write both tables.

    Args:
        writer ([`TableWriter`]): Where the rows go.
        run (`Callable`): Codes `(B, S)` and logits `(B, C)` of a batch, as [`host_codes`] makes it.
        dataset (`datasets.Dataset`): The texts; row numbers become `text_id`.
        tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
        text_column (`str`): Column of the texts.
        label_column (`str`): Column of the labels; `-1` in the table if it does not exist.
        split (`str`): Name of the split, for every text.
        dataset_name (`str`): Name of the dataset, for every text.
        max_length (`int`, *optional*): In tokens.
        batch_size (`int`): Texts a host forward.
        salience (`datasets.Dataset`, *optional*): What `salient_tokens` returned for the same texts.

    Returns:
        `dict[str, int]`: `num_texts`, `num_tokens`, `num_empty`.

    Raises:
        ValueError: If the salience is of other texts.
    """
    tokenized = tokenize_texts(dataset, tokenizer, text_column, max_length, with_words=True)
    if salience is not None:
        _check_salience(salience, tokenized)
    collate = TextCollator(tokenizer)
    num_tokens = 0
    with tqdm(total=len(tokenized), desc="Building the concept table", unit="text") as bar:
        for start in range(0, len(tokenized), TEXTS_PER_CHUNK):
            rows = range(start, min(start + TEXTS_PER_CHUNK, len(tokenized)))
            chunk = tokenized.select(rows)
            codes: list[Any] = [None] * len(chunk)
            logits: list[Any] = [None] * len(chunk)
            for places, batch in batches_by_length(chunk, collate, batch_size):
                batch_codes, batch_logits = run(batch)
                for row, (place, mask) in enumerate(zip(places, batch["attention_mask"].bool(), strict=True)):
                    codes[place] = batch_codes[row][mask].numpy()
                    logits[place] = None if batch_logits is None else batch_logits[row].numpy()
                bar.update(len(places))
            part = salience.select(rows) if salience is not None else None
            tokens = _token_columns(chunk, codes, tokenizer, part)
            writer.write("tokens", tokens)
            writer.write(
                "texts", _text_columns(chunk, dataset, logits, text_column, label_column, split, dataset_name, part)
            )
            num_tokens += len(tokens["code"])
    return {"num_texts": len(tokenized), "num_tokens": num_tokens, "num_empty": len(dataset) - len(tokenized)}


def _check_salience(salience: Dataset, tokenized: Dataset) -> None:
    lengths = [len(scores) for scores in salience["scores"]]
    if salience["text_index"][:] != tokenized["text_index"][:] or lengths != tokenized["length"][:]:
        raise ValueError(
            "The salience is not of these texts, or was made with another tokenizer or max_length: make it with "
            "salient_tokens on the same dataset with the same arguments."
        )


def _token_columns(
    chunk: Dataset, codes: list[np.ndarray], tokenizer: PreTrainedTokenizerBase, salience: Dataset | None
) -> dict[str, Any]:
    lengths = np.asarray(chunk["length"])
    ids = _joined(chunk["input_ids"], np.int32)
    return {
        "text_id": np.repeat(np.asarray(chunk["text_index"], dtype=np.int64), lengths),
        "position": np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        "token": tokenizer.convert_ids_to_tokens(ids.tolist()),
        "token_id": ids,
        "special": _joined(chunk["token_mask"], np.int8) == 0,
        "word_id": _joined(chunk["word_id"], np.int32),
        "start": _joined(chunk["start"], np.int32),
        "end": _joined(chunk["end"], np.int32),
        "code": np.concatenate(codes).astype(np.int32),
        "salience": [None] * int(lengths.sum()) if salience is None else _joined(salience["scores"], np.float32),
    }


def _text_columns(
    chunk: Dataset,
    dataset: Dataset,
    logits: list[np.ndarray | None],
    text_column: str,
    label_column: str,
    split: str,
    dataset_name: str,
    salience: Dataset | None,
) -> dict[str, Any]:
    indices = chunk["text_index"][:]
    texts = dataset.select(indices)
    labels = texts[label_column][:] if label_column in dataset.column_names else [-1] * len(indices)
    few = logits[0] is not None and len(logits[0]) <= MAX_LOGITS
    return {
        "text_id": indices,
        "text": texts[text_column][:],
        "label": [-1 if label is None else int(label) for label in labels],
        "prediction": [-1 if row is None else int(row.argmax()) for row in logits],
        "logits": [row.tolist() if few else [] for row in logits],
        "split": [split] * len(indices),
        "dataset": [dataset_name] * len(indices),
        "num_tokens": chunk["length"][:],
        "salient_position": [-1] * len(indices) if salience is None else salience["salient_position"][:],
        "salience_error": [None] * len(indices) if salience is None else salience["error"][:],
    }


def _joined(rows: Any, dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=dtype) for row in rows])
