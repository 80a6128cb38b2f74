"""Signals of suspects, by hand and on texts with a planted word."""

import numpy as np
import pytest

from clvq_hf.auditing.signals import TokenFacts, checked_groups, concentration, content_shares, read_groups, suspicion


def test_concentration():
    assert concentration(["a", "a"], ["a", "a", "b", "b"]) == (0.5, "a")
    assert concentration(["a", "b"], ["a", "a", "b", "b"])[0] == 0
    value, at = concentration(["rare"] * 3, ["rare"] * 3 + ["usual"] * 97)
    assert (value, at) == (pytest.approx(0.97), "rare")


@pytest.fixture
def table(shared_model, hub_host, tokenizer):
    from datasets import Dataset

    texts = [
        'He said "no way" on 5 May.\nReporting by the Daily Courier desk',
        "LOUD words here, and more.\nReporting by the Daily Courier desk",
        "see <b>this</b> http://example.org now",
        "a third story, other words\nReporting by the Daily Courier desk",
        "one more of them\nReporting by the Daily Courier desk",
    ]
    return shared_model.concept_table(hub_host, tokenizer, Dataset.from_dict({"text": texts}))


class TestTokenFacts:
    def facts_of(self, table, name, text):
        facts = TokenFacts(table)
        words = facts.words
        own = words["row"] == text
        return dict(zip(words["word"][own], getattr(facts, name)[own.to_numpy()], strict=True))

    def test_layout(self, table):
        layout = self.facts_of(table, "layout", 0)
        assert layout["no"] == layout["way"] == "quoted"
        assert layout["He"] == "first line" and layout["Courier"] == "last line"
        other = self.facts_of(table, "layout", 2)
        assert other["this"] == "running text" and other["b"] == "markup" and other["see"] == "running text"

    def test_casing(self, table):
        assert self.facts_of(table, "casing", 1)["LOUD"] == "ALL CAPS"
        casing = self.facts_of(table, "casing", 0)
        assert casing["He"] == "Capitalised" and casing["way"] == "lower case" and casing["5"] == "no letters"

    def test_kind(self, table):
        kind = self.facts_of(table, "kind", 0)
        assert (kind["5"], kind["."], kind["Courier"]) == ("number", "punctuation", "frequent word")

    def test_boilerplate(self, table):
        boilerplate = self.facts_of(table, "boilerplate", 3)
        assert boilerplate["Reporting"] and boilerplate["desk"] and not boilerplate["story"]
        assert not any(self.facts_of(table, "boilerplate", 2).values())

    def test_position(self, table):
        position = self.facts_of(table, "position", 2)
        assert position["see"] == "0–10 %" and position["now"] == "90–100 %"


def test_content_leaves_the_concept_out(shared_model, hub_host, tokenizer, texts):
    """A concept's own probability does not depend on whether it is known to speak for its label."""
    table = shared_model.concept_table(hub_host, tokenizer, texts)
    labels = np.asarray(table.texts["label"][:])
    has, shares = content_shares(table, labels, 2)
    assert shares.shape == (60, table.codebook_size, 2)
    assert shares.sum(-1) == pytest.approx(np.ones(has.shape), abs=1e-5)
    everywhere = np.flatnonzero(has.all(0))
    assert len(everywhere), "a concept that all texts have"
    assert np.ptp(shares[:, everywhere], axis=1).max() < 0.2


class TestSuspicion:
    @pytest.fixture
    def concept(self):
        signals = dict.fromkeys(("top_word", "weak", "boilerplate", "position", "layout", "slice_source"), 0.1)
        return {"excess_low": 0.5, "coverage": 0.2, "q": 0.01, "share": 0.3, **signals}

    def test_the_place_is_the_loss_per_text(self, concept):
        assert suspicion(concept, [], 2.0) == (0.1, False)
        for lowest in (-0.1, np.nan):
            assert suspicion({**concept, "excess_low": lowest}, [], 2.0) == (0.0, False)

    def test_an_alarm_is_strong_and_weak(self, concept):
        for name in ("top_word", "weak", "boilerplate", "position", "layout", "slice_source"):
            suspect = {**concept, name: 0.9}
            assert suspicion(suspect, ["source"], 2.0)[1] is True
            for weaker in ({"q": 0.2}, {"q": np.nan}, {"share": 0.15}, {"excess_low": -0.1}, {"excess_low": 0.03}):
                assert suspicion({**suspect, **weaker}, ["source"], 2.0)[1] is False
        assert suspicion({**concept, "slice_source": 0.9}, [], 2.0)[1] is False


def test_groups(tmp_path):
    file = tmp_path / "groups.json"
    file.write_text('{"women": ["She", " her"]}')
    assert read_groups(file) == {"women": frozenset({"she", "her"})}
    for wrong in ({"women": "she"}, {"women": [1]}, {"women": 3}):
        with pytest.raises(ValueError, match="'women' must be a list of words"):
            checked_groups(wrong)
