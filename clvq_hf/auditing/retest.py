"""`Retest`: what an edit repaired and what it cost, on whole texts and on slices, beside controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from datasets import Dataset
from rich.console import Group
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..checksums import read_metadata, write_metadata
from ..data.labels import host_labels
from ..data.readouts import text_limit, text_readout
from ..data.texts import texts_fingerprint
from ..files import write_whole
from ..hosts.readout import Readout
from ..rendering.terminal import open_console
from ..rendering.text_tables import print_tables
from .retest_figures import ALL, BROKEN, FAVOURED, GROUPS, WITH, WITHOUT, Figure, compare, corrected
from .retest_page import retest_page
from .retest_run import BEFORE, CONTROLS, EDIT, FOLDED, Answered, answer
from .retest_words import retest_tables, retest_verdict

logger = logging.get_logger(__name__)

JSON_NAME, PAGE_NAME = "retest.json", "retest.html"
# A column with more values is no slice but an identifier.
MAX_VALUES = 20
# Columns whose values are slices, or for each name a function of a row, or a truth value per row.
Slices = str | Sequence[str] | Mapping[str, Callable[[Mapping[str, Any]], bool] | Sequence[bool]]


@dataclass(frozen=True, repr=False)
class Retest:
    """Predictions before and after an edit; print it, or see `verdict`.

    Attributes:
        facts (`dict`): What was edited, and the texts: `num_texts`, `coverage` (share of the texts with the concept),
            `favoured_label` (whose logit the edit lowers most there), and `other_codes` and `other_coverage` of the
            control.
        figures (`list[Figure]`): By group of texts, condition and figure.
    """

    facts: dict[str, Any]
    figures: list[Figure]

    @property
    def verdict(self) -> list[str]:
        """`list[str]`: What it means, in sentences: repaired, cost, or no evidence of either."""
        return retest_verdict(self)

    def figure(self, name: str, group: str = ALL, condition: str = EDIT) -> Figure:
        """One of the figures.

        Raises:
            KeyError: If there is none of these names.
        """
        for each in self.figures:
            if (each.figure, each.group, each.condition) == (name, group, condition):
                return each
        raise KeyError(f"{name} of {group} under {condition}")

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row per figure."""
        import pandas as pd  # at use: it takes long to import

        return pd.DataFrame([figure.to_dict() for figure in self.figures])

    def save(self, folder: str | Path) -> None:
        """Write `retest.json`, and `retest.html` to look at, into a folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"facts": self.facts, "verdict": self.verdict, "figures": [each.to_dict() for each in self.figures]}
        write_metadata(folder / JSON_NAME, content)
        write_whole(folder / PAGE_NAME, self._repr_html_())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` has written.

        Raises:
            ValueError: If it is missing or damaged.
        """
        file = Path(folder) / JSON_NAME
        remedy = "Make it again with edit.retest(…).save(folder) or clvq-hf edit."
        if not file.is_file():
            raise ValueError(f"There is no file {file}. {remedy}")
        content = read_metadata(file, remedy)[0]
        try:
            return cls(content["facts"], [Figure(**each) for each in content["figures"]])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged: {error}. {remedy}") from error

    def __rich__(self) -> Group:
        """For a terminal: the verdict."""
        return Group(*map(Text, self.verdict))

    def __str__(self) -> str:
        console = open_console(file=StringIO(), width=140, color_system=None)
        console.print(self)
        print_tables(retest_tables(self), console)
        return console.file.getvalue()  # pyrefly: ignore[missing-attribute]

    def __repr__(self) -> str:
        return f"Retest({self.facts['num_texts']} texts, {self.verdict[0]!r})"

    def _repr_html_(self) -> str:
        return retest_page(self)


def retest(
    edit: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    *,
    slices: Slices | None = None,
    target: str | int | None = None,
    text_column: str = "text",
    label_column: str = "label",
    max_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    folded: PreTrainedModel | None = None,
) -> Retest:
    """See [`ConceptEdit.retest`][clvq_hf.models.ConceptEdit.retest]; the edit must not be applied."""
    host = edit.host
    readout = Readout.of(host, target=target)
    if not readout.predicts_labels:
        raise ValueError(
            f"The host answers with the next token ({type(host).__name__}), which has no label to be right about. "
            "Retest a host with a classification head: load it with AutoModelForSequenceClassification."
        )
    readout = text_readout(
        *(host, tokenizer, dataset, readout),
        stack=edit.model.config.stack,
        text_column=text_column,
        max_length=max_length,
        batch_size=batch_size,
    )
    groups = dict(sliced(dataset, slices))  # a wrong slice is told before the host runs
    labelled = host_labels(dataset, host, label_column, readout=readout)
    labels = _labels(labelled, label_column)
    texts = dataset.select_columns([text_column])
    texts = texts if text_column == "text" else texts.rename_column(text_column, "text")
    limit = text_limit(host, tokenizer, max_length, readout)
    answered = answer(edit, tokenizer, texts, readout, limit=limit, batch_size=batch_size, seed=seed, folded=folded)
    own = labels[answered.rows_of]
    favoured = _favoured(answered)
    found = _groups(answered, own, favoured)
    found |= {name: np.asarray(where, dtype=bool)[answered.rows_of] for name, where in groups.items()}
    facts = {
        **edit.facts(),
        "texts": texts_fingerprint(texts, ("text",)),
        "num_texts": len(own),
        "num_left_out": len(dataset) - len(own),
        "num_labelled": int((own >= 0).sum()),
        "readout": readout.to_dict(),
        "slices": [slices] if isinstance(slices, str) else list(slices or ()),
        "coverage": float(answered.has_concept.mean()),
        "favoured_label": None if favoured is None else _names(labelled, label_column, readout)[favoured],
        "other_codes": list(answered.other_codes),
        "other_coverage": answered.other_coverage,
        "max_length": limit,
        "seed": seed,
    }
    if not answered.has_concept.any():
        logger.warning("None of these texts has the concept, so the edit changes none of them.")
    return Retest(facts, _figures(answered, own, found))


def _figures(answered: Answered, labels: np.ndarray, groups: Mapping[str, np.ndarray]) -> list[Figure]:
    before = answered.outcomes[BEFORE]
    scores = {name: outcome.scores(labels, before) for name, outcome in answered.outcomes.items()}
    figures: list[Figure] = []
    for group, where in groups.items():
        for name in (name for name in (EDIT, FOLDED, *CONTROLS) if name in scores):
            after = answered.outcomes[name]
            figures += compare(group, name, where, scores[BEFORE], scores[name], before.same_as(after))
            # Of a text whose words are all deleted there is no answer.
            outcomes = [before, after]
            answered_by_both = where & np.isfinite([each.rows for each in outcomes]).all((0, 2))
            pair = [each.calibration_error(labels, answered_by_both) for each in outcomes]
            if pair[0] is not None and pair[1] is not None:
                number = int((answered_by_both & (labels >= 0)).sum())
                figures.append(Figure(group, name, "ece", number, *pair, pair[1] - pair[0]))
        for name in (name for name in CONTROLS if name in scores):
            chosen = {figure: scores[name][figure] for figure in ("accuracy", "margin")}
            edited = {figure: scores[EDIT][figure] for figure in chosen}
            is_same = answered.outcomes[name].same_as(answered.outcomes[EDIT])
            figures += compare(group, f"{EDIT} - {name}", where, chosen, edited, is_same)
    return corrected(figures, EDIT)


def _groups(answered: Answered, labels: np.ndarray, favoured: int | None) -> dict[str, np.ndarray]:
    has = answered.has_concept
    groups = {ALL: np.ones_like(has), WITH: has, WITHOUT: ~has}
    if favoured is not None:
        groups |= {FAVOURED: has & (labels == favoured), BROKEN: has & (labels != favoured) & (labels >= 0)}
    return groups


def _favoured(answered: Answered) -> int | None:
    """The label whose logit the edit lowers most, on average over the texts with the concept."""
    if not answered.has_concept.any():
        return None
    before, after = (answered.outcomes[name].rows[answered.has_concept] for name in (BEFORE, EDIT))
    return int((before - after).mean(0).argmax())


def _names(dataset: Dataset, label_column: str, readout: Readout) -> Sequence[str]:
    """Of the host's classes; a host that has none takes those of the labels, which are in its ids."""
    feature = dataset.features.get(label_column)
    names = getattr(feature, "names", None) or ()
    return names if len(names) == len(readout.class_names) else readout.class_names


def _labels(dataset: Dataset, label_column: str) -> np.ndarray:
    if label_column not in dataset.column_names:
        logger.warning("The texts have no labels, so only changes of predictions are measured.")
        return np.full(len(dataset), -1)
    return np.asarray([-1 if label is None else label for label in dataset.with_format(None)[label_column][:]])


def sliced(dataset: Dataset, slices: Slices | None) -> Iterator[tuple[str, Sequence[bool]]]:
    """Names of slices, and for each row whether it is in them.

    Raises:
        ValueError: If a column is missing or has too many values, or a slice does not fit the dataset.
    """
    if not isinstance(slices, Mapping):
        for name in [slices] if isinstance(slices, str) else slices or ():
            yield from _by_value(dataset, name)
        return
    for name, chosen in slices.items():
        if name in GROUPS:
            raise ValueError(f"Every retest has the group {name!r}; give the slice another name.")
        where = [bool(chosen(row)) for row in dataset.with_format(None)] if callable(chosen) else list(chosen)
        if len(where) != len(dataset) or any(value not in (True, False) for value in where):
            raise ValueError(
                f"The slice {name!r} must be a function of a row, or one truth value for each of the {len(dataset)} "
                f"texts; got {len(where)} values."
            )
        yield name, where


def _by_value(dataset: Dataset, name: str) -> Iterator[tuple[str, Sequence[bool]]]:
    """A slice for each value of a column."""
    if name not in dataset.column_names:
        raise ValueError(f"The dataset has no column {name!r} for slices; it has {dataset.column_names}.")
    column = [str(value) for value in dataset.with_format(None)[name][:]]
    values = sorted(set(column))
    if len(values) > MAX_VALUES:
        raise ValueError(
            f"The column {name!r} has {len(values)} values, and slices need texts enough for a figure: choose a column "
            f"with at most {MAX_VALUES}, or name slices with slices={{name: function}}."
        )
    for value in values:
        yield f"{name}={value}", [each == value for each in column]


__all__ = ["JSON_NAME", "PAGE_NAME", "Retest", "Slices", "retest", "sliced"]
