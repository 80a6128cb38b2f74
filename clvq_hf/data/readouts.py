"""Which question a host is asked about some texts: one that is given, or that of its head."""

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.runner import HostRunner
from .batching import batches_by_length
from .tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts


def host_question(host: PreTrainedModel, target: str | int | None = None) -> Readout | None:
    """The question that a host answers, of a regression still without a centre; `None` of a host without a head.

    Args:
        host (`PreTrainedModel`): The host.
        target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression head.

    Raises:
        ValueError: If the host does not have the `target`.
    """
    try:
        return Readout.of(host, target=target)
    except ValueError:
        if target is not None:
            raise
        return None


@torch.no_grad()
def text_readout(
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    readout: Readout | None = None,
    *,
    target: str | int | None = None,
    stack: str | None = None,
    text_column: str = "text",
    max_length: int | None = None,
    batch_size: int = 32,
) -> Readout:
    """The question that a host is asked about these texts.

    A regression is asked whether its output is above the median output of the texts, which takes one pass over the
    host, unless `readout` has a centre.

    Args:
        host (`PreTrainedModel`): The host.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        dataset (`datasets.Dataset`): The texts.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): The question; that of the host's head if not
            given.
        target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression head, by
            name or number.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.
        text_column (`str`): Column of the texts.
        max_length (`int`, *optional*): In tokens; the host's limit if not given.
        batch_size (`int`): Texts per host forward.

    Raises:
        ValueError: If the host predicts nothing that can be read, or both `readout` and `target` are given and differ.
    """
    if readout is None:
        readout = Readout.of(host, target=target)
    elif target is not None and Readout.of(host, target=target).target != readout.target:
        raise ValueError(f"target={target!r} is not what the readout is about ({readout.title}): give one of them.")
    if not readout.needs_centre:
        return readout
    check_texts(dataset, text_column)
    ensure_pad_token(tokenizer)
    runner, zero = HostRunner(host, stack, readout), readout.with_centre(0)
    tokenized = tokenize_texts(dataset, tokenizer, text_column, hooks.max_length(host, tokenizer, max_length))
    batches = batches_by_length(tokenized, TextCollator(tokenizer), batch_size)
    values = []
    with hooks.evaluation_mode(host):
        for _, batch in tqdm(batches, desc="Finding the median output", total=-(-len(tokenized) // batch_size)):
            values.append(zero(host(**runner.inputs(batch)), batch["attention_mask"])[:, 1].cpu().numpy())
    return readout.with_centre(float(np.median(np.concatenate(values))))


def text_limit(
    host: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None, readout: Readout | None
) -> int | None:
    """The length in tokens of the longest text that a host can read, with room for what the readout appends."""
    limit = hooks.max_length(host, tokenizer, max_length)
    if readout is None or not readout.num_added or limit is None:
        return limit
    whole = hooks.max_length(host, tokenizer)
    limit = limit if whole is None else min(limit, whole - readout.num_added)
    if limit < 1:
        raise ValueError(f"The continuation has {readout.num_added} tokens, and the host reads {whole} at most.")
    return limit


__all__ = ["host_question", "text_limit", "text_readout"]
