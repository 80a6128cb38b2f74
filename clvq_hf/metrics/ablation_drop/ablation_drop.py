"""How much does a classifier depend on the concept that a prediction rests on?

The salient code of each text is removed inside the model, and the change of the margin is measured: the logit of the
plain prediction minus the best other logit. Removing anything costs something, so the figure to read is the contrast
with another code of the same text, of as many positions and as large a norm. Flips, accuracies and the effects of
random, mean and class directions stand beside it. The unit is the text: draws are averaged within it first.
"""

from inspect import getdoc
from typing import Any

import datasets
import evaluate

from .accuracies import rate_matched_accuracy
from .conditions import CONTRASTS
from .numerics import ablation_drop
from .outcomes import COLUMNS
from .statistics import studentized_interval

# evaluate.load copies only the sibling files from which this one imports: hence the names beside the class.
__all__ = ["CONTRASTS", "AblationDrop", "rate_matched_accuracy", "studentized_interval"]

_INPUTS_DESCRIPTION = f"""
{getdoc(ablation_drop)}

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
    return datasets.Sequence(datasets.Value("float32")) if kind == "list<float32>" else datasets.Value(kind)


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS_DESCRIPTION)
class AblationDrop(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({name: _feature(kind) for name, kind in COLUMNS.items()}),
            reference_urls=["https://arxiv.org/abs/2506.20040"],
        )

    def _compute(self, **inputs: Any) -> dict[str, Any]:
        columns = {name: inputs.pop(name) for name in COLUMNS}
        return ablation_drop(columns, **inputs)
