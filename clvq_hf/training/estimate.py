"""Memory and time of a training run, estimated before its first step."""

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import nn

from ..data.batching import split_batch
from ..hosts.host import unwrap

if TYPE_CHECKING:
    from .trainer import CLVQTrainer

GIB = 2**30
# What the allocator, temporary results and libraries take besides the tensors that are counted.
SLACK = 1.3
# Lengths in tokens at which activations are counted; those of any other length follow from them.
SHORT, LONG = 16, 32
# Share of a step of training that the same tokens take in evaluation, about.
EVALUATION_SHARE = 1 / 3


@dataclass(frozen=True)
class RunEstimate:
    """What a run takes.

    Attributes:
        memory (`int`): Bytes at the peak, with those that the process has already; on a GPU those of the GPU.
        available (`int`): Bytes that there are for it.
        seconds (`float`): Training and the evaluations during it.
    """

    memory: int
    available: int
    seconds: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        duration = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{max(self.seconds, 1):.0f} seconds"
        return f"{self.memory / GIB:.1f} GiB of memory at most, about {duration}"


def estimate_run(trainer: "CLVQTrainer") -> RunEstimate:
    """Estimate a run that has not started: memory from shapes, time from one real step on a copy of the model.

    Neither the model nor any random number of the run changes. Every process must call this.

    Raises:
        ValueError: If the memory does not suffice; the message names what takes less.
    """
    memory, available = estimate_memory(trainer), available_memory(trainer.args.device)
    if memory > available:
        args = trainer.args
        remedies = [f"a smaller max_length=… (it is {args.max_length})"]
        if args.max_forward_tokens > _longest(trainer):
            remedies.append(f"a smaller max_forward_tokens=… (it is {args.max_forward_tokens})")
        raise ValueError(
            f"Training would take about {memory / GIB:.1f} GiB of memory, and {available / GIB:.1f} GiB are available. "
            f"Choose {', '.join(remedies)}, or a smaller decoder, with num_decoder_layers=… or intermediate_size=…"
        )
    return RunEstimate(memory, available, _estimate_seconds(trainer))


def estimate_memory(trainer: "CLVQTrainer") -> int:
    """Bytes at the peak of training, about, and rather more than fewer."""
    args, config = trainer.args, trainer.model.config
    model = sum(tensor.numel() * tensor.element_size() for tensor in trainer.model.state_dict().values())
    length = _longest(trainer)
    texts = args.per_device_train_batch_size
    rows = min(texts, max(1, args.max_forward_tokens // length))
    state_bytes = 4 * (config.hidden_size + config.target_hidden_size)
    step_states = args.gradient_accumulation_steps * texts * length * state_bytes
    step = 2 * step_states + rows * _activations(trainer.model, length) + _host_activations(trainer, rows, length)
    # The weights are there already, twice while a step is timed; gradients and two averages come.
    step += 4 * model
    sample = max(args.init_tokens or 100 * config.codebook_size, config.codebook_size)
    # Collected, joined, chosen from; distances to all codes.
    initialisation = 3 * sample * state_bytes + 2 * 4 * sample * config.codebook_size
    return int(_used(args.device) + SLACK * max(step, initialisation))


def available_memory(device: torch.device) -> int:
    """Bytes that one of the processes on this machine may use in all, with those that it uses already."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    free = min([psutil.virtual_memory().available, *_free_in_cgroup()])
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) + _used(device)


def _used(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _free_in_cgroup(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What a container still may use, if it has a limit; files that the kernel can drop count as free."""
    for limit_name, used_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, used = (int((root / name).read_text()) for name in (limit_name, used_name))
            rows = (root / limit_name).with_name("memory.stat").read_text().split()
        except (OSError, ValueError):  # there is none, or "max"
            continue
        statistics = dict(zip(rows[::2], rows[1::2], strict=False))
        return [limit - used + int(statistics.get(cache_name, 0))]
    return []


def _longest(trainer: "CLVQTrainer") -> int:
    return int(max(_lengths(trainer.train_dataset)))


def _lengths(dataset: Any) -> np.ndarray:
    return np.asarray(dataset.lengths if hasattr(dataset, "lengths") else dataset["length"][:])


def _activations(model: nn.Module, length: int) -> float:
    """Bytes that a forward pass keeps for the backward pass of one text of `length` tokens.

    Counted at two lengths: part of them grows with the length, part (attention) with its square.
    """
    short, long = (_count_saved(model, tokens) for tokens in (SHORT, LONG))
    squared = max(0.0, (long - LONG / SHORT * short) / (LONG * LONG - LONG * SHORT))
    return max(0.0, short / SHORT - squared * SHORT) * length + squared * length**2


def _count_saved(model: nn.Module, length: int) -> int:
    saved: dict[tuple[int, int], int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr(), tensor.element_size()] = storage.nbytes()
        kept.append(tensor)  # or the next one could have its address
        return tensor

    kept: list[torch.Tensor] = []
    was_training, device = model.training, next(model.parameters()).device
    with _random_numbers_kept(device), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = torch.randn(1, length, model.config.hidden_size, device=device)
        target = torch.randn(1, length, model.config.target_hidden_size, device=device)
        model.train()
        model(states, target_hidden_states=target)
        model.train(was_training)
    model.discard_pending()
    return sum(saved.values())


def _host_activations(trainer: "CLVQTrainer", rows: int, length: int) -> int:
    """Bytes that a forward pass of the host takes, about: it keeps nothing, so those of its widest layer."""
    if trainer.host is None:
        return 0
    config = unwrap(trainer.host).config.get_text_config()
    width = config.hidden_size
    heads = getattr(config, "num_attention_heads", 0) or 0
    attention = 0 if getattr(config, "_attn_implementation", None) == "sdpa" else heads * length
    size = torch.finfo(unwrap(trainer.host).dtype).bits // 8
    return size * rows * length * (3 * (getattr(config, "intermediate_size", None) or 4 * width) + 2 * attention)


def _estimate_seconds(trainer: "CLVQTrainer") -> float:
    args = trainer.args
    lengths = np.sort(_lengths(trainer.train_dataset))
    batch_size = min(args.per_device_train_batch_size, len(lengths))
    # The batch in whose middle half of all tokens are: a longer one for skewed lengths, which cost most.
    middle = int(np.searchsorted(lengths.cumsum(), lengths.sum() / 2))
    start = min(max(0, middle - batch_size // 2), len(lengths) - batch_size)
    order = np.argsort(_lengths(trainer.train_dataset), kind="stable")[start : start + batch_size]
    batch = trainer.data_collator([trainer.train_dataset[int(row)] for row in order])
    tokens = int(batch["attention_mask"].numel())
    per_token = _time_step(trainer, batch) / tokens
    share = per_token / args.world_size
    epochs = args.num_train_epochs
    if args.max_steps > 0:
        texts_per_step = batch_size * args.gradient_accumulation_steps * args.world_size
        epochs = args.max_steps * texts_per_step / len(lengths)
    seconds = epochs * lengths.sum() * share
    evaluated = trainer.eval_dataset
    if evaluated is not None and args.eval_strategy != "no":
        parts = evaluated.values() if isinstance(evaluated, dict) else [evaluated]
        passes = (
            epochs if args.eval_strategy == "epoch" else epochs * len(lengths) / batch_size / (args.eval_steps or 1)
        )
        seconds += passes * sum(_lengths(part).sum() for part in parts) * share * EVALUATION_SHARE
    return float(seconds)


def _time_step(trainer: "CLVQTrainer", batch: Mapping[str, torch.Tensor]) -> float:
    """Seconds of a whole optimizer step on a copy of the model, after one of two texts, which warms up."""
    model = copy.deepcopy(trainer.model).to(trainer.args.device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    seconds = 0.0
    with _random_numbers_kept(trainer.args.device):
        for texts in (2, len(batch["attention_mask"])):
            started = time.monotonic()
            states = trainer.add_states({name: tensor[:texts] for name, tensor in batch.items()})
            for piece in split_batch(states, trainer.args.max_forward_tokens):
                inputs = trainer._prepare_inputs(piece)
                with trainer.compute_loss_context_manager():
                    loss = model(**inputs, num_items_in_batch=states["token_mask"].sum().clamp(min=1)).loss
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            model.update_codebook()
            loss.item()  # waits for a GPU
            seconds = time.monotonic() - started
    return seconds


def _random_numbers_kept(device: torch.device) -> Any:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


__all__ = ["RunEstimate", "available_memory", "estimate_memory", "estimate_run"]
