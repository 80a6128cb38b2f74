"""What a host answers before and after an edit, and under controls, text by text."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import batches_by_length
from ..data.tokenization import TextCollator, tokenize_texts
from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.resume import resume
from ..hosts.runner import HostRunner
from .retest_figures import Outcome

BEFORE, EDIT = "before", "edit"
OTHER, RANDOM, DELETED = "another concept", "random direction", "words deleted"
CONTROLS = (OTHER, RANDOM, DELETED)
# A concept whose texts have a forbidden one so many times as often as all texts do belongs to it.
COMPANION = 1.5
# What an edit became in the weights, if it is given.
FOLDED = "folded model"


@dataclass(frozen=True)
class Answered:
    """What N texts were answered.

    Attributes:
        rows_of (`np.ndarray` of shape `(N,)`, int64): Their rows in the dataset; empty texts were left out.
        outcomes (`dict[str, Outcome]`): By condition.
        has_concept (`np.ndarray` of shape `(N,)`, bool): Whether a token that is not special has one of the forbidden
            concepts. (The edit takes them from special tokens, too.)
        other_codes (`tuple[int, ...]`): The concepts that the control removes.
        other_coverage (`float`): Share of the texts that have one of them.
    """

    rows_of: np.ndarray
    outcomes: dict[str, Outcome]
    has_concept: np.ndarray
    other_codes: tuple[int, ...]
    other_coverage: float


@torch.no_grad()
def answer(
    edit: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    readout: Readout,
    *,
    limit: int | None,
    batch_size: int,
    seed: int,
    folded: PreTrainedModel | None = None,
) -> Answered:
    """Ask the host with and without the edit, and under each control; `texts` has the column `text`.

    In the first pass the lower blocks run once for three conditions; the second asks with another concept removed, and
    with the words deleted, and the `folded` model.
    """
    host, config = edit.host, edit.model.config
    runner, collate = HostRunner(host, config.stack, readout), TextCollator(tokenizer)
    tokenized = tokenize_texts(texts, tokenizer, "text", limit, with_words=True)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(config.hidden_size, generator=generator), dim=0)
    # Of one row of logits each, which a first batch makes known.
    names = (BEFORE, EDIT, FOLDED, RANDOM, OTHER, DELETED)
    rows: dict[str, dict[int, np.ndarray]] = {name: {} for name in names}
    codes_of: dict[int, np.ndarray] = {}
    deleted: dict[int, str] = {}
    total = 2 * -(-len(tokenized) // batch_size)
    with hooks.evaluation_mode(host), tqdm(total=total, desc="Retesting", unit="batch") as bar:
        for numbers, batch in batches_by_length(tokenized, collate, batch_size):
            inputs, mask = runner.inputs_of_answers(batch)

            def read(output: Any, batch: Any = batch, mask: torch.Tensor = mask) -> np.ndarray:
                return readout(output, mask, batch["token_mask"]).double().cpu().numpy()

            upper = resume(host, inputs, config.lower_layer, config.stack)
            state, real = upper.state, batch["attention_mask"].bool().to(upper.state.device)
            changed, where = edit.changed(state, real)
            lengths = (changed - state.float()).norm(dim=-1, keepdim=True) * where[..., None]
            pushed = state.float() - lengths * direction.to(state.device)
            for name, output in (
                (BEFORE, upper.output),
                (EDIT, upper(changed.to(state.dtype))),
                (RANDOM, upper(pushed.to(state.dtype))),
            ):
                rows[name].update(zip(numbers, read(output), strict=True))
            found = edit.codes(state, real).cpu().masked_fill(~batch["token_mask"].bool(), -1).numpy()
            codes_of.update((number, found[place]) for place, number in enumerate(numbers))
            bar.update()
        has_concept = np.asarray([np.isin(codes_of[number], edit.forbid).any() for number in range(len(tokenized))])
        other = choose_other(edit, [codes_of[number] for number in range(len(tokenized))])
        for number in np.flatnonzero(has_concept).tolist():
            deleted[number] = without_words(
                texts[int(tokenized[number]["text_index"])]["text"],
                tokenized[number],
                np.isin(codes_of[number], edit.forbid),
            )
        control = nullcontext()
        if other:
            # With interchange, what takes the place is the same.
            substitutes = edit.with_codes[: len(other)] or None
            control = edit.model.edit(host, other, how=edit.how, positions=edit.positions, with_codes=substitutes)
            control.remove()
        for numbers, batch in batches_by_length(tokenized, collate, batch_size):
            inputs, mask = runner.inputs_of_answers(batch)
            if folded is not None:
                answers = readout(folded(**inputs), mask, batch["token_mask"]).double().cpu().numpy()
                rows[FOLDED].update(zip(numbers, answers, strict=True))
            if other:
                with control:
                    answers = readout(host(**inputs), mask, batch["token_mask"]).double().cpu().numpy()
                rows[OTHER].update(zip(numbers, answers, strict=True))
            bar.update()
        # Texts without the concept stay as they are; one of which nothing is left has no answer.
        rows[DELETED] = {number: row for number, row in rows[BEFORE].items() if not has_concept[number]}
        left = [number for number in deleted if deleted[number].strip()]
        if left:
            again = tokenize_texts(Dataset.from_dict({"text": [deleted[n] for n in left]}), tokenizer, "text", limit)
            places = again["text_index"][:]
            for numbers, batch in batches_by_length(again, collate, batch_size):
                inputs, mask = runner.inputs_of_answers(batch)
                answers = readout(host(**inputs), mask, batch["token_mask"]).double().cpu().numpy()
                rows[DELETED].update(zip([left[places[n]] for n in numbers], answers, strict=True))
    return Answered(
        rows_of=np.asarray(tokenized["text_index"][:]),
        outcomes={name: _outcome(found, len(tokenized), readout) for name, found in rows.items() if found},
        has_concept=has_concept,
        other_codes=tuple(other),
        other_coverage=float(np.mean([np.isin(codes_of[n], other).any() for n in range(len(tokenized))])),
    )


def _outcome(found: dict[int, np.ndarray], number: int, readout: Readout) -> Outcome:
    """The rows in order; NaN where there is none."""
    width = len(next(iter(found.values())))
    rows = np.full((number, width), np.nan)
    rows[list(found)] = np.stack(list(found.values()))
    return Outcome(rows, readout.has_probabilities)


def choose_other(edit: Any, codes: Sequence[np.ndarray]) -> list[int]:
    """For each forbidden concept another one that occurs in about as many of these texts; none if there is none.

    Concepts that prefer the same texts are left out if others are left: in a phrase, they say the same.

    Args:
        edit (`ConceptEdit`): The edit.
        codes (`Sequence[np.ndarray]`): The codes of each text, negative where there is none.
    """
    has = np.zeros((len(codes), edit.model.config.codebook_size), dtype=bool)
    for row, own in enumerate(codes):
        has[row, own[own >= 0]] = True
    coverage = has.sum(0)
    has_forbidden = has[:, list(edit.forbid)].any(1)
    is_free = coverage > 0
    is_free[[*edit.forbid, *edit.with_codes]] = False
    together = has[has_forbidden].sum(0) > COMPANION * has_forbidden.mean() * coverage
    is_free = is_free & ~together if (is_free & ~together).any() else is_free
    chosen = []
    for code in edit.forbid:
        candidates = np.flatnonzero(is_free)
        if len(candidates) == 0:
            break
        chosen.append(int(candidates[np.abs(coverage[candidates] - coverage[code]).argmin()]))
        is_free[chosen[-1]] = False
    return chosen


def without_words(text: str, row: Any, has_concept: np.ndarray) -> str:
    """A text without the words that have a token with the concept, and without the space before each.

    Args:
        text (`str`): The text.
        row (`Mapping`): Its tokens, with `start`, `end`, `word_id` and `token_mask`.
        has_concept (`np.ndarray` of shape `(S,)`, bool): Which tokens have it; padding may follow.
    """
    words, start, end = (np.asarray(row[name]) for name in ("word_id", "start", "end"))
    is_removed = np.isin(words, np.unique(words[has_concept[: len(words)] & (words >= 0)])) & (words >= 0)
    kept = np.ones(len(text), dtype=bool)
    for word in np.unique(words[is_removed]):
        first, last = start[words == word].min(), end[words == word].max()
        kept[first:last] = False
        if first and text[first - 1].isspace():
            kept[first - 1] = False
    return "".join(character for character, is_kept in zip(text, kept, strict=True) if is_kept)


__all__ = ["BEFORE", "CONTROLS", "EDIT", "FOLDED", "OTHER", "Answered", "answer", "choose_other", "without_words"]
