"""Do texts of one label share more concepts than texts of different labels, if they share as many words?

The overlap of two texts is the Jaccard index of their sets of distinct codes. Its mean over pairs of texts with the
same label is divided by its mean over pairs with different labels, in strata of TF-IDF cosine similarity, among pairs
of about the same length. Intervals draw texts, not pairs. The same ratio of the sets of token types, and of codes with
labels permuted by text, stands beside it, as do the counts of arXiv 2506.20040.
"""

from inspect import getdoc
from typing import Any

import datasets
import evaluate

from .numerics import codebook_overlap

_INPUTS_DESCRIPTION = f"""
{getdoc(codebook_overlap)}

Args of the metric alone:
    details (`bool`, defaults to `False`): Whether to return `strata` and `thresholds`.

Returns of the metric alone:
    - **ratio_0.00_0.05**, **ratio_0.05_0.10**, **ratio_0.10_0.20**, **ratio_0.20_0.30**, **ratio_0.30_1.00** (`float`):
      The ratio in each stratum; None with fewer than 30 matched pairs in either arm.
    - **shared_ratio_0.05**, **shared_ratio_0.10**, **shared_ratio_0.20**, **shared_ratio_0.30** (`float`): The paper's
      counts, from this similarity up; None with fewer than 30 pairs in either arm.
    - **num_same_pairs**, **num_different_pairs** (`int`): Pairs of matched lengths in the strata that enter `ratio`, of
      which the sample was drawn.
    - **num_strata** (`int`): Those strata.

Examples:
    Texts of label 0 use the codes 3 and 2, those of label 1 the codes 1 and 2, whatever their words. Same-label pairs
    share 2 of 2 codes, different-label pairs 1 of 3.

    >>> numbers = range(24)
    >>> metric = CodebookOverlap(keep_in_memory=True)
    >>> results = metric.compute(
    ...     texts=[str(number) for number in numbers],
    ...     codes=[[-1, 1, 2] if number % 2 else [-1, 3, 2] for number in numbers],
    ...     tokens=[["[CLS]", "text", str(number)] for number in numbers],
    ...     labels=[number % 2 for number in numbers],
    ... )
    >>> round(results["ratio"], 3), round(results["token_ratio"], 3)
    (3.0, 1.0)
    >>> results["ratio_0.00_0.05"] is None, round(results["shared_ratio_0.05"], 3)
    (True, 2.0)
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
class CodebookOverlap(evaluate.Metric):
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

    def _compute(self, details: bool = False, **inputs: Any) -> dict[str, Any]:
        results = codebook_overlap(**inputs)
        strata, thresholds = results.pop("strata"), results.pop("thresholds")
        used = [stratum for stratum in strata if stratum["ratio"] is not None]
        results["num_strata"] = len(used)
        for arm in ("same", "different"):
            results[f"num_{arm}_pairs"] = sum(stratum[f"num_{arm}_pairs"] for stratum in used)
        results |= {f"ratio_{stratum['low']:.2f}_{stratum['high']:.2f}": stratum["ratio"] for stratum in strata}
        results |= {f"shared_ratio_{row['threshold']:.2f}": row["ratio"] for row in thresholds}
        return {**results, "strata": strata, "thresholds": thresholds} if details else results
