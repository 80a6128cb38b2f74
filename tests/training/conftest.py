"""Trainers of small models."""

import pytest

from clvq_hf import CLVQTrainer, CLVQTrainingArguments


@pytest.fixture
def make_args(tmp_path):
    def make(**fields) -> CLVQTrainingArguments:
        small = {
            "output_dir": str(tmp_path / "out"),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 7,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return CLVQTrainingArguments(**{**small, **fields})

    return make


@pytest.fixture
def make_trainer(make_model, make_args, host, tokenizer, texts):
    def make(model=None, callbacks=None, eval_dataset=None, train_dataset=texts, **fields) -> CLVQTrainer:
        return CLVQTrainer(
            model=make_model() if model is None else model,
            host=host,
            args=make_args(**fields),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    return make
