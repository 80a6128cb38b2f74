"""Each reason not to rely on an explanation, and none without one."""

import pytest

from clvq_hf.explanations import ExplainedConcept, Removal
from clvq_hf.explanations.reliability import find_reasons


def concept(contribution=2.0, **fields) -> ExplainedConcept:
    return ExplainedConcept(7, contribution, ["fine"], [1], num_texts=40, **fields)


def removal(change=-2.0) -> Removal:
    return Removal(7, 1, 3.0, "good", 1.0, change, flips=False)


def reasons(concepts=None, salient=None, control=None, error=0.01):
    concepts = [concept(), concept(0.2)] if concepts is None else concepts
    return find_reasons(concepts, salient or removal(), control or removal(-0.1), error, max_error=0.05)


def test_nothing_speaks_against_it():
    assert reasons() == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"error": 0.2}, "miss the change of the prediction by 20%"),
        (
            {"concepts": [ExplainedConcept(7, 2.0, ["fine"], [1], num_texts=1)]},
            "occurs in 1 text of the concept table",
        ),
        ({"concepts": [concept(fits=False)]}, "none of these concepts describes it"),
        ({"salient": removal(0.1)}, "does not weaken the answer"),
        ({"salient": removal(-0.004), "control": removal(-0.001)}, "changes nothing"),
        ({"control": removal(-2.5)}, "Removing another concept of the text costs as much"),
        ({"concepts": [concept(), concept(1.1)]}, "A second concept contributes more than half as much"),
    ],
)
def test_reasons(case, words):
    [reason] = reasons(**case)
    assert words in reason


def test_no_concept_supports_the_answer():
    [reason] = find_reasons([concept(-0.5)], None, None, 0.0, 0.05)
    assert reason == "No concept of the text supports this answer."


def test_a_concept_that_lowers_a_number():
    lower = [concept(-2.0), concept(0.5)]
    assert reasons(lower, removal(2.0), removal(0.1)) == []
    assert reasons(lower, removal(2.0), removal(2.5)) == ["Removing another concept of the text costs as much."]
    [reason] = reasons([concept(-2.0), concept(-1.5)], removal(2.0), removal(0.1))
    assert "A second concept" in reason
