"""Methods that are fitted, not trained by gradients: the states of the texts are extracted, then read as a whole."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.activation_cache import ActivationCache
from ..data.text_source import TextSource
from ..data.tokenization import tokenize_texts
from ..files import remove_folder
from ..hosts import hooks
from ..hosts.host import move_host
from ..models.configuration_concepts import ConceptConfig
from ..models.modeling_concepts import ConceptModel
from .estimate import GIB, SLACK, available_memory
from .records import record_run, save_with_reference
from .training_args import CLVQTrainingArguments

# Where the states are meanwhile, in the folder of the model. What was extracted before an interruption is kept.
STATES_FOLDER = "states"


def fit_texts(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    args: CLVQTrainingArguments,
    source: TextSource,
    options: Mapping[str, Any],
    say: Callable[[str], None],
) -> ConceptModel:
    """Fit a model to texts, and save it as the trainer would.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): With a method `fit`.
        host (`PreTrainedModel`): Where the states come from.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        texts (`datasets.Dataset`): With a column `text`.
        args ([`CLVQTrainingArguments`][clvq_hf.CLVQTrainingArguments]): Folder, device, seed, length and batch size.
        source ([`TextSource`][clvq_hf.data.text_source.TextSource]): Where the texts are from, for the record.
        options (`Mapping[str, Any]`): Arguments of `fit`.
        say (`Callable[[str], None]`): Gets a line of text for people.

    Returns:
        [`ConceptModel`][clvq_hf.ConceptModel]: The model.

    Raises:
        ValueError: If memory or disk do not suffice, or the texts have fewer tokens than the model codes.
    """
    config, folder = model.config, Path(args.output_dir)
    limit = hooks.max_length(host, tokenizer, args.max_length)
    tokenized = tokenize_texts(texts, tokenizer, "text", limit)
    counted = int(np.sum(tokenized["num_counted"]))
    if counted < config.codebook_size:
        raise ValueError(
            f"codebook_size={config.codebook_size} is larger than the number of available states: the training set has "
            f"{counted} tokens that count. Choose a smaller codebook_size=… or give more text."
        )
    say(f"Estimate: {_estimate(config, int(np.sum(tokenized['length'])), counted, host.dtype, folder)}.")
    move_host(host, args.device)
    states = folder / STATES_FOLDER
    cache = ActivationCache.build(
        states,
        host,
        tokenizer,
        texts,
        lower_layer=config.lower_layer,
        upper_layer=config.upper_layer,
        stack=config.stack,
        max_length=limit,
        batch_size=args.per_device_train_batch_size,
    )
    say(f"Fitting {config.codebook_size} concepts to {counted:,} tokens.")
    model.fit(cache, seed=args.seed, **options)
    origin = {**source.to_dict(), "num_texts": len(cache), "num_tokens": counted}
    settings = {"longest_text": args.max_length, **options, "seed": args.seed}
    record_run(model, host, tokenizer, cache.text_numbers, origin, settings)
    save_with_reference(model, folder, host, tokenizer)
    del cache  # its files are mapped
    remove_folder(states)
    return model


def _estimate(config: ConceptConfig, num_tokens: int, counted: int, dtype: torch.dtype, folder: Path) -> str:
    """Disk and memory that states take, or `ValueError`."""
    remedy = "Name fewer texts, such as split=train[:20%], or a smaller max_length=…."
    widths = config.hidden_size, config.target_hidden_size
    disk = num_tokens * sum(widths) * torch.empty((), dtype=dtype).element_size()
    home = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if disk > (free := shutil.disk_usage(home).free):
        raise ValueError(f"The states take {disk / GIB:.1f} GiB on disk, and {free / GIB:.1f} GiB are free. {remedy}")
    # The states in single precision, their copy in the space of the codes, and sums in double precision.
    memory = int(SLACK * 4 * counted * (2 * widths[0] + widths[1] + 2 * max(widths)))
    if memory > (free := available_memory(torch.device("cpu"))):
        needed = f"Fitting would take about {memory / GIB:.1f} GiB of memory"
        raise ValueError(f"{needed}, and {free / GIB:.1f} GiB are available. {remedy}")
    return f"{memory / GIB:.1f} GiB of memory at most, and {disk / GIB:.1f} GiB on disk until the model is saved"


__all__ = ["fit_texts"]
