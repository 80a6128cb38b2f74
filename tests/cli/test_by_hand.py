"""`clvq-hf concepts rename`, `merge`, `group`, `hide` and `find`."""

import pytest
from helpers.command_line import refuse, succeed
from helpers.hub_commands import table  # noqa: F401

from clvq_hf import ConceptTable


@pytest.fixture
def model(hub, shared_model, table, tmp_path):
    """A model folder with its concept table, as `clvq-hf train` leaves it."""
    shared_model.save_pretrained(tmp_path / "out")
    table.save_to_disk(tmp_path / "out" / "concepts")
    return tmp_path / "out"


def test_decisions_are_written_beside_the_table_and_taken_back(model, table):
    first, second, third = table.frequent_codes(3)
    told = succeed("concepts", "rename", model, first, "sports results", "--author", "Ann")
    assert "“sports results” (named by Ann" in told and "concepts_by_hand.json" in told
    told = succeed("concepts", "merge", model, f"{first},{second}", "--author", "Ann")
    assert f"Concept {first} + {second} “sports results”" in told
    assert "group: people" in succeed("concepts", "group", model, third, "people", "--author", "Ann")
    assert "not listed" in succeed("concepts", "hide", model / "concepts", third, "--author", "Ann")
    found = ConceptTable.load_from_disk(model / "concepts")
    assert [decision.kind for decision in found.by_hand.decisions] == ["rename", "merge", "group", "hide"]
    assert found.called(second).name == "sports results" and found.by_hand.hidden == {third}
    for undone in (("rename", first), ("merge", second), ("group", third), ("hide", third)):
        succeed("concepts", undone[0], model, undone[1], "--undo")
    assert not ConceptTable.load_from_disk(model / "concepts").by_hand
    assert not (model / "concepts" / "concepts_by_hand.json").exists()


def test_decisions_outlive_a_table_of_other_texts(shared_model, hub_host, tokenizer, texts, table, tmp_path):
    code = table.frequent_codes(1)[0]
    succeed("concepts", "rename", tmp_path / "table", code, "praise", "--author", "Ann")
    again = shared_model.concept_table(hub_host, tokenizer, texts.select(range(30)), output_dir=tmp_path / "table")
    assert len(again.texts) == 30 and again.called(code).name == "praise"
    again.metadata["model_fingerprint"] = "another"
    again.save_to_disk(tmp_path / "table")
    once_more = shared_model.concept_table(hub_host, tokenizer, texts.select(range(9)), output_dir=tmp_path / "table")
    assert once_more.called(code) is None


def test_names_are_shown_where_concepts_are_explained(model, table):
    for code in table.frequent_codes(100):
        succeed("concepts", "rename", model, code, "everything", "--author", "Ann")
    assert "“everything”" in succeed("explain", model, "a moving film", "--method", "gradient_x_input")


def test_concepts_are_found_with_precision_and_recall(model, table):
    word, code = next((word, code) for code in table.frequent_codes(3) for word, _ in table.top_words(code, 1))
    told = succeed("concepts", "find", model, f"(?i){word}")
    assert "precision" in told and "recall" in told and str(code) in told
    assert "texts found" in succeed("concepts", "find", model, "--slice", "split=test", "--show", 1)
    assert "No concept" in succeed("concepts", "find", model, "qqqqqq")


def test_mistakes(model, tmp_path):
    assert "holds no concept table" in refuse("concepts", "rename", tmp_path, 1, "x")
    assert "Give the concept a name" in refuse("concepts", "rename", model, 1)
    assert "Codes run from 0" in refuse("concepts", "hide", model, "99999")
    assert "numbers and commas" in refuse("concepts", "merge", model, "1;2")
    assert "nothing to undo" in refuse("concepts", "hide", model, "1", "--undo")
    assert "either" in refuse("concepts", "find", model)
    assert "no regular expression" in refuse("concepts", "find", model, "(")
    assert not (model / "concepts" / "concepts_by_hand.json").exists()
