"""How well a few codes of a text tell what the host says of it, against as many words, and against dense states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import batches_by_length
from ..data.extraction import HiddenStateExtractor
from ..data.tokenization import TextCollator, ensure_pad_token, tokenize_texts
from ..models.modeling_concepts import ConceptModel
from ..tables.concept_table import ConceptTable
from .logistic import fit_logistic

# Codes, or words, that a probe may use.
SIZES = (1, 2, 5, 16)
NUM_FOLDS, NUM_REPEATS = 5, 4
# A vocabulary has too many classes to be learned from a few hundred texts.
MAX_CLASSES = 20


def mean_states(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    batch_size: int = 32,
) -> np.ndarray:
    """Mean state of each text's content tokens at `lower_layer`, in one pass over the host.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): Names the layer.
        host (`PreTrainedModel`): The model whose states these are.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts.
        batch_size (`int`): Texts per host forward.

    Returns:
        `np.ndarray` of shape `(N, d)`, float32: Zero for texts without a content token.
    """
    ensure_pad_token(tokenizer)
    config = model.config
    extract = HiddenStateExtractor(host, config.lower_layer, config.upper_layer, config.stack)
    tokenized = tokenize_texts(table.texts, tokenizer, "text", table.metadata["max_length"])
    means = np.zeros((len(table.texts), config.hidden_size), np.float32)
    for _, batch in batches_by_length(tokenized, TextCollator(tokenizer), batch_size):
        states = extract(batch, device=torch.device("cpu"))
        mask = states["token_mask"].bool()[..., None]
        # Padding may hold anything, NaN at times.
        sums = torch.where(mask, states["hidden_states"].float(), 0).sum(1)
        means[states["text_index"].numpy()] = (sums / mask.sum(1).clamp(min=1)).numpy()
    return means


def probe_bags(
    table: ConceptTable, states: np.ndarray | None = None, *, sizes: Sequence[int] = SIZES, seed: int = 0
) -> dict[str, float | int | None]:
    """Predict the host's predictions, and the labels, from how often a few codes occur in a text.

    Logistic regressions on the logarithm of one plus the counts, of the codes that differ most between classes (by the
    F statistic); chosen and learned on four fifths of the texts and scored on the rest, in four random partitions that
    are the same for all methods. Special tokens are left out, and texts that occur twice count once.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts, with predictions.
        states (`np.ndarray` of shape `(N, d)`, *optional*): A dense state of each text, as a ceiling: of
            [`mean_states`][clvq_hf.evaluation.mean_states].
        sizes (`Sequence[int]`): Numbers of codes, and of words.
        seed (`int`): Of the partitions.

    Returns:
        `dict`: Balanced accuracies, of which 1 ÷ classes is chance: for each size k `prediction_codes_k` and
        `prediction_words_k` (token types), and `prediction_gain_k`, the first less the second, with `_low` and `_high`
        (95 % intervals over texts, for the probes that were learned); `prediction_dense`; `prediction_classes`. The
        same with `label_` if texts have labels. Classes of fewer than five texts are left out; figures are None unless
        2 to 20 classes remain. `num_texts`.
    """
    inputs = table.metric_inputs()
    # Copies of a text would be in different folds. Sorted by text, so that the order of rows changes nothing.
    rows = np.asarray([row for _, row in sorted({text: row for row, text in enumerate(inputs["texts"])}.items())])
    features = {"codes": _bag(inputs["codes"])[rows], "words": _bag(inputs["tokens"])[rows]}
    dense = None if states is None else states[rows]
    figures: dict[str, float | int | None] = {}
    for name, target in (("prediction", table.texts["prediction"][:]), ("label", inputs["labels"])):
        classes = np.asarray(target)[rows]
        found, counts = np.unique(classes, return_counts=True)
        found = found[(found >= 0) & (counts >= NUM_FOLDS)]
        kept = np.isin(classes, found)
        if name == "label" and len(found) == 0:
            continue
        figures[f"{name}_classes"] = len(found)
        probe = _Probe.of(classes[kept], seed) if 2 <= len(found) <= MAX_CLASSES else None
        if probe is not None:
            codes, words = (probe.right(features[kind][kept], sizes) for kind in ("codes", "words"))
        for number, size in enumerate(sizes):
            gain = f"{name}_gain_{size}"
            names = [f"{name}_codes_{size}", f"{name}_words_{size}", gain, f"{gain}_low", f"{gain}_high"]
            figures |= dict.fromkeys(names)
            if probe is not None:
                of_codes, of_words = codes[number], words[number]
                values = (probe.balanced(of_codes), probe.balanced(of_words), *probe.interval(of_codes - of_words))
                figures |= dict(zip(names, values, strict=True))
        if dense is not None:
            figures[f"{name}_dense"] = None if probe is None else probe.balanced(probe.right_from(dense[kept]))
    return figures | {"num_texts": len(rows)}


@dataclass(frozen=True)
class _Probe:
    """Classes `(N,)`, and partitions of their texts into those that are learned from and those that are scored."""

    classes: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, classes: np.ndarray, seed: int) -> Self:
        partitions = RepeatedStratifiedKFold(n_splits=NUM_FOLDS, n_repeats=NUM_REPEATS, random_state=seed)
        return cls(classes, list(partitions.split(np.zeros(len(classes)), classes)))

    def right(self, features: csr_array, sizes: Sequence[int]) -> list[np.ndarray]:
        """How often each text's class was found from as many of the features, `(N,)`: from 0 to 1."""
        learned = np.ones((len(self.folds), len(self.classes)), bool)
        for fold, (_, scored) in zip(learned, self.folds, strict=True):
            fold[scored] = False
        _, classes = np.unique(self.classes, return_inverse=True)
        orders = [
            np.argsort(-_between_share(features[rows], self.classes[rows]), kind="stable")[: max(sizes)]
            for rows, _ in self.folds
        ]
        chosen = np.stack([features[:, order].toarray() for order in orders])
        standard = np.stack(
            [StandardScaler().fit(x[rows]).transform(x) for x, rows in zip(chosen, learned, strict=True)]
        )
        found = [fit_logistic(standard[..., :size], classes, learned).argmax(-1) for size in sizes]
        return [((classes == each) & ~learned).sum(0) / NUM_REPEATS for each in found]

    def right_from(self, states: np.ndarray) -> np.ndarray:
        """The same from all dimensions of a dense state `(N, d)`."""
        right = np.zeros(len(self.classes))
        for learned, scored in self.folds:
            probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
            probe.fit(states[learned], self.classes[learned])
            right[scored] += probe.predict(states[scored]) == self.classes[scored]
        return right / NUM_REPEATS

    def balanced(self, values: np.ndarray) -> float:
        """Mean over classes of the mean over their texts."""
        return float(np.mean([values[self.classes == each].mean() for each in np.unique(self.classes)]))

    def interval(self, values: np.ndarray) -> tuple[float, float, float]:
        """`balanced`, and its 95 % interval over texts."""
        groups = [values[self.classes == each] for each in np.unique(self.classes)]
        error = np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)) / len(groups)
        half_width = t.ppf(0.975, len(values) - len(groups)) * error
        centre = self.balanced(values)
        return centre, float(centre - half_width), float(centre + half_width)


def _between_share(features: csr_array, classes: np.ndarray) -> np.ndarray:
    """Share of each feature's variance that is between classes, `(V,)`.

    It orders features as the F statistic does, which divides by rounding errors where classes have constant values.
    """
    members = (classes == np.unique(classes)[:, None]).astype(float)
    means = (members @ features) / members.sum(1, keepdims=True)
    mean, square = features.mean(0), (features * features).mean(0)
    between = (members.mean(1)[:, None] * (means - mean) ** 2).sum(0)
    variance = square - mean**2
    return np.where(variance > 1e-9, between / variance.clip(min=1e-9), 0)


def _bag(rows: Sequence[Sequence[Any]]) -> csr_array:
    """`(N, V)`: logarithm of one plus how often each item occurs in each row."""
    items, place = np.unique([item for row in rows for item in row], return_inverse=True)
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    counts = coo_array((np.ones(len(owners)), (owners, place.ravel())), shape=(len(rows), len(items))).tocsr()
    return counts.log1p()


__all__ = ["SIZES", "mean_states", "probe_bags"]
