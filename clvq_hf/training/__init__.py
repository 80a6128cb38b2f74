"""Train a concept model, or a classifier's head for a host that has none."""

from .finetuning import fine_tune, load_classifier
from .hub_trainer import HubTrainer
from .sampling import EpochLengthSampler
from .trainer import CLVQTrainer
from .training_args import CLVQTrainingArguments

__all__ = [
    "CLVQTrainer",
    "CLVQTrainingArguments",
    "EpochLengthSampler",
    "HubTrainer",
    "fine_tune",
    "load_classifier",
]
