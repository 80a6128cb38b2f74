"""What the tests of judging share: concept tables that are known word by word."""

import numpy as np
import pytest
from datasets import Dataset

from clvq_hf import ConceptTable
from clvq_hf.judging.language_models import requests
from clvq_hf.tables.schema import TEXT_FEATURES, TOKEN_FEATURES

GROUPS = {"praise": ["warm", "funny", "brilliant"], "blame": ["dull", "clumsy", "tedious"]}
SUBJECTS = ["story", "film", "comedy", "thriller", "portrait", "town"]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(requests, "BACK_OFF", 0.01)


@pytest.fixture(scope="session")
def sentences() -> list[tuple[str, int]]:
    """Texts with their label: every adjective with every subject, in a fixed order."""
    return [
        (f"a {word} {subject} about people we know", label)
        for subject in SUBJECTS
        for place in range(3)
        for label, word in enumerate(group[place] for group in GROUPS.values())
    ]


@pytest.fixture(scope="session")
def make_table(sentences):
    """A table in which `code_of` gives every word its concept; the adjective is salient. Every sixth text is wrong."""

    def make(code_of, codebook_size: int = 16) -> ConceptTable:
        tokens, texts = {name: [] for name in TOKEN_FEATURES}, []
        for text_id, (text, label) in enumerate(sentences):
            end = 0
            for position, word in enumerate(text.split()):
                start = text.index(word, end)
                end = start + len(word)
                row = {
                    "text_id": text_id, "position": position, "token": word, "token_id": position, "special": False,
                    "word_id": position, "start": start, "end": end, "code": code_of(word, text_id),
                    "salience": 1.0 if position == 1 else 0.0, "distance": None,
                }  # fmt: skip
                for name, value in row.items():
                    tokens[name].append(value)
            prediction = 1 - label if text_id % 6 == 5 else label
            texts.append(
                {
                    "text_id": text_id, "text": text, "label": label, "prediction": prediction, "logits": [0.0, 1.0],
                    "split": "test", "dataset": "made up", "num_tokens": len(text.split()), "salient_position": 1,
                    "salience_error": 0.0,
                }
            )  # fmt: skip
        metadata = {
            "format_version": 1, "codebook_size": codebook_size, "label_names": list(GROUPS), "salience": "made up",
            "host_name_or_path": "org/host", "lower_layer": 1, "model_fingerprint": "f", "model_type": "clvq",
        }  # fmt: skip
        return ConceptTable(
            Dataset.from_dict(tokens, features=TOKEN_FEATURES),
            Dataset.from_list(texts, features=TEXT_FEATURES),
            metadata,
        )

    return make


@pytest.fixture(scope="session")
def word_table(make_table) -> ConceptTable:
    """A method that gives each word its own concept."""
    words = sorted({*(word for group in GROUPS.values() for word in group), *SUBJECTS, "a", "about", "people", "we"})
    return make_table(lambda word, text_id: words.index(word) if word in words else len(words), 20)


@pytest.fixture(scope="session")
def random_table(make_table) -> ConceptTable:
    """A method that gives words any concept."""
    generator = np.random.default_rng(0)
    return make_table(lambda word, text_id: int(generator.integers(12)), 12)


@pytest.fixture
def tables(word_table, random_table) -> dict[str, ConceptTable]:
    return {"words": word_table, "noise": random_table}
