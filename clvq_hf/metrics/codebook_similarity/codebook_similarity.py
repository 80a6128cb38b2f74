"""How alike are the vectors of a codebook?

Mean cosine and Euclidean distance of distinct codes, and the mean cosine of a code to its nearest other code,
for all codes and for those in use. Codebooks share a large common mean, so the plain cosine is near 1 whatever the
concepts: read it beside the cosine of the centred vectors, and the norm of the mean vector relative to the mean norm.
"""

from inspect import getdoc

import datasets
import evaluate

from .numerics import codebook_similarity

_INPUTS_DESCRIPTION = f"""
{getdoc(codebook_similarity)}

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


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS_DESCRIPTION)
class CodebookSimilarity(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "vectors": datasets.Sequence(datasets.Value("float32")),
                    "counts": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2506.20040"],
        )

    _compute = staticmethod(codebook_similarity)
