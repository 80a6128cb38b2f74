"""The host on the texts of a concept table, at the concepts' layer; what is removed with a token."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...data.tokenization import TextCollator
from ...hosts import hooks
from ...hosts.readout import Readout
from ...hosts.resume import Resume, resume
from ...hosts.runner import HostRunner
from .references import AblationReferences
from .texts import TextsOfTable


@dataclass(frozen=True)
class Source:
    """The tokens whose concepts are removed from other texts, one or two a text.

    Attributes:
        text (`np.ndarray` of shape `(N,)`): Row of the text in the table.
        code (`np.ndarray` of shape `(N,)`): Its code.
        basis (`torch.Tensor` of shape `(N, k, d)`): What is removed with it.
        shift (`torch.Tensor` of shape `(N, d)` or `None`): `μ - e`, for `how="swap"`.
    """

    text: np.ndarray
    code: np.ndarray
    basis: torch.Tensor
    shift: torch.Tensor | None


class Reader:
    """Runs the host on the texts of a table."""

    def __init__(
        self,
        model: Any,
        host: Any,
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
        self.mean = model.mean_state.cpu() if references is None else references.mean
        self._runner = HostRunner(host, model.config.stack)
        order = np.argsort(texts.tokenized["length"], kind="stable")
        self._loader = DataLoader(
            texts.tokenized.select(order), batch_size=batch_size, collate_fn=TextCollator(tokenizer)
        )

    def batches(self, description: str) -> Iterator[tuple[dict[str, torch.Tensor], Resume, torch.Tensor | None]]:
        """Batches, longest texts last, each with the host at `lower_layer`, ready to go on.

        And, for variants that ask for them, the margin's gradients there.
        """
        config = self.model.config
        with hooks.evaluation_mode(self.host), tqdm(total=len(self.texts), desc=description, unit="text") as bar:
            for batch in self._loader:
                upper = resume(self.host, self._runner.inputs(batch), config.lower_layer, config.stack)
                gradients = self._gradients(batch, upper) if self.model.needs_gradients(self.variant) else None
                yield batch, upper, gradients
                bar.update(len(batch["text_index"]))

    def _gradients(self, batch: dict[str, torch.Tensor], upper: Resume) -> torch.Tensor:
        """`(B, S, d)`: gradient of the margin (logit of the prediction minus the best other) at `lower_layer`."""
        with torch.enable_grad():
            state = upper.state.clone().requires_grad_()
            first, second = self.readout(upper(state), batch["attention_mask"]).topk(2, dim=-1).values.unbind(-1)
            (gradients,) = torch.autograd.grad((first - second).sum(), state)
        return gradients.float().cpu()

    def source(
        self, texts: np.ndarray, codes: np.ndarray, states: torch.Tensor, gradients: torch.Tensor | None
    ) -> Source:
        """What is removed with tokens of states `(N, d)`."""
        states = states.to(self.model.device)
        gradients = None if gradients is None else gradients.to(self.model.device)
        basis = self.model.ablation_basis(states, self.k, self.variant, gradients).cpu()
        shift = None
        if self.how == "swap":
            shift = self.mean - self.model.codebook[torch.as_tensor(codes, device=self.model.device).long()].cpu()
        return Source(texts, codes, basis, shift)

    def sources(self, seed: int) -> tuple[Source, Source, np.ndarray]:
        """The salient tokens of all texts, a random content token of each, and the plain predictions."""
        texts = self.texts
        # Of the salient and of the drawn token of each text: state, and gradient if there is one.
        salient: list[Any] = [None] * len(texts)
        drawn: list[Any] = [None] * len(texts)
        places = np.empty(len(texts), dtype=np.int64)
        predictions = np.empty(len(texts), dtype=np.int64)
        for batch, upper, gradients in self.batches("Reading the texts"):
            state = upper.state.float().cpu()
            logits = self.readout(upper.output, batch["attention_mask"]).cpu()
            for row, text in enumerate(batch["text_index"].tolist()):
                places[text] = texts.random_place(text, seed)
                for found, place in ((salient, texts.position[text]), (drawn, places[text])):
                    found[text] = state[row, place], None if gradients is None else gradients[row, place]
                predictions[text] = int(logits[row].argmax())
        everything = np.arange(len(texts))
        drawn_codes = np.asarray([codes[place] for codes, place in zip(texts.codes, places, strict=True)])

        def source(codes: np.ndarray, found: list) -> Source:
            states, gradients = zip(*found, strict=True)
            return self.source(
                everything, codes, torch.stack(states), None if gradients[0] is None else torch.stack(gradients)
            )

        return source(texts.salient_code, salient), source(drawn_codes, drawn), predictions


__all__ = ["Reader", "Source"]
