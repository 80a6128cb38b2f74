"""Transforms of data on disk leave nothing there, and nothing swallows Ctrl-C."""

import ast
from pathlib import Path

import pytest
from datasets import Dataset, disable_caching, enable_caching, fingerprint, load_from_disk

from clvq_hf import ConceptTable
from clvq_hf.data.tokenization import filter_by_occurrence, tokenize_texts
from clvq_hf.data.transforms import map_rows, shuffle_rows
from clvq_hf.evaluation.bag_of_codes import mean_states


@pytest.fixture
def on_disk(tmp_path, texts):
    texts.save_to_disk(tmp_path / "texts")
    return tmp_path / "texts"


def content(folder):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in folder.rglob("*")}


def test_nothing_is_written_beside_the_data(on_disk, tokenizer):
    before, dataset = content(on_disk), load_from_disk(on_disk)
    tokenized = tokenize_texts(dataset, tokenizer)
    filter_by_occurrence(tokenized, 2, None)
    shuffle_rows(dataset, 0)
    again = tokenize_texts(load_from_disk(on_disk), tokenizer)
    assert again.to_list() == tokenized.to_list()
    assert content(on_disk) == before


def test_a_table_that_is_read_is_not_written_to(tmp_path, make_model, host, tokenizer, texts, fit):
    model = make_model().eval()
    fit(model, host, tokenizer, texts)
    model.concept_table(host, tokenizer, texts.select(range(20)), output_dir=tmp_path / "table")
    before = content(tmp_path / "table")
    table = ConceptTable.load_from_disk(tmp_path / "table")
    mean_states(model, host, tokenizer, table, 8)
    assert content(tmp_path / "table") == before


@pytest.mark.parametrize("number", [1, 10, 1000])
def test_shuffled_as_datasets_does_it(number):
    dataset = Dataset.from_dict({"n": list(range(number))})
    for seed in range(3):
        assert shuffle_rows(dataset, seed)["n"][:] == dataset.shuffle(seed=seed)["n"][:]
    assert shuffle_rows(dataset, 0)._fingerprint != shuffle_rows(dataset, 1)._fingerprint != dataset._fingerprint


def test_control_c_while_datasets_hashes_a_function_cannot_happen(on_disk, tokenizer, monkeypatch):
    # What is raised in there, datasets takes for something that cannot be hashed. Names of formats take no time.
    hashed = []
    monkeypatch.setattr(fingerprint.Hasher, "update", lambda self, value: hashed.append(value))
    dataset = load_from_disk(on_disk)
    map_rows(dataset, lambda row: row, ("same",))
    shuffle_rows(dataset, 0)
    assert all(isinstance(value, str | bool | None) or value in ({}, [], dataset.column_names) for value in hashed)


def test_control_c_while_texts_are_tokenized_ends_it(on_disk, tokenizer, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tokenizer), "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tokenize_texts(load_from_disk(on_disk), tokenizer)


def test_without_caching_too(on_disk, tokenizer):
    disable_caching()
    try:
        assert len(tokenize_texts(load_from_disk(on_disk), tokenizer)) > 0
    finally:
        enable_caching()


def test_every_place_maps_and_shuffles_this_way():
    for file in (Path(__file__).parents[2] / "clvq_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and file.name != "transforms.py":
                names = {keyword.arg for keyword in node.keywords}
                is_map = node.func.attr == "map" and names & {"batched", "desc", "features", "with_indices"}
                assert not is_map and node.func.attr != "shuffle", f"{file}:{node.lineno}: see data/transforms.py"
