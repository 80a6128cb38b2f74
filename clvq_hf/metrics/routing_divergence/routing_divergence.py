"""Whether a word gets other codes in texts of one label than in those of another."""

from typing import Any

import datasets
import evaluate

from .numerics import routing_divergence
from .token_table import read_token_table

_DESCRIPTION = """
Does the same word get other concepts in texts of one label than in texts of another?

For each frequent word, the codes that it gets under each label are compared by Jensen–Shannon divergence, from 0 (the
same codes, equally often) to 1 bit (no code in common). Chance alone lifts it, so what permuted labels give is taken
off. The labels of a word are permuted among the texts in which it occurs about as often: a word that is merely more
frequent under one label is not routed.
"""

_KWARGS_DESCRIPTION = """
Args:
    texts (`list[str]`): The texts, one a row. Equal texts count once.
    codes (`list[list[int]]`): One code per token of each text. A token with a negative code is left out.
    tokens (`list[list[str]]`): Types of the same tokens (words or pieces of words), compared as they are written.
    labels (`list[int]`): Class of each text; a negative one is missing.
    min_count (`int`, defaults to 10): Tokens that a type needs under a label, and under at least two labels.
    min_texts (`int`, defaults to 5): Texts that it needs under those labels.
    num_permutations (`int`, defaults to 100): Draws of permuted labels.
    num_bootstrap (`int`, defaults to 2,000): Draws of texts for the 95 % interval.
    seed (`int`, defaults to 0): Of all draws.
    details (`bool`, defaults to `False`): Whether to return everything about every type, and examples.

Returns:
    `dict`: None stands for what is undefined: with `num_types` 0, no type is frequent enough.
    - **jsd** (`float`): Mean divergence over types, in bits. Several labels: mean over the pairs of eligible ones.
    - **null_jsd** (`float`): Its mean for permuted labels.
    - **excess_jsd**, **excess_jsd_low**, **excess_jsd_high** (`float`): `jsd` less `null_jsd`, 95 % interval.
    - **p_value** (`float`): Of a test against labels permuted among whole texts.
    - **routed_share**, **null_routed_share** (`float`): Share of types whose usual (most frequent) code differs
      between labels, and its mean for permuted labels. Labels with a usual code in common don't differ. Several
      labels: share of the pairs of eligible ones.
    - **token_weighted_jsd**, **null_token_weighted_jsd**, **token_weighted_routed_share**,
      **null_token_weighted_routed_share** (`float`): The same where each type weighs what it has of tokens.
    - **coverage** (`float`): Share of tokens that enter.
    - **num_types** (`int`): Types that enter.
    - **num_texts**, **num_tokens** (`int`): Distinct texts used, and their tokens.
    - **num_duplicates**, **num_unlabelled**, **num_empty** (`int`): Rows that repeat a text; texts left out for want
      of a label, and of a token with a code.
    - **labels**, **types**, **examples** (`list`): With `details=True`: the labels, a dict per type, and the types with
      the largest excess on one half of the texts, with figures of the other half.

Raises:
    ValueError: If codes and tokens differ in length, fewer than two labels occur, or a setting is below 1.

Examples:
    "fun" gets code 1 in texts of label 0 and code 2 in those of label 1; "film" gets 3 and 4 under both, by turns.

    >>> numbers = range(24)
    >>> metric = RoutingDivergence(keep_in_memory=True)
    >>> results = metric.compute(
    ...     texts=[f"text {number}" for number in numbers],
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


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RoutingDivergence(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
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

    def _compute(
        self,
        texts: list[str],
        codes: list[list[int]],
        tokens: list[list[str]],
        labels: list[int],
        min_count: int = 10,
        min_texts: int = 5,
        num_permutations: int = 100,
        num_bootstrap: int = 2000,
        seed: int = 0,
        details: bool = False,
    ) -> dict[str, Any]:
        table = read_token_table(texts, codes, tokens, labels)
        return routing_divergence(table, min_count, min_texts, num_permutations, num_bootstrap, seed, details)
