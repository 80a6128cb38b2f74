"""What the cells of a grid say together: who wins against whom, ranks, and figures by name."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.ablation_drop.statistics import holm, sign_flip_p_value, studentized_interval
from .cell import RESULT_NAME
from .methods import known_methods

ALPHA = 0.05
# Standard errors between 0 and a mean difference that is found with 80 % power at a level of 5 %: 1.96 + 0.84.
DETECTABLE = 2.80
# The columns of a cell's host and dataset, and of its method.
SETTING = ["cell.host", "cell.dataset"]
CELL = [*SETTING, "cell.method"]
# Two figures that are looked at from several sides, and the parts of a cell's time.
SPECIFICITY = "ablation.code.token_specificity_matched"
PURITY = "table.label_purity.cross_fitted_purity"
SECONDS = ("load", "fit", "table", "references", "evaluate", "sweep", "stability")
# Every figure of a cell by its path, such as "table.label_purity.null_purity", and what tables derive from them.
Record = dict[str, Any]
# Over fewer texts no interval covers what it says.
MIN_TEXTS = 20


def load_cells(path: str | Path, names: Collection[str] | None = None) -> list[dict[str, Any]]:
    """The results of all finished cells.

    Args:
        path (`str` or `Path`): Folder of a grid, or a `.jsonl` file with one cell a line.
        names (`Collection[str]`, *optional*): Folders of cells; others are left out.

    Raises:
        ValueError: If there are none.
    """
    path = Path(path)
    if path.is_file():
        cells = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    else:
        files = sorted(path.glob(f"cells/[!.]*/{RESULT_NAME}"))
        files = [file for file in files if names is None or file.parent.name in names]
        cells = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not cells:
        raise ValueError(f"{path} holds no finished cell. Run the grid first: clvq-hf compare GRID.yaml -o {path}")
    return cells


@dataclass(frozen=True)
class Summary:
    """The cells of a grid, and questions to them.

    Args:
        cells (`Sequence[dict]`): What [`load_cells`] returned.
    """

    cells: Sequence[dict[str, Any]]

    @cached_property
    def records(self) -> list[Record]:
        """Return the figures of each cell by their paths; the cell itself is `source`.

        Those of its sweep's first variant are `k1.…` for one direction: also `k1.matched`, the share of matched texts,
        and [`effect`] on matched draws and on all as `k1.on_matched` and `k1.on_all`, with their intervals.
        """
        records = []
        for cell in self.cells:
            entries = {k: entry for k in self.ks() if (entry := swept(cell, k)) is not None}
            figures = dict(_flatten({**cell, **{f"k{k}": entry for k, entry in entries.items()}}))
            figures |= {f"host.layers.{place}": layer for place, layer in enumerate(cell["host"]["layers"])}
            for k, entry in entries.items():
                figures[f"k{k}.matched"] = entry["num_matched"] / entry["num_texts"]
                for name, matched in (("on_matched", True), ("on_all", False)):
                    names = (f"k{k}.{name}{end}" for end in ("", "_low", "_high"))
                    figures |= zip(names, effect(cell, k, matched) or (None,) * 3, strict=False)
            # A sparse model passes many neurons, and the permuted code is one: its leak would be low by construction.
            if figures.get("bottleneck.num_active") == 1:
                figures["bottleneck.code_leak"] = figures["bottleneck.leak"]
            setting = ", ".join(figures[name] for name in SETTING)
            records.append({**figures, "setting": setting, "source": cell})
        return records

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Return a row for each cell and a column for each figure, for what is averaged."""
        return pd.DataFrame(self.records)

    def seed_records(self, host: str, dataset: str, method: str) -> list[Record]:
        """Return the figures of the cells of one host, dataset and method, by seed."""
        key = (host, dataset, method)
        found = [record for record in self.records if tuple(record[name] for name in CELL) == key]
        return sorted(found, key=lambda record: record["cell.seed"])

    def record(self, host: str, dataset: str, method: str) -> Record | None:
        """Return the figures of a cell of the first seed, `None` if it is not there."""
        records = self.seed_records(host, dataset, method)
        return next((record for record in records if record["cell.seed"] == self.first_seed), None)

    def first_records(self, methods: Iterable[str]) -> list[Record]:
        """Return the cells of the first seed of some methods, by host and dataset, methods in the order given."""
        records = (self.record(*setting, method) for setting in self.settings() for method in methods)
        return [record for record in records if record is not None]

    def over_seeds(self, *figures: str) -> dict[tuple[str, str, str], Record]:
        """Return mean, deviation (`…_sd`) and number (`…_count`) of figures over the seeds of each cell."""
        frame = self.frame.reindex(columns=[*CELL, *figures])
        groups = frame.astype(dict.fromkeys(figures, float)).groupby(CELL)
        statistics = {"": groups.mean(), "_sd": groups.std().fillna(0.0), "_count": groups.count()}
        joined = pd.concat([each.add_suffix(suffix) for suffix, each in statistics.items()], axis=1)
        return joined.to_dict("index")

    def labelled(self, groups: Mapping[tuple[str, str, str], Record]) -> Iterator[Record]:
        """Yield the groups of cells without controls, in order, with what tables call host, dataset and method."""
        for host, dataset in self.settings():
            for method, title in self.methods().items():
                if (host, dataset, method) in groups:
                    yield {"setting": f"{host}, {dataset}", "title": title, **groups[host, dataset, method]}

    @property
    def first_seed(self) -> int:
        """The seed that most tables are of, the first of the grid."""
        return self.cells[0]["first_seed"]

    def settings(self) -> list[tuple[str, str]]:
        """Every host and dataset, in the order of the names."""
        return sorted({(cell["cell"]["host"], cell["cell"]["dataset"]) for cell in self.cells})

    def methods(self, control: bool = False) -> dict[str, str]:
        """Names and titles of the methods, or of the sanity controls."""
        titles = {cell["cell"]["method"]: cell["title"] for cell in self.cells if cell["control"] == control}
        places = {method: place for place, method in enumerate(known_methods())}
        return dict(sorted(titles.items(), key=lambda pair: (places.get(pair[0], len(places)), pair[0])))

    def cell(self, host: str, dataset: str, method: str, seed: int | None = None) -> dict[str, Any] | None:
        """Return one cell, `None` if it is not there; by default that of the first seed."""
        seed = self.first_seed if seed is None else seed
        return next((cell for cell in self.seeds(host, dataset, method) if cell["cell"]["seed"] == seed), None)

    def seeds(self, host: str, dataset: str, method: str) -> list[dict[str, Any]]:
        """Return the cells of one host, dataset and method, by seed."""
        return [record["source"] for record in self.seed_records(host, dataset, method)]

    def ks(self) -> list[int]:
        """Numbers of directions that cells were swept over."""
        cells = [cell for cell in self.cells if cell["cell"]["seed"] == self.first_seed]
        return sorted({entry["k"] for cell in cells for entry in cell.get("sweep", [])})

    def rivals(self, host: str, dataset: str) -> list[str]:
        """Methods that count: ablated, no control, and trained well enough."""
        cells = {method: self.cell(host, dataset, method) or {} for method in self.methods()}
        return [method for method, cell in cells.items() if cell.get("sweep") and not cell.get("undertrained")]

    def duels(self, k: int = 1, matched: bool = True) -> list["Duel"]:
        """Every pair of rivals on every host and dataset, compared text by text; p-values corrected for all of them.

        Args:
            k (`int`): Directions that are removed.
            matched (`bool`): Whether only draws count that are matched in positions and norm.
        """
        found = []
        for setting in self.settings():
            for pair in combinations(self.rivals(*setting), 2):
                sides = [swept(self.cell(*setting, method), k) for method in pair]
                difference = None if None in sides else paired_difference(*sides, matched=matched)
                if difference is not None:
                    found.append((*setting, *pair, difference))
        corrected = holm([difference.p_value for *_, difference in found])
        return [Duel(*each, float(p_value)) for each, p_value in zip(found, corrected, strict=True)]

    def ranks(self, k: int = 1, matched: bool = True) -> dict[tuple[str, str], list[str]]:
        """The rivals of each host and dataset, those first whose salient concept matters most by token specificity.

        Those that have too few texts to tell are left out.
        """
        name = f"k{k}.on_matched" if matched else f"k{k}.on_all"
        return self._ranked(lambda record: record.get(name))

    def probe_ranks(self) -> dict[tuple[str, str], list[str]]:
        """The paper's way: those first whose probe loses most accuracy."""
        plain, without = "ablation.probe.accuracy", "ablation.probe.salient_accuracy"
        return self._ranked(lambda record: record[without] - record[plain] if plain in record else None)

    def _ranked(self, score: Callable[[Record], float | None]) -> dict[tuple[str, str], list[str]]:
        """The rivals of each host and dataset that have a score, the lowest first; settings without any left out."""
        ranked = {}
        for setting in self.settings():
            scores = {method: score(self.record(*setting, method)) for method in self.rivals(*setting)}
            known = [method for method, value in scores.items() if value is not None]
            ranked[setting] = sorted(known, key=scores.__getitem__)
        return {setting: methods for setting, methods in ranked.items() if methods}


@dataclass(frozen=True, eq=False)
class Difference:
    """Difference of two methods, text by text.

    Args:
        values (`np.ndarray` of shape `(n,)`): First minus second, of the texts that both have.
    """

    values: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over texts."""
        return float(self.values.mean())

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap-t interval of the mean."""
        return studentized_interval(self.values)

    @cached_property
    def p_value(self) -> float:
        """Two-sided p-value of the mean, by sign flips."""
        return sign_flip_p_value(self.values)

    @cached_property
    def margin(self) -> float:
        """The methods are equal within ± this: the 90 % interval lies inside (two one-sided tests at 5 %)."""
        return max(map(abs, studentized_interval(self.values, confidence=0.9)))

    @property
    def detectable(self) -> float:
        """A true mean of this size is found in 80 % of the cases."""
        return float(DETECTABLE * self.values.std(ddof=1) / np.sqrt(len(self.values)))


@dataclass(frozen=True)
class Duel:
    """Token specificity of one method minus that of another, on the same texts; negative: the first's matters more.

    `p_value` is that of the difference after Holm's correction for all duels of the same question.
    """

    host: str
    dataset: str
    first: str
    second: str
    difference: Difference
    p_value: float

    def outcome(self, method: str) -> str:
        """`"win"`, `"tie"` or `"loss"` of one of the two: only a corrected p-value of at most 0.05 decides."""
        if self.p_value > ALPHA:
            return "tie"
        return "win" if (self.difference.mean < 0) == (method == self.first) else "loss"


def swept(cell: dict[str, Any] | None, k: int, variant: str | None = None) -> dict[str, Any] | None:
    """The entry of a cell's sweep for `k` directions, by default of its first variant."""
    entries = [] if cell is None else cell.get("sweep", [])
    if not entries:
        return None
    variant = variant or entries[0]["variant"]
    return next((entry for entry in entries if entry["k"] == k and entry["variant"] == variant), None)


def effect(
    cell: dict[str, Any] | None, k: int = 1, matched: bool = True, variant: str | None = None
) -> tuple[float, float, float, int] | None:
    """Token specificity of a cell with its interval, and the number of texts; `None` if they are too few."""
    entry = swept(cell, k, variant)
    if entry is None:
        return None
    name, number = ("token_specificity_matched", "num_matched") if matched else ("token_specificity", "num_texts")
    if entry[name] is None or entry[number] < MIN_TEXTS:
        return None
    return entry[name], entry[f"{name}_low"], entry[f"{name}_high"], entry[number]


def paired_difference(first: dict[str, Any], second: dict[str, Any], matched: bool = True) -> Difference | None:
    """Compare two sweep entries on the texts that both have; `None` if these are too few for a verdict."""
    name = "matched_differences" if matched else "differences"
    sides = []
    for entry in (first, second):
        sides.append({t: v for t, v in zip(entry["text_id"], entry[name], strict=True) if v is not None})
    common = sorted(sides[0].keys() & sides[1].keys())
    if len(common) < MIN_TEXTS:
        return None
    values = np.asarray([sides[0][text] - sides[1][text] for text in common])
    return Difference(values)


def over_seeds(cells: Sequence[dict[str, Any]], k: int = 1) -> dict[str, Any]:
    """The sweep entry of several seeds of one method: means for each text, of the seeds that have it."""
    entries = [entry for entry in (swept(cell, k) for cell in cells) if entry is not None]
    return _merged(entries, ("differences", "matched_differences"))


def beyond_word(cells: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """What the concepts of several seeds of one method say beyond their word: means for each text.

    Returns:
        `tuple`: Two entries for [`paired_difference`] with `matched=False`: effect beyond the word, and the same minus
        that of the control (`None` where a seed has none). `None` if no cell has been measured so.
    """
    records = [record for record in (cell.get("beyond_word") for cell in cells) if record]
    if not records:
        return None
    entry = _merged(records, ("differences",))
    # What cells of earlier versions lack.
    if not all("control" in record for record in records):
        return entry, None
    control = _merged([{**record, "differences": record["control"]} for record in records], ("differences",))
    beside = [own - other for own, other in zip(entry["differences"], control["differences"], strict=True)]
    return entry, {**entry, "differences": beside}


def _merged(entries: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    texts = sorted(set().union(*(entry["text_id"] for entry in entries)))
    merged: dict[str, Any] = {"text_id": texts}
    for name in names:
        known = [dict(zip(entry["text_id"], entry[name], strict=True)) for entry in entries]
        values = [[side[text] for side in known if side.get(text) is not None] for text in texts]
        merged[name] = [float(np.mean(each)) if each else None for each in values]
    return merged


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield prefix + name, value


def study_cells(summary: Summary, methods: Sequence[str]) -> list[tuple[str, str, str]]:
    """Host, dataset and method of the cells of a study: those settings that have most of its methods."""
    methods_of = {
        (host, dataset): [method for method in methods if summary.cell(host, dataset, method) is not None]
        for host, dataset in summary.settings()
    }
    most = max(map(len, methods_of.values()))
    return [
        (*setting, method) for setting, have in methods_of.items() if have and len(have) == most for method in have
    ]


def mean_and_spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean and standard deviation of what is there, `None` if nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else 0.0


def by_method(duels: Sequence[Duel], methods: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Wins, ties and losses of each method against each other one."""
    table = {
        first: {second: {"win": 0, "tie": 0, "loss": 0} for second in methods if second != first} for first in methods
    }
    for duel in duels:
        for method, other in ((duel.first, duel.second), (duel.second, duel.first)):
            table[method][other][duel.outcome(method)] += 1
    return table


__all__ = [
    *("Difference", "Duel", "Summary", "beyond_word", "by_method", "effect", "load_cells", "mean_and_spread"),
    *("over_seeds", "paired_difference", "study_cells", "swept"),
]
