"""Texts → explanations: the concepts of each text by contribution, and the prediction without the strongest one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.tokenization import TextCollator, ensure_pad_token
from ..data.windows import WindowedText, cut_into_windows
from ..hosts import hooks
from ..hosts.readout import Readout, class_names, margins
from ..hosts.runner import HostRunner
from ..tables.attribution import without_parameter_gradients
from ..tables.concept_table import ConceptTable
from .group import Reading, TextGroup
from .reliability import find_reasons
from .result import ExplainedConcept, ExplainedToken, Explanation, Removal

logger = logging.get_logger(__name__)

METHODS = ("integrated_gradients", "gradient_x_input")
LONG_TEXTS = ("windows", "truncate")
# Texts that are sorted by length before they are read.
BLOCK = 256
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
        model.check_host(host)
        if not model.is_initialized:
            raise ValueError("The concepts of this model were never fitted to data; train it first.")
        if table is not None:
            table.check_model(model)
        ensure_pad_token(tokenizer)
        readout = Readout.of(host)
        runner, collate = HostRunner(host, model.config.stack, readout), TextCollator(tokenizer)
        self._reading = Reading(model, host, runner, readout, collate, method, max_error, batch_size)
        self._tokenizer, self._table, self._n_steps = tokenizer, table, n_steps
        self._limit = hooks.max_length(host, tokenizer, max_length or model.config.longest_text)
        # The next token depends on the end of the text.
        self._long_texts = "end" if readout.kind == "next_token" else long_texts
        self._names = class_names(host)
        self._described: dict[int, dict[str, Any]] = {}

    def explain(self, texts: Sequence[str], target: int | str | None = None) -> Iterator[Explanation]:
        """Explain texts one after the other, in their order; texts without a token are left out, with a warning.

        Args:
            texts (`Sequence[str]`): The texts.
            target (`int` or `str`, *optional*): See [`ConceptModel.explain`][clvq_hf.ConceptModel.explain].

        Yields:
            `Explanation`: One per text, or one per text and class with `"all"`.

        Raises:
            ValueError: If the host has no such class, or no text has a token.
        """
        targets = self._targets(target)
        windowed = self.windows(texts)
        if not windowed:
            raise ValueError("There is nothing to explain: no text has a token.")
        if len(windowed) < len(texts):
            logger.warning(f"Skipped {len(texts) - len(windowed)} empty texts of {len(texts)}.")
        numbers = list(windowed)
        with (
            hooks.evaluation_mode(self._reading.host),
            without_parameter_gradients(self._reading.host),
            tqdm(total=len(numbers), desc="Explaining", unit="text", disable=len(numbers) < 10) as bar,
        ):
            # Texts of similar length are read together, but not so many that the first result waits for the last.
            for start in range(0, len(numbers), BLOCK):
                block = numbers[start : start + BLOCK]
                found: dict[int, list[Explanation]] = {}
                for group in self._groups({number: windowed[number] for number in block}):
                    found |= self._explain_group(group, targets)
                    bar.update(len(group))
                for number in block:
                    yield from found[number]

    def windows(self, texts: Sequence[str]) -> dict[int, WindowedText]:
        """The texts as the host reads them, by their numbers; those without a token are left out."""
        windowed = cut_into_windows(texts, self._tokenizer, self._limit, self._long_texts)
        return {number: text for number, text in enumerate(windowed) if text is not None}

    def _targets(self, target: int | str | None) -> list[int | None]:
        """Numbers of the classes that are explained; `None` for the one that the host predicts."""
        names = self._names
        if target is None:
            return [None]
        if names is None:
            raise ValueError("This host predicts tokens, not classes: leave target out.")
        if target == "all":
            return [*range(len(names))]
        if isinstance(target, str) and target in names:
            return [names.index(target)]
        if isinstance(target, int) and 0 <= target < len(names):
            return [target]
        raise ValueError(f"There is no class {target!r}; choose target=… among {', '.join(names)}, or all.")

    def _groups(self, texts: Mapping[int, WindowedText]) -> Iterator[dict[int, WindowedText]]:
        """Texts of similar length, with about `batch_size` windows in all."""
        group: dict[int, WindowedText] = {}
        size = 0
        for number in sorted(texts, key=lambda number: len(texts[number])):
            size += len(texts[number].windows)
            if group and size > self._reading.batch_size:
                yield group
                group, size = {}, len(texts[number].windows)
            group[number] = texts[number]
        yield group

    def _explain_group(
        self, texts: Mapping[int, WindowedText], targets: Sequence[int | None]
    ) -> dict[int, list[Explanation]]:
        group = TextGroup(self._reading, list(texts.values()))
        found: dict[int, list[Explanation]] = {number: [] for number in texts}
        for target in targets:
            wanted = group.rows.argmax(-1) if target is None else torch.full((len(texts),), target)
            for number, explanation in zip(texts, self._explain_targets(group, wanted, list(texts)), strict=True):
                found[number].append(explanation)
        return found

    def _explain_targets(self, group: TextGroup, target: torch.Tensor, numbers: Sequence[int]) -> list[Explanation]:
        scores, errors = group.scores(target, self._n_steps)
        ranked = [_rank(group, place, scores[place]) for place in range(len(numbers))]
        salient = [next((code for code, value in own.items() if value > 0), None) for own in ranked]
        controls = [_find_control(group, place, code) for place, code in enumerate(salient)]
        removals = {
            kind: self._removals(group, target, codes)
            for kind, codes in (("salient", salient), ("control", [code for code, _ in controls]))
        }
        margin, shares = margins(group.rows, target), group.rows.softmax(-1)
        explanations = []
        for place, number in enumerate(numbers):
            text = group.texts[place]
            concepts = [
                self._concept(group, place, code, value, scores[place]) for code, value in ranked[place].items()
            ]
            first, other = removals["salient"][place], removals["control"][place]
            other = other and replace(other, matched=controls[place][1])
            reasons = find_reasons(concepts, first, other, errors[place], self._reading.max_error)
            explanations.append(
                Explanation(
                    text=text.text,
                    text_id=number,
                    target=self._name(int(target[place])),
                    prediction=self._name(int(group.rows[place].argmax())),
                    probability=float(shares[place, target[place]]),
                    margin=float(margin[place]),
                    unit="logits",
                    tokens=_tokens(group, place, scores[place]),
                    concepts=concepts,
                    salient=first,
                    control=other,
                    reliable=not reasons,
                    reasons=reasons,
                    method=self._reading.method,
                    special_score=float(scores[place][text.special].sum()),
                    error=errors[place],
                    num_windows=len(text.windows),
                    num_cut=text.num_cut,
                )
            )
        return explanations

    def _removals(self, group: TextGroup, target: torch.Tensor, codes: Sequence[int | None]) -> list[Removal | None]:
        """What each text's prediction becomes without its concept."""
        rows = group.without(codes)
        before, after = margins(group.rows, target), margins(rows, target)
        found: list[Removal | None] = []
        for place, code in enumerate(codes):
            if code is None:
                found.append(None)
                continue
            has = group.codes[place] == code
            predicted = int(rows[place].argmax())
            found.append(
                Removal(
                    code=code,
                    num_tokens=int((has & (group.lengths[place] > 0)).sum()),
                    removed_norm=float(np.linalg.norm(group.lengths[place][has])),
                    prediction=self._name(predicted),
                    margin=float(after[place]),
                    change=float(after[place] - before[place]),
                    flips=predicted != int(group.rows[place].argmax()),
                )
            )
        return found

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
                "label": concept.label,
                "purity": concept.purity,
                "num_texts": concept.num_texts,
            }
        return self._described[code]

    def _name(self, number: int) -> str:
        return self._tokenizer.decode([number]) if self._names is None else self._names[number]


def _rank(group: TextGroup, place: int, scores: np.ndarray) -> dict[int, float]:
    """The concepts of a text, and the sums of their tokens' scores: the strongest first."""
    counted, codes = group.counted[place], group.codes[place]
    sums = {int(code): float(scores[counted & (codes == code)].sum()) for code in np.unique(codes[counted])}
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


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
