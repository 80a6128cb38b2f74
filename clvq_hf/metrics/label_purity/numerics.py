"""How well the codes of a text's tokens tell its label: purity, cross-fitted, against permuted labels and token types.

Pure functions on arrays. The text is the unit of every split, permutation, draw and test.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, hypergeom

from .token_table import TokenTable, as_results, check_settings, draw_bootstrap, draw_halves, interval, mean, p_value


@dataclass(frozen=True)
class Groups:
    """How often each group of tokens (one code, or one token type) occurs in each text.

    Args:
        text, group, count (`np.ndarray` of shape `(p,)`, int64): Tokens of the group in the text, if there are any.
        num_tokens, num_texts (`np.ndarray` of shape `(g,)`, int64): Tokens of each group, and texts it occurs in.
    """

    text: np.ndarray
    group: np.ndarray
    count: np.ndarray
    num_tokens: np.ndarray
    num_texts: np.ndarray


@dataclass(frozen=True)
class Votes:
    """What the tokens of each half say about those of the other one.

    Args:
        share (`np.ndarray` of shape `(2, g, labels)`, float64): `share[h]` holds for tokens of half `h` and was
            learned on the other: 1 for the most frequent label of each group, split evenly if several tie.
        known (`np.ndarray` of shape `(2, g)`, bool): Whether tokens of half `h` have a vote: their group is in enough
            texts, and has enough tokens in the other half.
    """

    share: np.ndarray
    known: np.ndarray


def label_purity(
    table: TokenTable,
    min_count: int = 10,
    min_texts: int = 5,
    num_permutations: int = 200,
    num_bootstrap: int = 2000,
    seed: int = 0,
    details: bool = False,
) -> dict[str, Any]:
    """Share of tokens whose text has the label that their code mostly has, where the code was learned or elsewhere.

    Intervals draw texts with replacement; halves and majority labels stay as they are (drawn anew, copies of a text
    would be in both halves).

    Args:
        table ([`TokenTable`]): The tokens.
        min_count (`int`, defaults to 10): Tokens that a code needs: altogether for `purity`, in the half where its
            label is learned for `cross_fitted_purity`. The same holds of token types.
        min_texts (`int`, defaults to 5): A code in fewer texts is rare, and enters `rare_purity` alone.
        num_permutations (`int`, defaults to 200): Draws of labels permuted by text. The smallest possible p-value is
            1 ÷ (this + 1).
        num_bootstrap (`int`, defaults to 2,000): Draws of texts for the 95 % percentile intervals.
        seed (`int`, defaults to 0): Of the halves and all draws.
        details (`bool`, defaults to `False`): Whether to add `labels` and `codes`.

    Returns:
        `dict[str, Any]`: None stands for what is undefined: nothing is frequent enough.

        - **cross_fitted_purity**, **cross_fitted_purity_low**, **cross_fitted_purity_high** (`float`): Share of tokens
          whose text has the label that their code mostly has in the *other* half of the texts. Both halves are scored,
          and each token weighs the same. From 0 to 1; higher is purer. Compare it with its null, not with 0 or with
          1 ÷ labels.
        - **null_purity**, **null_low**, **null_high** (`float`): Mean and middle 95 % of the same for permuted labels,
          with new halves each time.
        - **excess_purity** (`float`): `cross_fitted_purity` − `null_purity`.
        - **p_value** (`float`): (1 + permutations with a figure as large) ÷ (1 + permutations).
        - **purity** (`float`): Share of tokens with the most frequent label of their code, counted on the same tokens,
          as arXiv 2506.20040 does: over codes with at least `min_count` tokens in at least `min_texts` texts.
        - **majority_share** (`float`): Share of all tokens with the most frequent label: what purity is by doing
          nothing.
        - **token_purity** (`float`): `cross_fitted_purity` with token types in place of codes.
        - **lexical_gain**, **lexical_gain_low**, **lexical_gain_high** (`float`): `cross_fitted_purity` −
          `token_purity`, both over the tokens that both can score, so that two rules are compared on the same tokens.
          From −1 to 1; above 0, codes know more of the label than the words do.
        - **lexical_gain_unmatched**, **lexical_gain_unmatched_low**, **lexical_gain_unmatched_high** (`float`): The
          same, each over the tokens that it can score.
        - **coverage**, **token_coverage**, **common_coverage** (`float`): Share of all tokens that enter
          `cross_fitted_purity`, `token_purity` and `lexical_gain`.
        - **exclusive_share**, **null_exclusive_share** (`float`): Share of eligible codes all of whose tokens have one
          label, and its mean over permutations.
        - **rare_purity** (`float`): `purity` of the rare codes.
        - **num_codes**, **num_eligible_codes**, **num_rare_codes** (`int`): Codes that occur; those that enter
          `purity`; those in fewer than `min_texts` texts.
        - **num_texts**, **num_tokens** (`int`): Distinct texts used, and their tokens.
        - **num_duplicates**, **num_unlabelled**, **num_empty** (`int`): Rows that repeat a text; texts left out for
          want of a label, and for want of a token with a code.
        - **labels** (`list[int]`, details): The labels, in the order of `label_counts` and `text_counts`.
        - **codes** (`list[dict]`, details): Of each code its number (`code`), `tokens` and `texts`; the most frequent
          `label` (the smallest of those that tie) and in-sample `purity`; `label_counts` (tokens) and `text_counts`
          (texts) by label; `p_value` and `adjusted_p_value`, None if it is not eligible.

    Raises:
        ValueError: If a setting is below 1 or, in a metric, [`read_token_table`] refuses the columns.
    """
    check_settings(
        min_count=min_count, min_texts=min_texts, num_permutations=num_permutations, num_bootstrap=num_bootstrap
    )
    split_generator, null_generator, bootstrap_generator = np.random.default_rng(seed).spawn(3)
    num_labels = len(table.label_names)
    codes = group_tokens(table.text, table.code, len(table.code_names))
    types = group_tokens(table.text, table.type, len(table.type_names))
    half = draw_halves(table.label, split_generator)
    code_counts = count_labels(codes, table.label, half, num_labels)
    code_votes = cast_votes(code_counts, codes.num_texts >= min_texts, min_count)
    type_votes = cast_votes(
        count_labels(types, table.label, half, num_labels), types.num_texts >= min_texts, min_count
    )
    sums = text_sums(table, half, code_votes, type_votes)
    figures = ratios(sums.sum(axis=0))
    draws = ratios(
        np.stack([weights @ sums for weights in draw_bootstrap(len(sums), num_bootstrap, bootstrap_generator)])
    )
    null, null_exclusive = _null(table, codes, min_count, min_texts, num_permutations, null_generator)

    counts = code_counts.sum(axis=0)
    rare = codes.num_texts < min_texts
    eligible = ~rare & (codes.num_tokens >= min_count)
    null_low, null_high = interval(null)
    results = as_results(
        {
            "purity": majority_share(counts[eligible]),
            **_with_interval("cross_fitted_purity", figures, draws),
            "null_purity": mean(null),
            "null_low": null_low,
            "null_high": null_high,
            "p_value": p_value(figures["cross_fitted_purity"], null),
            "excess_purity": figures["cross_fitted_purity"] - mean(null),
            "token_purity": figures["token_purity"],
            **_with_interval("lexical_gain", figures, draws),
            **_with_interval("lexical_gain_unmatched", figures, draws),
            "coverage": figures["coverage"],
            "token_coverage": figures["token_coverage"],
            "common_coverage": figures["common_coverage"],
            "exclusive_share": exclusive_share(counts[eligible]),
            "null_exclusive_share": mean(null_exclusive),
            "rare_purity": majority_share(counts[rare]),
            "majority_share": majority_share(counts.sum(axis=0, keepdims=True)),
            "num_codes": len(counts),
            "num_eligible_codes": eligible.sum(),
            "num_rare_codes": rare.sum(),
            **table.tallies,
        }
    )
    if details:
        results |= {"labels": table.label_names, "codes": _describe_codes(table, codes, counts, eligible)}
    return results


def group_tokens(text: np.ndarray, group: np.ndarray, num_groups: int) -> Groups:
    """Count the tokens of each group in each text."""
    num_texts = text.max() + 1
    places, count = np.unique(group * num_texts + text, return_counts=True)
    group, text = np.divmod(places, num_texts)
    return Groups(
        text=text,
        group=group,
        count=count,
        num_tokens=np.bincount(group, count, minlength=num_groups).astype(np.int64),
        num_texts=np.bincount(group, minlength=num_groups),
    )


def count_labels(groups: Groups, label: np.ndarray, half: np.ndarray, num_labels: int) -> np.ndarray:
    """Tokens by half, group and label, `(2, g, labels)` float64."""
    num_groups = len(groups.num_tokens)
    part = half * num_labels + label
    counts = np.bincount(
        part[groups.text] * num_groups + groups.group, groups.count, minlength=2 * num_labels * num_groups
    )
    return counts.reshape(2, num_labels, num_groups).swapaxes(1, 2)


def cast_votes(counts: np.ndarray, in_enough_texts: np.ndarray, min_count: int) -> Votes:
    """Learn the majority label of each group on each half, for use on the other."""
    winners = counts == counts.max(axis=-1, keepdims=True)
    share = winners / winners.sum(axis=-1, keepdims=True)
    known = in_enough_texts & (counts.sum(axis=-1) >= min_count)
    return Votes(share=share[::-1], known=known[::-1])


def text_sums(table: TokenTable, half: np.ndarray, code_votes: Votes, type_votes: Votes) -> np.ndarray:
    """What the figures of [`ratios`] are made of, text by text, `(n, 8)` float64."""
    side, label = half[table.text], table.label[table.text]
    code_known, type_known = code_votes.known[side, table.code], type_votes.known[side, table.type]
    code_right = code_votes.share[side, table.code, label]
    type_right = type_votes.share[side, table.type, label]
    both = code_known & type_known
    by_token = (
        code_known * code_right,
        code_known,
        type_known * type_right,
        type_known,
        both * code_right,
        both * type_right,
        both,
        np.ones_like(side),
    )
    return np.stack([np.bincount(table.text, values, minlength=len(table.label)) for values in by_token], axis=-1)


def ratios(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of sums `(…, 8)` over texts; NaN where there is nothing to divide by."""
    code_right, code_known, type_right, type_known, both_code_right, both_type_right, both, tokens = np.moveaxis(
        np.asarray(sums), -1, 0
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        purity, token_purity = code_right / code_known, type_right / type_known
        return {
            "cross_fitted_purity": purity,
            "token_purity": token_purity,
            "lexical_gain": (both_code_right - both_type_right) / both,
            "lexical_gain_unmatched": purity - token_purity,
            "coverage": code_known / tokens,
            "token_coverage": type_known / tokens,
            "common_coverage": both / tokens,
        }


def cross_fitted_purity(counts: np.ndarray, votes: Votes) -> float:
    """Share of the tokens with a vote whose label it names, of counts `(2, g, labels)`; NaN if there are none."""
    right = (counts * votes.share).sum(axis=-1)[votes.known].sum()
    known = counts.sum(axis=-1)[votes.known].sum()
    return right / known if known else np.nan


def majority_share(counts: np.ndarray) -> float:
    """Share of tokens with the most frequent label of their group, of counts `(g, labels)`; NaN without tokens."""
    return counts.max(axis=-1).sum() / counts.sum() if counts.size else np.nan


def exclusive_share(counts: np.ndarray) -> float:
    """Share of groups all of whose tokens have one label, of counts `(g, labels)`; NaN without groups."""
    return np.mean(np.count_nonzero(counts, axis=-1) == 1) if counts.size else np.nan


def lean_p_values(table: TokenTable, codes: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Test of each code: are the texts that it occurs in a random draw of all texts, as far as labels go?

    For each label, the hypergeometric probability of as many texts of that label or more; the smallest, times the
    number of labels (Bonferroni; for two labels, the doubled one-sided test of Fisher). It counts texts, not tokens:
    the tokens of a text are no independent witnesses.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: p-values `(g,)`, and the texts of each code by label `(g, labels)` int64.
    """
    num_labels = len(table.label_names)
    texts = np.bincount(
        codes.group * num_labels + table.label[codes.text], minlength=len(codes.num_texts) * num_labels
    ).reshape(-1, num_labels)
    tails = hypergeom.sf(texts - 1, len(table.label), np.bincount(table.label), codes.num_texts[:, None])
    return np.minimum(1.0, num_labels * tails.min(axis=1)), texts


def _null(
    table: TokenTable,
    codes: Groups,
    min_count: int,
    min_texts: int,
    num_permutations: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-fitted purity and share of exclusive codes, `(permutations,)` each, of labels permuted by text."""
    num_labels = len(table.label_names)
    in_enough_texts = codes.num_texts >= min_texts
    eligible = in_enough_texts & (codes.num_tokens >= min_count)
    purity, exclusive = np.empty(num_permutations), np.empty(num_permutations)
    for draw in range(num_permutations):
        label = generator.permutation(table.label)
        counts = count_labels(codes, label, draw_halves(label, generator), num_labels)
        purity[draw] = cross_fitted_purity(counts, cast_votes(counts, in_enough_texts, min_count))
        exclusive[draw] = exclusive_share(counts.sum(axis=0)[eligible])
    return purity, exclusive


def _describe_codes(
    table: TokenTable, codes: Groups, counts: np.ndarray, eligible: np.ndarray
) -> list[dict[str, Any]]:
    """One dict per code, by number; only eligible codes are tested, and corrected for their number."""
    p_values, texts = lean_p_values(table, codes)
    adjusted = np.full(len(p_values), np.nan)
    if eligible.any():
        adjusted[eligible] = false_discovery_control(p_values[eligible], method="bh")
    return [
        as_results(
            {
                "code": table.code_names[code],
                "tokens": codes.num_tokens[code],
                "texts": codes.num_texts[code],
                "label": table.label_names[counts[code].argmax()],
                "purity": majority_share(counts[[code]]),
                "label_counts": counts[code].astype(int).tolist(),
                "text_counts": texts[code].tolist(),
                "p_value": p_values[code] if eligible[code] else None,
                "adjusted_p_value": adjusted[code],
            }
        )
        for code in np.argsort(table.code_names)
    ]


def _with_interval(name: str, figures: dict[str, np.ndarray], draws: dict[str, np.ndarray]) -> dict[str, float]:
    low, high = interval(draws[name])
    return {name: figures[name], f"{name}_low": low, f"{name}_high": high}
