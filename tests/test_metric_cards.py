"""What another training seed does to each metric: the sentence of its card, from the committed cells."""

import numpy as np
import pytest
from helpers.results_page import ROOT, plain, summary

from clvq_hf.comparison.summary import PURITY

pytestmark = pytest.mark.slow

# Of each metric the figures that its card names: grid, path and decimals.
FIGURES = {
    "label_purity": {
        "cross_fitted_purity": ("better", PURITY, 3),
        "within_word_gain": ("better", "table.label_purity.within_word_gain", 3),
    },
    "routing_divergence": {"excess_jsd": ("better", "table.routing_divergence.excess_jsd", 3)},
    "codebook_overlap": {"ratio": ("better", "table.codebook_overlap.ratio", 2)},
    "codebook_usage": {"perplexity": ("better", "table.codebook_usage.perplexity", 1)},
    "codebook_similarity": {"active_mean_cosine": ("better", "table.codebook_similarity.active_mean_cosine", 3)},
    "stability": {"ami": ("better", "stability.ami", 3)},
    "ablation_drop": {"token_specificity": ("words", "k1.token_specificity", 3)},
}


def reseeding(grid: str, figure: str) -> tuple[float, int, int]:
    """Standard deviation over seeds of one method on one dataset, pooled; of how many of them, and the fewest seeds."""
    cells = summary(grid)
    groups = [
        group
        for (_, _, method), group in cells.over_seeds(figure).items()
        if method in cells.methods() and group[f"{figure}_count"] > 1
    ]
    deviations = [group[f"{figure}_sd"] for group in groups]
    return float(np.sqrt(np.mean(np.square(deviations)))), len(groups), int(min(g[f"{figure}_count"] for g in groups))


def sentence(metric: str) -> str:
    parts = []
    for name, (grid, figure, digits) in FIGURES[metric].items():
        deviation, *_ = reseeding(grid, figure)
        parts.append(f"{deviation:.{digits}f} (`{name}`; {1.96 * np.sqrt(2) * deviation:.{digits}f})")
    grid, figure, _ = next(iter(FIGURES[metric].values()))
    _, number, seeds = reseeding(grid, figure)
    return (
        f"**Another seed** changes a figure by this standard deviation, pooled over {number} pairs of method and "
        f"dataset with {seeds} seeds each (in brackets: two methods with one seed each differ by more in 5 % of the "
        f"cases, even if neither is better): {', '.join(parts)}."
    )


@pytest.mark.parametrize("metric", list(FIGURES))
def test_a_card_says_how_much_a_figure_varies_with_the_seed(metric):
    card = ROOT / "clvq_hf" / "metrics" / metric / "README.md"
    assert plain(sentence(metric)) in plain(card.read_text(encoding="utf-8")), sentence(metric)
