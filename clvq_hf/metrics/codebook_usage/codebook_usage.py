"""How many codes of a codebook are in use, and how evenly?

Perplexity is the number of codes that, used equally often, would have the same entropy as the codes of the tokens. A
codebook that has collapsed has a low perplexity and few active codes.
"""

from inspect import getdoc

import datasets
import evaluate

from .numerics import codebook_usage

_INPUTS_DESCRIPTION = f"""
{getdoc(codebook_usage)}

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


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS_DESCRIPTION)
class CodebookUsage(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"codes": datasets.Sequence(datasets.Value("int64"))}),
            reference_urls=["https://arxiv.org/abs/2506.20040"],
        )

    _compute = staticmethod(codebook_usage)
