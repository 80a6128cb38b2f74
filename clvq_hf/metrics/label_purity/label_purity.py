"""How well the codes of a text's tokens tell its label."""

from typing import Any

import datasets
import evaluate

from .numerics import label_purity
from .token_table import read_token_table

_DESCRIPTION = """
Do tokens that share a concept come from texts that share a label?

Purity is the share of tokens whose text has the label that their code mostly has. Counted on the same tokens it
flatters rare codes, so the majority label of each code is learned on half of the texts and counted on the other half.
Beside it stand its null (labels permuted by text), the same figure of token types (what the words alone tell), and what
it is by always naming the most frequent label.
"""

_KWARGS_DESCRIPTION = """
Args:
    texts (`list[str]`): The texts, one a row. Equal texts count once.
    codes (`list[list[int]]`): One code per token of each text. A token with a negative code is left out.
    tokens (`list[list[str]]`): Types of the same tokens (words or pieces of words).
    labels (`list[int]`): Class of each text; a negative one is missing.
    min_count (`int`, defaults to 10): A code needs so many tokens: altogether for `purity`, in the half where its
        label is learned for `cross_fitted_purity`.
    min_texts (`int`, defaults to 5): A code in fewer texts is rare, and enters `rare_purity` alone.
    num_permutations (`int`, defaults to 200): Draws of labels permuted by text.
    num_bootstrap (`int`, defaults to 2,000): Draws of texts for the 95 % percentile intervals.
    seed (`int`, defaults to 0): Of all draws.
    details (`bool`, defaults to `False`): Whether to return everything about every code.

Returns:
    `dict`: None stands for what is undefined.
    - **cross_fitted_purity**, **cross_fitted_purity_low**, **cross_fitted_purity_high** (`float`): Share of tokens
      whose text has the label that their code mostly has in the *other* half of the texts. From 0 to 1.
    - **null_purity**, **null_low**, **null_high** (`float`): Mean and middle 95 % of the same for permuted labels.
    - **excess_purity** (`float`): `cross_fitted_purity` less `null_purity`.
    - **p_value** (`float`): (1 + number of permutations with as large a figure) ÷ (1 + number of permutations).
    - **purity** (`float`): Share of tokens with the most frequent label of their code, counted on the same tokens.
    - **majority_share** (`float`): Share of tokens with the most frequent label: what purity is by doing nothing.
    - **token_purity** (`float`): `cross_fitted_purity` with token types in place of codes.
    - **lexical_gain**, **lexical_gain_low**, **lexical_gain_high** (`float`): `cross_fitted_purity` less
      `token_purity`, both over the tokens that both can score.
    - **lexical_gain_unmatched**, ... (`float`): The same, each over the tokens that it can score.
    - **coverage**, **token_coverage**, **common_coverage** (`float`): Share of tokens that enter
      `cross_fitted_purity`, `token_purity`, and `lexical_gain`.
    - **exclusive_share**, **null_exclusive_share** (`float`): Share of eligible codes all of whose tokens have one
      label, and its mean for permuted labels.
    - **rare_purity** (`float`): `purity` of the rare codes.
    - **num_codes**, **num_eligible_codes**, **num_rare_codes** (`int`): Codes that occur; those with at least
      `min_count` tokens in at least `min_texts` texts; those in fewer texts.
    - **num_texts**, **num_tokens** (`int`): Distinct texts used, and their tokens.
    - **num_duplicates**, **num_unlabelled**, **num_empty** (`int`): Rows that repeat a text; texts left out for want
      of a label, and of a token with a code.
    - **labels**, **codes** (`list`): With `details=True`: the labels, and a dict per code.

Raises:
    ValueError: If codes and tokens differ in length, fewer than two labels occur, or a setting is below 1.

Examples:
    Code 1 is always in texts of label 0, code 2 in texts of label 1, and code 3 anywhere. Words tell nothing.

    >>> numbers = range(24)
    >>> metric = LabelPurity(keep_in_memory=True)
    >>> results = metric.compute(
    ...     texts=[f"text {number}" for number in numbers],
    ...     codes=[[-1, 1 + number % 2, 3] for number in numbers],
    ...     tokens=[["[CLS]", "a", "text"] for number in numbers],
    ...     labels=[number % 2 for number in numbers],
    ...     min_count=3,
    ... )
    >>> results["cross_fitted_purity"], results["token_purity"], results["lexical_gain"]
    (0.75, 0.5, 0.25)
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


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LabelPurity(evaluate.Metric):
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
        num_permutations: int = 200,
        num_bootstrap: int = 2000,
        seed: int = 0,
        details: bool = False,
    ) -> dict[str, Any]:
        table = read_token_table(texts, codes, tokens, labels)
        return label_purity(table, min_count, min_texts, num_permutations, num_bootstrap, seed, details)
