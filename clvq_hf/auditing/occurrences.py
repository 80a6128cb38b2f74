"""What the removal of each concept from each text does to every class: the rows that an audit rests on."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm

from ..checksums import read_rows, write_rows
from ..data.texts import text_hash
from ..data.windows import cut_into_windows
from ..explanations.answers import Answers
from ..explanations.group import Chunk, Reading
from ..files import ScratchFolder, remove_folder
from ..hosts import hooks
from ..hosts.host import without_parameter_gradients
from ..tables.concept_table import ConceptTable
from .removal import StateMeans, without_own_concept

# Texts whose rows are written together; a run that was broken off goes on after the last of them.
TEXTS_PER_SHARD = 32
# The mean states of words are tried in every so-manieth text.
WORD_TEXTS = 3
FEATURES = Features(
    {
        "text_id": Value("int64"),
        "code": Value("int32"),
        "num_tokens": Value("int32"),
        "removed_norm": Value("float32"),
        "flips": Value("bool"),
        "logits": List(Value("float32")),
        "effect": List(Value("float32")),
        "word_effect": List(Value("float32")),
    }
)


def read_occurrences(
    reading: Reading,
    table: ConceptTable,
    pairs: np.ndarray,
    means: StateMeans,
    how: str,
    folder: Path | None,
    identity: dict[str, Any],
) -> Dataset:
    """One row per text and concept in it: what each class loses with the concept.

    A text has a concept if a token of it has that is not special. It is then removed as an edit does it: from all of
    its tokens but attention sinks.

    Args:
        reading (`Reading`): How the host is read.
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts.
        pairs (`np.ndarray` of shape `(N, 2)`): Rows of the texts, and the concepts that are removed from each.
        means (`StateMeans`): For the removal, and for what words alone do.
        how (`str`): Way of removal.
        folder (`Path`, *optional*): Where rows are kept until all are there, to go on after an interruption.
        identity (`dict`): What the rows depend on; rows of something else are removed.

    Returns:
        `datasets.Dataset`: `text_id`, `code`, `num_tokens` from which it was removed, `removed_norm` (the length of
        what was removed), `flips` (whether the host answers something else without it), `logits` (by class, before;
        relative to their mean if classes compete), `effect` (by class: that, minus the same without the concept) and
        `word_effect` (the same if the concept's tokens have the mean states of their words, minus the one without the
        concept; empty if one of the words is rare, and in two thirds of the texts).
    """
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    counts = np.bincount(pairs[:, 0], minlength=len(table.texts))
    # Texts with as many concepts are read together, so that none waits for the last concepts of another one.
    order = np.lexsort((np.asarray(table.texts["num_tokens"][:]), counts))
    order = order[counts[order] > 0]
    has_words = asks_words(table)[order]
    shards = [
        (own[start : start + TEXTS_PER_SHARD], with_words)
        for own, with_words in ((order[has_words], True), (order[~has_words], False))
        for start in range(0, len(own), TEXTS_PER_SHARD)
    ]
    with ExitStack() as stack:
        place = _drafts(folder, key) if folder is not None else stack.enter_context(ScratchFolder())
        stack.enter_context(hooks.evaluation_mode(reading.host))
        stack.enter_context(without_parameter_gradients(reading.host))
        bar = stack.enter_context(tqdm(total=len(pairs), desc="Removing concepts from texts", unit="removal"))
        parts, done = [], 0
        wanted = {int(row): set(own.tolist()) for row, own in _by_text(pairs)}
        for number, (rows, with_words) in enumerate(shards):
            shard = place / f"{number:05d}"
            if not shard.is_dir():
                found = list(_of_texts(reading, table, rows, wanted, means, how, with_words, bar))
                columns = {name: [row[name] for row in found] for name in FEATURES}
                write_rows(Dataset.from_dict(columns, features=FEATURES), shard)
            done += int(counts[rows].sum())
            bar.update(done - bar.n)
            parts.append(read_rows(shard, f"Remove {place}, and run the same command again."))
        kept = [part for part in parts if len(part)]
        if not kept:
            raise ValueError("No token of these texts has a concept: all are special tokens or attention sinks.")
        joined = concatenate_datasets(kept).to_pandas().sort_values(["text_id", "code"], ignore_index=True)
        return Dataset.from_pandas(joined, features=FEATURES, preserve_index=False)


def occurrences_of(table: ConceptTable) -> np.ndarray:
    """`(N, 2)`: row of the text and code, for each text and concept in it; special tokens do not count.

    Merged concepts are one.
    """
    special = table.column("special")
    owners = np.repeat(np.arange(len(table.texts)), np.asarray(table.texts["num_tokens"][:]))
    pairs = np.stack([owners[~special], table.by_hand.shown_codes[table.column("code")[~special]]], axis=1)
    return np.unique(pairs, axis=0)


def chosen_occurrences(table: ConceptTable, max_texts_per_concept: int | None) -> np.ndarray:
    """Those of them that are measured: of each concept those in at most so many texts, drawn by hash.

    The same texts come first for all concepts, so that a removal has others of the same text beside it.
    """
    pairs = occurrences_of(table)
    if max_texts_per_concept is None:
        return pairs
    hashes = np.asarray([text_hash(text)[::-1] for text in table.texts["text"][:]])
    rank = np.argsort(np.argsort(hashes, kind="stable"), kind="stable")
    order = np.lexsort((rank[pairs[:, 0]], pairs[:, 1]))
    codes = pairs[order, 1]
    number = np.arange(len(codes)) - np.searchsorted(codes, codes)
    return pairs[np.sort(order[number < max_texts_per_concept])]


def asks_words(table: ConceptTable) -> np.ndarray:
    """In which texts of a table the words' mean states are tried: a third of them, drawn by hash; `(T,)`, bool.

    That is the most expensive part of an audit, and the least important one.
    """
    return np.asarray([int(text_hash(text)[-4:], 16) % WORD_TEXTS == 0 for text in table.texts["text"][:]])


def centred(rows: torch.Tensor, answers: Answers) -> torch.Tensor:
    """Rows `(B, C)` relative to their means, if answers compete: what raises all classes favours none."""
    return rows - rows.mean(-1, keepdim=True) if answers.compete else rows


def _drafts(folder: Path, key: str) -> Path:
    """The folder of the shards of this audit; those of others are removed."""
    place = folder / f".building-{key}"
    for left_over in folder.glob(".building-*"):
        if left_over != place:
            remove_folder(left_over)
    place.mkdir(parents=True, exist_ok=True)
    return place


def remove_drafts(folder: Path) -> None:
    """Remove the shards once their rows are elsewhere."""
    for left_over in folder.glob(".building-*"):
        remove_folder(left_over)


def _by_text(pairs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    for own in np.split(pairs, starts[1:]):
        yield int(own[0, 0]), own[:, 1]


@torch.no_grad()
def _of_texts(
    reading: Reading,
    table: ConceptTable,
    rows: np.ndarray,
    wanted: Mapping[int, Collection[int]],
    means: StateMeans,
    how: str,
    with_words: bool,
    bar: Any,
) -> Iterator[dict[str, Any]]:
    texts = table.texts.select(rows)
    limit = table.metadata["max_length"]
    windowed = cut_into_windows(texts["text"][:], reading.collate.tokenizer, limit, "truncate")
    read = [
        (text_id, wanted[row], text.windows[0])
        for row, text_id, text in zip(rows.tolist(), texts["text_id"][:], windowed, strict=True)
        if text is not None
    ]
    for start in range(0, len(read), reading.batch_size):
        text_ids, chosen, windows = zip(*read[start : start + reading.batch_size], strict=True)
        yield from _of_batch(reading, text_ids, chosen, windows, means, how, with_words, bar)


def _of_batch(
    reading: Reading,
    text_ids: Sequence[int],
    chosen: Sequence[Collection[int]],
    windows: Sequence[dict[str, Any]],
    means: StateMeans,
    how: str,
    with_words: bool,
    bar: Any,
) -> Iterator[dict[str, Any]]:
    answers = reading.answers
    chunk = Chunk(reading, windows)
    width = chunk.state.shape[1]
    ids = torch.zeros(len(windows), width, dtype=torch.int64)
    for row, window in enumerate(windows):
        ids[row, : window["length"]] = torch.tensor(window["input_ids"])
    without = without_own_concept(reading.model, chunk.state, chunk.model_codes, how, means)
    norms = (without - chunk.state).norm(dim=-1)
    words, known = means.word_states(ids)
    words, known = words.to(chunk.state), known.to(chunk.state.device)
    before, decided = centred(chunk.rows, answers), answers.prefer(chunk.rows)
    own = [
        [code for code in codes[counted].unique().tolist() if code in wanted]
        for codes, counted, wanted in zip(chunk.codes, chunk.counted, chosen, strict=True)
    ]
    # The n-th concept of each text at once: a text that has fewer is left as it is.
    for turn in range(max(map(len, own), default=0)):
        left = [place for place, codes in enumerate(own) if len(codes) > turn]
        if len(left) <= len(own) // 2:  # the others would be run for nothing
            rest = [own[place][turn:] for place in left]
            ids_left, windows_left = ([each[place] for place in left] for each in (text_ids, windows))
            yield from _of_batch(reading, ids_left, rest, windows_left, means, how, with_words, bar)
            return
        wanted = torch.tensor([codes[turn] if turn < len(codes) else -1 for codes in own], device=chunk.codes.device)
        where = (chunk.codes == wanted[:, None]) & chunk.changed
        rows = chunk.run(torch.where(where[..., None], without, chunk.state)).cpu()
        is_known = (known | ~where).all(-1).cpu() & with_words
        effect, word_effect = before - centred(rows, answers), None
        if is_known.any():
            alone = chunk.run(torch.where(where[..., None], words, chunk.state)).cpu()
            word_effect = centred(alone, answers) - centred(rows, answers)
        squares = torch.where(where, norms, 0).square().sum(-1).sqrt()
        for place, codes in enumerate(own):
            if turn < len(codes):
                yield {
                    "text_id": text_ids[place],
                    "code": codes[turn],
                    "num_tokens": int(where[place].sum()),
                    "removed_norm": float(squares[place]),
                    "flips": answers.flips(chunk.rows[place], rows[place], int(decided[place])),
                    "logits": before[place].tolist(),
                    "effect": effect[place].tolist(),
                    "word_effect": word_effect[place].tolist() if word_effect is not None and is_known[place] else [],
                }
        bar.update(sum(turn < len(codes) for codes in own))


__all__ = [
    "FEATURES",
    "asks_words",
    "centred",
    "chosen_occurrences",
    "occurrences_of",
    "read_occurrences",
    "remove_drafts",
]
