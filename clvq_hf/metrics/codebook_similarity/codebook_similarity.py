"""How alike the vectors of a codebook are."""

from typing import Any

import datasets
import evaluate

from .numerics import codebook_similarity

_DESCRIPTION = """
How alike are the vectors of a codebook?

Mean cosine and Euclidean distance of distinct codes, and the mean cosine of a code to its nearest other code,
for all codes and for those in use. Codebooks share a large common mean, so the plain cosine is near 1 whatever the
concepts: read it beside the cosine of the centred vectors, and the norm of the mean vector relative to the mean norm.
"""

_KWARGS_DESCRIPTION = """
Args:
    vectors (`list[list[float]]`): The vector of each code, one a row, all of one width.
    counts (`list[int]`): Number of tokens that use each code; a code in use has one or more.
    details (`bool`, defaults to `False`): Whether to describe each code.

Returns:
    `dict`: None stands for what is undefined: fewer than two vectors in use, or with a direction.
    - **mean_cosine** (`float`): Mean cosine of the pairs of distinct codes.
    - **mean_centred_cosine** (`float`): The same of the vectors less their mean.
    - **mean_euclidean** (`float`): Mean Euclidean distance of the pairs.
    - **nearest_cosine**, **nearest_centred_cosine** (`float`): Mean over codes of the largest cosine to another code.
    - **mean_norm_ratio** (`float`): Norm of the mean vector ÷ mean norm: 0 without a common mean, at most 1.
    - **active_mean_cosine**, ... **active_mean_norm_ratio** (`float`): The same six of the codes in use, centred on
      their own mean.
    - **num_codes**, **num_active**, **num_zero** (`int`): Codes, those in use, and those of zero norm, which are left
      out of all cosines.
    - **codes** (`list[dict]`): With `details=True`, in the order of the rows: `code`, `count`, `norm`, `nearest_code`,
      `nearest_cosine`, `nearest_centred_code`, `nearest_centred_cosine`.

Raises:
    ValueError: If there are fewer than two codes, vectors differ in width or are not finite, or counts are negative.

Examples:
    Three vectors at right angles, the third of them unused.

    >>> metric = CodebookSimilarity(keep_in_memory=True)
    >>> results = metric.compute(vectors=[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], counts=[5, 3, 0])
    >>> round(results["mean_cosine"], 3), round(results["mean_centred_cosine"], 3), round(results["mean_euclidean"], 3)
    (0.0, -0.5, 1.414)
    >>> results["num_active"], round(results["active_mean_centred_cosine"], 3)
    (2, -1.0)
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
class CodebookSimilarity(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "vectors": datasets.Sequence(datasets.Value("float32")),
                    "counts": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2506.20040"],
        )

    def _compute(self, vectors: list[list[float]], counts: list[int], details: bool = False) -> dict[str, Any]:
        return codebook_similarity(vectors, counts, details)
