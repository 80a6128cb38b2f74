"""Whether to rely on an explanation: the reasons not to."""

from collections.abc import Sequence

from .result import ExplainedConcept, Removal

# A concept in fewer texts of the table says nothing about what it means.
MIN_TEXTS = 3
# What the first concept must contribute, in terms of the second; and what its removal must cost, in terms of the lead.
# Chosen on half of the texts of scripts/measure_explanations.py, so that another seed mostly names the same words.
MIN_LEAD, MIN_EFFECT = 2.0, 0.05


def find_reasons(
    concepts: Sequence[ExplainedConcept],
    salient: Removal | None,
    control: Removal | None,
    error: float | None,
    max_error: float,
) -> list[str]:
    """Why an explanation should not be relied on, in sentences; empty if nothing speaks against it.

    Args:
        concepts (`Sequence[ExplainedConcept]`): In order of contribution.
        salient (`Removal`, *optional*): Of the first concept.
        control (`Removal`, *optional*): Of another one.
        error (`float`, *optional*): Of integrated gradients.
        max_error (`float`): The largest one that is accepted.
    """
    reasons = []
    if error is not None and error > max_error:
        reasons.append(
            f"The scores miss the change of the prediction by {error:.0%}, and at most {max_error:.0%} is accepted."
        )
    if salient is None:
        return [*reasons, "No concept of the text supports this answer."]
    first = concepts[0]
    if first.num_texts is not None and first.num_texts < MIN_TEXTS:
        texts = "text" if first.num_texts == 1 else "texts"
        reasons.append(f"The concept occurs in {first.num_texts} {texts} of the concept table: too few to know it.")
    if first.fits is False:
        reasons.append(
            "The state of its strongest token is farther from the concept than those of 99 % of the training tokens: "
            "none of these concepts describes it."
        )
    if salient.change >= 0:
        reasons.append("Removing the concept does not weaken the answer, although its scores support it.")
    elif -salient.change < MIN_EFFECT * abs(salient.margin - salient.change):
        share = -salient.change / abs(salient.margin - salient.change)
        reasons.append(f"Removing the concept costs only {share:.1%} of the lead: the answer hardly depends on it.")
    elif control is not None and control.change <= salient.change:
        reasons.append("Removing another concept of the text costs as much.")
    if len(concepts) > 1 and concepts[1].contribution * MIN_LEAD > first.contribution:
        reasons.append("A second concept contributes more than half as much.")
    return reasons


__all__ = ["find_reasons"]
