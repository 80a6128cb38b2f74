"""What identifies a host and its tokenizer by content, and the one comparison of what was noted with what is given.

A name says little: a folder is trained on in place, a branch moves. So whatever depends on a host (concept tables,
activation caches, salience, references, evaluations) notes its identity, and compares it before it is used with a host.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .host import unwrap

logger = logging.get_logger(__name__)

# Fields of a host's config that change neither states nor logits.
_INERT = {
    *("architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict", "pad_token_id"),
    *("id2label", "label2id", "num_labels", "problem_type", "output_hidden_states", "output_attentions"),
}
# Number of sums for each tensor; a prime, so that rows of weights that change places change the sums.
_NUM_SUMS = 1021


def host_identity(host: nn.Module, head: bool = True) -> dict[str, Any]:
    """Identify a host by content: its dtype, and hashes of its config, weights and head.

    Every weight is read once, on its device: 0.03 s for MiniLM (23 million parameters), 0.1 s for SmolLM2 (135 million)
    on one core. The hashes depend neither on the device nor on where the host was loaded from.

    Args:
        host (`PreTrainedModel`): The host; may be wrapped by PEFT or DDP.
        head (`bool`): Whether to include class and head, on which no hidden state depends.

    Returns:
        `dict[str, Any]`: `name` (for messages), `dtype`, `config` and `weights`; with a head also `architecture` and
        `head`. Hashes are 16 hexadecimal digits, and `None` for weights that are offloaded, which are not read.
    """
    model = unwrap(host)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    base: list[tuple[str, torch.Tensor]] = []
    others: list[tuple[str, torch.Tensor]] = []
    for name, tensor in sorted(model.state_dict().items()):
        # Some classes have a pooler for their head, others have none.
        of_head = not name.startswith(prefix) or "pooler" in name.split(".")
        (others if of_head else base).append((name.removeprefix(prefix), tensor))
    identity = {
        "name": getattr(model.config, "_name_or_path", None) or None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "config": _digest(json.dumps(_decisive(model.config.to_diff_dict()), sort_keys=True, default=str).encode()),
        "weights": _digest_of_tensors(base),
    }
    return identity | ({"architecture": type(model).__name__, "head": _digest_of_tensors(others)} if head else {})


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """64 hexadecimal digits that identify a tokenizer's vocabulary.

    Splitting and special tokens are compared by the token ids of reference texts; the padding token changes no code.
    """
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def check_identity(noted: Mapping[str, Any] | None, given: Mapping[str, Any], what: str, remedy: str) -> None:
    """Compare what was noted with a file or folder to what it is to be used with; warn of what was not noted.

    Args:
        noted (`Mapping[str, Any]`, *optional*): What was noted; `None` by earlier versions. May have other fields too.
        given (`Mapping[str, Any]`): The same fields of what is at hand: plain data as in JSON. The field `host` holds
            a `host_identity`.
        what (`str`): The file or folder, as the beginning of a sentence.
        remedy (`str`): What to do, in sentences.

    Raises:
        ValueError: If a field differs; the message names each one with both values.
    """
    if noted is not None and not isinstance(noted, Mapping):
        raise ValueError(f"{what} is damaged: what it is of is {noted!r:.40}. {remedy}")
    different, unknown = _compare(noted or {}, json.loads(json.dumps(given)))
    if different:
        raise ValueError(f"{what} is of something else: {'; '.join(different)}. {remedy}")
    if unknown:
        logger.warning(
            f"{what} does not say its {', '.join(unknown)}, because an earlier version of clvq_hf wrote it. So it "
            "cannot be checked whether it is the one that is given."
        )


def _compare(noted: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> tuple[list[str], list[str]]:
    """What differs, in words, and the names of the fields that were not noted."""
    different: list[str] = []
    unknown: list[str] = []
    for name, value in given.items():
        title = prefix + name.replace("_", " ")
        if name not in noted:
            unknown.append(title)
        elif name == "host":
            different += _compare_hosts(noted[name], value)
        elif isinstance(value, dict) and isinstance(noted[name], dict):
            inner = _compare(noted[name], value, f"{title}: ")
            different, unknown = different + inner[0], unknown + inner[1]
        elif noted[name] != value:
            different.append(f"{title} {_short(noted[name])}, not {_short(value)}")
    return different, unknown


def _compare_hosts(noted: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """At most one sentence; a field that either side lacks, such as the hash of offloaded weights, says nothing."""
    names = [name for name in given if name != "name" and None not in (noted.get(name), given[name])]
    if not (changed := [name for name in names if noted[name] != given[name]]):
        return []
    sides = [f"{side.get('name')} ({', '.join(f'{n} {_short(side[n])}' for n in changed)})" for side in (noted, given)]
    return [f"host {sides[0]}, not {sides[1]}"]


def _short(value: Any) -> str:
    """A value for a message: the first digits of a hash."""
    is_hash = isinstance(value, str) and len(value) in (16, 40, 64) and not set(value) - set("0123456789abcdef")
    return value[:8] if is_hash else str(value)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config on which states or logits may depend."""
    return {
        name: _decisive(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if not name.startswith("_") and name not in _INERT
    }


@torch.no_grad()
def _digest_of_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """16 digits of names, shapes and bytes; `None` if a tensor is offloaded."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        if tensor.is_meta:
            return None
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_sums(tensor))
    return digest.hexdigest()[:16]


def _sums(tensor: torch.Tensor) -> bytes:
    """Sums of a tensor's 64-bit words modulo 2⁶⁴: exact on any device, as fast as its memory; what is left as it is."""
    data = tensor.detach().reshape(-1).view(torch.uint8)
    size = len(data) // (8 * _NUM_SUMS) * (8 * _NUM_SUMS)
    words = data[:size]
    if words.storage_offset() % 8:  # a view as other numbers needs an aligned start
        words = words.clone()
    sums = words.view(torch.int64).view(-1, _NUM_SUMS).sum(0)
    return sums.cpu().numpy().tobytes() + data[size:].cpu().numpy().tobytes()


__all__ = ["check_identity", "host_identity", "tokenizer_fingerprint"]
