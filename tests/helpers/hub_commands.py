"""Fixtures of the commands that share models: a saved model, and its concept table."""

from pathlib import Path

import pytest

from clvq_hf import ConceptTable

REPO = "org/clvq-bert"


@pytest.fixture
def folder(shared_model, tmp_path) -> Path:
    shared_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def table(shared_model, hub_host, tokenizer, texts, tmp_path) -> ConceptTable:
    return shared_model.concept_table(
        hub_host, tokenizer, texts, dataset_name="org/reviews", output_dir=tmp_path / "table"
    )
