"""`Audit`: what an audit found, as Arrow tables in a folder with checksums."""

from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Self

import pandas as pd
from datasets import Dataset, Features, Value

from ..checksums import CHECKSUMS_NAME, check_file, read_metadata, read_rows, write_metadata, write_rows
from ..rendering.pages import render_summary
from ..rendering.terminal import open_console
from ..rendering.text_tables import ReportTable, number, percent, print_tables, with_range
from ..tables.names import Called
from ..typed import check_value

FORMAT_VERSION = 1
AUDIT_NAME = "audit.json"
PARTS = ("rows", "effects", "concepts")
REMEDY = "Run the same `clvq-hf audit` again, or get the folder again."
# The largest p-value, corrected for all concepts and classes, of an effect that is taken for one.
MAX_Q = 0.05
# From where on a signal is named beside a concept, and how; {} is the value that it has most.
SIGNS = {
    "top_word": (0.8, "one word: {}"),
    "position": (0.5, "position: {}"),
    "layout": (0.5, "layout: {}"),
    "casing": (0.5, "casing: {}"),
    "weak": (0.5, "function words, punctuation, numbers"),
    "boilerplate": (0.5, "boilerplate"),
    "beyond_content": (0.2, "label beyond the other content"),
    "misleads": (0.2, "misleads"),
    "slice_gap": (1.0, "effect depends on {}"),
}
# Of columns of slices, and of groups, whatever they are called.
SLICE_SIGN, GROUP_SIGN = 0.5, 0.2
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
        "label_share",
        "content_share",
    ),
)
NUM_SHOWN = 10


def check_order(by: str | None, slices: Iterable[str], groups: Iterable[str]) -> None:
    """Refuse an order that does not exist.

    Raises:
        ValueError: The message names those that do.
    """
    known = [*ORDERS, *(f"slice_{name}" for name in slices), *(f"group_{name}" for name in groups)]
    if by is not None and by not in known:
        raise ValueError(f"Suspects cannot be sorted by {by!r}; set sort=… to one of {', '.join(known)}.")


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
        """The concepts in order of suspicion.

        Args:
            n (`int`, *optional*): Only the first ones.
            by (`str`, *optional*): Signal by which they are sorted, the largest first. Default: `score`, see
                `docs/audit.md`.

        Returns:
            `pandas.DataFrame`: The columns of `concepts`, and `signs`: the signals that stand out, in words.

        Raises:
            ValueError: If there is no such signal.
        """
        check_order(by, self.metadata["slices"], self.metadata["groups"])
        frame = self.concepts.to_pandas()
        frame = frame.sort_values([by or "score", "code"], ascending=[False, True], ignore_index=True).head(n or None)
        frame["signs"] = [", ".join(self._signs(row)) for row in frame.to_dict("records")]
        return frame

    def alarms(self) -> pd.DataFrame:
        """The suspects that pass the threshold of an alarm, see `docs/audit.md`."""
        found = self.suspects()
        return found[found["alarm"]].reset_index(drop=True)

    def _signs(self, concept: Mapping[str, Any]) -> list[str]:
        signs = [
            text.format(concept.get(f"{name}_at"))
            for name, (least, text) in SIGNS.items()
            if (concept[name] or 0) >= least
        ]
        for name in self.metadata["slices"]:
            if concept[f"slice_{name}"] >= SLICE_SIGN:
                signs.append(f"{name}: {concept[f'slice_{name}_at']}")
        return signs + [name for name in self.metadata["groups"] if (concept[f"group_{name}"] or 0) >= GROUP_SIGN]

    def facts(self) -> list[tuple[str, str]]:
        """Name and value of each fact about the audit."""
        concepts, metadata = self.concepts.to_pandas(), self.metadata
        limit = metadata["max_texts_per_concept"]
        return [
            ("Texts", f"{metadata['num_texts']:,}"),
            ("Removals", f"{len(self.rows):,}" + ("" if limit is None else f", of a concept from at most {limit}")),
            ("Removed by", metadata["how"]),
            ("Classes", ", ".join(metadata["classes"])),
            ("Concepts", f"{len(concepts):,} of {metadata['codebook_size']:,}"),
            ("Beyond their controls", f"{self._num_established(concepts):,}, q ≤ {MAX_Q}"),
            ("Alarms", f"{len(self.alarms()):,}"),
        ]

    def sentences(self) -> list[str]:
        """What was found, in words."""
        concepts, alarms = self.concepts.to_pandas(), self.alarms()
        told = [
            f"{self._num_established(concepts):,} of {len(concepts):,} concepts support a class more than other "
            f"concepts of the same texts that are as large (q ≤ {MAX_Q})."
        ]
        for concept in alarms.to_dict("records"):
            signs = f" ({concept['signs']})" if concept["signs"] else ""
            told.append(
                f"Alarm: concept {concept['code']} ({concept['words']}) carries {percent(concept['share'])} of the "
                f"evidence for {concept['class']}{signs}. Look at its texts: may the host rely on it?"
            )
        if alarms.empty:
            told.append("No concept passes the threshold of an alarm, which is no proof that there is no shortcut.")
        return told

    @staticmethod
    def _num_established(concepts: pd.DataFrame) -> int:
        return int(((concepts["q"] <= MAX_Q) & (concepts["excess"] > 0)).sum())

    def suspects_table(self, n: int = NUM_SHOWN, by: str | None = None) -> ReportTable:
        """The first suspects as text."""
        unit = self.metadata["unit"]
        return ReportTable.from_rows(
            "Suspects",
            self.suspects(n, by).to_dict("records"),
            {
                "concept": lambda row: f"{row['code']}{' !' if row['alarm'] else ''}",
                "words": lambda row: _named(row) or row["words"],
                "class": "class",
                "texts": lambda row: percent(row["coverage"]),
                "share of evidence": lambda row: percent(row["share"]),
                f"effect ({unit})": lambda row: with_range(row["effect"], row["effect_low"], row["effect_high"], 2),
                "beyond controls": lambda row: with_range(row["excess"], row["excess_low"], row["excess_high"], 2),
                "q": lambda row: number(row["q"], 3),
                "word alone": lambda row: percent(row["lexical"]),
                "signs": "signs",
            },
            note="! is an alarm. Intervals: 95 %, over texts. Word alone: the part of the effect that the mean "
            "state of the word has.",
            optional=("q", "word alone", f"effect ({unit})"),
        )

    def __repr__(self) -> str:
        return f"Audit({len(self.concepts)} concepts, {self.metadata['num_texts']} texts, {len(self.alarms())} alarms)"

    def __str__(self) -> str:
        console = open_console(file=StringIO(), width=160, color_system=None)
        print_tables([self.suspects_table()], console)
        for sentence in self.sentences():
            console.print(sentence, markup=False, highlight=False)
        return console.file.getvalue()  # pyrefly: ignore[missing-attribute]

    def _repr_html_(self) -> str:
        return render_summary("Audit", [*self.facts(), *(("", sentence) for sentence in self.sentences())])


def _named(concept: Mapping[str, Any]) -> str:
    """What a concept is called; a name that a model gave is marked."""
    if not concept["name"]:
        return ""
    return Called(concept["name"], concept["named_by"], "").quoted


__all__ = ["AUDIT_NAME", "FORMAT_VERSION", "MAX_Q", "ORDERS", "Audit", "check_order"]
