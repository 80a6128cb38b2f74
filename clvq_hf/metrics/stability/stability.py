"""Whether two concept models, such as two training seeds, found the same concepts."""

from typing import Any

import datasets
import evaluate
from numpy.typing import ArrayLike

from .numerics import stability

_DESCRIPTION = """
Did two concept models, such as two training seeds, find the same concepts?

The adjusted mutual information says how well the two models' codes of the same tokens agree, whatever the codes are
called. With both codebooks, their vectors are matched one to one (Hungarian method) by the cosine of centred vectors;
beside the mean cosine of the match stands what unrelated codebooks of the same mean and spread would give.
"""

_KWARGS_DESCRIPTION = """
Args:
    codes (`list[list[int]]`): One code per token of each text, a text a row.
    reference_codes (`list[list[int]]`): The other model's codes of the same tokens. A token counts if both its codes
        are 0 or more.
    codebook (`ArrayLike` of shape `(K, d)`, *optional*): Vectors of the codes; row *i* is that of code *i*.
    reference_codebook (`ArrayLike` of shape `(K', d)`, *optional*): Vectors of the reference codes.
    num_null (`int`, defaults to 10): Draws of unrelated codebooks.
    seed (`int`, defaults to 0): Of those draws.
    details (`bool`, defaults to `False`): Whether to return the match.

Returns:
    `dict`: None stands for what is undefined.
    - **ami** (`float`): Adjusted mutual information: 1 for the same codes up to their names, 0 in the mean for
      unrelated ones.
    - **num_tokens** (`int`): Tokens that have both codes.
    - **num_codes**, **num_reference_codes** (`int`): Codes that these tokens use.
    - **matched_cosine** (`float`): Mean cosine of matched vectors; None without codebooks.
    - **active_matched_cosine** (`float`): The same of the codes in use, each match weighted by the tokens that use
      either of its codes.
    - **null_matched_cosine**, **null_active_matched_cosine** (`float`): What unrelated codebooks give.
    - **match** (`list[dict]`): With `details=True`: `code`, `reference_code`, `cosine`, `count`, `reference_count`.

Raises:
    ValueError: If codes don't pair up, no token counts, only one codebook is given, the codebooks differ in width, or
        a code has no vector.

Examples:
    The second model has the same three concepts under other names.

    >>> metric = Stability(keep_in_memory=True)
    >>> results = metric.compute(
    ...     codes=[[0, 1, 2, -1], [1, 2, 0, 0]],
    ...     reference_codes=[[2, 0, 1, -1], [0, 1, 2, 2]],
    ...     codebook=[[0.0, 1.0], [1.0, 0.0], [5.0, 5.0]],
    ...     reference_codebook=[[1.0, 0.0], [5.0, 5.0], [0.0, 1.0]],
    ...     details=True,
    ... )
    >>> round(results["ami"], 3), results["num_tokens"], round(results["matched_cosine"], 3)
    (1.0, 7, 1.0)
    >>> [(pair["code"], pair["reference_code"]) for pair in results["match"]]
    [(0, 2), (1, 0), (2, 1)]
"""

_CITATION = """\
@article{vinh2010information,
  title   = {Information Theoretic Measures for Clusterings Comparison: Variants, Properties, Normalization and
             Correction for Chance},
  author  = {Vinh, Nguyen Xuan and Epps, Julien and Bailey, James},
  journal = {Journal of Machine Learning Research},
  volume  = {11},
  pages   = {2837--2854},
  year    = {2010},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Stability(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "codes": datasets.Sequence(datasets.Value("int64")),
                    "reference_codes": datasets.Sequence(datasets.Value("int64")),
                }
            ),
            reference_urls=["https://scikit-learn.org/stable/modules/clustering.html#mutual-info-score"],
        )

    def _compute(
        self,
        codes: list[list[int]],
        reference_codes: list[list[int]],
        codebook: ArrayLike | None = None,
        reference_codebook: ArrayLike | None = None,
        num_null: int = 10,
        seed: int = 0,
        details: bool = False,
    ) -> dict[str, Any]:
        results = stability(codes, reference_codes, codebook, reference_codebook, num_null, seed)
        match = results.pop("match")
        return {**results, "match": match} if details else results
