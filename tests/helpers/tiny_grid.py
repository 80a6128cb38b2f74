"""A grid that runs in seconds: a host from scratch, two methods, two seeds."""

import json
from pathlib import Path

import numpy as np

WORDS = {0: ["dull", "bad", "awful", "boring", "weak"], 1: ["great", "fine", "lovely", "bright", "strong"]}
REST = ["the", "film", "was", "a", "story", "about", "people", "and", "music", "with", "many", "scenes"]

GRID = """
seeds: [0, 1]
sizes: {host_texts: 200, train_texts: 120, test_texts: 40, max_length: 24}
sweep: [1, 2]
evaluation:
  protocols: [code]
  conditions: [salient, other_code, random_active_code, word_residual, word_random]
  num_draws: 1
  n_steps: 4
  max_steps: 4
  num_bootstrap: 100
hosts:
  tiny:
    from_scratch: gpt2
    config: {n_layer: 2, n_embd: 32, n_head: 2, n_positions: 32}
    vocab_size: 400
    lower_layer: 1
    upper_layer: 2
    fine_tune: {num_train_epochs: 4, learning_rate: 1e-2}
datasets:
  reviews: {texts: $REVIEWS}
methods:
  - {method: kmeans, config: {codebook_size: 12}}
  - method: transcoder
    config: {codebook_size: 64, num_active: 4}
    training: {num_train_epochs: 2, learning_rate: 1e-2}
"""


def make_reviews(folder: Path) -> Path:
    """Write `train.jsonl` and `test.jsonl`: texts whose label two words reveal."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for split, number in (("train", 700), ("test", 60)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for row in range(number):
                label = row % 2
                words = [*generator.choice(REST, 8), *generator.choice(WORDS[label], 2)]
                text = " ".join(generator.permutation(words)) + f" {split} {row}"
                file.write(json.dumps({"text": text, "label": label}) + "\n")
    return folder
