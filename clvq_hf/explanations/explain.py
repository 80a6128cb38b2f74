"""Texts → explanations: the concepts of each text by contribution, and the prediction without the strongest one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.readouts import text_limit
from ..data.tokenization import TextCollator, ensure_pad_token
from ..data.windows import WindowedText, cut_into_windows
from ..extras import require
from ..hosts import hooks
from ..hosts.host import without_parameter_gradients
from ..hosts.runner import HostRunner
from ..tables.concept_table import ConceptTable
from .answers import Answers
from .group import Reading, TextGroup
from .reliability import find_reasons
from .result import ExplainedConcept, ExplainedToken, Explanation, Removal
from .token_answers import find_token_answers

logger = logging.get_logger(__name__)

METHODS = ("integrated_gradients", "gradient_x_input")
LONG_TEXTS = ("windows", "truncate")
# Texts that are sorted by length before they are read.
BLOCK = 256
# Largest error of gradient × input, relative to the sum of the absolute scores.
SLOPE_ERROR = 0.5
# A control is matched within these factors, as in `ablate_texts`.
POSITION_CALIPER, NORM_CALIPER = 1.5, 1.25
NUM_TOP_WORDS = 8


class Explainer:
    """Explains what a host predicts by the concepts of a model; made once for many texts.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are, with a head.
        tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
        table ([`ConceptTable`][clvq_hf.ConceptTable], *optional*): The words and labels of the model's concepts.
        method (`str`): `"integrated_gradients"`, or `"gradient_x_input"`, which is several times as fast, and rougher.
        n_steps (`int`): Steps of integrated gradients; doubled up to 128 for texts whose scores miss `max_error`.
        max_error (`float`): Largest relative error of integrated gradients.
        max_length (`int`, *optional*): Most tokens that the host reads at once. Default: that of training, else the
            host's limit.
        long_texts (`str`): `"windows"` or `"truncate"`; see [`ConceptModel.explain`][clvq_hf.ConceptModel.explain].
        batch_size (`int`): Windows per forward pass of the host.

    Raises:
        ValueError: If host, table or an argument does not fit.
    """

    def __init__(
        self,
        model: Any,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        table: ConceptTable | None = None,
        *,
        method: str = "integrated_gradients",
        n_steps: int = 8,
        max_error: float = 0.05,
        max_length: int | None = None,
        long_texts: str = "windows",
        batch_size: int = 32,
    ) -> None:
        for name, value, allowed in (("method", method, METHODS), ("long_texts", long_texts, LONG_TEXTS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
        if method == "integrated_gradients":
            require("method='integrated_gradients'", "evaluation", packages=["captum"])
        model.check_host(host)
        if not model.is_initialized:
            raise ValueError("The concepts of this model were never fitted to data; train it first.")
        if table is not None:
            table.check_model(model)
            table.check_host(host, tokenizer)
        ensure_pad_token(tokenizer)
        self._asks_tokens = Answers.of(host, tokenizer).kind == "token_classification"
        self._model, self._host, self._tokenizer, self._table = model, host, tokenizer, table
        self._method, self._n_steps, self._max_error, self._batch_size = method, n_steps, max_error, batch_size
        self._max_length, self._long_texts = max_length or model.config.longest_text, long_texts
        # A slope is not expected to follow the whole way: only scores of the wrong size are refused.
        self._accepted_error = max_error if method == "integrated_gradients" else max(max_error, SLOPE_ERROR)
        self._caveats = _caveats(model)
        self._described: dict[int, dict[str, Any]] = {}

    def explain(self, texts: Sequence[str], target: int | str | None = None) -> Iterator[Explanation]:
        """Explain texts one after the other, in their order; texts without a token are left out, with a warning.

        Args:
            texts (`Sequence[str]`): The texts.
            target (`int` or `str`, *optional*): See [`ConceptModel.explain`][clvq_hf.ConceptModel.explain].

        Yields:
            `Explanation`: One per text; one per text and class with `"all"`; one per word of a token classifier.

        Raises:
            ValueError: If the host has no such class, or no text has a token.
        """
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("texts must be strings: pass a column of a dataset, dataset['text'].")
        reading = self._read_for(target)
        targets = reading.answers.choose(target)
        windowed = self.windows(texts, reading)
        if not windowed:
            raise ValueError("There is nothing to explain: no text has a token.")
        if len(windowed) < len(texts):
            logger.warning(f"Skipped {len(texts) - len(windowed)} empty texts of {len(texts)}.")
        numbers = list(windowed)
        with (
            hooks.evaluation_mode(self._host),
            without_parameter_gradients(self._host),
            tqdm(total=len(numbers), desc="Explaining", unit="text", disable=len(numbers) < 10) as bar,
        ):
            # Texts of similar length are read together, but not so many that the first result waits for the last.
            for start in range(0, len(numbers), BLOCK):
                block = numbers[start : start + BLOCK]
                found: dict[int, list[Explanation]] = {}
                for group in self._groups({number: windowed[number] for number in block}):
                    found |= self._explain_group(reading, group, targets)
                    bar.update(len(group))
                for number in block:
                    yield from found[number]

    def is_single(self, target: int | str | None) -> bool:
        """Whether there is one explanation per text: not of all classes, nor of the words of a text."""
        return target != "all" and not self._asks_tokens

    def windows(self, texts: Sequence[str], reading: Reading | None = None) -> dict[int, WindowedText]:
        """The texts as the host reads them, by their numbers; those without a token are left out."""
        readout = (reading or self._read_for(None)).answers.readout
        limit = text_limit(self._host, self._tokenizer, self._max_length, readout)
        # What follows a text depends on its end.
        windowed = cut_into_windows(
            texts, self._tokenizer, limit, "end" if readout.of_vocabulary else self._long_texts
        )
        return {number: text for number, text in enumerate(windowed) if text is not None}

    def _read_for(self, target: int | str | None) -> Reading:
        answers = Answers.of(self._host, self._tokenizer, target)
        return Reading(
            model=self._model,
            host=self._host,
            runner=HostRunner(self._host, self._model.config.stack, answers.readout),
            answers=answers,
            collate=TextCollator(self._tokenizer),
            method=self._method,
            max_error=self._max_error,
            batch_size=self._batch_size,
            shown_codes=None if self._table is None else self._table.by_hand.shown_codes,
        )

    def _groups(self, texts: Mapping[int, WindowedText]) -> Iterator[dict[int, WindowedText]]:
        """Texts of similar length, with about `batch_size` windows in all."""
        group: dict[int, WindowedText] = {}
        size = 0
        for number in sorted(texts, key=lambda number: len(texts[number])):
            size += len(texts[number].windows)
            if group and size > self._batch_size:
                yield group
                group, size = {}, len(texts[number].windows)
            group[number] = texts[number]
        yield group

    def _explain_group(
        self, reading: Reading, texts: Mapping[int, WindowedText], targets: Sequence[int | None]
    ) -> dict[int, list[Explanation]]:
        if reading.answers.kind == "token_classification":
            return self._explain_tokens(reading, texts, targets)
        group = TextGroup(reading, list(texts.values()))
        found: dict[int, list[Explanation]] = {number: [] for number in texts}
        for target in targets:
            wanted = reading.answers.prefer(group.rows) if target is None else torch.full((len(texts),), target)
            for number, explanation in zip(texts, self._explain_targets(group, wanted, list(texts)), strict=True):
                found[number].append(explanation)
        return found

    def _explain_tokens(
        self, reading: Reading, texts: Mapping[int, WindowedText], targets: Sequence[int | None]
    ) -> dict[int, list[Explanation]]:
        """One explanation per word, by its first token: of words of these classes, or of any but the outside one."""
        outside = reading.answers.readout.outside
        wanted = {target for target in targets if target is not None} or set(range(len(reading.answers.names)))
        asked = [
            (number, *chosen) for number, chosen in find_token_answers(reading, texts, wanted - {outside} or wanted)
        ]
        found: dict[int, list[Explanation]] = {number: [] for number in texts}
        for start in range(0, len(asked), self._batch_size):
            numbers, windows, positions, classes = zip(*asked[start : start + self._batch_size], strict=True)
            group = TextGroup(reading, windows, positions)
            for number, explanation in zip(
                numbers, self._explain_targets(group, torch.tensor(classes), numbers, positions), strict=True
            ):
                found[number].append(explanation)
        return found

    def _explain_targets(
        self,
        group: TextGroup,
        target: torch.Tensor,
        numbers: Sequence[int],
        positions: Sequence[int] | None = None,
    ) -> list[Explanation]:
        answers = group.answers
        scores, errors = group.scores(target, self._n_steps)
        ranked = [_rank(group, place, scores[place], answers.is_number) for place in range(len(numbers))]
        salient = [_first(own, answers.is_number) for own in ranked]
        controls = [_find_control(group, place, code) for place, code in enumerate(salient)]
        removals = {
            kind: _removals(group, target, codes)
            for kind, codes in (("salient", salient), ("control", [code for code, _ in controls]))
        }
        margin = answers.margins(group.rows, target)
        explanations = []
        for place, number in enumerate(numbers):
            text, row, answer = group.texts[place], group.rows[place], int(target[place])
            concepts = [
                self._concept(group, place, code, value, scores[place]) for code, value in ranked[place].items()
            ]
            first, other = removals["salient"][place], removals["control"][place]
            other = other and replace(other, matched=controls[place][1])
            reasons = [*self._caveats, *find_reasons(concepts, first, other, errors[place], self._accepted_error)]
            explanations.append(
                Explanation(
                    text=text.text,
                    text_id=number,
                    target=answers.name(answer),
                    prediction=answers.predicted(row, answer),
                    probability=answers.probability(row, answer),
                    margin=float(margin[place]),
                    unit=answers.unit,
                    tokens=_tokens(group, place, scores[place]),
                    concepts=concepts,
                    salient=first,
                    control=other,
                    reliable=not reasons,
                    reasons=reasons,
                    method=self._method,
                    token=None if positions is None else int((~text.special[: positions[place]]).sum()),
                    special_score=float(scores[place][text.special].sum()),
                    error=errors[place],
                    num_windows=len(text.windows),
                    num_cut=text.num_cut,
                )
            )
        return explanations

    def _concept(
        self, group: TextGroup, place: int, code: int, contribution: float, scores: np.ndarray
    ) -> ExplainedConcept:
        text, has = group.texts[place], (group.codes[place] == code) & group.counted[place]
        outliers = group.outliers[place]
        strongest = int(np.argmax(np.where(has, scores, -np.inf)))
        number_of = np.cumsum(~text.special) - 1
        return ExplainedConcept(
            code=code,
            contribution=contribution,
            words=list(dict.fromkeys(_words(text, has))),
            positions=number_of[has].tolist(),
            fits=None if outliers is None else not outliers[strongest],
            **self._describe(code),
        )

    def _describe(self, code: int) -> dict[str, Any]:
        """What the table knows of a concept."""
        if self._table is None:
            return {}
        if code not in self._described:
            concept = self._table.concept(code, NUM_TOP_WORDS, 0)
            self._described[code] = {
                "top_words": [word for word, _ in concept.top_words],
                "name": concept.name,
                "named_by": concept.called and concept.called.by,
                "label": concept.label,
                "purity": concept.purity,
                "num_texts": concept.num_texts,
            }
        return self._described[code]


def _caveats(model: Any) -> list[str]:
    """Reasons against relying on any explanation by a model: it was hardly trained."""
    figures = (model.config.training or {}).get("figures")
    explained = figures.get("explained_variance") if isinstance(figures, dict) else None
    if not isinstance(explained, int | float) or explained > 0:
        return []
    return [
        f"The concepts say nothing about the host's states (explained variance {explained:.2f}): train them longer."
    ]


def _removals(group: TextGroup, target: torch.Tensor, codes: Sequence[int | None]) -> list[Removal | None]:
    """What each text's prediction becomes without its concept."""
    answers, rows = group.answers, group.without(codes)
    before, after = answers.margins(group.rows, target), answers.margins(rows, target)
    found: list[Removal | None] = []
    for place, code in enumerate(codes):
        if code is None:
            found.append(None)
            continue
        has = group.codes[place] == code
        found.append(
            Removal(
                code=code,
                num_tokens=int((has & (group.lengths[place] > 0)).sum()),
                removed_norm=float(np.linalg.norm(group.lengths[place][has])),
                prediction=answers.predicted(rows[place], int(target[place])),
                margin=float(after[place]),
                change=float(after[place] - before[place]),
                flips=answers.flips(group.rows[place], rows[place], int(target[place])),
            )
        )
    return found


def _rank(group: TextGroup, place: int, scores: np.ndarray, is_number: bool) -> dict[int, float]:
    """The concepts of a text and the sums of their tokens' scores, largest first; of a number, in either direction."""
    counted, codes = group.counted[place], group.codes[place]
    sums = {int(code): float(scores[counted & (codes == code)].sum()) for code in np.unique(codes[counted])}
    return dict(sorted(sums.items(), key=lambda item: (-(abs(item[1]) if is_number else item[1]), item[0])))


def _first(ranked: Mapping[int, float], is_number: bool) -> int | None:
    """The salient concept: the first one, if it supports the answer; what moves a number may move it down."""
    code, value = next(iter(ranked.items()), (None, 0.0))
    return code if value > 0 or (is_number and value < 0) else None


def _find_control(group: TextGroup, place: int, salient: int | None) -> tuple[int | None, bool]:
    """Another concept of a text, nearest in number of tokens and removed length; and whether both are matched."""
    if salient is None:
        return None, False
    codes, counted, lengths = group.codes[place], group.counted[place], group.lengths[place]

    def size(code: int) -> tuple[float, float]:
        has = codes == code
        return float(has.sum()), max(float(np.linalg.norm(lengths[has])), 1e-12)

    number, norm = size(salient)
    best, best_distance, is_matched = None, np.inf, False
    for code in np.unique(codes[counted]).tolist():
        if code == salient:
            continue
        ratios = np.abs(np.log([size(code)[0] / number, size(code)[1] / norm]))
        if ratios.sum() < best_distance:
            best, best_distance = code, float(ratios.sum())
            is_matched = bool(ratios[0] <= np.log(POSITION_CALIPER) and ratios[1] <= np.log(NORM_CALIPER))
    return best, is_matched


def _tokens(group: TextGroup, place: int, scores: np.ndarray) -> list[ExplainedToken]:
    text = group.texts[place]
    return [
        ExplainedToken(
            text=text.text[text.start[number] : text.end[number]],
            start=int(text.start[number]),
            end=int(text.end[number]),
            word=int(text.word_id[number]),
            code=int(group.codes[place][number]),
            score=float(scores[number]),
        )
        for number in np.flatnonzero(~text.special)
    ]


def _words(text: WindowedText, has: np.ndarray) -> Iterator[str]:
    """The words of a text that have a token of these, in order."""
    for word in dict.fromkeys(text.word_id[has].tolist()):
        own = text.word_id == word
        yield text.text[int(text.start[own].min()) : int(text.end[own].max())].strip()


__all__ = ["Explainer"]
