"""What codes, words and classes say of a token's states: means over training texts."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..data.means import MeansById
from ..models.modeling_concepts import ConceptModel
from ..models.nearest_codes import nearest_codes

# Tokens of the class's mean that are mixed into the mean of a code within a class, which may have few of its own.
SHRINKAGE = 10


@dataclass(frozen=True)
class Means:
    """Mean states of the training tokens of each id.

    Attributes:
        ids (`torch.Tensor` of shape `(N,)`, int64): The ids that occur, ascending.
        lower (`torch.Tensor` of shape `(N + 1, d)`): At `lower_layer`, float32; last the mean of all tokens.
        upper (`torch.Tensor` of shape `(N + 1, d')`): At `upper_layer`; last the mean of all.
    """

    ids: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of ids `(…)`: `(…)`, int64; the last row for those that do not occur."""
        place = torch.searchsorted(self.ids, ids.contiguous()).clamp(max=len(self.ids) - 1)
        return torch.where(self.ids[place] == ids, place, len(self.ids))

    def lower_of(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean states at `lower_layer` of ids `(…)`: `(…, d)`."""
        return F.embedding(self.rows(ids), self.lower)

    def upper_of(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean states at `upper_layer` of ids `(…)`: `(…, d')`."""
        return F.embedding(self.rows(ids), self.upper)


@dataclass(frozen=True)
class CodeStatistics:
    """Mean states of training tokens, without attention sinks and, but for `codes_with_special`, special tokens.

    Attributes:
        codes ([`Means`]): Of each code.
        codes_with_special ([`Means`]): The same with special tokens.
        words ([`Means`]): Of each token type.
        classes ([`Means`] or `None`): Of each class that the host predicts for the text; `None` if it chooses none.
        cells ([`Means`] or `None`): Of each code within each class, at `code * num_classes + class`, mixed with ten
            tokens of the class's mean.
        random_states (`torch.Tensor` of shape `(K, d)`): States of random tokens: a codebook to compare with.
        random_codes ([`Means`]): Of the tokens that are nearest to each of these.
        upper_scale (`torch.Tensor` of shape `(d',)`): Standard deviation of each dimension at `upper_layer`.
        num_classes (`int`): Of the host; 0 if it chooses none.
        fingerprint (`str`): Of the model whose codes these are.
    """

    codes: Means
    codes_with_special: Means
    words: Means
    classes: Means | None
    cells: Means | None
    random_states: torch.Tensor
    random_codes: Means
    upper_scale: torch.Tensor
    num_classes: int
    fingerprint: str


class CodeCounter:
    """Adds up batches of training states, and gives their [`CodeStatistics`].

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): Gives tokens their codes.
        random_states (`torch.Tensor` of shape `(K, d)`): See [`CodeStatistics`].
        num_classes (`int`): Classes of the host; 0 if it chooses none.
    """

    def __init__(self, model: ConceptModel, random_states: torch.Tensor, num_classes: int) -> None:
        self.model, self.random_states, self.num_classes = model, random_states.float(), num_classes
        self.width, self.upper_width = model.config.hidden_size, model.config.target_hidden_size
        names = [
            "codes",
            "codes_with_special",
            "words",
            "random_codes",
            *(("classes", "cells") if num_classes else ()),
        ]
        # Both layers side by side: they have the same ids and counts.
        self._sums = {name: MeansById(self.width + self.upper_width) for name in names}
        self._tokens = 0
        self._total, self._squares = torch.zeros(2, self.width + self.upper_width, dtype=torch.float64)

    def add(self, states: dict[str, torch.Tensor], codes: torch.Tensor) -> None:
        """Add a batch of [`HiddenStateExtractor`][clvq_hf.data.HiddenStateExtractor], on the CPU, and its codes."""
        real = states["attention_mask"].bool() & ~states["sink_mask"].bool()
        counted = states["token_mask"].bool()
        both = torch.cat([states["hidden_states"].float(), states["target_hidden_states"].float()], dim=-1)
        self._sums["codes_with_special"].add(codes[real], both[real])
        ids = {
            "codes": codes,
            "words": states["input_ids"].long(),
            "random_codes": nearest_vectors(states["hidden_states"], self.random_states),
        }
        if self.num_classes:
            ids["classes"] = states["prediction"][:, None].expand_as(codes)
            ids["cells"] = codes * self.num_classes + ids["classes"]
        both = both[counted]
        for name, each in ids.items():
            self._sums[name].add(each[counted], both)
        self._tokens += len(both)
        self._total += both.double().sum(0)
        self._squares += both.double().square().sum(0)

    def statistics(self) -> CodeStatistics:
        """All means so far."""
        mean = self._total / self._tokens
        deviation = (self._squares / self._tokens - mean.square()).clamp(min=0).sqrt()
        means = {name: self._means(name, mean.float()) for name in self._sums}
        return CodeStatistics(
            **{name: means[name] for name in ("codes", "codes_with_special", "words", "random_codes")},
            classes=means.get("classes"),
            cells=means.get("cells"),
            random_states=self.random_states,
            upper_scale=deviation[self.width :].clamp(min=1e-6).float(),
            num_classes=self.num_classes,
            fingerprint=self.model.fingerprint(),
        )

    def _means(self, name: str, mean: torch.Tensor) -> Means:
        ids, rows, counts = self._sums[name].means()
        if name == "cells":
            classes, of_class, _ = self._sums["classes"].means()
            share = (counts / (counts + SHRINKAGE))[:, None]
            rows = share * rows + (1 - share) * of_class[torch.searchsorted(classes, ids % self.num_classes)]
        return Means(ids, *torch.cat([rows, mean[None]]).split([self.width, self.upper_width], dim=-1))


def nearest_vectors(states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Number of the vector of `(K, d)` that is nearest to each state of `(…, d)`: `(…)`, int64."""
    return nearest_codes(states.float(), vectors.to(states.device))


__all__ = ["CodeCounter", "CodeStatistics", "Means", "nearest_vectors"]
