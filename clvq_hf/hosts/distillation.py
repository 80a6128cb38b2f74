"""A host that imitates another one: trained on its logits, and compared with it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel

# Of steps without progress on held-out texts: so often is looked, and so many looks are waited.
STEPS_PER_LOOK, PATIENCE = 25, 4
# Progress is at least this share of the loss, and more than rounding.
LEAST_PROGRESS, ROUNDING = 0.01, 1e-6
WARMUP = 0.1

# Arguments of the host, and where its logits count: (B,) for one row per text, (B, S) for one per token.
Batch = tuple[Mapping[str, Any], torch.Tensor]
Teach = Callable[[Mapping[str, Any]], torch.Tensor]


@dataclass(frozen=True)
class Differences:
    """How far the answers of two hosts are apart.

    Attributes:
        num_rows (`int`): Rows of logits that were compared: texts, or tokens.
        agreement (`float` or `None`): Share of equal predictions; `None` where the answer is a number.
        mean_probability, largest_probability (`float` or `None`): Mean and largest over rows of the largest difference
            of the probability of an answer.
        kl (`float` or `None`): Mean Kullback-Leibler divergence from the first to the second, in nats.
        largest_logit (`float`): Largest difference of a logit, or of the number.
    """

    num_rows: int
    agreement: float | None
    mean_probability: float | None
    largest_probability: float | None
    kl: float | None
    largest_logit: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def _rows(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The rows that count, `(N, C)`."""
    return logits[where.to(logits.device)]


def log_probabilities(logits: torch.Tensor, kind: str) -> torch.Tensor:
    """`(…, C, A)`: of the answers of each column that stands for itself, or `(…, A)` of answers that compete."""
    if kind == "multi_label":
        return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1)
    return logits.log_softmax(-1)


@torch.no_grad()
def compare_logits(first: Teach, second: Teach, batches: Iterable[Batch], kind: str) -> Differences:
    """Compare the logits of two hosts; `kind` is that of their [`Readout`][clvq_hf.hosts.readout.Readout]."""
    number, equal, total, largest, divergence, largest_logit = 0, 0, 0.0, 0.0, 0.0, 0.0
    for inputs, where in batches:
        one, two = (_rows(teach(inputs), where).double() for teach in (first, second))
        one, two = one.reshape(len(one), -1), two.reshape(len(two), -1)
        number += len(one)
        largest_logit = max(largest_logit, float((one - two).abs().max()))
        if kind == "regression":
            continue
        same = (one > 0) == (two > 0) if kind == "multi_label" else (one.argmax(-1) == two.argmax(-1))[:, None]
        equal += int(same.all(-1).sum())
        p, q = log_probabilities(one, kind), log_probabilities(two, kind)
        apart = (p.exp() - q.exp()).abs().flatten(1).amax(-1)
        total, largest = total + float(apart.sum()), max(largest, float(apart.max()))
        divergence += float((p.exp() * (p - q)).sum())
    if kind == "regression":
        return Differences(number, None, None, None, None, largest_logit)
    return Differences(number, equal / number, total / number, largest, max(divergence / number, 0.0), largest_logit)


def imitation_loss(student: torch.Tensor, teacher: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean divergence of answers, for numbers the mean squared error; logits `(N, C)`."""
    if kind == "regression":
        return F.mse_loss(student.float(), teacher.float())
    p, q = log_probabilities(teacher.float(), kind), log_probabilities(student.float(), kind)
    return (p.exp() * (p - q)).sum() / len(teacher)


def distil(
    host: PreTrainedModel,
    teach: Teach,
    batches: Iterator[Batch],
    held_out: list[Batch],
    kind: str,
    *,
    max_steps: int,
    learning_rate: float,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train a copy of a host to answer as a teacher does (Hinton et al. 2015, arXiv 1503.02531, at temperature 1).

    Dropout is off, since the teacher's is. The weights with the least loss on held-out texts count, and training stops
    when that has not fallen for a while.

    Args:
        host (`PreTrainedModel`): What the copy begins as. Weights of less than 32 bits are trained as float32.
        teach (`Callable`): From arguments of the host to the teacher's logits.
        batches (`Iterator`): Endless, in the order of training.
        held_out (`list`): Batches that are not trained on.
        kind (`str`): That of the host's readout.
        max_steps (`int`): At most so many.
        learning_rate (`float`): The largest, after a tenth of the steps; it falls linearly to 0.

    Returns:
        `tuple`: The copy, in evaluation mode and in the host's dtype, and `steps`, `best_step`, `held_out_loss`.

    Raises:
        ValueError: If the loss is not finite.
    """
    student = copy.deepcopy(host).float().eval().requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.0)
    warm = max(1, int(max_steps * WARMUP))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (max_steps - step) / max(max_steps - warm, 1))
    )
    with torch.no_grad():
        taught = [_rows(teach(inputs), where) for inputs, where in held_out]

    def look() -> float:
        with torch.no_grad():
            losses = [
                imitation_loss(_rows(student(**inputs).logits, where), target, kind) * len(target)
                for (inputs, where), target in zip(held_out, taught, strict=True)
            ]
        return float(torch.stack(losses).sum()) / sum(len(target) for target in taught)

    best, best_step, best_weights, waited, step = look(), 0, copy.deepcopy(student.state_dict()), 0, 0
    with tqdm(total=max_steps, desc="Distilling", unit="step") as bar:
        for step in range(1, max_steps + 1):
            inputs, where = next(batches)
            with torch.no_grad():
                target = _rows(teach(inputs), where)
            loss = imitation_loss(_rows(student(**inputs).logits, where), target, kind)
            if not loss.isfinite():
                raise ValueError("The loss is not finite. Choose a smaller learning_rate=….")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.update()
            if step % STEPS_PER_LOOK and step < max_steps:
                continue
            found = look()
            bar.set_postfix(held_out=f"{found:.4f}")
            waited = 0 if found < best - max(LEAST_PROGRESS * best, ROUNDING) else waited + 1
            if found < best:
                best, best_step, best_weights = found, step, copy.deepcopy(student.state_dict())
            if waited >= PATIENCE:
                break
    # Into another copy, whose weights and buffers have the host's types, as if it were loaded.
    student = copy.deepcopy(host).eval()
    student.load_state_dict(best_weights)
    return student, {"steps": step, "best_step": best_step, "held_out_loss": best}


__all__ = ["Batch", "Differences", "compare_logits", "distil", "imitation_loss", "log_probabilities"]
