"""Did two concept models, such as two training seeds, find the same concepts?

The adjusted mutual information says how well the two models' codes of the same tokens agree, whatever the codes are
called. With both codebooks, their vectors are matched one to one (Hungarian method) by the cosine of centred vectors;
beside the mean cosine of the match stands what unrelated codebooks of the same mean and spread would give.
"""

from inspect import getdoc
from typing import Any

import datasets
import evaluate

from .numerics import stability

_INPUTS_DESCRIPTION = f"""
{getdoc(stability)}

Args of the metric alone:
    details (`bool`, defaults to `False`): Whether to return `match`.

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


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS_DESCRIPTION)
class Stability(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "codes": datasets.Sequence(datasets.Value("int64")),
                    "reference_codes": datasets.Sequence(datasets.Value("int64")),
                }
            ),
            reference_urls=["https://scikit-learn.org/stable/modules/clustering.html#mutual-info-score"],
        )

    def _compute(self, details: bool = False, **inputs: Any) -> dict[str, Any]:
        results = stability(**inputs)
        match = results.pop("match")
        return {**results, "match": match} if details else results
