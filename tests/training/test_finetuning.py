import numpy as np
import pytest
import torch
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_trained_in_float32(host, tokenizer, few, dtype):
    host = host.to(dtype)
    fine_tune(host, tokenizer, few, num_train_epochs=12, learning_rate=1e-2, per_device_train_batch_size=4, **QUIET)
    assert {parameter.dtype for parameter in host.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in host.parameters())
    assert predict(host, tokenizer, few)[[0, 2, 3, 5]].tolist() == [1, 0, 1, 0]


def test_a_loss_that_is_no_number_stops_training(host, tokenizer, few):
    with torch.no_grad():
        host.classifier.weight[0, 0] = float("nan")
    before = {name: parameter.clone() for name, parameter in host.named_parameters()}
    with pytest.raises(ValueError, match=r"loss is nan after 0 steps.*lower learning_rate \(it is 0\.001\)"):
        fine_tune(host, tokenizer, few, learning_rate=1e-3, **QUIET)
    for name, parameter in host.named_parameters():
        torch.testing.assert_close(parameter, before[name], equal_nan=True)
