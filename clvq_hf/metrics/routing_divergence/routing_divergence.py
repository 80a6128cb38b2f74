"""Does the same word get other concepts in texts of one label than in texts of another?

For each frequent word, the codes that it gets under each label are compared by Jensen–Shannon divergence, from 0 (the
same codes, equally often) to 1 bit (no code in common). Chance alone lifts it, so what permuted labels give is taken
off. The labels of a word are permuted among the texts in which it occurs about as often: a word that is merely more
frequent under one label is not routed.
"""

from typing import Any

import datasets
import evaluate

from .numerics import routing_divergence
from .token_table import describe_with_columns, read_token_table

_INPUTS_DESCRIPTION = f"""
{describe_with_columns(routing_divergence)}

Examples:
    "fun" gets code 1 in texts of label 0 and code 2 in those of label 1; "film" gets 3 and 4 under both, by turns.

    >>> numbers = range(24)
    >>> metric = RoutingDivergence(keep_in_memory=True)
    >>> results = metric.compute(
    ...     texts=[str(number) for number in numbers],
    ...     codes=[[1 + number % 2, 3 + number // 2 % 2] for number in numbers],
    ...     tokens=[["fun", "film"] for number in numbers],
    ...     labels=[number % 2 for number in numbers],
    ... )
    >>> results["jsd"], results["routed_share"], results["num_types"]
    (0.5, 0.5, 2)
    >>> results["null_jsd"] < 0.1, results["p_value"] < 0.05
    (True, True)
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
class RoutingDivergence(evaluate.Metric):
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
        return routing_divergence(read_token_table(texts, codes, tokens, labels), **settings)
