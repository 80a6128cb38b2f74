"""Running means by id, and which texts words are read from."""

import torch
from datasets import Dataset

from clvq_hf.data.texts import PARTS, split_texts
from clvq_hf.evaluation.ablation import words
from clvq_hf.evaluation.ablation.words import MeansById, WordMeans


def test_means_by_id():
    means = MeansById(2)
    means.add(torch.tensor([5, 2, 5]), torch.tensor([[1.0, 0], [4, 4], [3, 0]]))
    means.add(torch.tensor([], dtype=torch.int64), torch.zeros(0, 2))
    means.add(torch.tensor([9, 2]), torch.tensor([[7.0, 7], [0, 2]]))
    ids, found, counts = means.means()
    assert ids.tolist() == [2, 5, 9] and counts.tolist() == [2, 2, 1]
    assert found.tolist() == [[2, 3], [2, 0], [7, 7]]


def test_saved_and_loaded(tmp_path):
    means = WordMeans(torch.tensor([1]), torch.ones(1, 2), torch.tensor([3]), frozenset({"a"}), {"lower_layer": 1})
    means.save(tmp_path / "words")
    loaded = WordMeans.load(tmp_path / "words")
    assert loaded.ids.tolist() == [1] and loaded.counts.tolist() == [3] and torch.equal(loaded.means, means.means)
    assert loaded.text_hashes == means.text_hashes and loaded.identity == means.identity


def test_texts_are_drawn_by_hash_from_every_part(monkeypatch):
    monkeypatch.setattr(words, "MAX_TEXTS", 100)
    texts = Dataset.from_dict({"text": [f"text {row}" for row in range(400)] + ["TEXT 3"]})
    drawn = words._drawn(texts, "text")
    assert len(drawn) == 100
    again = words._drawn(texts.select(range(399, -1, -1)), "text")
    assert set(again["text"]) == set(drawn["text"]), "whatever their order"
    counts = {part: len(found) for part, found in split_texts(drawn, PARTS).items()}
    assert counts["host_train"] > 30 and counts["codebook_train"] > 30
