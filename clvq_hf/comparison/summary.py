"""What the cells of a grid say together: who wins against whom, ranks, and figures by name."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..checksums import read_metadata
from ..metrics.ablation_drop.statistics import MIN_TEXTS, holm
from ..reading import read_json_lines
from .cell import RESULT_NAME
from .duels import Difference, Duel, paired_difference
from .methods import known_methods
from .prepared_hosts import REMEDY

# The columns of a cell's host and dataset, and of its method.
SETTING = ["cell.host", "cell.dataset"]
CELL = [*SETTING, "cell.method"]
# Two figures that are looked at from several sides, and the parts of a cell's time.
SPECIFICITY = "ablation.code.token_specificity_matched"
PURITY = "table.label_purity.cross_fitted_purity"
SECONDS = ("load", "fit", "table", "references", "evaluate", "equal_splice", "sweep", "stability")
# Every figure of a cell by its path, such as "table.label_purity.null_purity", and what tables derive from them.
Record = dict[str, Any]
# A dictionary that explains less of the variance than this, or that is less sparse, carries a mark.
MIN_EXPLAINED_VARIANCE, MAX_ACTIVE = 0.8, 100


def read_cells(path: str | Path, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Read the results of finished cells, by the file, or its line, that each is from.

    Args:
        path (`str` or `Path`): Folder of a grid, or a `.jsonl` file with one cell a line.
        names (`Collection[str]`, *optional*): Folders of cells; others are left out.

    Raises:
        ValueError: If there are none, or a file contains no JSON object.
    """
    path = Path(path)
    if path.is_file():
        cells = read_json_lines(path)
    else:
        files = sorted(path.glob(f"cells/[!.]*/{RESULT_NAME}"))
        files = [file for file in files if names is None or file.parent.name in names]
        cells = {str(file): read_metadata(file, REMEDY)[0] for file in files}
    if not cells:
        raise ValueError(f"{path} holds no finished cell. Run the grid first: clvq-hf compare GRID.yaml -o {path}")
    return cells


@dataclass(frozen=True)
class Summary:
    """The cells of a grid, and questions to them.

    Args:
        cells (`Sequence[dict]`): What [`read_cells`] returned.
    """

    cells: Sequence[dict[str, Any]]

    @cached_property
    def records(self) -> list[Record]:
        """Return the figures of each cell by their paths; the cell itself is `source`.

        Those of its sweep's first variant are `k1.…` for one direction, and `own.…` for as many as the method uses:
        also `k1.matched`, the share of matched texts, and [`effect`] on matched draws and on all as `k1.on_matched` and
        `k1.on_all`, with their intervals.
        """
        records = []
        for cell in self.cells:
            looks = {section(k): k for k in (None, *self.ks())}
            entries = {name: entry for name, k in looks.items() if (entry := swept(cell, k)) is not None}
            figures = dict(_flatten({**cell, **entries}))
            figures |= {f"host.layers.{place}": layer for place, layer in enumerate(cell["host"]["layers"])}
            for look, entry in entries.items():
                figures[f"{look}.matched"] = entry["num_matched"] / entry["num_texts"]
                for name, matched in (("on_matched", True), ("on_all", False)):
                    names = (f"{look}.{name}{end}" for end in ("", "_low", "_high"))
                    figures |= zip(names, effect(cell, looks[look], matched) or (None,) * 3, strict=False)
            # A sparse model passes many neurons, and the permuted code is one: its leak would be low by construction.
            if figures.get("bottleneck.num_active") == 1:
                figures["bottleneck.code_leak"] = figures["bottleneck.leak"]
            figures["mark"] = _mark(figures)
            setting = ", ".join(figures[name] for name in SETTING)
            records.append({**figures, "setting": setting, "source": cell})
        return records

    @cached_property
    def _by_cell(self) -> dict[tuple[str, ...], list[Record]]:
        """The records of each host, dataset and method, by seed."""
        found: dict[tuple[str, ...], list[Record]] = {}
        for record in sorted(self.records, key=lambda record: record["cell.seed"]):
            found.setdefault(tuple(record[name] for name in CELL), []).append(record)
        return found

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Return a row for each cell and a column for each figure, for what is averaged."""
        return pd.DataFrame(self.records)

    def seed_records(self, host: str, dataset: str, method: str) -> list[Record]:
        """Return the figures of the cells of one host, dataset and method, by seed."""
        return self._by_cell.get((host, dataset, method), [])

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
                    names = {"host": host, "dataset": dataset, "method": method}
                    yield {**names, "setting": f"{host}, {dataset}", "title": title, **groups[host, dataset, method]}

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

    def looks(self) -> list[int | None]:
        """Numbers of directions to compare methods by: `None`, as many as each uses; if they differ, then all alike."""
        ks = self.ks()
        own = {directions(cell) for cell in self.cells if cell.get("sweep")}
        return [None, *ks[::-1]] if len(own) > 1 or len(ks) > 1 else ks

    def rivals(self, host: str, dataset: str) -> list[str]:
        """Methods that are compared: ablated, and no controls."""
        return [method for method in self.methods() if (self.cell(host, dataset, method) or {}).get("sweep")]

    def duels(self, k: int | None = None, matched: bool = True) -> list[Duel]:
        """Every pair of rivals on every host and dataset, compared text by text over all seeds.

        P-values are corrected for all of them.

        Args:
            k (`int`, *optional*): Directions that are removed; if not given, as many as each method uses.
            matched (`bool`): Whether only draws count that are matched in positions and norm.
        """
        name = "matched_differences" if matched else "differences"
        found = []
        for setting in self.settings():
            sides = {method: self.sweeps(*setting, method, k) for method in self.rivals(*setting)}
            for pair in combinations(sides, 2):
                # As many directions as a method uses are often those of another k.
                key = (setting, pair, name, *(entry["k"] for method in pair for entry in sides[method]))
                if key not in self._differences:
                    self._differences[key] = paired_difference(*(sides[method] for method in pair), name)
                if (difference := self._differences[key]) is not None:
                    found.append((*setting, *pair, difference))
        corrected = holm([difference.p_value for *_, difference in found])
        return [Duel(*each, float(p_value)) for each, p_value in zip(found, corrected, strict=True)]

    @cached_property
    def _differences(self) -> dict[Any, Difference | None]:
        """What `duels` has compared so far: tables ask several times, and a difference keeps what it has drawn."""
        return {}

    def sweeps(self, host: str, dataset: str, method: str, k: int | None = None) -> list[dict[str, Any]]:
        """Return the sweeps' entries of all seeds that have one; `None`: the directions of the first seed's cell."""
        if k is None and (first := self.cell(host, dataset, method)):
            k = directions(first)
        entries = (swept(cell, k) for cell in self.seeds(host, dataset, method))
        return [entry for entry in entries if entry is not None]

    def beyond_word(self, host: str, dataset: str, method: str) -> list[dict[str, Any]]:
        """Return what the concepts of each seed say beyond the word, with `beside`, the same less the control's."""
        records = (cell.get("beyond_word") for cell in self.seeds(host, dataset, method))
        found = [dict(record) for record in records if record]
        for record in found:
            if "control" in record:  # cells of earlier versions have none
                pairs = zip(record["differences"], record["control"], strict=True)
                record["beside"] = [effect - control for effect, control in pairs]
        return found

    def ranks(self, k: int | None = None, matched: bool = True) -> dict[tuple[str, str], list[str]]:
        """The rivals of each host and dataset, those first whose salient concept matters most by token specificity.

        Those that have too few texts to tell are left out. Of the first seed.
        """
        name = f"{section(k)}.{'on_matched' if matched else 'on_all'}"
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


def section(k: int | None) -> str:
    """What precedes the names of figures for `k` directions."""
    return "own" if k is None else f"k{k}"


def directions(cell: dict[str, Any]) -> int:
    """Directions of a token's concept: 1, or the most of the sweep where several neurons of a token are active."""
    several = cell.get("bottleneck", {}).get("num_active", 1) > 1
    return max(entry["k"] for entry in cell["sweep"]) if several else 1


def swept(cell: dict[str, Any] | None, k: int | None, variant: str | None = None) -> dict[str, Any] | None:
    """The entry of a cell's sweep for `k` directions (`None`: [`directions`]), by default of its first variant."""
    entries = [] if cell is None else cell.get("sweep", [])
    if not entries:
        return None
    k, variant = directions(cell) if k is None else k, variant or entries[0]["variant"]
    return next((entry for entry in entries if entry["k"] == k and entry["variant"] == variant), None)


def effect(
    cell: dict[str, Any] | None, k: int | None = None, matched: bool = True, variant: str | None = None
) -> tuple[float, float, float, int] | None:
    """Token specificity of a cell with its interval, and the number of texts; `None` if they are too few."""
    entry = swept(cell, k, variant)
    if entry is None:
        return None
    name, number = ("token_specificity_matched", "num_matched") if matched else ("token_specificity", "num_texts")
    if entry[name] is None or entry[number] < MIN_TEXTS:
        return None
    return entry[name], entry[f"{name}_low"], entry[f"{name}_high"], entry[number]


def _mark(record: Record) -> str | None:
    """Why a cell's dictionary is a poor one, `None` if it is not: the same bars for all methods.

    It has to explain 80 % of the variance within one layer. From one layer to another nobody can who sees one token at
    a time; there it is 80 % of what the best linear map explains.
    """
    reasons = []
    if (active := record.get("bottleneck.num_active")) is not None and active >= MAX_ACTIVE:
        reasons.append(f"L0 = {active:.0f}")
    explained = record.get("bottleneck.explained_variance")
    most = 1.0 if record.get("settings.method.single_layer") else record["host.linear_explained_variance"]
    if explained is not None and explained < MIN_EXPLAINED_VARIANCE * most:
        reasons.append(f"explained variance {explained:.2f}")
    return ", ".join(reasons) or None


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


__all__ = [
    *("Summary", "directions", "effect", "mean_and_spread", "read_cells", "study_cells", "swept"),
]
