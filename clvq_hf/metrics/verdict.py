"""What the ablations of an evaluation say, in a few plain sentences."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

from .ablation_drop.statistics import ALPHA, MIN_TEXTS

# The protocol of a verdict is the first of these that was measured.
PROTOCOL_ORDER = ("code", "all", "probe")
CAVEATS = {
    "all": "The concept was removed at every token of the text, which mostly removes the direction of the class.",
    "probe": "Only the paper's probe was measured: it shows what the lower layer contains, not what the model uses.",
}
# The quantile of the normal distribution for a 95 % interval.
Z = 1.96


def measured_protocol(results: Mapping[str, Any] | None) -> str | None:
    """The protocol whose ablations are shown first: `"code"`, else `"all"`, else `"probe"`; `None` if there is none."""
    measured = (results or {}).get("ablation", {})
    return next((protocol for protocol in PROTOCOL_ORDER if protocol in measured), None)


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Say in words what codes keep of a text, what removing the salient concept costs, and what is the class or word.

    Two effects differ only if the interval of their difference excludes 0 and its corrected p-value is at most 0.05;
    otherwise they "cannot be told apart". What has no such test is compared by its intervals.

    Args:
        results (`Mapping`): What `results.json` of an evaluation holds.

    Returns:
        `list[str]`: Sentences, to be joined by spaces. They contain no text from data.
    """
    protocol, coded = measured_protocol(results), fidelity_verdict(results.get("fidelity", {}).get("codes", {}))
    if protocol is None:
        return [*coded, "What removing a concept costs was not measured."]
    is_number = (results.get("readout") or {}).get("kind") == "regression"
    unit = "units of the output" if is_number else "logits"
    return [*coded, *ablation_verdict(results["ablation"][protocol], protocol, unit)]


def fidelity_verdict(figures: Mapping[str, Any]) -> list[str]:
    """Say what codes keep of what the model reads, beside the class and random states, from what measured it."""
    fidelity = figures.get("code_fidelity")
    if fidelity is None:
        return []
    sentence = (
        f"With every token replaced by the mean state of its concept, the model keeps {fidelity:.0%} of what it reads "
        "in the tokens"
    )
    random = figures.get("random_fidelity")
    beside = "" if random is None else f" ({random:.0%} with as many random states for concepts)"
    beyond, low, high = (figures.get(f"fidelity_beyond_class{end}") for end in ("", "_low", "_high"))
    if beyond is None:
        return [f"{sentence}{beside}."]
    said = (
        "more than"
        if low > 0
        else "less than"
        if high < 0
        else f"which cannot be told apart on {figures['num_texts']} texts from what"
    )
    return [f"{sentence}{beside}, {said} the predicted class alone would keep ({figures['class_fidelity']:.0%})."]


def ablation_verdict(figures: Mapping[str, Any], protocol: str = "code", unit: str = "logits") -> list[str]:
    """The same from what `ablation_drop` returns for one protocol."""
    salient = _Effect(figures, "salient")
    caveat = [CAVEATS[protocol]] if protocol in CAVEATS else []
    if salient.num_texts < MIN_TEXTS:
        return [*caveat, _too_few(figures, salient, unit), *_host(figures, protocol)]
    sentences = [_salient_and_other(figures, salient, unit), *_flips(figures)]
    if salient.sign > 0:
        sentences += _matched(figures)
        sentences += _other_text(figures, salient)
        sentences += _class_ceiling(figures)
        sentences += _word_ceiling(figures)
    return [*caveat, *sentences, *_host(figures, protocol)]


class _Effect:
    """What a condition costs: the change of the margin with its sign reversed, as positive figures are easier to read.

    Attributes:
        measured (`bool`): Whether any text has this condition.
        cost, low, high (`float` or `None`): Mean over texts and its interval.
        num_texts (`int`): Texts that have the condition.
    """

    def __init__(self, figures: Mapping[str, Any], name: str) -> None:
        change, low, high = (figures.get(f"{name}_margin_change{end}") for end in ("", "_low", "_high"))
        self.measured = change is not None
        self.cost = -change if change is not None else 0.0
        self.low, self.high = (None, None) if low is None or high is None else (-high, -low)
        self.num_texts = int(figures.get(f"{name}_num_texts") or 0)
        self.text_share = figures.get(f"{name}_text_share")

    @property
    def sign(self) -> int:
        """1 if the removal costs, -1 if it helps, 0 if that cannot be told."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    @property
    def amount(self) -> str:
        return _amount(self.cost)

    def said(self, unit: str = "") -> str:
        """The cost with its verb."""
        verb = "costs" if self.cost >= 0 else "gains"
        return f"{verb} {_amount(abs(self.cost))}{unit and ' '}{unit}"

    def is_above(self, other: "_Effect") -> bool:
        return self.low is not None and other.high is not None and self.low > other.high


class _Contrast:
    """The difference between the costs of two conditions.

    Attributes:
        sign (`int`): 1 if the first one costs more, -1 if it costs less, 0 if that cannot be told.
        low, high (`float` or `None`): Its interval.
        num_texts (`int`): Texts that have both conditions.
    """

    def __init__(self, figures: Mapping[str, Any], name: str) -> None:
        self.measured = figures.get(name) is not None
        self.num_texts = int(figures.get(f"{name}_num_texts") or 0)
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        p_value = figures.get(f"{name}_p_holm", figures.get(f"{name}_p_value"))
        self.low, self.high = (None, None) if low is None or high is None else (-high, -low)
        is_certain = self.low is not None and p_value is not None and p_value <= ALPHA and self.num_texts >= MIN_TEXTS
        self.sign = 0 if not is_certain else 1 if self.low > 0 else -1 if self.high < 0 else 0


def _too_few(figures: Mapping[str, Any], salient: _Effect, unit: str) -> str:
    if not salient.measured:
        return f"No text has a salient concept that could be removed: a verdict needs {MIN_TEXTS} texts."
    other = _Effect(figures, "other_code")
    beside = f"; removing another concept of the same text {other.said()}" if other.measured else ""
    number = "1 text was" if salient.num_texts == 1 else f"{salient.num_texts} texts were"
    return (
        f"Only {number} measured, too few for a verdict ({MIN_TEXTS} are needed): removing the salient concept "
        f"{salient.said(unit)} on average{beside}."
    )


def _salient_and_other(figures: Mapping[str, Any], salient: _Effect, unit: str) -> str:
    other, contrast = _Effect(figures, "other_code"), _Contrast(figures, "token_specificity")
    unknown = f"cannot be told apart on {contrast.num_texts} texts"
    if salient.sign > 0:
        opening = f"Removing the salient concept costs {salient.amount} {unit}"
        if not other.measured:
            return f"{opening}; no other concept of the same texts was removed, so any concept may cost as much."
        endings = {
            1: ": the salient concept matters more.",
            0: f"; the two {unknown}.",
            -1: ": the other concept matters more.",
        }
        return f"{opening}, another concept of the same text {other.amount}{endings[contrast.sign]}"
    if salient.sign < 0:
        opening = f"Removing the salient concept makes the prediction more certain, by {_amount(-salient.cost)} {unit}"
    else:
        opening = (
            f"Removing the salient concept {salient.said(unit)}, which cannot be told apart from no change on "
            f"{salient.num_texts} texts"
        )
    if not other.measured:
        return f"{opening}; no other concept of the same texts was removed."
    endings = {
        1: "less than the salient concept",
        0: f"and the two {unknown}",
        -1: "more than the salient concept",
    }
    return f"{opening}; another concept of the same text {other.said()}, {endings[contrast.sign]}."


def _flips(figures: Mapping[str, Any]) -> list[str]:
    """A cost is small or large beside the margin of the predictions, which it changes or not."""
    rate = figures.get("salient_flip_rate")
    if rate is None:
        return []
    return [
        f"It changes {rate:.0%} of the predictions." if rate >= 0.005 else "It changes no prediction, or hardly any."
    ]


def _matched(figures: Mapping[str, Any]) -> list[str]:
    """A salient concept that matters more may only be larger than the others."""
    contrast, matched = _Contrast(figures, "token_specificity"), _Contrast(figures, "token_specificity_matched")
    if contrast.sign <= 0 or "token_specificity_matched_num_texts" not in figures or matched.sign > 0:
        return []
    if matched.num_texts == 0:
        return ["No other concept changed a text by as much, so the size of the change may be the reason."]
    texts = "1 text" if matched.num_texts == 1 else f"{matched.num_texts} texts"
    return [f"Compared only with concepts that change the text by as much, the difference cannot be told on {texts}."]


def _other_text(figures: Mapping[str, Any], salient: _Effect) -> list[str]:
    """How much of the cost is particular to this text's concept, and how much any concept of the class would cost."""
    same, contrast = _Effect(figures, "other_text_same"), _Contrast(figures, "text_specificity")
    if not same.measured:
        return ["No concept of another text was removed, so how much of this is the class is unknown."]
    opening = f"Another text's concept with the same prediction {same.said()}"
    if contrast.num_texts < MIN_TEXTS or contrast.low is None or contrast.high is None:
        texts = "1 text" if contrast.num_texts == 1 else f"{contrast.num_texts} texts"
        return [f"{opening}, on {texts}: too few to tell how much of the cost is the class."]
    if contrast.sign < 0:
        return [f"{opening}, more than the text's own: the cost is not particular to this concept."]
    # What of the cost the other text's concept does not have, with its interval.
    half = salient.cost / 2
    if same.sign > 0 and contrast.high < half:
        return [f"{opening}, {_class_or_place(figures)}"]
    if contrast.sign > 0 and contrast.low > half:
        return [f"{opening}, so most of it belongs to the text's own concept."]
    if contrast.sign > 0:
        return [f"{opening}, less than the text's own: a part of the cost belongs to this concept, the rest may not."]
    return [f"{opening}, which cannot be told apart from the text's own on {contrast.num_texts} texts."]


def _class_or_place(figures: Mapping[str, Any]) -> str:
    """Whether a cost that other texts' concepts share is that of the class, or of any change at this place."""
    opposite, contrast = _Effect(figures, "other_text_opposite"), _Contrast(figures, "class_specificity")
    if not opposite.measured:
        return "so most of it is not particular to the text's own concept."
    if contrast.sign > 0:
        return "so most of it is the class."
    less = "costs even more" if contrast.sign < 0 else f"cannot be told apart from that on {contrast.num_texts} texts"
    return (
        "so most of it is not particular to the text's own concept; nor need it be the class, as a concept with "
        f"another prediction ({opposite.amount}) {less}."
    )


def _class_ceiling(figures: Mapping[str, Any]) -> list[str]:
    ceiling, residual = _Effect(figures, "class_ceiling"), _Effect(figures, "class_residual")
    if not ceiling.measured:
        return []
    opening = f"Removing only the class directions (the class ceiling) {_costs(ceiling)}"
    if not residual.measured:
        return [f"{opening}."]
    return [f"{opening}; beyond them, the salient concept {_costs(residual)}."]


def _word_ceiling(figures: Mapping[str, Any]) -> list[str]:
    ceiling, residual = _Effect(figures, "word_ceiling"), _Effect(figures, "word_residual")
    noise = _Effect(figures, "word_random")
    if not ceiling.measured:
        return []
    if ceiling.num_texts < MIN_TEXTS:
        number = "1 text" if ceiling.num_texts == 1 else f"{ceiling.num_texts} texts"
        return [f"The word ceiling is known for {number} only, too few for a verdict."]
    share = ceiling.text_share
    where = "" if share is None or share > 0.995 else f", known in {100 * share:.0f} % of the texts,"
    opening = f"Removing only the mean state of the word (the word ceiling){where} {_costs(ceiling)}"
    if not residual.measured:
        return [f"{opening}."]
    beyond = f"beyond it, the salient concept {_costs(residual)}"
    if residual.sign <= 0 or not noise.measured:
        return [f"{opening}; {beyond}."]
    if residual.is_above(noise):
        return [f"{opening}; {beyond}, more than a random change of the same size ({noise.amount})."]
    return [f"{opening}; {beyond}, which cannot be told apart from a random change of the same size ({noise.amount})."]


def _host(figures: Mapping[str, Any], protocol: str) -> list[str]:
    """What must be known of whoever makes the predictions: nothing if it is better than the most frequent label."""
    who = "The probe" if protocol == "probe" else "The model"
    accuracy, majority = figures.get("accuracy"), figures.get("majority_accuracy")
    labelled = figures.get("num_texts", 0) - figures.get("num_unlabelled", 0)
    if accuracy is None or majority is None:
        # Labels of a regression are no classes.
        return [] if labelled else ["No text has a label, so whether the predictions are right is unknown."]
    if majority == 1:
        return ["All texts have the same label, so whether the classes are told apart is unknown."]
    low, high = wilson_interval(accuracy, labelled)
    if low > majority:
        return []
    than = "less often than by" if high < majority else "which cannot be told apart from"
    return [
        f"{who} is right on {100 * accuracy:.1f} % of the texts, {than} always answering the most frequent label "
        f"({100 * majority:.1f} %): what such predictions rest on means little."
    ]


def wilson_interval(share: float, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `number` texts."""
    centre = (share + Z * Z / (2 * number)) / (1 + Z * Z / number)
    half = Z * sqrt(share * (1 - share) / number + Z * Z / (4 * number * number)) / (1 + Z * Z / number)
    return centre - half, centre + half


def _costs(effect: _Effect) -> str:
    """What a removal costs, after its name."""
    if effect.num_texts < MIN_TEXTS:
        return f"{effect.said()}, on too few texts to tell ({effect.num_texts})"
    if effect.sign > 0:
        return effect.said()
    if effect.sign < 0:
        return f"makes the prediction more certain, by {_amount(-effect.cost)}"
    return f"{effect.said()}, which cannot be told apart from no change on {effect.num_texts} texts"


def _amount(cost: float) -> str:
    """Two decimals, or three where two would be 0; a real minus sign."""
    digits = 2 if round(abs(cost), 2) else 3
    if cost and not round(abs(cost), digits):
        return "less than 0.001"
    text = f"{abs(cost):,.{digits if cost else 2}f}"
    return f"−{text}" if cost < 0 else text


__all__ = ["ablation_verdict", "fidelity_verdict", "measured_protocol", "verdict", "wilson_interval"]
