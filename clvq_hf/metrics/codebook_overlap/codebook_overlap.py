"""How many concepts texts of one label share, against texts of different labels that share as many words."""

from typing import Any

import datasets
import evaluate

from .numerics import codebook_overlap

_DESCRIPTION = """
Do texts of one label share more concepts than texts of different labels, if they share as many words?

The overlap of two texts is the Jaccard index of their sets of distinct codes. Its mean over pairs of texts with the
same label is divided by its mean over pairs with different labels, in strata of TF-IDF cosine similarity, among pairs
of about the same length. Intervals draw texts, not pairs. The same ratio of the sets of token types, and of codes with
labels permuted by text, stands beside it, as do the counts of arXiv 2506.20040.
"""

_KWARGS_DESCRIPTION = """
Args:
    texts (`list[str]`): The texts, one a row. Equal texts count once.
    codes (`list[list[int]]`): One code per token of each text. A token with a negative code is left out.
    tokens (`list[list[str]]`): Types of the same tokens (words or pieces of words), from which TF-IDF is computed.
    labels (`list[int]`): Class of each text; a negative one is missing.
    num_pairs (`int`, defaults to 10,000): At most so many pairs of each stratum and arm (of each of matched and
        unmatched lengths) are sampled; at least 30.
    num_bootstrap (`int`, defaults to 2,000): Draws of texts for the 95 % percentile intervals.
    num_permutations (`int`, defaults to 200): Draws of labels permuted by text.
    length_caliper (`float`, defaults to 0.25): Two texts match in length if the logs of their numbers of tokens differ
        by less.
    seed (`int`, defaults to 0): Of all draws.
    details (`bool`, defaults to `False`): Whether to return everything about every stratum and threshold.

Returns:
    `dict`: None stands for what is undefined.
    - **ratio**, **ratio_low**, **ratio_high** (`float`): Mean Jaccard index of same-label pairs ÷ that of
      different-label pairs, standardised to the similarities of same-label pairs. 1 if labels make no difference.
    - **token_ratio**, **token_ratio_low**, **token_ratio_high** (`float`): The same of the sets of token types.
    - **permuted_ratio** (`float`): Mean of `ratio` over label permutations.
    - **p_value** (`float`): Share of label permutations with as large a `ratio`.
    - **ratio_0.00_0.05**, ... **ratio_0.30_1.00** (`float`): The ratio in each stratum; None with fewer than 30
      matched pairs in either arm.
    - **shared_ratio_0.05**, ... **shared_ratio_0.30** (`float`): The paper's counts: mean number of distinct codes
      shared by same-label pairs ÷ by different-label pairs, from this similarity up, of any lengths.
    - **num_same_pairs**, **num_different_pairs** (`int`): Matched pairs in the strata that enter `ratio`.
    - **num_strata** (`int`): Strata that enter `ratio`.
    - **num_texts**, **num_duplicates**, **num_unlabelled**, **num_empty** (`int`): Distinct texts used, rows that
      repeat a text, texts left out for want of a label, and of a token.
    - **num_sampled_texts** (`int`): Texts among which pairs were sought.
    - **strata**, **thresholds** (`list[dict]`): With `details=True`.

Raises:
    ValueError: If codes and tokens differ in length, fewer than two labels occur, or a setting is out of range.

Examples:
    Texts of label 0 use the codes 1 and 2, those of label 1 the codes 3 and 2, whatever their words.

    >>> numbers = range(24)
    >>> metric = CodebookOverlap(keep_in_memory=True)
    >>> results = metric.compute(
    ...     texts=[f"text {number}" for number in numbers],
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


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CodebookOverlap(evaluate.Metric):
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
        num_pairs: int = 10_000,
        num_bootstrap: int = 2000,
        num_permutations: int = 200,
        length_caliper: float = 0.25,
        seed: int = 0,
        details: bool = False,
    ) -> dict[str, Any]:
        results = codebook_overlap(
            texts, codes, tokens, labels, num_pairs, num_bootstrap, num_permutations, length_caliper, seed
        )
        strata, thresholds = results.pop("strata"), results.pop("thresholds")
        used = [stratum for stratum in strata if stratum["ratio"] is not None]
        results["num_strata"] = len(used)
        for arm in ("same", "different"):
            results[f"num_{arm}_pairs"] = sum(stratum[f"num_{arm}_pairs"] for stratum in used)
        results |= {f"ratio_{stratum['low']:.2f}_{stratum['high']:.2f}": stratum["ratio"] for stratum in strata}
        results |= {f"shared_ratio_{row['threshold']:.2f}": row["ratio"] for row in thresholds}
        return {**results, "strata": strata, "thresholds": thresholds} if details else results
