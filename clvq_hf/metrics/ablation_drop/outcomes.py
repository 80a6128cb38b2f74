"""The outcomes of an ablation experiment as checked and sorted arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Columns and their types. One row per text, condition and draw; columns of _PLAIN repeat in all rows of a text.
COLUMNS = {
    "text_id": "int64",
    "condition": "string",
    "draw": "int64",
    "label": "int64",
    "prediction_plain": "int64",
    "prediction": "int64",
    "margin_plain": "float64",
    "margin": "float64",
    "probability_plain": "float64",
    "probability": "float64",
    "gold_probability_plain": "float64",
    "gold_probability": "float64",
    "kl": "float64",
    "probabilities_plain": "list<float32>",
    "probabilities": "list<float32>",
    "num_positions": "int64",
    "removed_norm": "float64",
    "matched": "bool",
}
_PLAIN = (
    "label",
    "prediction_plain",
    "margin_plain",
    "probability_plain",
    "gold_probability_plain",
    "probabilities_plain",
)

# Of outputs that are no probabilities (a regression's) these are null in all rows.
OF_PROBABILITIES = ("probability_plain", "probability", "gold_probability_plain", "gold_probability", "kl")

# By so much may exp(log_softmax) exceed 1 in float32.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Condition:
    """What happened to the texts under one condition.

    Attributes:
        texts (`np.ndarray` of shape `(n,)`): Positions of its texts in [`Outcomes`], ascending.
        starts (`np.ndarray` of shape `(n,)`): The first row of each text; its draws follow one another.
        counts (`np.ndarray` of shape `(n,)`): Number of draws of each text, at least 1.
        columns (`dict[str, np.ndarray]`): The rows.
    """

    texts: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    columns: dict[str, np.ndarray]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the draws of each text, `(n,)`, of one value per row."""
        if len(values) == 0:
            return np.zeros(0)
        return np.add.reduceat(values.astype(np.float64), self.starts) / self.counts

    @property
    def num_runs(self) -> int:
        """Draws of the text that has most."""
        return int(self.counts.max(initial=0))

    def run(self, index: int) -> np.ndarray:
        """One row per text, `(n,)`: its draw of that index. A text with fewer draws repeats its own in turn."""
        return self.starts + index % self.counts


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of all texts, sorted by text, condition and draw.

    Attributes:
        plain (`dict[str, np.ndarray]`): One row per text: `text_id`, `label` and the columns that end in `_plain`.
        text (`np.ndarray` of shape `(rows,)`): The position of each row's text in `plain`.
        columns (`dict[str, np.ndarray]`): All rows; `probabilities` has shape `(rows, classes)`, 0 classes if empty.
    """

    plain: dict[str, np.ndarray]
    text: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def labelled(self) -> np.ndarray:
        """Whether each text has a label."""
        return self.plain["label"] >= 0

    @property
    def num_classes(self) -> int:
        """Classes that have probabilities; 0 if none were given."""
        return self.plain["probabilities_plain"].shape[1]

    def condition(self, name: str, matched_only: bool = False) -> Condition:
        """The rows of one condition, if wished only the draws that met the matching caliper; maybe none."""
        chosen = self.columns["condition"] == name
        if matched_only:
            chosen &= self.columns["matched"]
        rows = np.flatnonzero(chosen)
        texts, starts, counts = np.unique(self.text[rows], return_index=True, return_counts=True)
        return Condition(texts, starts, counts, {key: column[rows] for key, column in self.columns.items()})


def read_outcomes(columns: Mapping[str, Any]) -> Outcomes:
    """Check the columns of an outcome dataset and sort its rows.

    Args:
        columns (`Mapping[str, array-like]`): Arrays, lists or dataset columns by the names of `COLUMNS`, of one length;
            others are left out.

    Raises:
        ValueError: If there are no rows, a column is missing or of another type or length, a number is not finite, the
            classes differ in number, a row occurs twice, or the plain outcome differs between the rows of a text.
    """
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"The outcomes lack the columns {missing}; give all that an ablation experiment writes.")
    arrays = {name: _read(name, kind, columns[name]) for name, kind in COLUMNS.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Columns must have one value per row, got lengths {lengths}.")
    if lengths["text_id"] == 0:
        raise ValueError("There are no outcomes; run an ablation experiment on at least one text first.")
    _, condition_code = np.unique(arrays["condition"], return_inverse=True)
    order = np.lexsort((arrays["draw"], condition_code, arrays["text_id"]))
    arrays = {name: array[order] for name, array in arrays.items()}
    _check_values(arrays)
    _check_unique(arrays)
    text_ids, first, text = np.unique(arrays["text_id"], return_index=True, return_inverse=True)
    for name in _PLAIN:
        column = arrays[name]
        same = (column == column[first][text]) | ((column != column) & (column[first][text] != column[first][text]))
        differs = (~same).reshape(len(text), -1).any(axis=1)
        if differs.any():
            raise ValueError(
                f"{name} differs between the rows of text {arrays['text_id'][differs.argmax()]}; "
                "run the plain model once per text and repeat its outcome in every row."
            )
    plain = {"text_id": text_ids} | {name: arrays[name][first] for name in _PLAIN}
    return Outcomes(plain, text, arrays)


def _read(name: str, kind: str, values: Sequence) -> np.ndarray:
    """A column as an array of its type; `[:]` turns the column of a dataset into a list."""
    if kind == "list<float32>":
        return _read_probabilities(name, values[:])
    array = np.asarray(values[:])
    if name in OF_PROBABILITIES and array.size and all(value is None for value in array.tolist()):
        return np.full(len(array), np.nan)
    if array.size == 0:
        return array.reshape(0)
    if kind == "string":
        fits = array.dtype.kind == "U" or all(isinstance(value, str) for value in array)
        wanted = np.str_
    elif kind == "bool":
        fits, wanted = array.dtype == bool, np.bool_
    elif kind == "int64":
        fits, wanted = array.dtype.kind in "iu", np.int64
    else:
        fits, wanted = array.dtype.kind in "iuf", np.float64
    if not fits or array.ndim != 1:
        hint = " (-1 where it is missing)" if name == "label" else ""
        raise ValueError(f"Give one {kind} per row in {name}{hint}, got {array.dtype} of shape {array.shape}.")
    return array.astype(wanted)


def _read_probabilities(name: str, rows: Sequence) -> np.ndarray:
    """`(rows, classes)`, in float32 like the column of a dataset, however they were given."""
    if not isinstance(rows, np.ndarray) or rows.ndim != 2:
        lengths = {-1 if row is None else len(row) for row in rows}
        if len(lengths) > 1 or -1 in lengths:
            raise ValueError(
                f"{name} must have as many classes in every row, got {sorted(lengths)} (-1: none); "
                "leave all rows empty if a readout has too many classes to store."
            )
        rows = np.asarray(list(rows), dtype=np.float32)
    return rows.astype(np.float32).reshape(len(rows), -1) if rows.size else np.zeros((len(rows), 0), np.float32)


def _check_values(arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if name in OF_PROBABILITIES and np.isnan(array).all():
            continue
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0]
            raise ValueError(
                f"{name} is not finite for {_row_name(arrays, row)}; compute it in float32 with log_softmax, or leave "
                "out the texts on which the model fails."
            )
    if "" in arrays["condition"]:
        raise ValueError("A condition has no name; every row needs one, such as 'salient'.")
    if "salient" not in arrays["condition"]:
        raise ValueError(
            f"There is no condition 'salient' among {sorted({*arrays['condition'].tolist()})}; ablate the salient code "
            "of each text too, all else is compared with it."
        )
    if (arrays["gold_probability"] < 0)[arrays["label"] >= 0].any():
        raise ValueError("gold_probability is negative for a text with a label; -1 is for texts without one.")
    _check_classes(arrays)


def _check_classes(arrays: dict[str, np.ndarray]) -> None:
    num_classes = arrays["probabilities"].shape[1]
    num_plain = arrays["probabilities_plain"].shape[1]
    if num_plain != num_classes:
        raise ValueError(
            f"probabilities_plain has {num_plain} classes and probabilities {num_classes}; store all classes in both, "
            "or leave both empty."
        )
    if num_classes == 0:
        return
    if num_classes == 1:
        raise ValueError("probabilities has one class; store both, as [1 - p, p].")
    for name in ("label", "prediction_plain", "prediction"):
        classes = arrays["label"][arrays["label"] >= 0] if name == "label" else arrays[name]
        outside = classes[(classes < 0) | (classes >= num_classes)]
        if len(outside):
            raise ValueError(
                f"{name} {outside[0]} is none of the {num_classes} classes of probabilities; number them from 0."
            )
    for name in ("probabilities_plain", "probabilities"):
        if arrays[name].min() < 0 or arrays[name].max() > 1 + _ROUNDING:
            raise ValueError(f"{name} must lie between 0 and 1; apply softmax to the logits.")


def _check_unique(arrays: dict[str, np.ndarray]) -> None:
    """Rows are sorted, so equal ones are neighbours."""
    keys = [arrays[name] for name in ("text_id", "condition", "draw")]
    twice = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    if twice.any():
        raise ValueError(
            f"There are several rows of {_row_name(arrays, twice.argmax())}; number the draws of a text, and give "
            "texts from several runs ids of their own."
        )


def _row_name(arrays: dict[str, np.ndarray], row: int) -> str:
    return ", ".join(f"{name} {arrays[name][row]}" for name in ("text_id", "condition", "draw"))
