import pytest
import torch

from clvq_hf.data import TextCollator, batches_by_length, in_order, tokenize_texts
from clvq_hf.data.batching import split_batch


@pytest.fixture
def tokenized(texts, tokenizer):
    return tokenize_texts(texts, tokenizer)


def test_batches_hold_every_row_once_shortest_first(tokenized, tokenizer):
    batches = list(batches_by_length(tokenized, TextCollator(tokenizer), 7))
    assert [len(rows) for rows, _ in batches] == [7] * 8 + [4]
    rows = [row for batch_rows, _ in batches for row in batch_rows]
    assert sorted(rows) == list(range(60))
    lengths = tokenized["length"][:]
    assert [lengths[row] for row in rows] == sorted(lengths)
    for batch_rows, tensors in batches:
        assert tensors["text_index"].tolist() == batch_rows
        assert tensors["attention_mask"].sum(1).tolist() == [lengths[row] for row in batch_rows]


def test_equal_lengths_stay_in_order(tokenized):
    rows = [row for batch, _ in batches_by_length(tokenized, lambda rows: {}, 7) for row in batch]
    lengths = tokenized["length"][:]
    assert rows == sorted(range(60), key=lambda row: (lengths[row], row))


def test_only_some_rows(tokenized, tokenizer):
    chosen = [40, 3, 17, 25]
    batches = list(batches_by_length(tokenized, TextCollator(tokenizer), 3, rows=chosen))
    assert sorted(row for rows, _ in batches for row in rows) == sorted(chosen)
    assert all(tensors["text_index"].tolist() == rows for rows, tensors in batches)
    assert list(batches_by_length(tokenized, TextCollator(tokenizer), 3, rows=[])) == []


def test_results_return_to_the_order_of_the_texts(tokenized, tokenizer):
    results = {}
    for rows, tensors in batches_by_length(tokenized, TextCollator(tokenizer), 7):
        results.update(zip(rows, tensors["input_ids"][:, 1].tolist(), strict=True))
    assert torch.tensor(in_order(results)).tolist() == [ids[1] for ids in tokenized["input_ids"]]


def test_a_batch_is_split_into_rows_that_fit():
    batch = {"attention_mask": torch.ones(5, 10), "text_index": torch.arange(5)}
    assert [part["text_index"].tolist() for part in split_batch(batch, 20)] == [[0, 1], [2, 3], [4]]
    assert [len(part["attention_mask"]) for part in split_batch(batch, 50)] == [5]
    # A single text is never split.
    assert [len(part["attention_mask"]) for part in split_batch(batch, 9)] == [1] * 5
