"""`Audit`: what an audit found, as Arrow tables in a folder with checksums."""

from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any, Self

import pandas as pd
from datasets import Dataset, Features, Value

from ..checksums import CHECKSUMS_NAME, check_file, read_metadata, read_rows, write_metadata, write_rows
from ..rendering.pages import render_summary
from ..rendering.terminal import open_console
from ..rendering.text_tables import ReportTable, print_tables
from ..typed import check_value
from .summary import SIGNS, facts_of, sentences_of, summarise, suspects_table

FORMAT_VERSION = 2
AUDIT_NAME = "audit.json"
PARTS = ("rows", "effects", "concepts")
OTHER_FOLDER = "Choose another folder, or replace it with overwrite=True (--overwrite)."
REMEDY = "Run the same `clvq-hf audit` again, or get the folder again."
# Columns by which suspects can be sorted, besides those of slices and groups.
ORDERS = (
    *SIGNS,
    *(
        "score",
        "share",
        "effect",
        "excess",
        "excess_low",
        "coverage",
        "lexical",
        "flips",
        "kind",
        "label_share",
        "content_share",
    ),
)
NUM_SHOWN = 10


def check_order(by: str | None, slices: Iterable[str], groups: Iterable[str]) -> None:
    """Refuse an order that does not exist, and slices that would have the same column.

    Raises:
        ValueError: The message names the orders that do exist, or the slices.
    """
    slices = list(slices)
    if clash := next((name for name in slices if f"{name}_at" in slices), None):
        raise ValueError(
            f"The slices {clash!r} and {clash + '_at'!r} would have the same column, slice_{clash}_at: rename one."
        )
    known = [*ORDERS, *(f"slice_{name}" for name in slices), *(f"group_{name}" for name in groups)]
    if by is not None and by not in known:
        raise ValueError(f"Suspects cannot be sorted by {by!r}; set sort=… to one of {', '.join(known)}.")


def check_same_audit(folder: Path, **identity: str) -> None:
    """Refuse a folder with an audit of another concept model or of other texts, before anything in it is replaced.

    Args:
        folder (`Path`): The folder.
        **identity (`str`): What this audit's metadata will say: `model_fingerprint`, `texts_sha256`.

    Raises:
        ValueError: If it holds one.
    """
    if not (folder / AUDIT_NAME).is_file():
        return
    try:
        known = read_metadata(folder / AUDIT_NAME, REMEDY)[0]
    except ValueError:  # damaged: nothing is lost
        return
    whose = {"model_fingerprint": "by another concept model", "texts_sha256": "of other texts"}
    for name, value in identity.items():
        if known.get(name) != value:
            raise ValueError(f"{folder} holds an audit {whose[name]}. {OTHER_FOLDER}")


class Audit:
    """The effect of every concept on every class, and the signals of suspects.

    [`ConceptModel.audit`][clvq_hf.ConceptModel.audit] makes it. `docs/audit.md` describes all columns.

    Attributes:
        rows (`datasets.Dataset`): One row per text and concept in it.
        effects (`datasets.Dataset`): One row per concept and class.
        concepts (`datasets.Dataset`): One row per concept: its effect on the class that it supports most, and signals.
        metadata (`dict`): What was audited, and how.
    """

    def __init__(self, rows: Dataset, effects: Dataset, concepts: Dataset, metadata: dict[str, Any]) -> None:
        self.rows, self.effects, self.concepts, self.metadata = rows, effects, concepts, metadata

    @staticmethod
    def dataset(frame: pd.DataFrame) -> Dataset:
        """A data frame as Arrow: columns that hold nothing keep a type, and NaN is null."""
        kinds = {"f": "float64", "i": "int64", "b": "bool"}
        features = Features({name: Value(kinds.get(frame[name].dtype.kind, "string")) for name in frame.columns})
        return Dataset.from_pandas(frame, features=features, preserve_index=False)

    def save_to_disk(self, path: str | Path) -> None:
        """Write the audit to a folder: `rows/`, `effects/`, `concepts/` and, last, `audit.json`.

        Raises:
            ValueError: If it cannot be written.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / AUDIT_NAME).unlink(missing_ok=True)  # no audit is better than one of two
        for name in PARTS:
            write_rows(getattr(self, name), folder / name)
        write_metadata(folder / AUDIT_NAME, self.metadata, [f"{name}/{CHECKSUMS_NAME}" for name in PARTS])

    @classmethod
    def load_from_disk(cls, path: str | Path) -> Self:
        """Open a saved audit, memory-mapped.

        Raises:
            ValueError: If the folder holds none, one of a newer format, or a damaged one.
        """
        folder = Path(path)
        if not (folder / AUDIT_NAME).is_file():
            raise ValueError(f"{folder} holds no audit. Make one with `clvq-hf audit` or model.audit.")
        metadata, noted = read_metadata(folder / AUDIT_NAME, REMEDY)
        version = check_value(metadata.get("format_version"), int, f"format_version of {folder / AUDIT_NAME}")
        if version != FORMAT_VERSION:
            raise ValueError(f"{folder} has the format {version}, and this version of clvq_hf reads {FORMAT_VERSION}.")
        for name in PARTS:
            file = f"{name}/{CHECKSUMS_NAME}"
            check_file(folder / file, noted.get(file, {}), REMEDY)
        return cls(*(read_rows(folder / name, REMEDY) for name in PARTS), metadata)

    def to_pandas(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Effects and concepts as data frames, in memory."""
        return self.effects.to_pandas(), self.concepts.to_pandas()

    # ----------------------------------------------------------------------------------------------------- suspects

    def suspects(self, n: int | None = None, by: str | None = None) -> pd.DataFrame:
        """The concepts in order of suspicion, also those that are hidden by hand.

        Args:
            n (`int`, *optional*): Only the first ones.
            by (`str`, *optional*): Signal by which they are sorted, the largest first. Default: `score`, see
                `docs/audit.md`.

        Returns:
            `pandas.DataFrame`: The columns of `concepts`.

        Raises:
            ValueError: If there is no such signal.
        """
        check_order(by, self.metadata["slices"], self.metadata["groups"])
        frame = self.concepts.to_pandas()
        return frame.sort_values([by or "score", "code"], ascending=[False, True], ignore_index=True).head(
            len(frame) if n is None else n
        )

    def alarms(self) -> pd.DataFrame:
        """The suspects that pass the threshold of an alarm, see `docs/audit.md`."""
        found = self.suspects()
        return found[found["alarm"]].reset_index(drop=True)

    def summary(self, n: int = NUM_SHOWN, by: str | None = None) -> dict[str, Any]:
        """The first suspects, and all alarms, as plain data for JSON."""
        return summarise(self.suspects(by=by), self.metadata, len(self.rows), n)

    def facts(self) -> list[tuple[str, str]]:
        """Name and value of each fact about the audit."""
        return facts_of(self.summary())

    def sentences(self) -> list[str]:
        """What was found, in words."""
        return sentences_of(self.summary())

    def table(self, n: int = NUM_SHOWN, by: str | None = None) -> ReportTable:
        """The first suspects as text."""
        return suspects_table(self.summary(n, by))

    def __repr__(self) -> str:
        return f"Audit({len(self.concepts)} concepts, {self.metadata['num_texts']} texts, {len(self.alarms())} alarms)"

    def __str__(self) -> str:
        console = open_console(file=StringIO(), width=160, color_system=None)
        print_tables([self.table()], console)
        for sentence in self.sentences():
            console.print(sentence, markup=False, highlight=False)
        return console.file.getvalue()  # pyrefly: ignore[missing-attribute]

    def _repr_html_(self) -> str:
        return render_summary("Audit", [*self.facts(), *(("", sentence) for sentence in self.sentences())])


__all__ = ["AUDIT_NAME", "FORMAT_VERSION", "ORDERS", "Audit", "check_order", "check_same_audit"]
