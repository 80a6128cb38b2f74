"""Whether a word gets other codes in texts of one label than in those of another: Jensen–Shannon divergence.

Pure functions on arrays. The text is the unit of every split, permutation and draw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import numpy as np
from scipy.sparse import csc_array
from scipy.special import rel_entr

from .token_table import (
    TOLERANCE,
    TokenTable,
    as_results,
    check_settings,
    draw_bootstrap,
    draw_halves,
    interval,
    mean,
    p_value,
)

# Rows of the table of examples, at most.
MAX_EXAMPLES = 20
# Permutations within types that standardise one statistic of the test. Their variance is summed over types, so few do.
INNER_PERMUTATIONS = 10
# Numbers that one array of a batch of draws holds, about.
BATCH_SIZE = 4_000_000


@dataclass(frozen=True)
class Occurrences:
    """The codes of token types, text by text. All arrays are sorted by type.

    Args:
        types (`np.ndarray` of shape `(w,)`, int64): The types, as places in the table.
        pair_type, pair_text (`np.ndarray` of shape `(p,)`, int64): Texts in which each type (as a place in `types`)
            occurs.
        cell_type, cell_code (`np.ndarray` of shape `(m,)`, int64): The codes of each type.
        tokens (`csc_array` of shape `(m, p)`, float64): How many tokens of a pair have the code of a cell.
    """

    types: np.ndarray
    pair_type: np.ndarray
    pair_text: np.ndarray
    cell_type: np.ndarray
    cell_code: np.ndarray
    tokens: csc_array

    @property
    def pair_count(self) -> np.ndarray:
        """Tokens of each pair, `(p,)` float64."""
        return self.tokens.sum(axis=0)


@dataclass(frozen=True)
class Contexts:
    """Occurrences of the types that are frequent enough under at least two labels, and under those labels only.

    Args:
        occurrences ([`Occurrences`]): Of those types.
        pair_label (`np.ndarray` of shape `(p,)`, int64): Label of each pair's text.
        eligible (`np.ndarray` of shape `(w, labels)`, bool): Labels under which each type is frequent enough.
    """

    occurrences: Occurrences
    pair_label: np.ndarray
    eligible: np.ndarray


def routing_divergence(
    table: TokenTable,
    min_count: int = 10,
    min_texts: int = 5,
    num_permutations: int = 100,
    num_bootstrap: int = 2000,
    seed: int = 0,
    details: bool = False,
) -> dict[str, Any]:
    """Mean Jensen–Shannon divergence, over token types, of the codes that a type gets under different labels.

    Of each type and label, `p_y` is the distribution of the type's tokens over codes; the divergence of two labels is
    `H(mean p_y) − mean H(p_y)`, in bits, from 0 to 1. Several labels: mean over the pairs of eligible ones.

    A divergence is never negative, so chance alone lifts it, the more the fewer tokens there are. `excess_jsd` takes
    off what permuted labels give. Each type's labels are permuted among the texts *in which it occurs*, and about as
    often ([`permute_labels`]): it keeps its numbers of texts and tokens under each label, and eligibility stays. Were
    labels permuted among all texts, words that occur mostly under one label would become even, and chance lifts even
    words less: any such word would seem to be routed.

    The interval of `excess_jsd` draws texts with replacement, which adds chance a second time; it is the spread of the
    draws about their own mean, put about `excess_jsd`.

    Args:
        table ([`TokenTable`]): The tokens.
        min_count (`int`, defaults to 10): Tokens that a type needs under a label, and under at least two labels.
        min_texts (`int`, defaults to 5): Texts that it needs under each of them.
        num_permutations (`int`, defaults to 100): Draws of permuted labels. The smallest possible p-value is
            1 ÷ (this + 1).
        num_bootstrap (`int`, defaults to 2,000): Draws of texts for the 95 % interval.
        seed (`int`, defaults to 0): Of all draws.
        details (`bool`, defaults to `False`): Whether to add `labels`, `types` and `examples`.

    Returns:
        `dict[str, Any]`: None stands for what is undefined: `num_types` is 0, no type is frequent enough.

        - **jsd** (`float`): Mean divergence over types, from 0 to 1 bit; higher is more routed. Compare it with
          `null_jsd`.
        - **null_jsd** (`float`): Its mean for permuted labels.
        - **excess_jsd**, **excess_jsd_low**, **excess_jsd_high** (`float`): `jsd` − `null_jsd`.
        - **p_value** (`float`): (1 + permutations as extreme) ÷ (1 + permutations), of a test of whole texts, because
          the codes of one text depend on each other: see [`permutation_test`].
        - **routed_share**, **null_routed_share** (`float`): Share of types whose usual (most frequent) code differs
          between labels, and its mean for permuted labels. From 0 to 1; labels with a usual code in common don't
          differ. With several labels, the share of the pairs of eligible ones. The null is high where types have many
          codes.
        - **token_weighted_jsd**, **null_token_weighted_jsd**, **token_weighted_routed_share**,
          **null_token_weighted_routed_share** (`float`): The same where each type weighs what it has of tokens.
        - **coverage** (`float`): Share of all tokens that enter.
        - **num_types** (`int`): Types that enter.
        - **num_texts**, **num_tokens** (`int`): Distinct texts used, and their tokens.
        - **num_duplicates**, **num_unlabelled**, **num_empty** (`int`): Rows that repeat a text; texts left out for
          want of a label, and for want of a token with a code.
        - **labels** (`list[int]`, details): The labels.
        - **types** (`list[dict]`, details): Of each type its spelling (`type`); its eligible `labels` and, in their
          order, `tokens`, `texts` and `usual_codes` (a list of those that tie); `jsd`, `null_jsd`, `excess_jsd` and
          `routed_share`.
        - **examples** (`list[dict]`, details): Up to 20 types for a table in a paper. They, their usual codes and the
          labels of those are chosen on half of the texts, by `excess_jsd`; *all figures come from the other half*,
          where the best of many no longer look better than they are. A type must be eligible in both halves. Of each:
          `word`, `jsd`, `null_jsd`, and for each of its `labels`: `label`, `tokens`, usual `code`, `share` of the
          word's tokens with it, the majority label of that code (`code_label`) and the share of the code's tokens, of
          any word, with that label (`code_purity`).

    Raises:
        ValueError: If a setting is below 1 or, in a metric, [`read_token_table`] refuses the columns.
    """
    check_settings(
        min_count=min_count, min_texts=min_texts, num_permutations=num_permutations, num_bootstrap=num_bootstrap
    )
    null_generator, test_generator, bootstrap_generator, example_generator = np.random.default_rng(seed).spawn(4)
    occurrences = count_occurrences(table)
    eligible = eligible_types(table, occurrences, table.label, min_count, min_texts)
    contexts = find_contexts(occurrences, table.label, eligible)
    counts = count_codes(contexts, contexts.pair_label[:, None])
    jsd, routed = divergences(contexts, counts)[:, 0], routings(contexts, counts)[:, 0]
    null_jsd, null_routed = _null(contexts, num_permutations, null_generator)
    draws = _bootstrap(contexts, len(table.label), num_bootstrap, bootstrap_generator)
    tokens = np.bincount(contexts.occurrences.pair_type, contexts.occurrences.pair_count, len(jsd))
    excess = mean(jsd) - mean(null_jsd)
    low, high = interval(draws - mean(draws) + excess)
    results = as_results(
        {
            "jsd": mean(jsd),
            "null_jsd": mean(null_jsd),
            "excess_jsd": excess,
            "excess_jsd_low": low,
            "excess_jsd_high": high,
            "p_value": permutation_test(table, occurrences, min_count, min_texts, num_permutations, test_generator),
            "routed_share": mean(routed),
            "null_routed_share": mean(null_routed),
            "token_weighted_jsd": mean(jsd, tokens),
            "null_token_weighted_jsd": mean(null_jsd, tokens),
            "token_weighted_routed_share": mean(routed, tokens),
            "null_token_weighted_routed_share": mean(null_routed, tokens),
            "coverage": tokens.sum() / len(table.type),
            "num_types": len(jsd),
            **table.tallies,
        }
    )
    if details:
        results |= {
            "labels": table.label_names,
            "types": _describe_types(table, contexts, counts[..., 0], jsd, null_jsd, routed),
            "examples": find_examples(
                table, occurrences, min_count, min_texts, num_permutations, seed, example_generator
            ),
        }
    return results


def count_occurrences(table: TokenTable) -> Occurrences:
    """Count the tokens of each type, text and code."""
    num_texts, num_codes = len(table.label), len(table.code_names)
    entries, entry_count = np.unique(
        (table.type * num_texts + table.text) * num_codes + table.code, return_counts=True
    )
    pairs, entry_pair = np.unique(entries // num_codes, return_inverse=True)
    pair_type, pair_text = np.divmod(pairs, num_texts)
    cells, entry_cell = np.unique(pair_type[entry_pair] * num_codes + entries % num_codes, return_inverse=True)
    cell_type, cell_code = np.divmod(cells, num_codes)
    ends = np.cumsum(np.bincount(entry_pair, minlength=len(pairs)))
    tokens = csc_array((entry_count.astype(float), entry_cell, np.append(0, ends)), shape=(len(cells), len(pairs)))
    return Occurrences(
        types=np.arange(len(table.type_names)),
        pair_type=pair_type,
        pair_text=pair_text,
        cell_type=cell_type,
        cell_code=cell_code,
        tokens=tokens,
    )


def select(occurrences: Occurrences, pairs: np.ndarray) -> Occurrences:
    """The occurrences of some pairs of type and text, chosen by a mask `(p,)`; what has none left is dropped."""
    tokens = occurrences.tokens[:, np.flatnonzero(pairs)]
    cells = np.unique(tokens.indices)
    types, pair_type = np.unique(occurrences.pair_type[pairs], return_inverse=True)
    return Occurrences(
        types=occurrences.types[types],
        pair_type=pair_type,
        pair_text=occurrences.pair_text[pairs],
        cell_type=np.searchsorted(types, occurrences.cell_type[cells]),
        cell_code=occurrences.cell_code[cells],
        tokens=tokens[cells],
    )


def eligible_types(
    table: TokenTable, occurrences: Occurrences, label: np.ndarray, min_count: int, min_texts: int
) -> np.ndarray:
    """Whether each type of the table has enough tokens in enough texts under each label, `(types, labels)` bool.

    Args:
        table ([`TokenTable`]): Where types and labels are numbered.
        occurrences ([`Occurrences`]): The tokens that count.
        label (`np.ndarray` of shape `(n,)`, int64): Label of each text.
        min_count (`int`): How many tokens are enough.
        min_texts (`int`): How many texts are enough.
    """
    shape = len(table.type_names), len(table.label_names)
    place = occurrences.types[occurrences.pair_type] * shape[1] + label[occurrences.pair_text]
    tokens = np.bincount(place, occurrences.pair_count, minlength=shape[0] * shape[1])
    texts = np.bincount(place, minlength=shape[0] * shape[1])
    return ((tokens >= min_count) & (texts >= min_texts)).reshape(shape)


def find_contexts(occurrences: Occurrences, label: np.ndarray, eligible: np.ndarray) -> Contexts:
    """Keep the types that are eligible under at least two labels, and their tokens under those.

    Args:
        occurrences ([`Occurrences`]): Where to look.
        label (`np.ndarray` of shape `(n,)`, int64): Label of each text.
        eligible (`np.ndarray` of shape `(types, labels)`, bool): Labels under which each type is frequent enough.
    """
    eligible = eligible & (eligible.sum(axis=1, keepdims=True) >= 2)
    pair_types = occurrences.types[occurrences.pair_type]
    kept = select(occurrences, eligible[pair_types, label[occurrences.pair_text]])
    return Contexts(occurrences=kept, pair_label=label[kept.pair_text], eligible=eligible[kept.types])


def count_codes(contexts: Contexts, pair_labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Tokens by label and cell (a code of a type) in each of several draws, `(labels, m, draws)` float64.

    Args:
        contexts ([`Contexts`]): The codes, text by text.
        pair_labels (`np.ndarray` of shape `(p, draws)`, int64): Labels of each type's texts.
        weights (`np.ndarray` of shape `(n, draws)`, *optional*): How often each text counts; once by default.
    """
    found = contexts.occurrences
    pair_weights = 1.0 if weights is None else weights[found.pair_text]
    return np.stack(
        [found.tokens @ ((pair_labels == label) * pair_weights) for label in range(contexts.eligible.shape[1])]
    )


def permute_labels(contexts: Contexts, num_draws: int, generator: np.random.Generator) -> np.ndarray:
    """Permute labels among the texts in which a type occurs about as often, each type by itself, `(p, draws)` int64.

    About as often: 1, 2, 3, 4–5, 6–7, 8–11, 12–15, 16–23, … times (the two leading binary digits agree). A type so
    keeps its number of texts under each label, and nearly its number of tokens; all its tokens of one text move
    together.
    """
    found = contexts.occurrences
    mantissa, exponent = np.frexp(found.pair_count)
    # Fewer than 128 classes: an exponent is less than 64.
    stratum = found.pair_type * 128 + 2 * exponent + (mantissa >= 0.75)
    place = np.argsort(stratum, kind="stable")
    permuted = np.empty((len(stratum), num_draws), np.int64)
    for draw in range(num_draws):
        permuted[place, draw] = contexts.pair_label[np.argsort(stratum + generator.random(len(stratum)))]
    return permuted


def divergences(contexts: Contexts, counts: np.ndarray) -> np.ndarray:
    """Jensen–Shannon divergence in bits of each type, `(w, draws)` float64: mean over the pairs of eligible labels.

    Computed as the mean divergence from the mixture, `½KL(p_a‖m) + ½KL(p_b‖m)`, which is the same. NaN for a type that
    has no pair of labels with tokens (in a draw of texts).
    """
    totals = _sum_by_type(contexts, counts)
    shares = counts / np.maximum(totals, 1)[:, contexts.occurrences.cell_type]
    by_pair = []
    for first, second in combinations(shares, 2):
        mixture = (first + second) / 2
        terms = rel_entr(first, mixture) + rel_entr(second, mixture)
        by_pair.append(_sum_by_type(contexts, terms) / (2 * np.log(2)))
    return _mean_over_pairs(contexts, by_pair, totals > 0)


def routings(contexts: Contexts, counts: np.ndarray) -> np.ndarray:
    """Share of the pairs of eligible labels whose usual code differs, of each type, `(w, draws)` float64.

    A usual code is one that no other outnumbers. If several tie, labels differ only if they have none in common.
    """
    largest = np.maximum.reduceat(counts, _starts(contexts), axis=1)
    usual = counts == largest[:, contexts.occurrences.cell_type]
    by_pair = [
        ~np.logical_or.reduceat(first & second, _starts(contexts), axis=0) for first, second in combinations(usual, 2)
    ]
    return _mean_over_pairs(contexts, by_pair, largest > 0)


def permutation_test(
    table: TokenTable,
    occurrences: Occurrences,
    min_count: int,
    min_texts: int,
    num_permutations: int,
    generator: np.random.Generator,
) -> float:
    """p-value of the excess divergence against labels permuted among whole texts.

    Whole texts, so that what the codes of one text have in common stays in common. Each permutation does everything
    again, eligibility too. What is compared is the excess ÷ its standard deviation if types were independent, both
    from a few permutations within types: words that occur mostly under one label, which no permutation of whole texts
    keeps, change the mean divergence and its spread, but hardly that quotient.
    """

    def standardised_excess(label: np.ndarray) -> float:
        eligible = eligible_types(table, occurrences, label, min_count, min_texts)
        contexts = find_contexts(occurrences, label, eligible)
        observed = divergences(contexts, count_codes(contexts, contexts.pair_label[:, None]))[:, 0]
        permuted = permute_labels(contexts, INNER_PERMUTATIONS, generator)
        null = divergences(contexts, count_codes(contexts, permuted))
        spread = np.sqrt(null.var(axis=1, ddof=1).sum())
        excess = (observed - null.mean(axis=1)).sum()
        if not len(observed):
            return np.nan
        # Nothing to permute, or nothing that would differ: rounding is no evidence.
        return excess / spread if spread > TOLERANCE else 0.0

    observed = standardised_excess(table.label)
    null = [standardised_excess(generator.permutation(table.label)) for _ in range(num_permutations)]
    return p_value(observed, np.array(null))


def find_examples(
    table: TokenTable,
    occurrences: Occurrences,
    min_count: int,
    min_texts: int,
    num_permutations: int,
    seed: int,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Words with the largest excess divergence on one half of the texts, with figures of the other half.

    What is chosen (the words, their usual codes, the labels of those) comes from the first half, and all figures from
    the second: the largest of many would look larger than they are. A word must be eligible in both halves.
    """
    half = draw_halves(table.text_names, 1, seed)[:, 0]
    parts = [select(occurrences, half[occurrences.pair_text] == side) for side in range(2)]
    eligible = np.logical_and(*(eligible_types(table, part, table.label, min_count, min_texts) for part in parts))
    contexts = [find_contexts(part, table.label, eligible) for part in parts]
    counts = [count_codes(part, part.pair_label[:, None]) for part in contexts]
    jsd = [divergences(*both)[:, 0] for both in zip(contexts, counts, strict=True)]
    null_jsd = [_null(part, num_permutations, generator)[0] for part in contexts]
    excess = jsd[0] - null_jsd[0]
    words = [table.type_names[token_type] for token_type in contexts[0].occurrences.types]
    best = sorted(np.flatnonzero(excess > 0), key=lambda row: (-excess[row], words[row]))
    code_labels = [_count_code_labels(table, half[table.text] == side) for side in range(2)]
    return [
        {
            "word": words[row],
            "jsd": float(jsd[1][row]),
            "null_jsd": float(null_jsd[1][row]),
            "labels": [
                _describe_destination(table, row, label, contexts, counts, code_labels)
                for label in np.flatnonzero(contexts[0].eligible[row])
            ],
        }
        for row in best[:MAX_EXAMPLES]
    ]


def _describe_destination(
    table: TokenTable,
    row: int,
    label: int,
    contexts: list[Contexts],
    counts: list[np.ndarray],
    code_labels: list[np.ndarray],
) -> dict[str, Any]:
    """Where a word goes under one label: its usual code on the first half, and that code's figures on the second."""
    choice, shown = (part.occurrences for part in contexts)
    own = np.flatnonzero(choice.cell_type == row)
    # Of codes that tie, the one that occurs first in the table, whatever its number.
    code = choice.cell_code[own[counts[0][label, own, 0].argmax()]]
    code_label = code_labels[0][code].argmax()
    of_word = shown.cell_type == row
    tokens = counts[1][label, of_word].sum()
    code_tokens = code_labels[1][code].sum()
    return as_results(
        {
            "label": table.label_names[label],
            "tokens": int(tokens),
            "code": table.code_names[code],
            "share": counts[1][label, of_word & (shown.cell_code == code)].sum() / tokens,
            "code_label": table.label_names[code_label],
            "code_purity": code_labels[1][code, code_label] / code_tokens if code_tokens else None,
        }
    )


def _describe_types(
    table: TokenTable,
    contexts: Contexts,
    counts: np.ndarray,
    jsd: np.ndarray,
    null_jsd: np.ndarray,
    routed: np.ndarray,
) -> list[dict[str, Any]]:
    """One dict per type, in the order of the alphabet; lists are aligned with its `labels`."""
    found = contexts.occurrences
    names = np.array(table.code_names)
    spellings = [table.type_names[token_type] for token_type in found.types]
    rows = []
    for row in sorted(range(len(spellings)), key=spellings.__getitem__):
        labels = np.flatnonzero(contexts.eligible[row])
        cells = slice(*np.searchsorted(found.cell_type, [row, row + 1]))
        pairs = slice(*np.searchsorted(found.pair_type, [row, row + 1]))
        tokens, texts = counts[labels, cells], np.bincount(contexts.pair_label[pairs], minlength=len(counts))
        rows.append(
            {
                "type": spellings[row],
                "labels": [table.label_names[label] for label in labels],
                "tokens": tokens.sum(axis=1).astype(int).tolist(),
                "texts": texts[labels].tolist(),
                "usual_codes": [sorted(names[found.cell_code[cells]][own == own.max()].tolist()) for own in tokens],
                "jsd": float(jsd[row]),
                "null_jsd": float(null_jsd[row]),
                "excess_jsd": float(jsd[row] - null_jsd[row]),
                "routed_share": float(routed[row]),
            }
        )
    return rows


def _null(contexts: Contexts, num_permutations: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean divergence and routing of each type over permutations of its labels, `(w,)` each."""
    jsd, routed = np.zeros((2, len(contexts.occurrences.types)))
    for num_draws in _batches(contexts, num_permutations):
        counts = count_codes(contexts, permute_labels(contexts, num_draws, generator))
        jsd += divergences(contexts, counts).sum(axis=1)
        routed += routings(contexts, counts).sum(axis=1)
    return jsd / num_permutations, routed / num_permutations


def _bootstrap(contexts: Contexts, num_texts: int, num_bootstrap: int, generator: np.random.Generator) -> np.ndarray:
    """Mean divergence over the types in draws of texts with replacement, `(draws,)`."""
    draws = draw_bootstrap(num_texts, num_bootstrap, generator)
    means = []
    for num_draws in _batches(contexts, num_bootstrap):
        weights = np.stack(list(islice(draws, num_draws)), axis=1)
        jsd = divergences(contexts, count_codes(contexts, contexts.pair_label[:, None], weights))
        means += [mean(draw) for draw in jsd.T]
    return np.array(means)


def _batches(contexts: Contexts, num_draws: int) -> Iterator[int]:
    """Sizes of batches that add up to the number of draws."""
    num_cells, num_pairs = contexts.occurrences.tokens.shape
    size = max(1, BATCH_SIZE // max(1, num_pairs, num_cells * contexts.eligible.shape[1]))
    yield from (min(size, num_draws - start) for start in range(0, num_draws, size))


def _count_code_labels(table: TokenTable, tokens: np.ndarray) -> np.ndarray:
    """Tokens chosen by a mask `(t,)`, by code and label, `(codes, labels)` int64."""
    shape = len(table.code_names), len(table.label_names)
    place = table.code[tokens] * shape[1] + table.label[table.text[tokens]]
    return np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)


def _starts(contexts: Contexts) -> np.ndarray:
    """First cell of each type; every type has one."""
    return np.searchsorted(contexts.occurrences.cell_type, np.arange(len(contexts.occurrences.types)))


def _sum_by_type(contexts: Contexts, values: np.ndarray) -> np.ndarray:
    """Sums `(…, w, draws)` of values `(…, m, draws)` over the cells of each type."""
    return np.add.reduceat(values, _starts(contexts), axis=-2)


def _mean_over_pairs(contexts: Contexts, by_pair: list[np.ndarray], has_tokens: np.ndarray) -> np.ndarray:
    """Mean `(w, draws)` over the pairs of labels that are eligible and have tokens; NaN if there are none."""
    usable = contexts.eligible.T[..., None] & has_tokens
    defined = np.stack([first & second for first, second in combinations(usable, 2)])
    with np.errstate(invalid="ignore"):
        return np.where(defined, by_pair, 0.0).sum(axis=0) / defined.sum(axis=0)
