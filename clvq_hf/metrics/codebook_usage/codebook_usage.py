"""How evenly a codebook is used."""

from typing import Any

import datasets
import evaluate

from .numerics import codebook_usage

_DESCRIPTION = """
How many codes of a codebook are in use, and how evenly?

Perplexity is the number of codes that, used equally often, would have the same entropy as the codes of the tokens. A
codebook that has collapsed has a low perplexity and few active codes.
"""

_KWARGS_DESCRIPTION = """
Args:
    codes (`list[list[int]]`): One code per token of each text, one text a row. Negative codes are left out.
    codebook_size (`int`): Number of codes of the codebook, used or not.
    details (`bool`, defaults to `False`): Whether to return how often each code occurs.

Returns:
    `dict`:
    - **perplexity** (`float`): exp of the entropy of the codes' frequencies, from 1 to `codebook_size`.
    - **entropy** (`float`): That entropy in bits.
    - **gini** (`float`): Gini index over all codes of the codebook: 0 if all occur equally often, almost 1 if one has
      all tokens.
    - **active_codes**, **active_share** (`int`, `float`): Codes that occur, and their share of the codebook.
    - **codes_per_text** (`float`): Mean number of distinct codes of a text.
    - **num_tokens**, **num_texts** (`int`): Tokens with a code, and texts with such a token.
    - **num_empty** (`int`): Texts without one.
    - **counts** (`list[int]`): With `details=True`: tokens of each code.

Raises:
    ValueError: If a code is not in the codebook, or no token has a code.

Examples:
    Two of four codes occur, equally often.

    >>> metric = CodebookUsage(keep_in_memory=True)
    >>> results = metric.compute(codes=[[0, 1, -1], [1, 0]], codebook_size=4, details=True)
    >>> round(results["perplexity"], 6), results["entropy"], results["gini"]
    (2.0, 1.0, 0.5)
    >>> results["active_codes"], results["active_share"], results["codes_per_text"], results["counts"]
    (2, 0.5, 2.0, [2, 2, 0, 0])
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
class CodebookUsage(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"codes": datasets.Sequence(datasets.Value("int64"))}),
            reference_urls=["https://arxiv.org/abs/2506.20040"],
        )

    def _compute(self, codes: list[list[int]], codebook_size: int, details: bool = False) -> dict[str, Any]:
        return codebook_usage(codes, codebook_size, details)
