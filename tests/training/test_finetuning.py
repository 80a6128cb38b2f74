"""A head for given labels: whose order it has, what it is trained on, and when it is refused."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoTokenizer, BertForSequenceClassification

from clvq_hf.data import host_labels
from clvq_hf.training.finetuning import fine_tune, load_classifier, predict

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
QUIET = {"disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}


@pytest.fixture
def few() -> Dataset:
    rows = {"text": ["good", "\u200b", "bad", "a good film", "", "a bad film"], "label": [1, 0, 0, 1, 0, 0]}
    return Dataset.from_dict(rows, features=FEATURES)


@pytest.mark.slow
def test_empty_texts_are_left_out(host, tokenizer, few, monkeypatch):
    messages = []
    monkeypatch.setattr("clvq_hf.data.tokenization.logger.warning", messages.append)
    fine_tune(host, tokenizer, few, num_train_epochs=12, learning_rate=1e-2, per_device_train_batch_size=4, **QUIET)
    assert "Skipped 2 empty texts of 6." in messages
    predictions = predict(host, tokenizer, few)
    assert np.where(predictions < 0)[0].tolist() == [1, 4]
    assert predictions[predictions >= 0].tolist() == [1, 0, 1, 0], "labels stay with their texts"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_trained_in_float32(host, tokenizer, few, dtype):
    host = host.to(dtype)
    fine_tune(host, tokenizer, few, num_train_epochs=12, learning_rate=1e-2, per_device_train_batch_size=4, **QUIET)
    assert {parameter.dtype for parameter in host.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in host.parameters())
    assert predict(host, tokenizer, few)[[0, 2, 3, 5]].tolist() == [1, 0, 1, 0]


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_training(host, tokenizer, few):
    with torch.no_grad():
        host.classifier.weight[0, 0] = float("nan")
    before = {name: parameter.clone() for name, parameter in host.named_parameters()}
    with pytest.raises(ValueError, match=r"loss is nan after 0 steps.*lower learning_rate \(it is 0\.001\)"):
        fine_tune(host, tokenizer, few, learning_rate=1e-3, **QUIET)
    for name, parameter in host.named_parameters():
        torch.testing.assert_close(parameter, before[name], equal_nan=True)


WORDS = {"negative": "awful", "positive": "lovely"}
QUICK = {"max_steps": 12, "learning_rate": 1e-2, "disable_tqdm": True, "logging_strategy": "no", "seed": 0}


@pytest.fixture
def named():
    """Texts that one word decides; their labels are names."""
    rows = [{"text": f"{WORDS[name]} scene {number}", "label": name} for number in range(32) for name in WORDS]
    return Dataset.from_list(rows)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["negative", "positive"], ["positive", "negative"]])
def test_trains_on_the_hosts_classes(host, tokenizer, named, names):
    host.config.id2label, host.config.label2id = dict(enumerate(names)), {name: n for n, name in enumerate(names)}
    fine_tune(host, tokenizer, named, **QUICK)
    predicted = [names[number] for number in predict(host, tokenizer, named)]
    assert predicted == named["label"][:]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None], "1 of 2 texts have no label"),
        ([0, 2], "are 0, 2; the host's classes are 0, 1"),
        (["a", "b"], "have no names"),
        (None, "no column 'label'"),
    ],
)
def test_refuses_other_labels(host, tokenizer, labels, message):
    texts = Dataset.from_dict({"text": ["a", "b"], **({} if labels is None else {"label": labels})})
    with pytest.raises(ValueError, match=message):
        fine_tune(host, tokenizer, texts)


class TestLoadClassifier:
    @pytest.fixture
    def load(self, saved_host):
        tokenizer = AutoTokenizer.from_pretrained(saved_host)
        return lambda names: load_classifier(str(saved_host), tokenizer, names)

    @pytest.mark.parametrize("names", [["negative", "positive"], ["Positive", "NEGATIVE"], ["0", "1"]])
    def test_a_head_for_these_labels_stays(self, load, saved_host, names):
        host, needs_training = load(names)
        assert not needs_training and host.config.id2label == {0: "negative", 1: "positive"}
        before = BertForSequenceClassification.from_pretrained(saved_host).classifier.weight
        assert (host.classifier.weight == before).all()

    def test_a_new_head_has_the_datasets_names(self, load):
        host, needs_training = load(["bad", "fine", "good"])
        assert needs_training and host.config.id2label == {0: "bad", 1: "fine", 2: "good"}
        assert host_labels(Dataset.from_dict({"label": ["good", "bad"]}), host)["label"][:] == [2, 0]

    def test_a_head_for_other_labels_is_refused(self, load):
        with pytest.raises(ValueError, match=r"are ham, spam; the host's classes are 0 \(negative\), 1 \(positive\)"):
            load(["ham", "spam"])
