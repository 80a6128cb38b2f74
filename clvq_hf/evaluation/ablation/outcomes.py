"""What a change of the states did to the predictions, as the columns that the `ablation_drop` metric reads."""

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset

from ...hosts.readout import Readout, margins
from ...metrics.ablation_drop.outcomes import OF_PROBABILITIES
from .conditions import Removal, TextBatch

# All classes' probabilities are kept for classes, not for vocabularies.
MAX_CLASSES = 1000
_CLASSES = Readout("classification")


def outcome_columns(
    plain: torch.Tensor, logits: torch.Tensor, labels: np.ndarray, readout: Readout = _CLASSES
) -> dict[str, list]:
    """What a change did to the predictions, from logits `(N, C)` before and after, and labels `(N,)`, -1 for none.

    Where the readout has no probabilities, all that needs them is `None`, and lists of them are empty.
    """
    plain, logits = plain.double(), logits.double()
    prediction = readout.predict(plain)
    log_plain, log_changed = plain.log_softmax(-1), logits.log_softmax(-1)
    few = plain.shape[-1] <= MAX_CLASSES

    def probability(log: torch.Tensor, classes: torch.Tensor) -> list[float]:
        return log.exp().gather(-1, classes[:, None])[:, 0].tolist()

    labels = torch.as_tensor(labels)
    known = (labels >= 0) & readout.predicts_labels & few & (labels < plain.shape[-1])

    def gold(log: torch.Tensor) -> list[float]:
        probabilities = torch.as_tensor(probability(log, torch.where(known, labels, 0)))
        return torch.where(known, probabilities, -1.0).tolist()

    columns = {
        "label": torch.where(known, labels, -1).tolist(),
        "prediction_plain": prediction.tolist(),
        "prediction": readout.predict(logits).tolist(),
        "margin_plain": margins(plain, prediction).tolist(),
        "margin": margins(logits, prediction).tolist(),
        "probability_plain": probability(log_plain, prediction),
        "probability": probability(log_changed, prediction),
        "gold_probability_plain": gold(log_plain),
        "gold_probability": gold(log_changed),
        "kl": F.kl_div(log_changed, log_plain, reduction="none", log_target=True).sum(-1).clamp(min=0).tolist(),
        "probabilities_plain": log_plain.exp().tolist() if few else [[] for _ in plain],
        "probabilities": log_changed.exp().tolist() if few else [[] for _ in plain],
    }
    if not readout.has_probabilities:
        columns |= {name: [None] * len(plain) for name in OF_PROBABILITIES}
        columns |= {name: [[] for _ in plain] for name in ("probabilities_plain", "probabilities")}
    return columns


def removal_rows(
    condition: str,
    removal: Removal,
    batch: TextBatch,
    labels: np.ndarray,
    plain: torch.Tensor,
    logits: torch.Tensor,
    readout: Readout = _CLASSES,
) -> dict[str, list]:
    """Outcome rows of one draw of a condition, for the texts of a batch that have it.

    Args:
        condition (`str`): Name of the condition.
        removal (`Removal`): The draw.
        batch (`TextBatch`): The B texts.
        labels (`np.ndarray` of shape `(B,)`): Their labels, -1 for none.
        plain (`torch.Tensor` of shape `(B, C)`): Logits before the removal.
        logits (`torch.Tensor` of shape `(B, C)`): Logits after it.
        readout (`Readout`): What they answer; which of several classes if not given.

    Returns:
        `dict[str, list]`: All columns but the removed norm.
    """
    valid = removal.valid
    num_rows = int(valid.sum())
    return {
        "text_id": batch.text_id[valid].tolist(),
        "condition": [condition] * num_rows,
        "draw": [removal.draw] * num_rows,
        "code": removal.code[valid].tolist(),
        **outcome_columns(plain[valid], logits[valid], labels[valid], readout),
        "num_positions": removal.where.sum(-1)[valid].tolist(),
        "matched": removal.matched[valid].tolist(),
    }


def excluded_shares(outcome: Dataset) -> dict[str, float | None]:
    """How many texts `other_text_same` and `other_text_opposite` leave out because their salient code is the same.

    Args:
        outcome (`datasets.Dataset`): Of an ablation.

    Returns:
        `dict[str, float]`: Mean over texts of the share among the texts with the same, with another prediction, as
        `other_text_same_excluded_share` and `other_text_opposite_excluded_share`; `None` if there are no such texts.
    """
    rows = outcome.select_columns(["condition", "code", "prediction_plain"]).to_pandas()
    salient = rows[rows["condition"] == "salient"]
    codes, predictions = salient["code"].to_numpy(), salient["prediction_plain"].to_numpy()
    shares: dict[str, list[float]] = {"other_text_same": [], "other_text_opposite": []}
    for place, (code, prediction) in enumerate(zip(codes, predictions, strict=True)):
        others = np.arange(len(codes)) != place
        same = predictions == prediction
        for name, candidates in zip(shares, (others & same, others & ~same), strict=True):
            if candidates.any():
                shares[name].append(float((codes[candidates] == code).mean()))
    return {f"{name}_excluded_share": float(np.mean(each)) if each else None for name, each in shares.items()}


__all__ = ["excluded_shares", "outcome_columns", "removal_rows"]
