"""The paper's ablation protocol: a probe on the representation at the lower layer, asked before and after removal.

For comparison with the paper (arXiv 2506.20040). It tells what the representation says, not what the host makes of
it: later layers rebuild what was removed from one position.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from concept_erasure import LeaceEraser
from datasets import Dataset
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.batching import batches_by_length, in_order
from ...data.extraction import HiddenStateExtractor
from ...data.tokenization import TextCollator, ensure_pad_token
from ...hosts import hooks
from ...models.interventions import find_sinks
from ...models.modeling_concepts import ConceptModel
from ...models.projections import orthonormal_rows
from ...tables.concept_table import ConceptTable
from .conditions import CONDITIONS, Candidate, Eraser, Source, TextBatch, choose_conditions
from .outcomes import removal_rows
from .texts import OtherTexts, TextsOfTable, text_generator

NUM_FOLDS = 20
HIDDEN_UNITS, DROPOUT, LEARNING_RATE, WEIGHT_DECAY, EPOCHS, BATCH_SIZE = 64, 0.2, 1e-3, 1e-4, 40, 64


def probe_texts(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    *,
    k: int = 1,
    num_draws: int = 5,
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
        num_draws (`int`): Maximum number of draws per text, for conditions that are drawn.
        batch_size (`int`): Texts per host forward.
        seed (`int`): Seed of folds, probes and draws.

    Returns:
        `datasets.Dataset`: As [`ablate_texts`][clvq_hf.ablate_texts] returns it, of the labelled texts; "plain" is the
        probe's prediction from the whole representation.

    Raises:
        ValueError: If fewer than two labels occur, or one in fewer than two texts.
    """
    ensure_pad_token(tokenizer)
    texts = TextsOfTable(table, tokenizer, labelled=True)
    labels, counts = np.unique(texts.label, return_counts=True)
    if len(labels) < 2 or counts.min() < 2:
        raise ValueError(
            "A probe needs at least two labels, each in two texts or more; the texts have "
            f"{dict(zip(labels.tolist(), counts.tolist(), strict=True))}."
        )
    representations = _read_representations(model, host, tokenizer, texts, k, num_draws, batch_size, seed)
    vectors = representations.vectors
    folds = _folds(vectors, texts.label, len(table.label_names), min(NUM_FOLDS, int(counts.min())), seed)
    plain = torch.empty(len(texts), len(table.label_names))
    for fold in folds:
        plain[fold.test] = fold.probe(vectors[fold.test])
    other_texts = OtherTexts(texts, plain.argmax(-1).numpy(), representations.random.code, num_draws, seed)
    columns: dict[str, list] = defaultdict(list)
    for fold in folds:
        batch = representations.batch(fold.test, texts)
        conditions = choose_conditions(
            CONDITIONS,
            find_other_codes=representations.find_other_codes,
            salient=representations.salient,
            random=representations.random,
            other_texts=other_texts,
            mean=model.mean_state.cpu(),
            references=fold,
            num_draws=num_draws,
            seed=seed,
        )
        for condition in conditions:
            for removal in condition.removals(batch):
                logits = fold.probe(removal.states[:, 0])
                rows = removal_rows(condition.name, removal, batch, texts.label[fold.test], plain[fold.test], logits)
                removed = (batch.states - removal.states)[:, 0].norm(dim=-1)
                rows["removed_norm"] = removed[removal.valid].tolist()
                rows["matched"] = [False] * len(rows["matched"])
                for name, values in rows.items():
                    columns[name] += values
    return Dataset.from_dict(columns)


@dataclass(frozen=True)
class _Representations:
    """What is probed, and what is removed from it.

    Attributes:
        vectors (`torch.Tensor` of shape `(N, d)`): One representation per text.
        salient, random (`Source`): The salient and a random content token of each text.
        others (`list[Source]`): Drawn tokens with other codes, per text.
    """

    vectors: torch.Tensor
    salient: Source
    random: Source
    others: list[Source]

    def batch(self, rows: np.ndarray, texts: TextsOfTable) -> TextBatch:
        """Some of the texts, each with a single position."""
        states = self.vectors[rows][:, None]
        where = torch.ones(states.shape[:2], dtype=torch.bool)
        without_salient = self.salient.remove(states, rows, where)
        return TextBatch(rows, texts.text_id[rows], states, where, self.salient, without_salient)

    def find_other_codes(self, batch: TextBatch) -> list[list[Candidate]]:
        """Other codes per text, in random order; nothing is matched, since each is removed from one position."""
        candidates = []
        for row, state in zip(batch.rows, batch.states, strict=True):
            other = self.others[row]
            where = torch.ones(len(other.code), 1, dtype=torch.bool)
            states = other.remove(state.expand(len(other.code), -1, -1), np.arange(len(other.code)), where)
            candidates.append(
                [Candidate(*each, matched=False) for each in zip(states, where, other.code.tolist(), strict=True)]
            )
        return candidates


def _read_representations(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: TextsOfTable,
    k: int,
    num_draws: int,
    batch_size: int,
    seed: int,
) -> _Representations:
    config = model.config
    extract = HiddenStateExtractor(host, config.lower_layer, config.lower_layer, config.stack)
    # The host's, whatever the method's config says of itself.
    stream = hooks.residual_stream(host, config.stack)

    centre = model.projection_centre.cpu()

    def source(row: int, states: torch.Tensor, places: np.ndarray) -> Source:
        basis = model.ablation_basis(states[places].to(model.device), k=k).cpu()
        return Source(texts.codes[row][places], basis, centre)

    vectors = torch.empty(len(texts), config.hidden_size)
    # Of each text: its salient token and a random one; others.
    pairs: dict[int, Source] = {}
    others: dict[int, Source] = {}
    batches = batches_by_length(texts.tokenized, TextCollator(tokenizer), batch_size)
    for rows, inputs in tqdm(batches, desc="Reading the texts", unit="batch", total=-(-len(texts) // batch_size)):
        batch = extract(inputs, device=torch.device("cpu"))
        real = batch["attention_mask"].bool()
        sinks = find_sinks(host, config.stack, config.lower_layer, batch["hidden_states"], real)
        for row, padded, mask, sink in zip(rows, batch["hidden_states"], real, sinks, strict=True):
            states = padded[mask].float()
            # A causal host's first token knows nothing of the others; an attention sink would be all of the mean.
            vectors[row] = padded[mask & ~sink].float().mean(0) if stream.is_causal else states[0]
            place = texts.random_place(row, seed, sink.numpy())
            pairs[row] = source(row, states, np.asarray([texts.position[row], place]))
            _, firsts = texts.other_codes(row, sink.numpy())
            drawn = text_generator(seed, texts.text_id[row], "other_code").permutation(len(firsts))[:num_draws]
            others[row] = source(row, states, firsts[drawn])
    salient, random = (
        Source(
            np.asarray([pair.code[kind] for pair in ordered]),
            torch.stack([pair.basis[kind] for pair in ordered]),
            centre,
        )
        for kind, ordered in enumerate([in_order(pairs)] * 2)
    )
    return _Representations(vectors, salient, random, in_order(others))


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
    mean: torch.Tensor
    class_basis: torch.Tensor
    eraser: Eraser


def _folds(vectors: torch.Tensor, labels: np.ndarray, num_labels: int, num_folds: int, seed: int) -> list[_Fold]:
    splits = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels)
    folds = []
    for number, (train, test) in enumerate(tqdm(list(splits), desc="Training the probes", unit="fold")):
        known = vectors[train].double()
        one_hot = F.one_hot(torch.as_tensor(labels[train]), num_labels).double()
        present = one_hot.sum(0) > 0
        means = (one_hot.T @ known)[present] / one_hot.sum(0)[present, None]
        probe = _Probe(vectors[train].numpy(), labels[train], num_labels, seed + number)
        mean = known.mean(0)
        basis, eraser = orthonormal_rows(means - mean), LeaceEraser.fit(known, one_hot)
        folds.append(_Fold(test, probe, mean.float(), basis, eraser))
    return folds


__all__ = ["probe_texts"]
