"""What is told of an audit."""

import json

import pytest
from helpers.made_audits import made_audit
from helpers.made_tables import made_table

from clvq_hf.auditing import Audit
from clvq_hf.auditing.summary import facts_of, sentences_of, suspects_table, with_names
from clvq_hf.tables.masking import ToxicMask


@pytest.fixture
def summary():
    return json.loads(json.dumps(made_audit().summary(), allow_nan=False))


def test_alarms_are_told_with_what_stands_out(summary):
    established, alarm = sentences_of(summary)
    assert established.startswith("2 of 3 concepts support a class more than other concepts")
    assert established.endswith("80.0 % of these controls are about as large."), "of 30 texts 90 %, of 10 texts 50 %"
    assert alarm == (
        "Alarm: concept 7 (zebra) carries 60.0 % of the evidence for positive; one word: zebra, layout: last line, "
        "source: courier. May the host rely on it? Look at its texts."
    )
    summary["suspects"][0]["alarm"] = False
    assert "no proof that there is no shortcut" in sentences_of(summary)[1]


def test_the_table(summary):
    rows = suspects_table(summary).rows
    assert [row[:3] for row in rows] == [
        ["7 !", "zebra", "positive"],
        ["3", "“fights” (named by a model)", "negative"],
        ["5", "odd", "negative"],
    ]
    assert rows[0][5:8] == ["2.50 [2.20, 2.80]", "2.50 [2.10, 2.90]", "0.000"]
    assert rows[1][-1] == "effect depends on source: other, people"
    assert rows[2][6:] == ["0.10", "–", "–", "–"], "what is not known is not a zero"


def test_names_that_people_gave_since_are_told(summary):
    table = made_table(["a zebra fights"], [0], {"zebra": 7, "fights": 3}, name="f" * 64)
    table.rename(7, "animals", author="Ann")
    table.hide([5], author="Ann")
    named = with_names(summary, table)
    assert [row[1] for row in suspects_table(named).rows] == ["“animals”", "“fights” (named by a model)"]
    assert "concept 7 (“animals”)" in sentences_of(named)[1]


def test_a_phrase_has_the_name_and_is_hidden_as_all_its_concepts(summary):
    summary["suspects"][0]["number"] = "7 + 3"
    table = made_table(["a zebra fights"], [0], {"zebra": 7, "fights": 3}, name="f" * 64)
    table.rename(7, "animals", author="Ann")
    table.hide([7], author="Ann")
    assert suspects_table(with_names(summary, table)).rows[0][1] == "zebra", "the name of one of them is not told"
    table.merge([3, 7], "fighting zebra", author="Ann")
    assert [each["code"] for each in with_names(summary, table)["suspects"]] == [5], "now all of it is hidden"
    table.hide([3], undo=True, author="Ann")
    assert suspects_table(with_names(summary, table)).rows[0][1] == "“fighting zebra”"
    assert dict(facts_of(summary))["Concepts"].startswith("3 of ")
    assert "as 3: a phrase counts as one" in dict(facts_of({**summary, "num_codes": 4}))["Concepts"]


def test_hidden_alarms_are_counted(summary):
    """Whether the concept was hidden before the audit, or since."""
    table = made_table(["a zebra fights"], [0], {"zebra": 7, "fights": 3}, name="f" * 64)
    table.hide([7], author="Ann")
    audit = made_audit()
    concepts = audit.concepts.to_pandas().assign(hidden=[True, False, False])
    hidden_before = Audit(audit.rows, audit.effects, Audit.dataset(concepts), audit.metadata)
    for told in (with_names(summary, table), hidden_before.summary()):
        assert [row[0] for row in suspects_table(told).rows] == ["3", "5"]
        assert dict(facts_of(told))["Alarms"] == "1, 1 of hidden concepts"
        assert sentences_of(told)[1].startswith("1 alarm is of a concept that was hidden by hand")
    assert hidden_before.alarms()["code"].tolist() == [7]


def test_what_speaks_against_a_label_is_told_so(summary):
    summary["suspects"][0]["direction"] = "against"
    assert "60.0 % of the evidence against positive" in sentences_of(summary)[1]
    assert suspects_table(summary).rows[0][2] == "against positive"


def test_the_number_of_suspects():
    audit = made_audit()
    assert (len(audit.suspects(0)), len(audit.suspects(2)), len(audit.suspects())) == (0, 2, 3)


def test_all_alarms_are_among_the_first_ones():
    audit = made_audit()
    assert [concept["code"] for concept in audit.summary(1, "effect_gap")["suspects"]] == [3, 7]
    assert dict(facts_of(audit.summary(1)))["Alarms"] == "1"


def test_words_of_masked_classes_are_masked(summary):
    mask = ToxicMask(frozenset({"positive"}), frozenset({"fights", "war"}))
    told = sentences_of(summary, mask)[1] + str(suspects_table(summary, mask).rows)
    assert "zebra" not in told and "z••••" in told and "fights" in told
