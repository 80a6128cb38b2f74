"""How well the codes of a text's tokens tell its label: purity, cross-fitted, against permuted labels and token types.

Pure functions on arrays. The text is the unit of every split, permutation, interval and test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.special import expit, logit
from scipy.stats import false_discovery_control, hypergeom, t

from .token_table import TokenTable, as_results, check_settings, draw_halves, interval, mean, p_value

# Random halves that every figure is averaged over.
NUM_SPLITS = 20
# Parts of the texts that are left out in turn for an interval; of fewer texts, one text at a time.
NUM_PARTS = 100


@dataclass(frozen=True)
class Votes:
    """What the tokens of each half say about those of the other one.

    Args:
        share (`np.ndarray` of shape `(labels, …, 2, g)`, float64): `share[:, …, h]` holds for tokens of half `h` and
            was learned on the other: 1 for the most frequent label of each group, split evenly if several tie.
        known (`np.ndarray` of shape `(…, 2, g)`, bool): Whether tokens of half `h` have a vote: their group is in
            enough texts, and has enough tokens in the other half.
    """

    share: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Rules:
    """Several groupings of the same tokens, each a rule that names a token's label by its group.

    Args:
        label (`np.ndarray` of shape `(n,)`, int64): Label of each text.
        num_labels (`int`): Number of labels.
        halves (`np.ndarray` of shape `(n, s)`, uint8): Half of each text in each split.
        groups (`list[csr_array]` of shape `(g, n)`): Of each grouping, how often each group occurs in each text.
        cells (`csr_array` of shape `(q, n)`): How often tokens occur in each text that are equal in all groupings and
            in label; without those that some rule cannot know.
        cell_groups (`np.ndarray` of shape `(rules, q)`, int64): The groups of these tokens.
        cell_label (`np.ndarray` of shape `(q,)`, int64): Their label.
        min_count (`int`): Tokens that a group needs in the half where its label is learned.
        min_texts (`int`): Texts that it needs.
    """

    label: np.ndarray
    num_labels: int
    halves: np.ndarray
    groups: list[csr_array]
    cells: csr_array
    cell_groups: np.ndarray
    cell_label: np.ndarray
    min_count: int
    min_texts: int

    @classmethod
    def of(
        cls, table: TokenTable, groupings: Sequence[np.ndarray], halves: np.ndarray, min_count: int, min_texts: int
    ) -> "Rules":
        """Make rules of groupings `(t,)` of the tokens of a table."""
        num_texts = len(table.label)
        groups = [count_tokens(table.text, grouping, num_texts) for grouping in groupings]
        knowable = np.ones(len(table.text), bool)
        for grouping, counts in zip(groupings, groups, strict=True):
            enough = (counts.sum(axis=1) >= min_count) & (texts_of(counts) >= min_texts)
            knowable &= enough[grouping]
        text = table.text[knowable]
        keys = np.stack([*(grouping[knowable] for grouping in groupings), table.label[text]])
        kinds, kind = np.unique(keys, axis=1, return_inverse=True)
        return cls(
            label=table.label,
            num_labels=len(table.label_names),
            halves=halves,
            groups=groups,
            cells=count_tokens(text, kind.ravel(), num_texts),  # NumPy 2.0 gives it a second axis
            cell_groups=kinds[:-1],
            cell_label=kinds[-1],
            min_count=min_count,
            min_texts=min_texts,
        )

    def count(self, texts: np.ndarray) -> list[np.ndarray]:
        """Count the tokens of some texts: [`count_labels`] and [`texts_of`] of each grouping, and cells `(s, 2, q)`.

        Of two sets of texts without a common one these counts add up.
        """
        label, halves, groups = self.label[texts], self.halves[texts], [each[:, texts] for each in self.groups]
        of_both = np.stack([halves == half for half in range(2)], axis=-1).reshape(len(texts), -1)
        cells = (self.cells[:, texts] @ of_both).reshape(-1, halves.shape[1], 2)
        # Side by side in memory, as all that follows sums over them.
        cells = np.ascontiguousarray(np.moveaxis(cells, 0, -1))
        return [
            *(count_labels(each, label, self.num_labels, halves) for each in groups),
            *map(texts_of, groups),
            cells,
        ]

    def score(self, counts: list[np.ndarray]) -> np.ndarray:
        """Learn and apply all rules in every split, on texts of which [`count`] has counted the tokens.

        Returns:
            `np.ndarray` of shape `(2, 2, rules, s)`, float64: Purity, and tokens that enter it: of each rule's own
            tokens, and of those that all rules know. NaN where there are none.
        """
        *counts, common = counts
        right, known, votes = [], [], []
        by_rule = zip(counts[: len(self.groups)], counts[len(self.groups) :], self.cell_groups, strict=True)
        for labels, texts, group in by_rule:
            cast = cast_votes(labels, texts >= self.min_texts, self.min_count)
            right.append(np.where(cast.known, (labels * cast.share).sum(axis=0), 0).sum(axis=(-2, -1)))
            known.append(np.where(cast.known, labels.sum(axis=0), 0).sum(axis=(-2, -1)))
            common = common * cast.known[..., group]
            votes.append(np.moveaxis(cast.share, 0, -1)[..., group, self.cell_label])
        tokens = np.stack([known, [common.sum(axis=(-2, -1))] * len(votes)])
        with np.errstate(invalid="ignore"):
            return np.stack(
                [np.stack([right, [(common * share).sum(axis=(-2, -1)) for share in votes]]) / tokens, tokens]
            )

    def score_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Score all texts, and all without each part in turn, `(parts, 2, rules, s)`: purities alone."""
        texts = np.arange(len(self.label))
        whole = self.count(texts)
        # What a part has is taken off, for counting is what takes long.
        parts = (self.count(texts[part::NUM_PARTS]) for part in range(min(NUM_PARTS, len(texts))))
        without = (self.score([all_ - own for all_, own in zip(whole, part, strict=True)])[0] for part in parts)
        return self.score(whole), np.stack(list(without))


def label_purity(
    table: TokenTable,
    min_count: int = 10,
    min_texts: int = 5,
    num_permutations: int = 200,
    seed: int = 0,
    details: bool = False,
) -> dict[str, Any]:
    """Share of tokens whose text has the label that their code mostly has, where the code was learned or elsewhere.

    Every figure that is learned on one half and counted on the other is a mean over 20 random splits; the half of a
    text depends on itself and the seed alone ([`draw_halves`]). 95 % intervals are for the expected figure of as many
    fresh texts; majority labels are learned again in all their parts ([`jackknife_interval`]).

    Args:
        table ([`TokenTable`]): The tokens.
        min_count (`int`, defaults to 10): Tokens that a code needs: altogether for `purity`, in the half where its
            label is learned for `cross_fitted_purity`. The same holds of token types.
        min_texts (`int`, defaults to 5): A code in fewer texts is rare, and enters `rare_purity` alone.
        num_permutations (`int`, defaults to 200): Draws of labels permuted by text. The smallest possible p-value is
            1 ÷ (this + 1).
        seed (`int`, defaults to 0): Of the halves and the permutations.
        details (`bool`, defaults to `False`): Whether to add `labels` and `codes`.

    Returns:
        `dict[str, Any]`: None stands for what is undefined: nothing is frequent enough.

        - **cross_fitted_purity**, **cross_fitted_purity_low**, **cross_fitted_purity_high** (`float`): Share of tokens
          whose text has the label that their code mostly has in the *other* half of the texts. Both halves are scored,
          and each token weighs the same. From 0 to 1; higher is purer. Compare it with its null, not with 0 or with
          1 ÷ labels.
        - **null_purity**, **null_low**, **null_high** (`float`): Mean and middle 95 % of the same for permuted labels,
          in the same splits.
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
        - **within_word_gain**, **within_word_gain_low**, **within_word_gain_high** (`float`): Purity of pairs of code
          and token type − purity of types alone, cross-fitted, over the tokens of types with at least two frequent
          codes (in `min_texts` texts and 2 · `min_count` tokens each): what a code knows of the label that its word
          does not. None for codes that follow from the type.
        - **coverage**, **token_coverage**, **common_coverage**, **within_word_coverage** (`float`): Share of all tokens
          that enter `cross_fitted_purity`, `token_purity`, `lexical_gain` and `within_word_gain`.
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
    check_settings(min_count=min_count, min_texts=min_texts, num_permutations=num_permutations)
    halves = draw_halves(table.text_names, NUM_SPLITS, seed)
    rules = Rules.of(table, [table.code, table.type], halves, min_count, min_texts)
    codes = rules.groups[0]
    ((own, common), (own_tokens, common_tokens)), parts = rules.score_all()
    own_parts, common_parts = np.moveaxis(parts, 1, 0)
    null, null_exclusive = _null(table, rules, num_permutations, np.random.default_rng(seed))
    purity = mean(own[0])
    within, within_parts, within_coverage = _within_words(table, halves, min_count, min_texts)
    own_tokens, common_tokens = own_tokens.mean(axis=-1) / len(table.text), common_tokens.mean() / len(table.text)

    counts = count_labels(codes, table.label, len(table.label_names), halves[:, :1])[:, 0].sum(axis=1).T
    num_tokens, num_texts = codes.sum(axis=1), texts_of(codes)
    rare = num_texts < min_texts
    eligible = ~rare & (num_tokens >= min_count)
    null_low, null_high = interval(null)
    results = as_results(
        {
            "purity": majority_share(counts[eligible]),
            **_with_interval("cross_fitted_purity", own[0], own_parts[:, 0], share=True),
            "null_purity": mean(null),
            "null_low": null_low,
            "null_high": null_high,
            "p_value": p_value(purity, null),
            "excess_purity": purity - mean(null),
            "token_purity": mean(own[1]),
            **_with_interval("lexical_gain", common[0] - common[1], common_parts[:, 0] - common_parts[:, 1]),
            **_with_interval("lexical_gain_unmatched", own[0] - own[1], own_parts[:, 0] - own_parts[:, 1]),
            **_with_interval("within_word_gain", within, within_parts),
            "coverage": own_tokens[0],
            "token_coverage": own_tokens[1],
            "common_coverage": common_tokens,
            "within_word_coverage": within_coverage,
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


def compare_purity(
    tables: Sequence[TokenTable], min_count: int = 10, min_texts: int = 5, seed: int = 0
) -> list[dict[str, float | None]]:
    """Cross-fitted purity of several codings of the same tokens, on the tokens that all of them score in a split.

    Args:
        tables (`Sequence[TokenTable]`): The same texts, labels and tokens with the codes of each method.
        min_count (`int`, defaults to 10): Tokens that a code needs in the half where its label is learned.
        min_texts (`int`, defaults to 5): Texts that it needs.
        seed (`int`, defaults to 0): Of the halves.

    Returns:
        `list[dict[str, float | None]]`: Of each table its `purity`; the `difference` to the first one, paired by text
        and split, with the 95 % interval from `difference_low` to `difference_high`; and `coverage`, the share of all
        tokens that enter. None where nothing is frequent enough.

    Raises:
        ValueError: If the tables have different texts, labels or tokens.
    """
    first = tables[0]
    for table in tables[1:]:
        if not (
            table.text_names == first.text_names
            and np.array_equal(table.label, first.label)
            and np.array_equal(table.text, first.text)
            and np.array_equal(table.type, first.type)
        ):
            raise ValueError("Give tables of the same texts, labels and tokens; only the codes may differ.")
    halves = draw_halves(first.text_names, NUM_SPLITS, seed)
    rules = Rules.of(first, [table.code for table in tables], halves, min_count, min_texts)
    ((_, purity), (_, tokens)), parts = rules.score_all()
    parts = parts[:, 1]
    coverage = tokens.mean() / len(first.text)
    return [
        as_results(
            {
                "purity": mean(purity[row]),
                **_with_interval("difference", purity[row] - purity[0], parts[:, row] - parts[:, 0]),
                "coverage": coverage,
            }
        )
        for row in range(len(tables))
    ]


def count_tokens(text: np.ndarray, group: np.ndarray, num_texts: int) -> csr_array:
    """How often each group of tokens occurs in each text, `(g, n)` float64."""
    counts = coo_array((np.ones(len(text)), (group, text)), shape=(group.max(initial=-1) + 1, num_texts))
    # Converting adds up the ones of equal places.
    return counts.tocsr()


def texts_of(groups: csr_array) -> np.ndarray:
    """Number of texts in which each group occurs, `(g,)` int64."""
    return np.diff(groups.indptr)


def count_labels(groups: csr_array, label: np.ndarray, num_labels: int, halves: np.ndarray) -> np.ndarray:
    """Tokens by label, split, half and group, `(labels, s, 2, g)` float64."""
    names = label[:, None] == np.arange(num_labels)
    of_both = groups @ names.astype(float)
    of_one = groups @ (names[..., None] & halves[:, None].astype(bool)).reshape(len(label), -1).astype(float)
    of_one = of_one.T.reshape(num_labels, halves.shape[1], groups.shape[0])
    return np.stack([of_both.T[:, None] - of_one, of_one], axis=2)


def cast_votes(counts: np.ndarray, in_enough_texts: np.ndarray, min_count: int) -> Votes:
    """Learn the majority label of each group on each half, for use on the other."""
    # Labels come first, as sums over a few of them are slow along the last axis.
    winners = counts == counts.max(axis=0)
    share = winners / winners.sum(axis=0)
    known = in_enough_texts & (counts.sum(axis=0) >= min_count)
    return Votes(share=share[..., ::-1, :], known=known[..., ::-1, :])


def cross_fitted_purity(counts: np.ndarray, votes: Votes) -> np.ndarray:
    """Share of the tokens with a vote whose label it names, of counts `(labels, …, 2, g)`; NaN if there are none."""
    right = np.where(votes.known, (counts * votes.share).sum(axis=0), 0).sum(axis=(-2, -1))
    known = np.where(votes.known, counts.sum(axis=0), 0).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        return right / known


def jackknife_interval(figures: np.ndarray, left_out: np.ndarray, share: bool = False) -> tuple[float, float]:
    """95 % interval of a mean over splits, from the same figures without each part of the texts in turn.

    Splits are drawn anew for each text, so given the texts they are independent, and the variance of the mean is that
    of the mean over all possible splits (a jackknife estimate, less what the few splits add to it) and that of the
    splits ÷ their number. Everything is learned again without each part, so that what the learning adds to the
    variance is in it.

    Args:
        figures (`np.ndarray` of shape `(s,)`): Of each split, NaN where undefined.
        left_out (`np.ndarray` of shape `(parts, s)`): The same without each part.
        share (`bool`): Whether the figure is a share: its interval is that of the log odds, which stays within 0 and 1
            and is as skewed as shares are.

    Source: Efron & Stein (1981), The jackknife estimate of variance: on average not less than the true variance.
    """
    parts, num_splits = left_out.shape
    centre = mean(figures)
    if np.isnan(centre):
        return np.nan, np.nan
    shifts = left_out - _mean_over_splits(left_out.T)
    scale = (parts - 1) / parts
    of_texts = scale * np.nansum(_mean_over_splits(shifts) ** 2)
    of_splits, inside = (_variance_over_splits(values) / num_splits for values in (figures, shifts))
    variance = max(of_texts - scale * inside.sum(), 0) + of_splits
    half_width = t.ppf(0.975, parts - 1) * np.sqrt(variance)
    if half_width == 0 or not share:
        return centre - half_width, centre + half_width
    half_width /= centre * (1 - centre)
    return tuple(expit(logit(centre) + np.array([-half_width, half_width])))


def majority_share(counts: np.ndarray) -> float:
    """Share of tokens with the most frequent label of their group, of counts `(g, labels)`; NaN without tokens."""
    return counts.max(axis=-1).sum() / counts.sum() if counts.size else np.nan


def exclusive_share(counts: np.ndarray) -> float:
    """Share of groups all of whose tokens have one label, of counts `(g, labels)`; NaN without groups."""
    return np.mean(np.count_nonzero(counts, axis=-1) == 1) if counts.size else np.nan


def lean_p_values(table: TokenTable, codes: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Test of each code: are the texts that it occurs in a random draw of all texts, as far as labels go?

    For each label, the hypergeometric probability of as many texts of that label or more; the smallest, times the
    number of labels (Bonferroni; for two labels, the doubled one-sided test of Fisher). It counts texts, not tokens:
    the tokens of a text are no independent witnesses.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: p-values `(g,)`, and the texts of each code by label `(g, labels)` int64.
    """
    num_labels = len(table.label_names)
    texts = np.stack([texts_of(codes[:, table.label == label]) for label in range(num_labels)], axis=-1)
    tails = hypergeom.sf(texts - 1, len(table.label), np.bincount(table.label), texts.sum(axis=1, keepdims=True))
    return np.minimum(1.0, num_labels * tails.min(axis=1)), texts


def _within_words(
    table: TokenTable, halves: np.ndarray, min_count: int, min_texts: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Purity of pairs of type and code − purity of types, where a type has several codes.

    Returns:
        `tuple` of two `np.ndarray` of shapes `(s,)` and `(parts, s)`, the gain in each split, and without each part of
        the texts, NaN if no type has several codes; and the share of all tokens that enter.
    """
    num_texts = len(table.label)
    pairs, pair = np.unique(np.stack([table.type, table.code]), axis=1, return_inverse=True)
    pair = pair.ravel()
    counts = count_tokens(table.text, pair, num_texts)
    # In both halves there are as many as a vote needs.
    frequent = (counts.sum(axis=1) >= 2 * min_count) & (texts_of(counts) >= min_texts)
    several = np.bincount(pairs[0][frequent], minlength=len(table.type_names)) >= 2
    kept = several[table.type] & frequent[pair]
    if not kept.any():
        undefined = np.full(halves.shape[1], np.nan)
        return undefined, np.full((min(num_texts, NUM_PARTS), len(undefined)), np.nan), 0.0
    tokens = replace(table, text=table.text[kept], code=table.code[kept], type=table.type[kept])
    rules = Rules.of(
        tokens, [np.unique(pair[kept], return_inverse=True)[1], tokens.type], halves, min_count, min_texts
    )
    ((_, purity), (_, entering)), parts = rules.score_all()
    parts = parts[:, 1]
    return purity[0] - purity[1], parts[:, 0] - parts[:, 1], entering.mean() / len(table.text)


def _null(
    table: TokenTable, rules: Rules, num_permutations: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-fitted purity of codes and their exclusive share with labels permuted by text, `(permutations,)` each.

    The splits stay, so that the figure is the same function of the labels as the observed one.
    """
    codes = rules.groups[0]
    in_enough_texts = texts_of(codes) >= rules.min_texts
    eligible = in_enough_texts & (codes.sum(axis=1) >= rules.min_count)
    purity, exclusive = np.empty(num_permutations), np.empty(num_permutations)
    for draw in range(num_permutations):
        counts = count_labels(codes, generator.permutation(table.label), rules.num_labels, rules.halves)
        purity[draw] = mean(cross_fitted_purity(counts, cast_votes(counts, in_enough_texts, rules.min_count)))
        exclusive[draw] = exclusive_share(counts[:, 0].sum(axis=1).T[eligible])
    return purity, exclusive


def _describe_codes(
    table: TokenTable, codes: csr_array, counts: np.ndarray, eligible: np.ndarray
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
                "tokens": int(counts[code].sum()),
                "texts": int(texts[code].sum()),
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


def _with_interval(name: str, figures: np.ndarray, left_out: np.ndarray, share: bool = False) -> dict[str, float]:
    low, high = jackknife_interval(figures, left_out, share)
    return {name: mean(figures), f"{name}_low": low, f"{name}_high": high}


def _mean_over_splits(values: np.ndarray) -> np.ndarray:
    """Means over the last axis of what is defined (not NaN); NaN if nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1)


def _variance_over_splits(values: np.ndarray) -> np.ndarray:
    """Variances over the last axis of what is defined; 0 if fewer than two values are."""
    squares = (values - _mean_over_splits(values)[..., None]) ** 2
    number = (~np.isnan(values)).sum(axis=-1)
    return np.nansum(squares, axis=-1) / np.maximum(number - 1, 1)
