"""Texts that the host reads together: their concepts, the scores of their tokens, their outputs without a concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..data.extraction import attention_sinks, check_finite
from ..data.tokenization import TextCollator
from ..data.windows import WindowedText
from ..hosts import hooks
from ..hosts.resume import resume
from ..hosts.runner import HostRunner
from .answers import Answers, Lead

# Integrated gradients that still miss the largest error at so many steps mostly never meet it.
MAX_STEPS = 128


@dataclass(frozen=True)
class Reading:
    """How texts are read: the models, and how scores are computed.

    Attributes:
        model, host: The concept model, and its host.
        runner, answers, collate: From windows to the host's arguments, and from its output to rows and answers.
        method, max_error: As in [`Explainer`][clvq_hf.explanations.Explainer].
        batch_size: Windows per forward pass of the host.
        shown_codes: `(K,)`: Under which number each concept is shown: merged ones are explained, and removed, as one.
    """

    model: Any
    host: PreTrainedModel
    runner: HostRunner
    answers: Answers
    collate: TextCollator
    method: str
    max_error: float
    batch_size: int
    shown_codes: np.ndarray | None = None

    @cached_property
    def directions(self) -> torch.Tensor:
        """`(K, d)`: the unit direction that is removed with each concept."""
        codes = torch.arange(self.model.config.codebook_size, device=self.model.device)
        return self.model.directions(codes)[:, 0].detach()

    def find_outliers(self, states: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor | None:
        """`(B, S)` bool: states farther from their concepts than those of training; `None` if that is not known."""
        quantiles = self.model.distance_quantiles
        if quantiles is None:
            return None
        device = self.model.device
        distances = self.model.distances(states.to(device), mask.to(device), codes.to(device)).cpu()
        return torch.from_numpy(quantiles.outliers(distances, codes.cpu()))


class Chunk:
    """Some windows, run through the host up to the concepts' layer.

    Attributes:
        state: `(B, S, d)`, float32, at the layer.
        real: `(B, S)` bool: tokens that are no padding.
        counted: `(B, S)` bool: tokens that can be salient.
        codes: `(B, S)` int64: under which number the concept of each token is shown; -1 on padding.
        model_codes: `(B, S)` int64: the concept that the model assigns; -1 on padding.
        rows: `(B, C)` float32, on the CPU: what the readout reads.
    """

    def __init__(
        self, reading: Reading, windows: Sequence[dict[str, Any]], positions: Sequence[int] | None = None
    ) -> None:
        model, config = reading.model, reading.model.config
        batch = reading.collate(windows)
        self._readout = reading.answers.readout
        inputs, mask = reading.runner.inputs_of_answers(batch)
        self._read_at = (mask, batch["token_mask"], None if positions is None else torch.tensor(positions))
        self._upper = resume(reading.host, inputs, config.lower_layer, config.stack)
        self.state = self._upper.state.float()
        device = self.state.device
        # A continuation stays as it is.
        self.real, counted = (
            F.pad(batch[name].bool().to(device), (0, self._readout.num_added))
            for name in ("attention_mask", "token_mask")
        )
        check_finite(self.state, batch["text_index"], f"the states of layer {config.lower_layer}", self.real)
        usual_norms = hooks.residual_stream(reading.host, config.stack).usual_norms[config.lower_layer]
        self.changed = self.real & ~attention_sinks(self.state, self.real, usual_norms)
        self.counted = counted & self.changed
        self.model_codes = model.encode(self.state.to(model.device), self.real.to(model.device)).to(device)
        shown = reading.shown_codes
        self.codes = self.model_codes
        if shown is not None:
            shown_codes = torch.as_tensor(shown, device=device)
            self.codes = torch.where(
                self.model_codes < 0, self.model_codes, shown_codes[self.model_codes.clamp(min=0)]
            )
        directions, centre = reading.directions.to(self.state), reading.model.projection_centre.detach().to(self.state)
        self._directions, self._way = directions, torch.where(self.real[..., None], self.state - centre, 0)
        self.outliers = reading.find_outliers(self.state, self.real, self.model_codes)
        self.rows = self._readout(self._upper.output, *self._read_at).cpu()

    def run(self, state: torch.Tensor) -> torch.Tensor:
        """`(B, C)`: the rows if the host goes on from these states `(B, S, d)`."""
        return self._readout(self._upper(state.to(self._upper.state.dtype)), *self._read_at)

    @torch.no_grad()
    def without(self, where: torch.Tensor) -> torch.Tensor:
        """`(B, C)`, on the CPU: the rows if tokens `(B, S)` lose their concepts; sinks and padding never do."""
        return self.run(self.state - torch.where(where[..., None].to(self._own.device), self._own, 0)).cpu()

    @cached_property
    def _own(self) -> torch.Tensor:
        """`(B, S, d)`: what is removed of each token with its own concept."""
        own = self._directions[self.model_codes.clamp(min=0)]
        lengths = torch.where(self.changed, (self._way * own).sum(-1), 0)
        return lengths[..., None] * own

    @cached_property
    def lengths(self) -> torch.Tensor:
        """`(B, S)`, on the CPU: the length of that."""
        return self._own.norm(dim=-1).cpu()

    @torch.no_grad()
    def change(self, lead: Lead) -> torch.Tensor:
        """`(B,)`, on the CPU: what the lead loses if all tokens lose their concepts."""
        return (lead(self.rows) - lead(self.run(self.state - self._own)).cpu()).double()

    def integrate(self, lead: Lead, n_steps: int) -> torch.Tensor:
        """Integrated gradients `(B, S)`, on the CPU, of the lead from the states without concepts."""
        from captum.attr import IntegratedGradients  # at use: it loads matplotlib

        start = self.state - self._own

        def score(state: torch.Tensor) -> torch.Tensor:
            return lead(self.run(state))

        scores = IntegratedGradients(score).attribute(
            self.state, start, n_steps=n_steps, internal_batch_size=len(self.state)
        )
        return scores.detach().sum(-1).double().cpu()

    def gradient(self, lead: Lead) -> torch.Tensor:
        """`(B, S)`, on the CPU: the gradient of the lead, times what is removed of each token with its concept."""
        with torch.enable_grad():
            state = self.state.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(lead(self.run(state)).sum(), state)
        return (gradient * self._own).sum(-1).double().cpu()


class TextGroup:
    """A few texts, with everything that an explanation needs of the host.

    Where windows of a text overlap, a token has the concept that it has in the window with more context on both sides;
    outputs and scores are averages over windows, weighted by the tokens that each adds.

    Attributes:
        texts (`list[WindowedText]`): T texts; if the host is asked about the tokens at `positions` `(T,)`, each has one
            window.
        chunks (`list[Chunk]`): The windows, at most `batch_size` in each.
        answers (`Answers`): What the rows mean.
        rows (`torch.Tensor` of shape `(T, C)`): What the readout reads, averaged over windows.
        codes, counted, lengths (`list[np.ndarray]`): For each text, by token: the concept, whether it can be salient,
            the length of what is removed with the concept.
        outliers (`list[np.ndarray | None]`): Whether its state is farther from its concept than those of training.
    """

    def __init__(
        self, reading: Reading, texts: Sequence[WindowedText], positions: Sequence[int] | None = None
    ) -> None:
        self.texts, self._positions, self.answers = list(texts), positions, reading.answers
        self._reading = reading
        self._owner = [place for place, text in enumerate(texts) for _ in text.windows]
        windows = [window for text in texts for window in text.windows]
        size = reading.batch_size
        self.chunks = [
            Chunk(reading, windows[start : start + size], positions and positions[start : start + size])
            for start in range(0, len(windows), size)
        ]
        self._weights = torch.tensor(np.concatenate([text.weights for text in texts]))
        self.rows = self._pool(torch.cat([chunk.rows for chunk in self.chunks]))
        self.codes = self._by_token("codes", -1)
        self.counted = self._by_token("counted", False)
        self.lengths = self._by_token("lengths", 0.0)
        self.outliers = (
            self._by_token("outliers", False) if self.chunks[0].outliers is not None else [None] * len(texts)
        )

    def scores(self, target: torch.Tensor, n_steps: int) -> tuple[list[np.ndarray], list[float]]:
        """What the concept of each token contributes to the lead of `target` `(T,)` over the best other answer.

        Returns:
            `tuple`: The scores of each text's tokens; and by how much their sum misses the change of the lead if all
            concepts are removed, relative to the sum of their absolute values. Texts that miss the largest error are
            integrated again with twice the steps.
        """
        reading = self._reading
        leads = reading.answers.lead(self.rows, target).select(torch.tensor(self._owner))
        size = reading.batch_size
        parts = [
            (chunk, leads.select(torch.arange(number * size, number * size + len(chunk.rows))))
            for number, chunk in enumerate(self.chunks)
        ]
        is_integrated = reading.method == "integrated_gradients"
        scores = self._joined(
            [chunk.integrate(lead, n_steps) if is_integrated else chunk.gradient(lead) for chunk, lead in parts]
        )
        change = self._pool(torch.cat([chunk.change(lead) for chunk, lead in parts])[:, None])[:, 0].numpy()
        errors = [
            float(abs(own.sum() - whole) / max(np.abs(own).sum(), 1e-9))
            for own, whole in zip(scores, change, strict=True)
        ]
        again = [place for place, error in enumerate(errors) if error > reading.max_error]
        if is_integrated and again and 2 * n_steps <= MAX_STEPS:
            at = None if self._positions is None else [self._positions[place] for place in again]
            missed = TextGroup(reading, [self.texts[place] for place in again], at)
            for place, own, error in zip(again, *missed.scores(target[again], 2 * n_steps), strict=True):
                scores[place], errors[place] = own, error
        return scores, errors

    def without(self, codes: Sequence[int | None]) -> torch.Tensor:
        """`(T, C)`: the rows without one concept of each text; `None` removes nothing."""
        by_text = torch.tensor([-1 if code is None else code for code in codes])
        parts = by_text[self._owner].split(self._reading.batch_size)
        # -1 is the code of padding, which is not changed.
        return self._pool(
            torch.cat(
                [
                    chunk.without(chunk.codes.cpu() == part[:, None])
                    for chunk, part in zip(self.chunks, parts, strict=True)
                ]
            )
        )

    def _pool(self, rows: torch.Tensor) -> torch.Tensor:
        """`(T, C)`: averages over each text's windows of values `(W, C)`."""
        pooled = torch.zeros(len(self.texts), rows.shape[1], dtype=torch.float64)
        return pooled.index_add(0, torch.tensor(self._owner), rows.double() * self._weights[:, None])

    def _windows(self) -> list[tuple[int, np.ndarray, int, int]]:
        """Of each window: its text, the numbers of its tokens in it, its chunk, and its row there."""
        size, found = self._reading.batch_size, []
        for place, text in enumerate(self.texts):
            found += [
                (place, numbers, *divmod(len(found) + window, size)) for window, numbers in enumerate(text.places)
            ]
        return found

    def _by_token(self, name: str, missing: Any) -> list[np.ndarray]:
        """An attribute of the chunks `(B, S)`, by token of each text: from the window with the most context."""
        values = [np.asarray(getattr(chunk, name).cpu()) for chunk in self.chunks]
        joined = [np.full(len(text), missing, dtype=values[0].dtype) for text in self.texts]
        context = [np.full(len(text), -1) for text in self.texts]
        for place, numbers, chunk, row in self._windows():
            here = np.arange(len(numbers))
            room = np.minimum(here, here[::-1])
            better = room > context[place][numbers]
            chosen = numbers[better]
            joined[place][chosen] = values[chunk][row, : len(numbers)][better]
            context[place][chosen] = room[better]
        return joined

    def _joined(self, scores: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """Scores of each text's tokens: weighted sums over windows, which add up to the change of the average."""
        joined = [np.zeros(len(text)) for text in self.texts]
        for number, (place, numbers, chunk, row) in enumerate(self._windows()):
            joined[place][numbers] += float(self._weights[number]) * scores[chunk][row, : len(numbers)].numpy()
        return joined


__all__ = ["Chunk", "TextGroup"]
