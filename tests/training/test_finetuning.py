import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from clvq_hf.training.finetuning import fine_tune, predict

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
QUIET = {"disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}


@pytest.fixture
def few() -> Dataset:
    rows = {"text": ["good", "\u200b", "bad", "a good film", "", "a bad film"], "label": [1, 0, 0, 1, 0, 0]}
    return Dataset.from_dict(rows, features=FEATURES)


def test_empty_texts_are_left_out(host, tokenizer, few, monkeypatch):
    messages = []
    monkeypatch.setattr("clvq_hf.data.tokenization.logger.warning", messages.append)
    fine_tune(host, tokenizer, few, num_train_epochs=12, learning_rate=1e-2, per_device_train_batch_size=4, **QUIET)
    assert "Skipped 2 empty texts of 6." in messages
    predictions = predict(host, tokenizer, few)
    assert np.where(predictions < 0)[0].tolist() == [1, 4]
    assert predictions[predictions >= 0].tolist() == [1, 0, 1, 0], "labels stay with their texts"
