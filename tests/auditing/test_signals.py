"""Signals of suspects, by hand and on texts with a planted word."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from helpers.made_tables import made_table

from clvq_hf.auditing.audit import row_arrays
from clvq_hf.auditing.effects import effect_figures
from clvq_hf.auditing.occurrences import FEATURES, occurrences_of
from clvq_hf.auditing.signals import (
    ContentShares,
    TokenFacts,
    checked_groups,
    concentration,
    read_groups,
    signal_figures,
    suspicion,
    usual_leads,
)
from clvq_hf.data.texts import text_hash
from clvq_hf.explanations.answers import Answers
from clvq_hf.hosts.readout import Readout


def test_concentration():
    assert concentration(["a", "a"], ["a", "a", "b", "b"]) == (0.5, "a")
    assert concentration(["a", "b"], ["a", "a", "b", "b"])[0] == 0
    value, at = concentration(["rare"] * 3, ["rare"] * 3 + ["usual"] * 97)
    assert (value, at) == (pytest.approx(0.97), "rare")


@pytest.fixture
def table(shared_model, hub_host, tokenizer):
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
    content = ContentShares(table, labels, 2)
    for code in range(table.codebook_size):
        shares = content.of(code)
        assert shares.shape == (content.has[:, code].sum(), 2)
        assert shares.sum(-1) == pytest.approx(np.ones(len(shares)), abs=1e-5)
    everywhere = np.flatnonzero(content.has.all(0))
    assert len(everywhere), "a concept that all texts have"
    assert np.ptp(np.stack([content.of(code) for code in everywhere], axis=1), axis=1).max() < 0.2


def test_content_is_naive_bayes_of_the_other_concepts():
    """Counted by hand for each text and concept."""
    texts = ["war war zebra", "war good", "zebra good odd", "odd", "good", "war odd", "zebra", "good war zebra"]
    labels = np.asarray([0, 1, 1, -1, 1, 0, 0, 1])
    table = made_table(texts, [0] * 8, {"war": 1, "zebra": 2, "good": 3, "odd": 4}, labels=labels, codebook_size=5)
    content = ContentShares(table, labels, 2)
    half = np.asarray([int(text_hash(text)[-1], 16) % 2 for text in texts])
    for code in range(1, 5):
        expected = []
        for row in np.flatnonzero(content.has[:, code]):
            scores = []
            learn = content.has[(half != half[row]) & (labels >= 0)]
            known = labels[(half != half[row]) & (labels >= 0)]
            for label in (0, 1):
                score = (np.sum(known == label) + 1) / (len(known) + 2)
                for other in set(range(5)) - {code}:
                    share = (learn[known == label, other].sum() + 1) / (np.sum(known == label) + 2)
                    score *= share if content.has[row, other] else 1 - share
                scores.append(score)
            expected.append(np.asarray(scores) / sum(scores))
        assert content.of(code) == pytest.approx(np.stack(expected))


def figures_of(table, effect_of, kind="classification", names=("bad", "good"), slices=None):
    """Signals of a table made by hand; `effect_of` gives from row and concept what each answer loses."""
    pairs = occurrences_of(table)
    fixed = {"num_tokens": 1, "removed_norm": 1.0, "flips": False, "word_effect": [], "logits": [1.0, -1.0]}
    found = [
        {**fixed, "text_id": row, "code": code, "effect": effect_of(row, code), "logits": [1.0] * len(names)}
        for row, code in pairs.tolist()
    ]
    rows = Dataset.from_list(found, features=FEATURES)
    effects = effect_figures(row_arrays(rows, len(names)), np.bincount(pairs[:, 1], minlength=table.codebook_size))
    answers = Answers(kind, Readout("classification", class_names=names), names, str)
    columns = {name: np.asarray(values, dtype=object) for name, values in (slices or {}).items()}
    return signal_figures(table, rows.to_pandas(), effects, answers, columns, {}).set_index("code")


# Texts with one of two words, beside one that all have.
TEXTS = [f"here {'zebra' if number % 2 else 'war'}" for number in range(60)]
CODES = {"here": 1, "zebra": 7, "war": 3}


class TestFigures:
    def test_hidden_concepts_are_kept(self):
        table = made_table(TEXTS, [0] * 60, CODES)
        shown = figures_of(table, lambda row, code: [0.1, -0.1])
        table.hide([1, 3, 7], author="Ann")
        hidden = figures_of(table, lambda row, code: [0.1, -0.1])
        assert hidden["hidden"].all() and not shown["hidden"].any()
        pd.testing.assert_frame_equal(hidden.drop(columns="hidden"), shown.drop(columns="hidden"))

    def test_a_slice_may_have_any_name(self):
        table = made_table(TEXTS, [0] * 60, CODES)
        where = ["left" if row % 4 < 2 else "right" for row in range(60)]
        found = figures_of(table, lambda row, code: [2.0 if where[row] == "left" else 0.5, 0.0], slices={"gap": where})
        assert found.loc[1, "effect_gap"] == pytest.approx(1.5) and found.loc[1, "effect_gap_at"] == "gap: left"
        assert found.loc[1, "slice_gap"] == 0, "texts of both values have the concept"

    @pytest.mark.parametrize("kind", ["multi_label", "regression"])
    def test_what_lowers_an_answer_is_a_suspect(self, kind):
        """Of labels asked about one by one, and of numbers, nothing else says so."""
        readout = {"kind": kind, "target": 1, "outputs": ["rude", "toxic"]}
        labels = [0 if row % 2 else row % 4 // 2 for row in range(60)]
        table = made_table(TEXTS, [0] * 60, CODES, labels=labels, label_names=["not toxic", "toxic"], readout=readout)
        noise = np.random.default_rng(0).normal(0, 0.1, size=60)
        found = figures_of(
            table,
            lambda row, code: [0.0, -2 + noise[row] if code == 7 else 0.1],
            kind,
            ("rude", "toxic"),
        )
        zebra = found.loc[7]
        assert (zebra["class"], zebra["direction"]) == ("toxic", "against")
        assert zebra["effect"] == pytest.approx(2, abs=0.1) and zebra["excess"] == pytest.approx(2.1, abs=0.1)
        assert zebra["effect_low"] < zebra["effect"] < zebra["effect_high"]
        assert zebra["excess_low"] < zebra["excess"] < zebra["excess_high"] and zebra["control"] == pytest.approx(-0.1)
        assert zebra["share"] == 1 and zebra["score"] > 0.9 and zebra["alarm"]
        assert zebra["label_share"] == 1, "of texts that are not toxic"
        assert found.loc[3, "direction"] == "for" and found.loc[3, "label_share"] == pytest.approx(0.5)

    def test_classes_that_compete_are_supported(self):
        table = made_table(TEXTS, [0] * 60, CODES, labels=[0, 1] * 30)
        found = figures_of(table, lambda row, code: [-2.0, 2.0] if code == 7 else [0.1, -0.1])
        assert found["direction"].eq("for").all() and found.loc[7, "class"] == "good"
        assert found.loc[7, "label_share"] == 1 and found.loc[3, "label_share"] == 1


def test_the_usual_lead_is_that_of_each_answer():
    logits = [[1.0, -4.0], [1.0, -4.0], [3.0, 2.0], [-2.0, 8.0]]
    rows = pd.DataFrame({"text_id": [0, 0, 1, 2], "logits": logits})  # text 0 twice: it counts once

    def lead(kind):
        return usual_leads(rows, Answers(kind, Readout("classification"), ("a", "b"), str)).tolist()

    assert lead("classification") == [5, 5], "of distances 5, 1 and 10"
    assert lead("multi_label") == [2, 4]
    assert lead("regression") == [2, 6], "from the medians, 1 and 2"


class TestSuspicion:
    @pytest.fixture
    def concept(self):
        signals = dict.fromkeys(("top_word", "weak", "boilerplate", "position", "layout", "slice_source"), 0.1)
        return {"effect_low": 0.7, "excess_low": 0.5, "coverage": 0.2, "q": 0.01, "share": 0.3, **signals}

    def test_the_place_is_the_loss_per_text(self, concept):
        assert suspicion(concept, [], 2.0) == (0.1, False)
        for lowest in (-0.1, np.nan):
            assert suspicion({**concept, "excess_low": lowest}, [], 2.0) == (0.0, False)
            assert suspicion({**concept, "effect_low": lowest}, [], 2.0) == (0.0, False)
        assert suspicion({**concept, "effect_low": 0.25}, [], 2.0) == (0.05, False), (
            "controls may support another class"
        )

    def test_an_alarm_is_strong_and_weak(self, concept):
        for name in ("top_word", "weak", "boilerplate", "position", "layout", "slice_source"):
            suspect = {**concept, name: 0.9}
            assert suspicion(suspect, ["source"], 2.0)[1] is True
            for weaker in ({"q": 0.2}, {"q": np.nan}, {"share": 0.15}, {"excess_low": -0.1}, {"excess_low": 0.03}):
                assert suspicion({**suspect, **weaker}, ["source"], 2.0)[1] is False
        assert suspicion({**concept, "slice_source": 0.9}, [], 2.0)[1] is False


def test_the_top_word_of_a_phrase_is_that_of_each_concept():
    table = made_table(
        ["north wire a", "a north wire", "north post", "b"], [0] * 4, {"north": 2, "wire": 3, "post": 3}
    )
    table.merge([2, 3], author="Ann")
    concept = figures_of(table, lambda row, code: [0.0, 1.0]).loc[2]
    # Three "north" of three, and two "wire" of three.
    assert (concept["top_word"], concept["top_word_at"]) == (pytest.approx(5 / 6), "north wire")


def test_groups(tmp_path):
    file = tmp_path / "groups.json"
    file.write_text('{"women": ["She", " her"]}')
    assert read_groups(file) == {"women": frozenset({"she", "her"})}
    for wrong in ({"women": "she"}, {"women": [1]}, {"women": 3}):
        with pytest.raises(ValueError, match="'women' must be a list of words"):
            checked_groups(wrong)
