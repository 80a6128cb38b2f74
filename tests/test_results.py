"""What README and docs quote of the committed cells, recomputed from them."""

import re
from functools import cache
from pathlib import Path

import pytest

from clvq_hf.comparison.grid import load_grid
from clvq_hf.comparison.report import write_report
from clvq_hf.comparison.summary import Summary, by_method, load_cells, over_seeds, paired_difference
from clvq_hf.metrics.ablation_drop.statistics import holm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GRIDS = ROOT / "docs" / "grids"
PAGE = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
VARIABLES = {"CLVQ_DATA": "data", "CLVQ_MINILM": "m", "CLVQ_SMOLLM2": "s", "CLVQ_SMOLLM2_FILE": "f"}


@cache
def summary(name: str) -> Summary:
    return Summary(load_cells(GRIDS / name / "cells.jsonl"))


@cache
def verdicts(k: int, matched: bool) -> dict[str, dict[str, dict[str, int]]]:
    paper = summary("paper")
    return by_method(paper.duels(k, matched), list(paper.methods()))


def quoted(sentence: str) -> None:
    assert sentence in PAGE, f"The page does not say: {sentence}"


@pytest.mark.parametrize("name", ["paper", "words", "studies"])
def test_reports_are_those_of_the_cells(name, tmp_path, monkeypatch):
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("clvq_hf.comparison.report.draw_figures", lambda *_: {})
    grid = load_grid(ROOT / "scripts" / "grids" / "studies.yaml") if name == "studies" else None
    written = write_report(GRIDS / name / "cells.jsonl", tmp_path, grid).read_text(encoding="utf-8")
    committed = (GRIDS / name / "report.md").read_text(encoding="utf-8")
    assert written.partition("## Figures")[0] == committed.partition("## Figures")[0]


def test_k_means():
    for k in (1, 10):
        assert verdicts(k, True)["clvq"]["kmeans"] == {"win": 0, "tie": 12, "loss": 0}
    quoted("there are twelve ties of twelve, and twelve with 1 direction too")
    assert verdicts(10, False)["kmeans"]["clvq"]["win"] == 1
    quoted("On all texts K-means wins once.")
    duels = [duel for duel in summary("paper").duels(10) if {duel.first, duel.second} == {"clvq", "kmeans"}]
    small = [duel.difference.margin for duel in duels if duel.host in ("minilm", "roberta-small")]
    others = [duel.difference.margin for duel in duels if duel.host not in ("minilm", "roberta-small")]
    quoted(f"equal within ±{min(small):.3f} to ±{max(small):.3f} logits")
    quoted(f"differences of up to ±{min(others):.3f} to ±{max(others):.3f}")


def test_other_codebooks():
    assert verdicts(10, True)["clvq"]["agglomerative"] == {"win": 0, "tie": 12, "loss": 0}
    assert verdicts(10, True)["clvq"]["vqvae"] == {"win": 1, "tie": 11, "loss": 0}
    quoted("Against agglomerative clusters there are 12 ties, and against the single-layer VQ-VAE 1 win and 11 ties.")
    ranks = summary("paper").ranks(10).values()
    first_two = {name: sum(name in methods[:2] for methods in ranks) for name in summary("paper").methods()}
    one_of_two = sum(bool({"clvq", "vqvae"} & set(methods[:2])) for methods in ranks)
    quoted(
        f"CLVQ-VAE is first or second in {first_two['clvq']} of {len(ranks)} settings, the single-layer VQ-VAE in "
        f"{first_two['vqvae']}, and one of the two in {one_of_two}"
    )
    quoted(f"first or second in {first_two['clvq-paper']}, agglomerative clusters in {first_two['agglomerative']}.")


def test_sparse_models():
    assert verdicts(10, True)["clvq"]["sae"] == {"win": 1, "tie": 1, "loss": 0}
    assert verdicts(10, False)["clvq"]["sae"] == {"win": 0, "tie": 3, "loss": 0}
    quoted("CLVQ-VAE has 1 win and 1 tie on matched draws and 3 ties on all texts")
    assert verdicts(1, True)["clvq"]["sae"] == {"win": 0, "tie": 2, "loss": 0}
    assert verdicts(1, False)["clvq"]["sae"] == {"win": 2, "tie": 1, "loss": 0}
    quoted("2 ties and, on all texts, 2 wins and 1 tie")
    assert verdicts(10, True)["clvq"]["transcoder"] == {"win": 0, "tie": 8, "loss": 0}
    assert verdicts(10, False)["clvq"]["transcoder"] == {"win": 2, "tie": 6, "loss": 3}
    quoted("8 ties of 8 on matched draws, 2 wins, 6 ties and 3 losses on all texts")
    ranks = [methods for methods in summary("paper").ranks(10, matched=False).values() if "transcoder" in methods]
    quoted(f"first in {sum(methods[0] == 'transcoder' for methods in ranks)} of {len(ranks)} settings on all texts")


def test_studies():
    studies = summary("studies")
    reference = over_seeds(studies.seeds("minilm", "jigsaw", "default"))
    found = {}
    for method in studies.methods():
        cells = studies.seeds("minilm", "jigsaw", method)
        # Settings of other layers ablate other states.
        if method != "default" and cells[0]["host"]["layers"] == [3, 6]:
            found[method] = paired_difference(over_seeds(cells), reference)
    outside = [each for each in found.values() if not each.interval[0] <= 0 <= each.interval[1]]
    corrected = holm([each.p_value for each in found.values()])
    assert len(found) == 19 and len(outside) == 5
    quoted("of 19 intervals five exclude 0, none of them by much")
    quoted(f"none is left (smallest p {corrected.min():.2f})")


def test_differences_beyond_the_word():
    report = (GRIDS / "words" / "report.md").read_text(encoding="utf-8")
    start = report.index("## What concepts say beyond their word: CLVQ-VAE minus the others")
    quoted_cells = re.findall(r"-?\d\.\d{3} \\\[-?\d\.\d{3}, -?\d\.\d{3}\\\]", report[start : start + 1200])
    assert len(quoted_cells) == 15
    for cell in quoted_cells:
        quoted(cell.replace("\\", "").replace("-", "−"))
