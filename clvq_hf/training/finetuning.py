"""A host with a classification head for given labels, fine-tuned if it has none yet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from ..data.labels import host_labels
from ..data.tokenization import TextCollator, tokenize_texts
from ..files import ScratchFolder
from ..hosts import hooks
from ..hosts.loading import load_config, load_weights
from ..hosts.readout import Readout, class_names
from ..hosts.runner import HostRunner
from .finite_loss import FiniteLossTrainer
from .progress import show_progress


def load_classifier(
    name_or_path: str, tokenizer: PreTrainedTokenizerBase, label_names: Sequence[str], **kwargs: Any
) -> tuple[PreTrainedModel, bool]:
    """Load a host as a classifier of these labels.

    Args:
        name_or_path (`str`): Folder or Hub id.
        tokenizer (`PreTrainedTokenizerBase`): The host's; its padding token becomes the host's if that has none.
        label_names (`Sequence[str]`): Names of the classes, in order: those of a new head. A head for the same classes
            keeps its own order.
        kwargs: For `from_pretrained`, such as `gguf_file` or `revision`.

    Returns:
        `tuple[PreTrainedModel, bool]`: The host, and whether its head is new and still has to be trained.

    Raises:
        ValueError: If it has a head for as many classes, with other names, or needs code of its own repository.
        OSError: If it does not exist, or has only pickled weights.
    """
    config = load_config(name_or_path, **kwargs)
    trained = any("ForSequenceClassification" in name for name in config.architectures or [])
    trained = trained and config.num_labels == len(label_names)
    if not trained:
        config.num_labels = len(label_names)
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: number for number, name in enumerate(label_names)}
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    host = load_weights(
        AutoModelForSequenceClassification,
        name_or_path,
        config=config,
        ignore_mismatched_sizes=not trained,
        **kwargs,
    )
    if "gguf_file" in kwargs:
        # These weights were dequantized at loading, but the model says otherwise, and would be refused for training.
        del host.config.quantization_config
        plain = type(host)(host.config)
        plain.load_state_dict(host.state_dict())
        host = plain
    if trained:
        features = Features({"label": ClassLabel(names=list(label_names))})
        host_labels(Dataset.from_dict({"label": list(range(len(label_names)))}, features), host)
    return host, not trained


def fine_tune(
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    *,
    above_layer: int | None = None,
    max_length: int | None = None,
    **training_args: Any,
) -> None:
    """Train a classifier on labelled texts, in place.

    Weights of less than 32 bits become float32: in float16 the steps of an optimizer overflow or vanish. `bf16=True`
    among the arguments computes in bfloat16, with weights in float32.

    Args:
        host (`PreTrainedModel`): With a classification head.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        texts (`datasets.Dataset`): With the columns `text` and `label`, see
            [`host_labels`][clvq_hf.data.host_labels].
        above_layer (`int`, *optional*): Train only the blocks above this layer and the head: the states up to it stay
            those of the pretrained model. Everything is trained if not given.
        max_length (`int`, *optional*): In tokens; the host's limit if not given.
        training_args: Fields of `TrainingArguments` (`num_train_epochs`, `learning_rate`, `seed`, …), but not
            `output_dir`: save the host yourself.

    Raises:
        ValueError: If a text has no label, or one that is none of the host's classes, or the loss becomes NaN or
            infinite.
    """
    texts = host_labels(texts, host, complete=True)
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in host.parameters()):
        host.float()
    blocks = [f"{block}." for block in hooks.residual_stream(host).block_names]
    if above_layer is not None:
        reached_blocks = False
        for name, parameter in host.named_parameters():
            # Embeddings are registered before the blocks; pooler, final norm and head after them.
            reached_blocks = reached_blocks or name.startswith(tuple(blocks))
            parameter.requires_grad_(reached_blocks and not name.startswith(tuple(blocks[:above_layer])))
    limit = hooks.max_length(host, tokenizer, max_length)
    tokenized = tokenize_texts(texts, tokenizer, "text", limit)
    tokenized = tokenized.add_column("labels", texts.select(tokenized["text_index"])["label"][:])
    with ScratchFolder() as folder:
        args = TrainingArguments(
            str(folder),
            **{
                "per_device_train_batch_size": 32,
                "learning_rate": 3e-4,
                "warmup_steps": 0.1,
                "train_sampling_strategy": "group_by_length",
                "save_strategy": "no",
                "logging_steps": 50,
                "report_to": "none",
                "dataloader_pin_memory": torch.accelerator.is_available(),
                **training_args,
            },
        )
        runner, pad = HostRunner(host), DataCollatorWithPadding(tokenizer)
        trainer = FiniteLossTrainer(
            model=host, args=args, train_dataset=tokenized, data_collator=lambda rows: runner.pad(pad(rows))
        )
        show_progress(trainer, "Fine-tuning the host")
        trainer.train()
    host.requires_grad_(True)
    host.eval()


@torch.no_grad()
def predict(
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    max_length: int | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Classes `(N,)`, int64, that a host with a classification head predicts of `text`; -1 where a text is empty."""
    tokenized = tokenize_texts(texts, tokenizer, "text", hooks.max_length(host, tokenizer, max_length)).sort("length")
    if class_names(host) is None:
        raise ValueError(
            f"A {type(host).__name__} does not choose one of several classes (problem_type="
            f"{host.config.problem_type!r}). Load the host with load_classifier."
        )
    readout = Readout.of(host)
    runner = HostRunner(host, readout=readout)
    predictions = np.full(len(texts), -1)
    with hooks.evaluation_mode(host):
        for batch in DataLoader(tokenized, batch_size=batch_size, collate_fn=TextCollator(tokenizer)):
            logits = readout(host(**runner.inputs(batch)), batch["attention_mask"])
            predictions[batch["text_index"]] = logits.argmax(-1).cpu()
    return predictions
