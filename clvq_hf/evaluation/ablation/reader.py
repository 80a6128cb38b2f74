"""The host on the texts of a concept table, at the concepts' layer; what is removed with a token."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.batching import batches_by_length
from ...data.means import MeansById
from ...data.tokenization import TextCollator
from ...hosts import hooks
from ...hosts.readout import Readout, margins
from ...hosts.resume import Resume, resume
from ...hosts.runner import HostRunner
from ...models.interventions import find_sinks
from ...models.modeling_concepts import ConceptModel
from .conditions import Source
from .references import AblationReferences, MemberMeans
from .texts import TextsOfTable


class Reader:
    """Runs the host on the texts of a table."""

    def __init__(
        self,
        model: ConceptModel,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: TextsOfTable,
        readout: Readout,
        how: str,
        k: int,
        variant: str | None,
        references: AblationReferences | None,
        batch_size: int,
    ) -> None:
        self.model, self.host, self.texts, self.readout = model, host, texts, readout
        self.how, self.k, self.variant = how, k, variant
        # For swaps; without references those of the texts at hand, which the first pass finds.
        self._members = None if references is None else references.members
        self._runner = HostRunner(host, model.config.stack, readout)
        self._collate, self._batch_size = TextCollator(tokenizer), batch_size

    def batches(self, description: str) -> Iterator[tuple[Mapping[str, torch.Tensor], Resume, torch.Tensor | None]]:
        """Yield batches, longest texts last, each with the host at `lower_layer`, ready to go on.

        For variants that need them, the margin's gradients at that layer come with them.
        """
        config = self.model.config
        with hooks.evaluation_mode(self.host), tqdm(total=len(self.texts), desc=description, unit="text") as bar:
            for _, batch in batches_by_length(self.texts.tokenized, self._collate, self._batch_size):
                upper = resume(self.host, self._runner.inputs(batch), config.lower_layer, config.stack)
                gradients = self._gradients(batch, upper) if self.model.needs_gradients(self.variant) else None
                yield batch, upper, gradients
                bar.update(len(batch["text_index"]))

    def sinks(self, batch: Mapping[str, torch.Tensor], upper: Resume) -> torch.Tensor:
        """Attention sinks of a batch at `lower_layer`, `(B, S)`, bool, on the CPU."""
        config = self.model.config
        real = batch["attention_mask"].bool().to(upper.state.device)
        state = upper.state[:, : real.shape[1]]
        return find_sinks(self.host, config.stack, config.lower_layer, state, real).cpu()

    def _gradients(self, batch: Mapping[str, torch.Tensor], upper: Resume) -> torch.Tensor:
        """`(B, S, d)`: gradient of the margin (logit of the prediction minus the best other) at `lower_layer`."""
        with torch.enable_grad():
            state = upper.state.clone().requires_grad_()
            rows = self.read(upper(state), batch)
            (gradients,) = torch.autograd.grad(margins(rows, self.readout.predict(rows)).sum(), state)
        return gradients[:, : batch["attention_mask"].shape[1]].float().cpu()

    def read(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The readout's rows `(B, C)` of the host's output for a batch."""
        return self.readout(output, batch["attention_mask"], batch["token_mask"])

    def source(self, codes: np.ndarray, states: torch.Tensor, gradients: torch.Tensor | None) -> Source:
        """What is removed with tokens of these codes `(N,)`, states `(N, d)` and gradients `(N, d)`.

        A swap puts the overall mean in place of the mean state of the code's tokens; of a code that none has in the
        texts that these means are of, the only token that is known is the one at hand.
        """
        states = states.to(self.model.device)
        gradients = None if gradients is None else gradients.to(self.model.device)
        basis = self.model.ablation_basis(states, self.k, self.variant, gradients).cpu()
        shift = None
        if self.how == "swap":
            shift = self._members.mean - self._members.states(torch.as_tensor(codes).long(), states.float().cpu())
        return Source(codes, basis, self.model.projection_centre.cpu(), shift)

    def sources(self, seed: int) -> tuple[Source, Source, np.ndarray]:
        """The salient tokens of all texts, a random content token of each, and the plain predictions."""
        texts = self.texts
        places = np.stack([texts.position, texts.position])
        width = self.model.config.hidden_size
        states = torch.empty(2, len(texts), width)
        gradients = torch.empty(2, len(texts), width) if self.model.needs_gradients(self.variant) else None
        predictions = np.empty(len(texts), dtype=np.int64)
        members = MeansById(width) if self.how == "swap" and self._members is None else None
        for batch, upper, batch_gradients in self.batches("Reading the texts"):
            rows = batch["text_index"].numpy()
            sinks = self.sinks(batch, upper).numpy()
            places[1, rows] = [texts.random_place(row, seed, own) for row, own in zip(rows, sinks, strict=True)]
            if members is not None:
                for row, own, found in zip(rows, sinks, upper.state.float().cpu(), strict=True):
                    content = texts.content(row, own)
                    members.add(torch.as_tensor(texts.codes[row][content]), found[content])
            here, tokens = torch.arange(len(rows)), torch.as_tensor(places[:, rows])
            states[:, rows] = upper.state.float().cpu()[here, tokens]
            if gradients is not None:
                gradients[:, rows] = batch_gradients[here, tokens]
            predictions[rows] = self.readout.predict(self.read(upper.output, batch)).cpu().numpy()
        if members is not None:
            self._members = MemberMeans.of(self.model, members)
        codes = [np.asarray([own[place] for own, place in zip(texts.codes, row, strict=True)]) for row in places]
        salient, random = (
            self.source(codes[kind], states[kind], None if gradients is None else gradients[kind]) for kind in range(2)
        )
        return salient, random, predictions


__all__ = ["Reader"]
