"""The paper's ablation protocol: a probe on the representation at the lower layer, asked before and after removal.

For comparison with the paper (arXiv 2506.20040). It tells what the representation says, not what the host makes of
it: later layers rebuild what was removed from one position.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...data.extraction import HiddenStateExtractor, attention_sinks
from ...data.tokenization import TextCollator, ensure_pad_token
from ...hosts import hooks
from ...models.projections import orthonormal_rows
from ...tables.concept_table import ConceptTable
from .outcomes import outcome_columns
from .texts import OtherTexts, TextsOfTable, text_generator

NUM_FOLDS = 20
HIDDEN_UNITS, DROPOUT, LEARNING_RATE, WEIGHT_DECAY, EPOCHS, BATCH_SIZE = 64, 0.2, 1e-3, 1e-4, 40, 64


def probe_texts(
    model: Any,
    host: Any,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    *,
    k: int = 1,
    num_draws: int = 20,
    batch_size: int = 32,
    seed: int = 0,
) -> Dataset:
    """Remove the salient concept from each text's representation, and ask a probe that was trained on other texts.

    The representation is the first token's state at `lower_layer` (`[CLS]`) for encoders, the mean of the states of all
    real tokens for causal hosts. The probe of the labels is a multi-layer perceptron (64 hidden units, dropout 0.2);
    20 stratified folds, scaling and class directions fitted within each; the held-out outcomes are pooled. Everything
    is removed by projection.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of labelled texts, with salience.
        k (`int`): Directions that are removed.
        num_draws (`int`): Draws a text of the conditions that are drawn.
        batch_size (`int`): Texts a host forward.
        seed (`int`): Seed of folds, probes and draws.

    Returns:
        `datasets.Dataset`: As [`ablate_texts`][clvq_hf.ablate_texts] returns it, of the labelled texts; "plain" is the
        probe's prediction from the whole representation.

    Raises:
        ValueError: If fewer than two labels occur, or one in fewer than two texts.
    """
    ensure_pad_token(tokenizer)
    texts = TextsOfTable(table, tokenizer, labelled=True)
    found, counts = np.unique(texts.label, return_counts=True)
    if len(found) < 2 or counts.min() < 2:
        raise ValueError(
            "A probe needs at least two labels, each in two texts or more; the texts have "
            f"{dict(zip(found.tolist(), counts.tolist(), strict=True))}."
        )
    read = _Representations(model, host, tokenizer, texts, k, num_draws, batch_size, seed)
    folds = _folds(read.vectors, texts.label, len(table.label_names), min(NUM_FOLDS, int(counts.min())), seed)

    def ask(change: Callable[["_Fold"], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Changed representations `(N, d)` and the held-out logits `(N, C)`; `change` gives those of a fold's texts."""
        changed = torch.empty_like(read.vectors)
        logits = torch.empty(len(texts), len(table.label_names))
        for fold in folds:
            changed[fold.test] = change(fold)
            logits[fold.test] = fold.probe(changed[fold.test])
        return changed, logits

    _, plain = ask(lambda fold: read.vectors[fold.test])
    rows: dict[str, list] = {}
    for condition, draw, code, valid, change in _conditions(model, texts, read, plain, num_draws, seed):
        changed, logits = ask(change)
        columns = {
            "text_id": texts.text_id[valid].tolist(),
            "condition": [condition] * int(valid.sum()),
            "draw": [draw] * int(valid.sum()),
            "code": code[valid].tolist(),
            **outcome_columns(plain[valid], logits[valid], texts.label[valid]),
            "num_positions": [1] * int(valid.sum()),
            "removed_norm": (read.vectors - changed).norm(dim=-1)[valid].tolist(),
            "matched": [True] * int(valid.sum()),
        }
        for name, column in columns.items():
            rows.setdefault(name, []).extend(column)
    return Dataset.from_dict(rows)


class _Representations:
    """What is probed, `vectors` `(N, d)`, and what is removed: bases of salient, random and other tokens."""

    def __init__(
        self,
        model: Any,
        host: Any,
        tokenizer: PreTrainedTokenizerBase,
        texts: TextsOfTable,
        k: int,
        num_draws: int,
        batch_size: int,
        seed: int,
    ) -> None:
        config = model.config
        extract = HiddenStateExtractor(host, config.lower_layer, config.lower_layer, config.stack)
        collate = TextCollator(tokenizer)
        # The host's, whatever the method's config says of itself.
        is_causal = hooks.residual_stream(host, config.stack).is_causal

        def bases(states: torch.Tensor) -> torch.Tensor:
            return model.ablation_basis(states.to(model.device), k=k).cpu()

        self.vectors = torch.empty(len(texts), config.hidden_size)
        self.salient, self.random = (torch.empty(len(texts), k, config.hidden_size) for _ in range(2))
        self.random_code = np.empty(len(texts), dtype=np.int64)
        self.others: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        self.other_codes: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(texts)
        order = np.argsort(texts.tokenized["length"], kind="stable")
        for start in tqdm(range(0, len(order), batch_size), desc="Reading the texts", unit="batch"):
            rows = order[start : start + batch_size].tolist()
            batch = extract(collate(list(texts.tokenized.select(rows))), device=torch.device("cpu"))
            real = batch["attention_mask"].bool()
            sinks = attention_sinks(batch["hidden_states"], real)
            for row, padded, mask, sink in zip(rows, batch["hidden_states"], real, sinks, strict=True):
                states = padded[mask].float()
                # A causal host's first token knows nothing of the others; an attention sink would be all of the mean.
                self.vectors[row] = padded[mask & ~sink].float().mean(0) if is_causal else states[0]
                place = texts.random_place(row, seed)
                self.random_code[row] = texts.codes[row][place]
                self.salient[row], self.random[row] = bases(states[[int(texts.position[row]), place]])
                self.other_codes[row], firsts = texts.other_codes(row)
                drawn = text_generator(seed, texts.text_id[row], "other_code").permutation(len(firsts))[:num_draws]
                self.other_codes[row] = self.other_codes[row][drawn]
                self.others[row] = bases(states[firsts[drawn]]) if len(drawn) else self.salient[row][None][:0]


class _Probe:
    """A multi-layer perceptron on standardised representations, trained with Adam from a fixed seed."""

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, num_labels: int, seed: int) -> None:
        self._scaler = StandardScaler().fit(vectors)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = nn.Sequential(
                nn.Linear(vectors.shape[1], HIDDEN_UNITS),
                nn.ReLU(),
                nn.Dropout(DROPOUT),
                nn.Linear(HIDDEN_UNITS, num_labels),
            )
            inputs, targets = self._scaled(torch.as_tensor(vectors)), torch.as_tensor(labels)
            optimizer = torch.optim.Adam(self._network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            for _ in range(EPOCHS):
                for batch in torch.randperm(len(inputs)).split(BATCH_SIZE):
                    optimizer.zero_grad()
                    F.cross_entropy(self._network(inputs[batch]), targets[batch]).backward()
                    optimizer.step()
        self._network.eval()

    @torch.no_grad()
    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits `(n, C)` of representations `(n, d)`."""
        return self._network(self._scaled(vectors))

    def _scaled(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._scaler.transform(vectors.numpy()), dtype=torch.float32)


@dataclass(frozen=True)
class _Fold:
    """Texts that a probe was not trained on, and what was estimated on those that it was."""

    test: np.ndarray
    probe: _Probe
    class_basis: torch.Tensor
    eraser: Any


def _folds(vectors: torch.Tensor, labels: np.ndarray, num_labels: int, num_folds: int, seed: int) -> list[_Fold]:
    from concept_erasure import LeaceEraser

    splits = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels)
    folds = []
    for number, (train, test) in enumerate(tqdm(list(splits), desc="Training the probes", unit="fold")):
        known = vectors[train].double()
        one_hot = F.one_hot(torch.as_tensor(labels[train]), num_labels).double()
        present = one_hot.sum(0) > 0
        means = (one_hot.T @ known)[present] / one_hot.sum(0)[present, None]
        probe = _Probe(vectors[train].numpy(), labels[train], num_labels, seed + number)
        folds.append(_Fold(test, probe, orthonormal_rows(means - known.mean(0)), LeaceEraser.fit(known, one_hot)))
    return folds


def _conditions(
    model: Any, texts: TextsOfTable, read: _Representations, plain: torch.Tensor, num_draws: int, seed: int
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray, Callable[[_Fold], torch.Tensor]]]:
    """Name, draw, codes `(N,)`, texts that have it `(N,)`, and the change, of each condition."""
    everything = np.arange(len(texts))
    everyone, no_code, own = np.ones(len(texts), dtype=bool), np.full(len(texts), -1), texts.salient_code

    def off(basis: torch.Tensor) -> Callable[[_Fold], torch.Tensor]:
        """Projection off bases `(N, k, d)`, or off one `(k, d)` for all texts."""
        return lambda fold: _off(read.vectors[fold.test], basis if basis.ndim == 2 else basis[fold.test])

    yield "salient", 0, own, everyone, off(read.salient)
    for draw in range(max(map(len, read.others))):
        valid = np.asarray([len(found) > draw for found in read.others])
        pairs = zip(read.others, read.salient, strict=True)
        bases = torch.stack([found[draw] if len(found) > draw else fallback for found, fallback in pairs])
        codes = np.asarray([found[draw] if len(found) > draw else -1 for found in read.other_codes])
        yield "other_code", draw, codes, valid, off(bases)
    others = OtherTexts(texts, plain.argmax(-1).numpy(), read.random_code, num_draws, seed)
    for condition in ("other_text_same", "other_text_opposite", "random_active_code"):
        bases, codes = (read.salient, own) if condition != "random_active_code" else (read.random, read.random_code)
        for draw, chosen, valid in others.draws(condition, everything):
            yield condition, draw, codes[chosen], valid, off(bases[chosen])
    norms = (read.vectors - _off(read.vectors, read.salient)).norm(dim=-1, keepdim=True)
    for draw in range(num_draws):
        directions = [
            text_generator(seed, text_id, "random_direction", draw).normal(size=read.vectors.shape[1])
            for text_id in texts.text_id
        ]
        moved = read.vectors - norms * F.normalize(torch.as_tensor(np.stack(directions)).float(), dim=-1)
        yield "random_direction", draw, no_code, everyone, lambda fold, moved=moved: moved[fold.test]
    yield "mean_direction", 0, no_code, everyone, off(F.normalize(model.mean_state.cpu(), dim=-1)[None])
    yield "class_ceiling", 0, no_code, everyone, lambda fold: _off(read.vectors[fold.test], fold.class_basis)
    yield (
        "class_residual",
        0,
        own,
        everyone,
        lambda fold: _off(read.vectors[fold.test], _residual(fold.class_basis, read.salient[fold.test])),
    )
    yield "leace", 0, no_code, everyone, lambda fold: fold.eraser(read.vectors[fold.test].double()).float()


def _off(vectors: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    return vectors - ((vectors[:, None] @ basis.transpose(-1, -2)) @ basis)[:, 0]


def _residual(class_basis: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """What of bases `(n, k, d)` is orthogonal to the class directions."""
    stacked = torch.cat([class_basis.expand(len(basis), -1, -1), basis], dim=1)
    return orthonormal_rows(stacked)[:, len(class_basis) :]


__all__ = ["probe_texts"]
