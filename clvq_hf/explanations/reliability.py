"""Whether to rely on an explanation: the reasons not to."""

from collections.abc import Sequence

from .result import ExplainedConcept, Removal

# A concept in fewer texts of the table says nothing about what it means.
MIN_TEXTS = 3
# What the first concept must contribute, relative to the second. Chosen on half of the texts of
# scripts/measure_explanations.py, so that the concepts of another seed mostly name the same word.
MIN_LEAD = 2.0
# An effect that is printed as 0.00.
SMALLEST_EFFECT = 0.005


def find_reasons(
    concepts: Sequence[ExplainedConcept],
    salient: Removal | None,
    control: Removal | None,
    error: float,
    max_error: float,
) -> list[str]:
    """Why an explanation should not be relied on, in sentences; empty if nothing speaks against it.

    Args:
        concepts (`Sequence[ExplainedConcept]`): In order of contribution.
        salient (`Removal`, *optional*): Of the first concept.
        control (`Removal`, *optional*): Of another one.
        error (`float`): By how much the scores miss what all removals together cost.
        max_error (`float`): The largest one that is accepted.
    """
    reasons = []
    if error > max_error:
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
    # Of a number, a concept may also lower it.
    sign = -1 if first.contribution < 0 else 1
    effect = -sign * salient.change
    if effect <= 0:
        reasons.append("Removing the concept does not weaken the answer, although its scores support it.")
    elif effect < SMALLEST_EFFECT:
        reasons.append("Removing the concept changes nothing.")
    elif control is not None and -sign * control.change >= effect:
        reasons.append("Removing another concept of the text costs as much.")
    if len(concepts) > 1 and sign * concepts[1].contribution * MIN_LEAD > sign * first.contribution:
        reasons.append("A second concept contributes more than half as much.")
    return reasons


__all__ = ["find_reasons"]
