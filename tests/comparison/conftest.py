import json

import numpy as np
import pytest
from helpers.tiny_grid import GRID

WORDS = {0: ["dull", "bad", "awful", "boring", "weak"], 1: ["great", "fine", "lovely", "bright", "strong"]}
REST = ["the", "film", "was", "a", "story", "about", "people", "and", "music", "with", "many", "scenes"]


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """Texts whose label is told by two words."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("reviews")
    for split, number in (("train", 700), ("test", 60)):
        with open(folder / f"{split}.jsonl", "w") as file:
            for row in range(number):
                label = row % 2
                words = [*generator.choice(REST, 8), *generator.choice(WORDS[label], 2)]
                text = " ".join(generator.permutation(words)) + f" {split} {row}"
                file.write(json.dumps({"text": text, "label": label}) + "\n")
    return folder


@pytest.fixture
def grid_file(tmp_path, reviews, monkeypatch):
    monkeypatch.setenv("REVIEWS", str(reviews))
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    return file
