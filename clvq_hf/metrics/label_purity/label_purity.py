"""Do tokens that share a concept come from texts that share a label?

Purity is the share of tokens whose text has the label that their code mostly has. Counted on the same tokens it
flatters rare codes, so the majority label of each code is learned on half of the texts and counted on the other half,
and that is averaged over 20 random splits.
Beside it stand its null (labels permuted by text), the same figure of token types (what the words alone tell), and what
it is by always naming the most frequent label.
"""

from typing import Any

import datasets
import evaluate

from .numerics import label_purity
from .token_table import describe_with_columns, read_token_table

_INPUTS_DESCRIPTION = f"""
{describe_with_columns(label_purity)}

Examples:
    Code 1 is always in texts of label 0, code 2 in texts of label 1, and code 3 anywhere. Words tell nothing.

    >>> numbers = range(24)
    >>> metric = LabelPurity(keep_in_memory=True)
    >>> results = metric.compute(
    ...     texts=[str(number) for number in numbers],
    ...     codes=[[-1, 1 + number % 2, 3] for number in numbers],
    ...     tokens=[["[CLS]", "a", "text"] for number in numbers],
    ...     labels=[number % 2 for number in numbers],
    ...     min_count=3,
    ... )
    >>> [round(results[name], 2) for name in ("cross_fitted_purity", "token_purity", "lexical_gain")]
    [0.71, 0.42, 0.29]
    >>> results["exclusive_share"], results["num_codes"], results["p_value"] < 0.05
    (0.6666666666666666, 3, True)
"""

_CITATION = """\
@article{garg2025crosslayer,
  title   = {Cross-Layer Discrete Concept Discovery for Interpreting Language Models},
  author  = {Garg, Ankur and Yu, Xuemin and Sajjad, Hassan and Ebrahimi Kahou, Samira},
  journal = {arXiv preprint arXiv:2506.20040},
  year    = {2025},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS_DESCRIPTION)
class LabelPurity(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "texts": datasets.Value("string"),
                    "codes": datasets.Sequence(datasets.Value("int64")),
                    "tokens": datasets.Sequence(datasets.Value("string")),
                    "labels": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2506.20040"],
        )

    def _compute(self, texts: list, codes: list, tokens: list, labels: list, **settings: int) -> dict[str, Any]:
        return label_purity(read_token_table(texts, codes, tokens, labels), **settings)
