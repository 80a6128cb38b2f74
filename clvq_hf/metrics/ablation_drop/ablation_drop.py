"""What a classifier loses when the concept that a prediction rests on is removed."""

from typing import Any

import datasets
import evaluate

from .accuracies import rate_matched_accuracy
from .conditions import CONTRASTS
from .numerics import ablation_drop
from .outcomes import COLUMNS
from .statistics import NUM_BOOTSTRAP, NUM_PERMUTATIONS

# evaluate.load copies only the sibling files from which this one imports: hence the names beside the class.
__all__ = ["CONTRASTS", "AblationDrop", "rate_matched_accuracy"]

_DESCRIPTION = """
How much does a classifier depend on the concept that a prediction rests on?

The salient code of each text is removed inside the model, and the change of the margin is measured: the logit of the
plain prediction minus the best other logit. Removing anything costs something, so the figure to read is the contrast
with another code of the same text, of as many positions and as large a norm. Flips, accuracies and the effects of
random, mean and class directions stand beside it. The unit is the text: draws are averaged within it first.
"""

_KWARGS_DESCRIPTION = """
Args:
    text_id (`list[int]`): The text. One row per text, condition and draw.
    condition (`list[str]`): What was removed. `salient` is required; `other_code`, `other_text_same` and
        `other_text_opposite` (the salient code of another text with the same or the opposite prediction) enter the
        contrasts; any other name is a reference. A text may lack a condition.
    draw (`list[int]`): Number of the random draw; 0 where nothing is drawn.
    label (`list[int]`): Class of the text; a negative one is missing.
    prediction_plain, prediction (`list[int]`): Predicted class without and with removal. All columns that end in
        `_plain`, and the label, repeat in every row of a text.
    margin_plain, margin (`list[float]`): Logit of the plain prediction minus the best other logit.
    probability_plain, probability (`list[float]`): Of the plain prediction.
    gold_probability_plain, gold_probability (`list[float]`): Of the label; -1 where it is missing.
    kl (`list[float]`): KL(plain ‖ ablated) over all classes, in nats.
    probabilities_plain, probabilities (`list[list[float]]`): Of all classes. All empty if they are too many to store;
        macro-AUC and rate-matched accuracy are None then.
    num_positions (`list[int]`): Number of positions at which something was removed.
    removed_norm (`list[float]`): Root of the summed squared norm of what was removed.
    matched (`list[bool]`): Whether the draw met the matching caliper; true where nothing is matched.
    num_bootstrap (`int`, defaults to 2,000): Draws of texts for the 95 % percentile intervals.
    num_permutations (`int`, defaults to 10,000): Random sign flips of each p-value; up to 12 texts all are counted.
    seed (`int`, defaults to 0): Of all draws.
    details (`bool`, defaults to `False`): Whether to add the nested entries.

Returns:
    `dict`: None stands for what is undefined.

    The model without removal, on all texts (those with a label, where one is needed):
    - **accuracy**, **balanced_accuracy**, **macro_auc**, **majority_accuracy** (`float`): The last is the share of the
      most frequent label.
    - **num_texts**, **num_unlabelled** (`int`).

    For each condition, each name with the condition in front (`salient_margin_change`), on the texts that have it:
    - **margin_change**, **margin_change_low**, **margin_change_high** (`float`): Mean of margin - margin_plain.
    - **flip_rate** (`float`): Share of predictions that changed.
    - **accuracy**, **balanced_accuracy**, **macro_auc** (`float`).
    - **rate_matched_accuracy** (`float`): Accuracy if every class is predicted as often as without removal.
    - **kl**, **probability_change**, **gold_probability_change** (`float`): Means.
    - **num_positions**, **removed_norm**, **matched_share** (`float`): Means: how much was removed.
    - **num_texts**, **num_labelled** (`int`).

    For each contrast, `token_specificity` (salient - other_code, the primary one; negative if the salient code matters
    more), `text_specificity` (salient - other_text_same) and `class_specificity` (other_text_same -
    other_text_opposite), on the texts that have both; each name with the contrast and `_` in front:
    - the contrast itself, **low**, **high** (`float`): Mean difference in margin change.
    - **verdict** (`str`): "lower" or "higher" if the interval excludes 0, else "tie".
    - **p_value**, **p_holm** (`float`): Of a two-sided sign-flip test; adjusted for the three contrasts.
    - **flip_change**, **flip_change_low**, **flip_change_high** (`float`): Mean difference in the share of flips.
    - **mcnemar_p_value** (`float`): Exact, on the first draw of each text.
    - **num_texts** (`int`).

    `token_specificity_matched` is the primary contrast on matched draws only, without flips and `p_holm`.

    With `details=True`:
    - **flip_matrix** (`dict[str, list[dict]]`): Per condition the number of texts `from` a class `to` another one.
    - **strata** (`dict[str, dict]`): Per condition and contrast margin change, flip rate and number of texts, by plain
      `prediction` and by whether it was `correct`. For contrasts these are differences.
    - **differences** (`dict[str, dict]`): Per contrast the differences of each text.

Raises:
    ValueError: If there are no rows, none is `salient`, a row occurs twice, plain outcomes differ within a text, a
        number is not finite, or the numbers of classes differ.

Examples:
    Of twenty texts, the salient code of text t carries 2 + t / 10 logits, another code half a logit.

    >>> texts = [text for text in range(20) for _ in range(2)]
    >>> conditions = ["salient", "other_code"] * 20
    >>> margins = [1 - text / 10 if which == "salient" else 2.5 for text, which in zip(texts, conditions)]
    >>> flipped = [margin < 0 for margin in margins]
    >>> metric = AblationDrop(keep_in_memory=True)
    >>> results = metric.compute(
    ...     text_id=texts,
    ...     condition=conditions,
    ...     draw=[0] * 40,
    ...     label=[1] * 40,
    ...     prediction_plain=[1] * 40,
    ...     prediction=[1 - flip for flip in flipped],
    ...     margin_plain=[3.0] * 40,
    ...     margin=margins,
    ...     probability_plain=[0.95] * 40,
    ...     probability=[0.4 if flip else 0.9 for flip in flipped],
    ...     gold_probability_plain=[0.95] * 40,
    ...     gold_probability=[0.4 if flip else 0.9 for flip in flipped],
    ...     kl=[0.1] * 40,
    ...     probabilities_plain=[[]] * 40,
    ...     probabilities=[[]] * 40,
    ...     num_positions=[2] * 40,
    ...     removed_norm=[1.5] * 40,
    ...     matched=[True] * 40,
    ... )
    >>> round(results["salient_margin_change"], 3), round(results["other_code_margin_change"], 3)
    (-2.95, -0.5)
    >>> round(results["token_specificity"], 3), results["token_specificity_verdict"]
    (-2.45, 'lower')
    >>> results["salient_flip_rate"], results["token_specificity_num_texts"]
    (0.45, 20)
"""

_CITATION = """\
@article{garg2025crosslayer,
  title   = {Cross-Layer Discrete Concept Discovery for Interpreting Language Models},
  author  = {Garg, Ankur and Yu, Xuemin and Sajjad, Hassan and Ebrahimi Kahou, Samira},
  journal = {arXiv preprint arXiv:2506.20040},
  year    = {2025},
}
"""


def _feature(kind: str) -> Any:
    if kind == "list<float32>":
        return datasets.Sequence(datasets.Value("float32"))
    return datasets.Value(kind)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class AblationDrop(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({name: _feature(kind) for name, kind in COLUMNS.items()}),
            reference_urls=["https://arxiv.org/abs/2506.20040"],
        )

    def _compute(
        self,
        num_bootstrap: int = NUM_BOOTSTRAP,
        num_permutations: int = NUM_PERMUTATIONS,
        seed: int = 0,
        details: bool = False,
        **columns: list,
    ) -> dict[str, Any]:
        return ablation_drop(columns, num_bootstrap, num_permutations, seed, details)
