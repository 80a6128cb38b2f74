"""`CLVQTrainingArguments`: the training arguments of transformers, with defaults and fields for concept models."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from ..models.configuration_clvq import PAPER_TRAINING


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class CLVQTrainingArguments(TrainingArguments):
    """Arguments of [`CLVQTrainer`]; all of [`~transformers.TrainingArguments`] besides.

    Args:
        dataset_name (`str`, *optional*): What the training texts are called, best their Hub id: for config and card.
        text_column (`str`): Column of the texts.
        label_column (`str`): Column of the labels, if there is one; labels are checked, not trained on.
        max_length (`int`, *optional*): Longest text in tokens; with `None` the host's own limit.
        max_forward_tokens (`int`): Tokens of a forward pass, padding included. A batch with more is split into several
            passes, of at least one text each; the step is the same, and takes less memory.
        train_special_tokens (`bool`): Whether special tokens (`[CLS]`, `</s>`, …) count for loss and codebook. They
            always get a code.
        min_token_occurrences (`int`, *optional*): Only tokens that occur at least this often in the training set count
            for loss and codebook (the paper: 5).
        max_token_occurrences (`int`, *optional*): Only tokens that occur at most this often do (the paper: 20).
        init_tokens (`int`, *optional*): Size of the sample of states that the codebook starts from; 100 per code if not
            given.
        coupled_weight_decay (`bool`): Adam with weight decay in the gradient, on all parameters (the paper's), in place
            of `optim`.
    """

    dataset_name: str | None = _field(None, "What the training texts are called, best their Hub id: for the card.")
    text_column: str = _field("text", "Column of the texts.")
    label_column: str = _field("label", "Column of the labels, if there is one.")
    max_length: int | None = _field(128, "Longest text in tokens; with None the host's limit.")
    max_forward_tokens: int = _field(4096, "Tokens of a forward pass; a batch with more is split into several.")
    train_special_tokens: bool = _field(False, "Whether special tokens count for loss and codebook.")
    min_token_occurrences: int | None = _field(None, "Only tokens that occur at least this often are trained on.")
    max_token_occurrences: int | None = _field(None, "Only tokens that occur at most this often are trained on.")
    init_tokens: int | None = _field(None, "States that the codebook is initialised from; 100 per code if unset.")
    coupled_weight_decay: bool = _field(
        False, "Adam with weight decay in the gradient (as in the paper), instead of `optim`."
    )
    # Defaults of transformers that do not suit a concept model.
    per_device_train_batch_size: int = _field(32, "Texts per device and forward.")
    per_device_eval_batch_size: int = _field(32, "Texts per device in evaluation.")
    learning_rate: float = _field(1e-3, "Start of the learning rate.")
    num_train_epochs: float = _field(10.0, "Passes over the training texts.")
    logging_steps: float = _field(50, "Steps between two logs.")
    # It replaces NaN losses in the logs by the mean of the others.
    logging_nan_inf_filter: bool = _field(False, "Hide NaN losses in the logs.")
    # The texts are needed: the frozen host reads them on the way to the model.
    remove_unused_columns: bool | None = _field(False, "Must stay False.")
    # The quantizer adds up its own statistics; a broadcast of rank 0's buffers would overwrite them.
    ddp_broadcast_buffers: bool | None = _field(False, "Must stay False.")
    ddp_find_unused_parameters: bool | None = _field(False, "All parameters are used.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False
        for name in ("remove_unused_columns", "ddp_broadcast_buffers"):
            if getattr(self, name) is not False:
                raise ValueError(f"{name} must stay False: {type(self).__name__} says why beside its default.")
        if not self.average_tokens_across_devices:
            raise ValueError("average_tokens_across_devices must stay True: a loss is a share of all tokens.")
        occurrences = ("min_token_occurrences", "max_token_occurrences")
        for name in ("max_length", "max_forward_tokens", *occurrences, "init_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        low, high = self.min_token_occurrences, self.max_token_occurrences
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_token_occurrences={low} is larger than max_token_occurrences={high}.")

    @classmethod
    def paper_encoder(cls, output_dir: str, **kwargs: Any) -> "CLVQTrainingArguments":
        """Settings of the paper for encoder hosts: Adam, learning rate 5e-3, 128 sentences a batch, of any length.

        Give the trainer 90 % of the sentences as `train_dataset` and 10 % as `eval_dataset`: the learning rate halves
        when the evaluation loss has not improved for 5 epochs.
        """
        settings = {**PAPER_TRAINING, "max_length": None, "learning_rate": 5e-3, "per_device_train_batch_size": 128}
        return cls(output_dir, **{**settings, **kwargs})

    @classmethod
    def paper_decoder(cls, output_dir: str, **kwargs: Any) -> "CLVQTrainingArguments":
        """Settings of the paper for decoder hosts: as for encoders, but learning rate 1e-3 and 64 sentences a batch."""
        settings = {**PAPER_TRAINING, "max_length": None, "learning_rate": 1e-3, "per_device_train_batch_size": 64}
        return cls(output_dir, **{**settings, **kwargs})


__all__ = ["CLVQTrainingArguments"]
