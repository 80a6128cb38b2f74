"""What ablations are compared with, estimated on training texts: class directions, LEACE, means of states and words."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from concept_erasure import LeaceEraser, LeaceFitter
from datasets import Dataset
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.activation_cache import ActivationCache, StateCollator
from ...data.batching import batches_by_length
from ...data.extraction import HiddenStateExtractor, check_states
from ...data.labels import host_labels
from ...data.means import MeansById
from ...data.readouts import host_question, text_readout
from ...data.texts import text_hash
from ...data.tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts
from ...hosts import hooks
from ...hosts.identity import check_identity, host_identity
from ...hosts.readout import Readout
from ...models.modeling_concepts import ConceptModel
from ...models.projections import orthonormal_rows
from ..code_statistics import CodeCounter, CodeStatistics
from ..occurrences import OccurrenceDraw, Occurrences
from .words import WordMeans, word_identity

# Texts that random tokens are drawn from.
NUM_SAMPLED = 256


@dataclass(frozen=True)
class MemberMeans:
    """Mean host state of the tokens that have each code, special tokens and attention sinks left out.

    Attributes:
        means (`torch.Tensor` of shape `(K, d)`): At `lower_layer`, float32; zero for codes that no token has.
        counts (`torch.Tensor` of shape `(K,)`, int64): Number of tokens.
        mean (`torch.Tensor` of shape `(d,)`): Of all these tokens.
        fingerprint (`str`): Of the model whose codes these are.
    """

    means: torch.Tensor
    counts: torch.Tensor
    mean: torch.Tensor
    fingerprint: str

    @classmethod
    def of(cls, model: ConceptModel, sums: MeansById) -> "MemberMeans":
        """From what was summed up by code."""
        means, counts = sums.fill(model.config.codebook_size)
        mean = (means.double() * counts[:, None]).sum(0) / counts.sum().clamp(min=1)
        return cls(means, counts, mean.float(), model.fingerprint())

    def states(self, codes: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Mean states `(N, d)` of codes `(N,)`; of those that no token has, the states `own` `(N, d)`."""
        return torch.where(self.counts[codes, None] > 0, self.means[codes], own)


@dataclass(frozen=True)
class AblationReferences:
    """Statistics of the tokens of training texts, special ones left out.

    Attributes:
        mean (`torch.Tensor` of shape `(d,)`): Mean state at `lower_layer`, float32.
        words ([`WordMeans`][clvq_hf.evaluation.WordMeans]): Mean state of each token type at `lower_layer`; of these
            texts, or of more.
        upper_mean (`torch.Tensor` of shape `(d',)`): Mean state at `upper_layer`, float32.
        class_basis (`torch.Tensor` of shape `(C, d)` or `None`): Orthonormal rows that span `{μ_c - μ}`, the directions
            in which the classes' mean states differ (rows beyond their rank are zero); `None` without labels.
        eraser (`LeaceEraser` or `None`): LEACE (arXiv 2306.03819): the smallest change after which no linear probe of
            a token's state predicts the class of its text; `None` without labels.
        members ([`MemberMeans`][clvq_hf.evaluation.MemberMeans] or `None`): Mean state of each code's tokens, for
            `how="swap"`; `None` for methods whose codes are directions.
        statistics ([`CodeStatistics`][clvq_hf.evaluation.CodeStatistics]): What codes, words and classes say, for
            [`fidelity_texts`][clvq_hf.evaluation.fidelity_texts].
        occurrences ([`Occurrences`][clvq_hf.evaluation.Occurrences]): Real occurrences of words, for
            [`exchange_senses`][clvq_hf.evaluation.exchange_senses].
        text_hashes (`frozenset[str]`): Of all these texts, so that nothing is measured on them.
        identity (`dict`): The host and its layers.
    """

    mean: torch.Tensor
    words: WordMeans
    upper_mean: torch.Tensor
    class_basis: torch.Tensor | None
    eraser: LeaceEraser | None
    members: MemberMeans | None
    statistics: CodeStatistics
    occurrences: Occurrences
    text_hashes: frozenset[str]
    identity: dict[str, Any] = field(default_factory=dict)

    def check_source(
        self, model: ConceptModel, host: PreTrainedModel, how: str = "project", readout: Readout | None = None
    ) -> None:
        """Check that these are of a host, and of the layers of a model; for `how="swap"` also of its codes.

        With a readout also that their classes, if they have any, are those of its question.

        Raises:
            ValueError: If host, layers, question or codes are others; the message names both.
        """
        remedy = "Make them again with fit_references."
        given = _identity(model, host)
        if readout is not None and self.class_basis is not None and self.identity.get("readout") is not None:
            given["readout"] = readout.identity()
            remedy = "Make them again with fit_references(…, readout=table.readout)."
        check_identity(self.identity, given, "This set of references", remedy)
        if how == "swap" and (self.members is None or self.members.fingerprint != model.fingerprint()):
            raise ValueError(f"This set of references has the mean states of another model's codes. {remedy}")


def fit_references(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    *,
    text_column: str = "text",
    label_column: str = "label",
    readout: Readout | None = None,
    target: str | int | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    cache: ActivationCache | None = None,
    words: WordMeans | None = None,
) -> AblationReferences:
    """Estimate the references on training texts, in one pass over the host.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): Names the layers, and gives the tokens their codes.
        host (`PreTrainedModel`): The model whose concepts these are.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        dataset (`datasets.Dataset`): Texts that nothing is measured on. Texts without a label count for the means
            only.
        text_column (`str`): Column of the texts.
        label_column (`str`): Column of the labels, see [`host_labels`][clvq_hf.data.host_labels]; there may be none.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): The question that the labels answer, of a host
            with several (`table.readout`); that of the head if not given.
        target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression, instead.
        max_length (`int`, *optional*): In tokens; if not given, that of the model's training, or the host's limit.
        batch_size (`int`): Texts per host forward.
        cache ([`ActivationCache`][clvq_hf.ActivationCache], *optional*): States of these texts, or of some of
            them, so that the host does not run again.
        words ([`WordMeans`][clvq_hf.evaluation.WordMeans], *optional*): Mean states of token types from more texts,
            of [`fit_words`][clvq_hf.evaluation.fit_words]; those of these texts if not given. Types that occur fewer
            than ten times are left out of the conditions of words, so a few hundred texts are too few.

    Returns:
        [`AblationReferences`]: On the CPU.

    Raises:
        ValueError: If the texts or their labels are unusable, or all have one label.
    """
    model.check_host(host)
    if words is not None:
        given = word_identity(host, model.config.lower_layer, model.config.stack)
        check_identity(words.identity, given, "This set of word means", "Make it again with fit_words.")
    max_length = max_length or model.config.longest_text
    check_texts(dataset, text_column)
    ensure_pad_token(tokenizer)
    config = model.config
    readout = readout or host_question(host, target)
    if readout is not None:
        sizes = {"text_column": text_column, "max_length": max_length, "batch_size": batch_size}
        readout = text_readout(host, tokenizer, dataset, readout, target=target, stack=config.stack, **sizes)
    dataset = host_labels(dataset, host, label_column, readout=readout)
    labels = torch.full((len(dataset),), -1)
    if label_column in dataset.column_names:
        labels = torch.tensor([-1 if label is None else label for label in dataset[label_column]])
    num_classes = int(labels.max()) + 1
    if num_classes > 0 and len(labels[labels >= 0].unique()) < 2:
        raise ValueError(
            f"All {int((labels >= 0).sum())} labelled training texts have one label, so classes have no directions. "
            "Provide texts of every class, or drop the label column."
        )
    data = _TrainingStates(model, host, tokenizer, dataset, text_column, max_length, batch_size, cache, readout)
    counter = CodeCounter(model, data.random_states(config.codebook_size), data.num_classes)
    sums = torch.zeros(num_classes + 1, config.hidden_size, dtype=torch.float64)
    counts = torch.zeros(num_classes + 1, dtype=torch.float64)
    upper_sum = torch.zeros(config.target_hidden_size, dtype=torch.float64)
    own_words = None if words is not None else MeansById(config.hidden_size)
    members = MeansById(config.hidden_size) if model.codes_are_states else None
    occurrences = OccurrenceDraw()
    fitter = LeaceFitter(config.hidden_size, num_classes, dtype=torch.float64) if num_classes else None
    for number, states in enumerate(tqdm(data.batches(None), desc="Reading the training texts", unit="batch")):
        check_states(states, f"batch {number} of the training texts")
        mask = states["token_mask"].bool()
        lower = states["hidden_states"][mask].double()
        if own_words is not None:
            own_words.add(states["input_ids"][mask], lower)
        codes = model.encode(*(states[name].to(model.device) for name in ("hidden_states", "attention_mask"))).cpu()
        counter.add(states, codes)
        if members is not None:
            members.add(codes[mask], lower)
        occurrences.add(states["input_ids"][mask], codes[mask], lower)
        upper_sum += states["target_hidden_states"][mask].double().sum(0)
        owners = labels[states["text_index"]][:, None].expand_as(mask)[mask]
        # The last row is of the texts without a label.
        sums.index_add_(0, owners % (num_classes + 1), lower)
        counts += torch.bincount(owners % (num_classes + 1), minlength=num_classes + 1)
        if fitter is not None and (owners >= 0).any():
            fitter.update(lower[owners >= 0], F.one_hot(owners[owners >= 0], num_classes).double())
    class_basis = None
    if fitter is not None:
        seen = counts[:-1] > 0
        center = sums[:-1].sum(0) / counts[:-1].sum()
        class_basis = orthonormal_rows(sums[:-1][seen] / counts[:-1][seen, None] - center)
    hashes = frozenset(text_hash(dataset[row][text_column]) for row in data.rows)
    if own_words is not None:
        words = WordMeans(*own_words.means(), hashes, word_identity(host, config.lower_layer, config.stack))
    return AblationReferences(
        mean=(sums.sum(0) / counts.sum()).float(),
        words=words,
        upper_mean=(upper_sum / counts.sum()).float(),
        class_basis=class_basis,
        eraser=None if fitter is None else fitter.eraser,
        members=None if members is None else MemberMeans.of(model, members),
        statistics=counter.statistics(),
        occurrences=occurrences.occurrences(),
        text_hashes=hashes | words.text_hashes,
        identity={**_identity(model, host), "readout": _classes_of(readout)},
    )


def _classes_of(readout: Readout | None) -> dict[str, Any] | None:
    """The question whose answers are the classes; `None` where labels are the dataset's own."""
    return None if readout is None or readout.of_vocabulary else readout.identity()


def _identity(model: ConceptModel, host: PreTrainedModel) -> dict[str, Any]:
    config = model.config
    stack = hooks.residual_stream(host, config.stack).stack
    layers = {"lower_layer": config.lower_layer, "upper_layer": config.upper_layer, "stack": stack}
    return {"host": host_identity(host, head=False), **layers}


class _TrainingStates:
    """States of training texts, batch by batch: from a cache, or from the host.

    Attributes:
        rows (`list[int]`): The texts that they are of.
        num_classes (`int`): Classes that the host predicts for them; 0 if it chooses none.
        batches (`Callable`): From rows, or `None` for all, to batches of
            [`HiddenStateExtractor`][clvq_hf.data.HiddenStateExtractor], on the CPU.
    """

    def __init__(
        self,
        model: ConceptModel,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        text_column: str,
        max_length: int | None,
        batch_size: int,
        cache: ActivationCache | None,
        readout: Readout | None,
    ) -> None:
        config = model.config
        self.num_classes = 0 if readout is None else readout.num_classes
        self.batches: Callable[[Sequence[int] | None], Iterable[dict[str, torch.Tensor]]]
        if cache is not None:
            cache.check_layers(config)
            cache.check_source(host, tokenizer, dataset, text_column)
            self.rows = [int(text["text_index"]) for text in cache]
            if cache.predictions is None or readout is None or readout.kind != "classification":
                self.num_classes = 0

            def from_cache(rows: Sequence[int] | None) -> Iterable[dict[str, torch.Tensor]]:
                part = cache if rows is None else Subset(cache, rows)
                return DataLoader(part, batch_size=batch_size, collate_fn=StateCollator())

            self.batches = from_cache
            return
        asked = readout if self.num_classes else None
        extract = HiddenStateExtractor(host, config.lower_layer, config.upper_layer, config.stack, asked)
        length = hooks.max_length(host, tokenizer, max_length)
        tokenized = tokenize_texts(dataset, tokenizer, text_column, length)
        self.rows = tokenized["text_index"][:]

        def from_host(rows: Sequence[int] | None) -> Iterable[dict[str, torch.Tensor]]:
            read = batches_by_length(tokenized, TextCollator(tokenizer), batch_size, rows)
            return (extract(batch, device=torch.device("cpu")) for _, batch in read)

        self.batches = from_host

    def random_states(self, number: int) -> torch.Tensor:
        """States `(number, d)` of random tokens, or of all if there are fewer, from at most 256 texts."""
        rng = np.random.default_rng(0)
        rows = rng.permutation(len(self.rows))[:NUM_SAMPLED].tolist()
        states = torch.cat([each["hidden_states"][each["token_mask"].bool()] for each in self.batches(rows)])
        return states[rng.permutation(len(states))[:number]].float()


__all__ = ["AblationReferences", "MemberMeans", "fit_references"]
