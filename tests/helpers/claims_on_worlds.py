"""What docs/results.md says of worlds with known concepts, from the scores of `scripts/grids/world.yaml`."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pandas as pd

from clvq_hf.rendering.text_tables import ReportTable

from .results_page import GRIDS, ROOT, claims

WORLDS = {"small": "small", "medium": "medium"}
METHODS = {
    "kmeans": "K-means",
    "kmeans-functional": "K-means, functional space",
    "kmeans-predictive": "K-means, predictive space",
    "kmeans-residual": "K-means, residual space",
    "kmeans-upper": "K-means on the upper layer",
    "clvq": "CLVQ-VAE",
    "clvq-linear": "CLVQ-VAE, linear encoder",
    "clvq-functional": "CLVQ-VAE, functional space",
    "clvq-residual": "CLVQ-VAE, residual space",
    "vqvae": "VQ-VAE, single layer",
    "agglomerative": "agglomerative",
    "random-states": "random states",
    "token-types": "means of token types",
    "class-only": "class and position only",
}
FIGURES = {
    "words.senses.sense_share": "share of the sense",
    "ablation.code.word_residual_margin_change": "removal beyond the word (Δmargin)",
    "fidelity.explained_variance_within_class": "explained within the class",
    "fidelity.explained_variance": "explained",
    "fidelity.code_fidelity": "code fidelity",
    "table.label_purity.within_word_gain": "purity beyond the word",
    "ablation.code.token_specificity_matched": "token specificity",
    "equal_splice.splice_fidelity": "splice fidelity, same decoder",
    "table.label_purity.cross_fitted_purity": "label purity",
    "table.codebook_overlap.ratio": "overlap",
}


def _script() -> ModuleType:
    file = ROOT / "scripts" / "made_world" / "score.py"
    spec = importlib.util.spec_from_file_location("made_world_score_of_page", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


score = _script()


@cache
def rows() -> list[dict[str, Any]]:
    """The scores of all cells, with their figures."""
    lines = (GRIDS / "world" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def correlations() -> ReportTable:
    return score.metric_table(rows())


@claims
def sizes_of_worlds() -> Iterator[str]:
    frame = pd.DataFrame(rows())
    frame = frame[frame["seed"].notna()]
    seeds = {world: sorted(own["seed"].unique()) for world, own in frame.groupby("world")}
    assert {world: len(found) for world, found in seeds.items()} == {"small": 3, "medium": 2}
    assert all(len(own) == 20 * len(seeds[world]) for world, own in frame.groupby("world"))
    yield "20 methods, with 3 seeds in the small world and 2 in the medium one"


@claims
def agreement_with_the_truth() -> Iterator[str]:
    frame = pd.DataFrame(rows())
    for method, title in METHODS.items():
        cells = []
        for world in WORLDS:
            own = frame[(frame["world"] == world) & (frame["method"] == method)]
            for figure in ("agreement", "purity_gain"):
                cells.append(f"{own[figure].mean():z.2f} ± {own[figure].std():.2f}")
        yield f"| {title} | " + " | ".join(cells) + " |"


@claims
def metrics_and_the_truth() -> Iterator[str]:
    table = correlations()
    found = {row[0].replace("\\", ""): row for row in table.rows}
    for figure, title in FIGURES.items():
        row = found[figure]
        yield f"| {title} | {row[1]} | {row[4]} |"
    [bound] = [word for word in table.note.split() if word.startswith("0.")]
    yield f"stays below {bound} in 95 % of cases"
