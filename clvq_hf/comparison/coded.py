"""What the codes of one method say more than those of another: differences of texts, over texts and seeds."""

from collections.abc import Sequence
from typing import Any

from ..rendering.text_tables import ReportTable, with_range
from .cell_tables import setting_table
from .duels import Difference, paired_difference
from .summary import CELL, Record, Summary

# A figure of each text, which is what is missing: less is better.
LOSS, UNEXPLAINED, UNEXPLAINED_WITHIN_CLASS = "kl_coded", "unexplained", "unexplained_within_class"
_NOTE = "Paired by text, 95 % bootstrap-t intervals over texts and training seeds, not corrected for their number."


def coded_difference(
    summary: Summary, host: str, dataset: str, first: str, second: str, figure: str
) -> Difference | None:
    """What is missing with the codes of the second method minus what is with those of the first.

    Positive: the first's codes say more. `None` if too few texts were measured for a verdict.

    Args:
        summary ([`Summary`][clvq_hf.comparison.summary.Summary]): The cells.
        host (`str`): Name of the host.
        dataset (`str`): Name of the dataset.
        first (`str`): Name of the first method.
        second (`str`): Name of the second.
        figure (`str`): `"kl_coded"`, in nats; or `"unexplained"` or `"unexplained_within_class"`, whose means are
            1 - the explained variance.
    """
    sides = [
        [cell["coded"] for cell in summary.seeds(host, dataset, method) if figure in cell.get("coded", {})]
        for method in (second, first)
    ]
    return paired_difference(*sides, figure) if all(sides) else None


def kmeans_like(summary: Summary, host: str, dataset: str, method: str, same_space: bool = False) -> str | None:
    """Name of the K-means method with as many codes, on the states or in the space in which the method starts.

    `None` if there is no such cell, or if it is the method itself.
    """
    cells = {name: summary.cell(host, dataset, name) for name in summary.methods()}
    own = summary.cell(host, dataset, method)
    if own is None:
        return None
    space = _space(own) if same_space else "states"
    return next(
        (
            name
            for name, cell in cells.items()
            if cell is not None
            and name != method
            and cell["settings"]["method"]["family"] == "clusters"
            and _settings(cell).get("algorithm", "kmeans") == "kmeans"
            and _space(cell) == space
            and cell["codebook_size"] == own["codebook_size"]
        ),
        None,
    )


def _settings(cell: dict[str, Any]) -> dict[str, Any]:
    return cell["settings"]["method"]["config"]


def _space(cell: dict[str, Any]) -> str:
    return _settings(cell).get("codebook_space", "states")


def coded_tables(summary: Summary) -> list[ReportTable]:
    """Every method against K-means, and every trained one against K-means in the space in which it starts."""
    figures = {
        LOSS: ("What codes lose less than those of K-means", "KL between the host's answers to plain and coded text."),
        UNEXPLAINED: ("Upper layer explained by codes: more than by K-means", "Difference of explained variances."),
        UNEXPLAINED_WITHIN_CLASS: (
            "Upper layer explained within the class: more than by K-means",
            "Difference of explained variances within the predicted class.",
        ),
    }
    tables = [
        _table(summary, title, [figure], f"{note} K-means on the states, with as many codes. Positive: more. {_NOTE}")
        for figure, (title, note) in figures.items()
    ]
    note = (
        "Loss (KL) / explained variance / within the class, of a trained method and of K-means with as many codes in "
        f"the space in which the method starts. Positive: training adds something. {_NOTE}"
    )
    return [*tables, _table(summary, "What training adds to the space", list(figures), note, same_space=True)]


def _table(summary: Summary, title: str, figures: Sequence[str], note: str, same_space: bool = False) -> ReportTable:
    def text(record: Record) -> str | None:
        host, dataset, method = (record[name] for name in CELL)
        if "coded" not in record["source"] or (same_space and record["settings.method.family"] != "clvq"):
            return None
        if (baseline := kmeans_like(summary, host, dataset, method, same_space)) is None:
            return None
        found = [coded_difference(summary, host, dataset, method, baseline, figure) for figure in figures]
        known = [with_range(each.mean, *each.interval) for each in found if each is not None]
        return " / ".join(known) if len(known) == len(figures) else None

    return setting_table(summary, title, text, note, controls=not same_space)


__all__ = ["coded_difference", "coded_tables", "kmeans_like"]
