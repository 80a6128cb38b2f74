"""How far states are from their codes, and which distances are usual: the quantiles of training tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..checksums import read_tensors, write_tensors

# Shares of the training tokens that are nearer than the quantile.
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
# A code with fewer training tokens has no reliable quantiles of its own.
MIN_TOKENS = 50
_ARRAYS = ("levels", "quantiles", "overall", "counts")


@dataclass(frozen=True, eq=False)
class DistanceQuantiles:
    """Quantiles of the distances of training tokens to their codes.

    They answer whether a state is near its code, or whether none of the concepts fits; see
    [`ConceptModel.distances`][clvq_hf.ConceptModel.distances].

    Attributes:
        levels (`np.ndarray` of shape `(L,)`, float64): Shares of the training tokens, ascending: 0.05, 0.1, 0.25, 0.5,
            0.75, 0.9, 0.95 and 0.99.
        quantiles (`np.ndarray` of shape `(K, L)`, float32): Distances that this share of a code's tokens does not
            exceed; NaN for codes without tokens.
        overall (`np.ndarray` of shape `(L,)`, float32): The same for the tokens of all codes.
        counts (`np.ndarray` of shape `(K,)`, int64): Number of training tokens of each code.
        fingerprint (`str`): [`fingerprint`][clvq_hf.ConceptModel.fingerprint] of the codes.
    """

    levels: np.ndarray
    quantiles: np.ndarray
    overall: np.ndarray
    counts: np.ndarray
    fingerprint: str

    @classmethod
    def of(cls, distances: np.ndarray, codes: np.ndarray, codebook_size: int, fingerprint: str) -> Self:
        """Compute the quantiles of N tokens.

        Args:
            distances (`np.ndarray` of shape `(N,)`): Distances of tokens to their codes.
            codes (`np.ndarray` of shape `(N,)`): Codes in `[0, K)`.
            codebook_size (`int`): Number of codes `K`.
            fingerprint (`str`): Of the model.

        Raises:
            ValueError: If there are no tokens, or a distance is NaN or infinite.
        """
        if len(distances) == 0 or not np.isfinite(distances).all():
            raise ValueError("Quantiles need at least one token, and distances that are neither NaN nor infinite.")
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=codebook_size)
        quantiles = np.full((codebook_size, len(LEVELS)), np.nan, dtype=np.float32)
        ends = np.cumsum(counts)
        for code in np.flatnonzero(counts):
            quantiles[code] = np.quantile(distances[order[ends[code] - counts[code] : ends[code]]], LEVELS)
        overall = np.quantile(distances, LEVELS).astype(np.float32)
        return cls(np.array(LEVELS), quantiles, overall, counts.astype(np.int64), fingerprint)

    def limits(self, codes: Any, level: float = 0.99) -> np.ndarray:
        """The distance that a share of each code's training tokens does not exceed.

        Args:
            codes (array or tensor of integers): Codes; negative ones stand for padding.
            level (`float`): One of `levels`.

        Returns:
            `np.ndarray` of float32, of the shape of `codes`: That of all codes for codes with fewer than 50 training
            tokens, NaN on padding.

        Raises:
            ValueError: If there is no such level.
        """
        columns = np.flatnonzero(np.isclose(self.levels, level))
        if len(columns) == 0:
            raise ValueError(f"level must be one of {self.levels.tolist()}, got {level}.")
        column, codes = int(columns[0]), np.asarray(codes)
        limits = np.where(self.counts < MIN_TOKENS, self.overall[column], self.quantiles[:, column])
        return np.where(codes < 0, np.float32(np.nan), limits[codes])

    def outliers(self, distances: Any, codes: Any, level: float = 0.99) -> np.ndarray:
        """Which states are farther from their code than nearly all of its training tokens: the concept may not fit.

        Args:
            distances (array or CPU tensor): What [`distances`][clvq_hf.ConceptModel.distances] returned.
            codes (array or CPU tensor of the same shape): The codes; -1 on padding.
            level (`float`): One of `levels`: 0.99 finds states that are farther than 99 % of the training tokens.

        Returns:
            `np.ndarray` of bool, of the same shape: False on padding. Codes with fewer than 50 training tokens are
            judged by the tokens of all codes.

        Raises:
            ValueError: If there is no such level.
        """
        return np.asarray(distances) > self.limits(codes, level)

    def save(self, file: str | Path) -> None:
        """Write a safetensors file."""
        write_tensors(file, {name: getattr(self, name) for name in _ARRAYS}, {"fingerprint": self.fingerprint})

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read a file that [`save`][clvq_hf.models.DistanceQuantiles.save] wrote.

        Raises:
            ValueError: If it is damaged.
        """
        remedy = "Delete it, or get it again."
        arrays, about = read_tensors(Path(file), _ARRAYS, remedy)
        if "fingerprint" not in about:
            raise ValueError(f"{file} is damaged (it does not say of which codes it is). {remedy}")
        return cls(**arrays, fingerprint=about["fingerprint"])


__all__ = ["LEVELS", "MIN_TOKENS", "DistanceQuantiles"]
