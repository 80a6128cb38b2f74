"""What a report reads of an evaluation's folder: its figures, and what ablating did to each text."""

from pathlib import Path
from typing import Any

import numpy as np

from ..checksums import read_rows
from ..hub.repositories import RESULTS_NAME, TABLE_NAME, read_results
from ..tables.concept_table import ConceptTable


def find_evaluation(table: str | Path) -> Path | None:
    """The evaluation that a concept table belongs to: the folder above it, if it holds `results.json`."""
    folder = Path(table).resolve().parent
    return folder if (folder / RESULTS_NAME).is_file() else None


def evaluated_model(folder: str | Path) -> str | None:
    """Folder or Hub id of the model that an evaluation's folder is about; `None` if it is no such folder.

    Raises:
        ValueError: If the evaluation does not say which model it measured.
    """
    file = Path(folder) / RESULTS_NAME
    if not file.is_file():
        return None
    model = read_results(file).get("model")
    if not isinstance(model, str):
        raise ValueError(
            f"{folder} does not record which model was evaluated. Name it: clvq-hf report MODEL --table "
            f"{folder}/concept_table."
        )
    if not model.startswith("."):
        return model
    if not (place := Path(folder, model)).is_dir():
        raise ValueError(
            f"The evaluated model {model} is not at {place}. Name it: clvq-hf report MODEL --table "
            f"{folder}/concept_table."
        )
    return str(place.resolve())


def read_evaluation(folder: str | Path, table: ConceptTable) -> dict[str, Any]:
    """Read the figures of an evaluation.

    Raises:
        ValueError: If the folder holds no evaluation, one that is not finished, or one of another model or other texts.
    """
    file = Path(folder) / RESULTS_NAME
    if not file.is_file():
        raise ValueError(f"{folder} holds no {RESULTS_NAME}. Make it with `clvq-hf evaluate`, or omit the evaluation.")
    results = read_results(file)
    if results.get("model_fingerprint") != table.metadata["model_fingerprint"]:
        raise ValueError(
            f"{folder} holds the evaluation of another model (their fingerprints differ). Give the one that belongs to "
            "this concept table."
        )
    if "codebook_similarity" not in results.get("table", {}):
        raise ValueError(f"The evaluation in {folder} is not finished: run the same `clvq-hf evaluate` again.")
    _check_texts(Path(folder), table)
    return results


def _check_texts(folder: Path, table: ConceptTable) -> None:
    """The model alone does not tell: an evaluation and a table of one model may be of other texts."""
    if not (folder / "concept_table" / TABLE_NAME).is_file():
        raise ValueError(
            f"{folder} holds no concept_table, so it is unknown which texts were evaluated. Pass the whole folder "
            "that `clvq-hf evaluate` has written."
        )
    evaluated = ConceptTable.load_from_disk(folder / "concept_table")
    evaluated.check_same_host(table)
    same = evaluated.label_names == table.label_names
    if not same or any(evaluated.texts[name][:] != table.texts[name][:] for name in ("text_id", "text", "label")):
        raise ValueError(
            f"The evaluation in {folder} is of other texts or labels than this concept table. Give the one of these "
            f"texts, or report on {folder / 'concept_table'}."
        )


def read_ablations(folder: str | Path, protocol: str) -> dict[int, dict[str, Any]]:
    """What ablating the salient concept did, by `text_id`; empty if that was not measured.

    Returns:
        `dict[int, dict]`: `code`, `positions` (how many), `before` and `after` (`prediction`, `probability` of the
        prediction before, `margin`, `probabilities`), and `control`: the mean change of the margin if another concept
        of the text is removed, `None` if it has no other.
    """
    rows = Path(folder) / f"ablation-{protocol}"
    if not rows.is_dir():
        return {}
    frame = read_rows(rows, f"Remove {rows}, and run `clvq-hf evaluate` again.").to_pandas()
    # A text of which the host says nothing finite is no evidence; the others are.
    frame = frame[np.isfinite(frame["margin"]) & np.isfinite(frame["margin_plain"])]
    change = frame["margin"] - frame["margin_plain"]
    others = frame["condition"] == "other_code"
    control = change[others].groupby(frame["text_id"][others]).mean()
    return {
        row.text_id: {
            "code": row.code,
            "positions": row.num_positions,
            "before": _state(row.prediction_plain, row.probability_plain, row.margin_plain, row.probabilities_plain),
            "after": _state(row.prediction, row.probability, row.margin, row.probabilities),
            "control": round(float(control[row.text_id]), 3) if row.text_id in control.index else None,
        }
        for row in frame[frame["condition"] == "salient"].itertuples()
    }


def _state(prediction: int, probability: float | None, margin: float, probabilities: Any) -> dict[str, Any]:
    return {
        "prediction": int(prediction),
        # None of a regression; pandas may have turned it into NaN.
        "probability": None if probability is None or probability != probability else round(float(probability), 4),
        "margin": round(float(margin), 3),
        "probabilities": [round(float(value), 4) for value in probabilities],
    }


__all__ = ["evaluated_model", "find_evaluation", "read_ablations", "read_evaluation"]
