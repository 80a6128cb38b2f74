"""How many concepts texts of one label share, against texts of different labels that share as many words.

Pure functions on lists and arrays. The text is the unit: intervals and tests draw texts, and a pair of texts weighs
what its two texts weigh.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array
from sklearn.feature_extraction.text import TfidfTransformer

# Edges of the strata of TF-IDF cosine similarity. The inner ones are the thresholds of the paper's counts, so a pair on
# an edge belongs to the stratum above it. Pairs that share no token type are in no stratum.
STRATA = (0.0, 0.05, 0.1, 0.2, 0.3, 1.0)
NUM_STRATA = len(STRATA) - 1
# With fewer pairs in either arm, a ratio is not given.
MIN_PAIRS = 30
# All pairs of so many texts are looked at, 50 million; of more texts, so many are drawn.
MAX_TEXTS = 10_000
# Cells of one block of the similarity matrix: it takes about 100 MB.
BLOCK_CELLS = 2_000_000
# Pairs handled at a time where a pair needs a row of its own.
BLOCK_PAIRS = 512
# Figures of a pair that are summed: 1, whose sum is the number of pairs, and those whose mean is wanted.
FIGURES = ("pairs", "jaccard", "token_jaccard", "shared", "similarity")
PAIRS, JACCARD, TOKEN_JACCARD, SHARED, _ = range(len(FIGURES))
# Each pair is in one cell: its stratum, unmatched or matched in length, different or same label.
SHAPE = (NUM_STRATA, 2, 2)
NUM_CELLS = NUM_STRATA * 2 * 2


@dataclass(frozen=True)
class Corpus:
    """Distinct labelled texts in the order of the alphabet.

    Args:
        labels (`np.ndarray` of shape `(n,)`, int64): Class of each text.
        lengths (`np.ndarray` of shape `(n,)`, int64): Tokens of each text that have a code.
        codes (`csr_array` of shape `(n, codes)`, int64): 1 where the text has the code.
        counts (`csr_array` of shape `(n, token types)`, int64): How often the text has the token type.
        tallies (`dict[str, int]`): `num_texts`, `num_duplicates`, `num_unlabelled`, `num_empty`.
    """

    labels: np.ndarray
    lengths: np.ndarray
    codes: csr_array
    counts: csr_array
    tallies: dict[str, int]


@dataclass(frozen=True)
class Pairs:
    """Sampled pairs of texts, sorted by cell.

    Args:
        texts (`np.ndarray` of shape `(m,)`, int64): The texts that pairs were drawn from, as rows of the corpus.
        first, second (`np.ndarray` of shape `(p,)`, int64): The two texts of each pair, as positions in `texts`.
        cell (`np.ndarray` of shape `(p,)`, int64): `(stratum · 2 + matched in length) · 2 + same label`.
        similarity (`np.ndarray` of shape `(p,)`, float64): TF-IDF cosine.
        seen (`np.ndarray` of shape `(strata, 2, 2)`, int64): Pairs among `texts`, of which those here were drawn.
        weight (`np.ndarray` of shape `(p,)`, float64): Pairs that a sampled one stands for: seen ÷ sampled of its cell.
    """

    texts: np.ndarray
    first: np.ndarray
    second: np.ndarray
    cell: np.ndarray
    similarity: np.ndarray
    seen: np.ndarray
    weight: np.ndarray


def codebook_overlap(
    texts: Sequence[str],
    codes: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[str]],
    labels: Sequence[int],
    num_pairs: int = 10_000,
    num_bootstrap: int = 2000,
    num_permutations: int = 200,
    length_caliper: float = 0.25,
    seed: int = 0,
    max_texts: int = MAX_TEXTS,
) -> dict[str, Any]:
    """Mean Jaccard overlap of the codes of same-label pairs ÷ different-label pairs, at matched TF-IDF similarity.

    The overlap of two texts is the Jaccard index of their sets of distinct codes. Pairs count if their log lengths
    differ by less than `length_caliper`; both arms are averaged in strata of TF-IDF cosine. Over all strata, the
    different-label mean is standardised: its strata weigh what they weigh among same-label pairs.

    Beside it stand the paper's counts (arXiv 2506.20040): the mean number of distinct codes that same-label pairs
    share ÷ that of different-label pairs, among pairs of a similarity from a threshold up, whatever their lengths.

    Args:
        texts (`Sequence[str]`): The texts, one a row. Equal texts count once, with the row of the smallest label.
        codes (`Sequence[Sequence[int]]`): One code per token. Tokens with a negative code (padding, special tokens) are
            left out.
        tokens (`Sequence[Sequence[str]]`): Types of the same tokens, from which TF-IDF is computed. Words make a
            stricter control than pieces of words.
        labels (`Sequence[int]`): Class of each text. Texts with a negative label are left out.
        num_pairs (`int`, defaults to 10,000): At most so many pairs of each stratum, arm, and matched or unmatched
            lengths are sampled; at least 30.
        num_bootstrap (`int`, defaults to 2,000): Draws of texts with replacement, for the 95 % percentile intervals.
        num_permutations (`int`, defaults to 200): Draws of labels permuted by text, for the null and the one-sided
            p-value. The smallest possible one is 1 ÷ (this + 1).
        length_caliper (`float`, defaults to 0.25): Pairs are matched if |Δ log(number of tokens)| is less.
        seed (`int`, defaults to 0): Of all draws.
        max_texts (`int`, defaults to 10,000): Pairs are sought among at most so many texts.

    Returns:
        `dict[str, Any]`: None stands for what is undefined.

        - **ratio**, **ratio_low**, **ratio_high** (`float`): The ratio over all strata. From 0 up; 1 if labels make no
          difference; higher is more specific. None if no stratum has 30 pairs in both arms, or different-label pairs
          share no codes at all.
        - **token_ratio**, **token_ratio_low**, **token_ratio_high** (`float`): The same of the sets of token types.
        - **permuted_ratio** (`float`): Mean of `ratio` over label permutations; near 1.
        - **p_value** (`float`): Share of permutations with a ratio as large, the real labels counted as one of them.
          One-sided.
        - **num_texts**, **num_duplicates**, **num_unlabelled**, **num_empty** (`int`): Distinct texts used; rows that
          repeat a text; texts left out for want of a label, and for want of a token with a code.
        - **num_sampled_texts** (`int`): Texts among which pairs were sought.
        - **strata** (`list[dict]`): Of each stratum its bounds (`low`, `high`); `ratio` and `token_ratio` with
          intervals; `permuted_ratio` and `p_value`; the numbers of pairs seen and sampled; and of each arm the mean
          `jaccard`, `token_jaccard`, number of `shared` codes and TF-IDF `similarity`.
        - **thresholds** (`list[dict]`): Of each of the paper's counts its ratio with interval, the number of pairs and
          the mean number of shared codes of each arm.

    Raises:
        ValueError: If a setting is out of range, the inputs don't fit each other, or fewer than two labels occur.
    """
    if num_pairs < MIN_PAIRS:
        raise ValueError(f"num_pairs must be at least {MIN_PAIRS}, got {num_pairs}.")
    if min(num_bootstrap, num_permutations) < 1 or length_caliper <= 0:
        raise ValueError("num_bootstrap and num_permutations must be at least 1, and length_caliper more than 0.")
    corpus = read_corpus(texts, codes, tokens, labels)
    pair_generator, bootstrap_generator, permutation_generator = np.random.default_rng(seed).spawn(3)
    pairs = sample_pairs(corpus, num_pairs, length_caliper, pair_generator, max_texts)
    figures = pair_figures(corpus, pairs)
    observed = _ratios(_observed_sums(pairs, figures), pairs.seen)
    bootstrap = _ratios(_bootstrap_sums(pairs, figures, num_bootstrap, bootstrap_generator), pairs.seen)
    permuted = _ratios(
        _permutation_sums(pairs, figures, corpus.labels[pairs.texts], num_permutations, permutation_generator),
        pairs.seen,
    )
    result = {
        **_with_interval("ratio", observed["ratio"], bootstrap["ratio"]),
        **_with_interval("token_ratio", observed["token_ratio"], bootstrap["token_ratio"]),
        "permuted_ratio": _mean(permuted["ratio"]),
        "p_value": _p_value(observed["ratio"][0], permuted["ratio"]),
        **corpus.tallies,
        "num_sampled_texts": len(pairs.texts),
    }
    result["strata"] = [
        _describe_stratum(stratum, pairs, observed, bootstrap, permuted) for stratum in range(NUM_STRATA)
    ]
    result["thresholds"] = [
        _describe_threshold(stratum, pairs, observed, bootstrap) for stratum in range(1, NUM_STRATA)
    ]
    return result


def read_corpus(
    texts: Sequence[str],
    codes: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[str]],
    labels: Sequence[int],
) -> Corpus:
    """Keep distinct texts that have a label and a token, in an order that does not depend on that of the rows.

    Of rows with equal text one stays: one with a label and a token if there is any, then that of the smallest label,
    then the first by its tokens and by the pattern of its codes.

    Raises:
        ValueError: If lengths differ, values are missing, or fewer than two labels are left.
    """
    if not len(texts) == len(codes) == len(tokens) == len(labels):
        raise ValueError("texts, codes, tokens and labels must have one row per text, all of them.")
    if any(text is None for text in texts) or any(label is None for label in labels):
        raise ValueError("A text or label is None: leave texts that are missing out, write -1 for missing labels.")
    groups = defaultdict(list)
    for row, text in enumerate(texts):
        if len(codes[row]) != len(tokens[row]):
            raise ValueError(
                f"Row {row} has {len(codes[row])} codes and {len(tokens[row])} tokens: each token needs its code, "
                "-1 if it is to be left out."
            )
        if None in codes[row] or None in tokens[row]:
            raise ValueError(
                f"Row {row} has a code or token that is None: write -1 for codes that are to be left out."
            )
        groups[text].append(row)
    distinct = [
        min(rows, key=lambda row: _precedence(codes[row], tokens[row], labels[row])) if len(rows) > 1 else rows[0]
        for _, rows in sorted(groups.items())
    ]
    labelled = [row for row in distinct if labels[row] >= 0]
    rows = [row for row in labelled if max(codes[row], default=-1) >= 0]
    if len({labels[row] for row in rows}) < 2:
        raise ValueError(
            "Fewer than two labels occur among texts that have a token with a code: give texts of at least two classes."
        )
    lengths = np.array([len(codes[row]) for row in rows])
    flat_codes = np.fromiter(chain.from_iterable(codes[row] for row in rows), np.int64, lengths.sum())
    vocabulary: dict[str, int] = {}
    flat_types = np.fromiter(
        (vocabulary.setdefault(token, len(vocabulary)) for row in rows for token in tokens[row]),
        np.int64,
        lengths.sum(),
    )
    kept = flat_codes >= 0
    text = np.repeat(np.arange(len(rows)), lengths)[kept]
    code = np.unique(flat_codes[kept], return_inverse=True)[1]
    return Corpus(
        labels=np.array([labels[row] for row in rows]),
        lengths=np.bincount(text, minlength=len(rows)),
        codes=_as_set(_count(text, code, len(rows))),
        counts=_count(text, flat_types[kept], len(rows)),
        tallies={
            "num_texts": len(rows),
            "num_duplicates": len(texts) - len(distinct),
            "num_unlabelled": len(distinct) - len(labelled),
            "num_empty": len(labelled) - len(rows),
        },
    )


def sample_pairs(
    corpus: Corpus, num_pairs: int, length_caliper: float, generator: np.random.Generator, max_texts: int = MAX_TEXTS
) -> Pairs:
    """Draw pairs of texts that share a token type, up to `num_pairs` of each stratum, arm, and matched or not.

    Goes through the upper triangle of the TF-IDF similarities of at most `max_texts` texts, a block of rows at a time.
    Each pair draws a random key, and the smallest keys of a cell stay: a uniform sample without replacement of those
    seen, whatever their number. Codes play no part in it.
    """
    texts = np.arange(len(corpus.labels))
    if len(texts) > max_texts:
        texts = np.sort(generator.choice(texts, max_texts, replace=False))
    labels, log_lengths = corpus.labels[texts], np.log(corpus.lengths[texts])
    # Inverse document frequencies come from all texts.
    tfidf = TfidfTransformer().fit_transform(corpus.counts)[texts]
    seen, limit = np.zeros(NUM_CELLS, np.int64), np.ones(NUM_CELLS)
    pool = {name: np.zeros(0, np.int64) for name in ("first", "second", "cell")}
    pool |= {name: np.zeros(0) for name in ("similarity", "key")}
    step = max(1, BLOCK_CELLS // len(texts))
    for start in range(0, len(texts), step):
        block = (tfidf[start : start + step] @ tfidf[start:].T).tocoo()
        new = {"first": block.row + start, "second": block.col + start, "similarity": block.data}
        upper = new["second"] > new["first"]
        new = {name: values[upper] for name, values in new.items()}
        stratum = np.searchsorted(STRATA[1:-1], new["similarity"], side="right")
        matched = np.abs(log_lengths[new["first"]] - log_lengths[new["second"]]) < length_caliper
        new["cell"] = (stratum * 2 + matched) * 2 + (labels[new["first"]] == labels[new["second"]])
        new["key"] = generator.random(len(stratum))
        seen += np.bincount(new["cell"], minlength=NUM_CELLS)
        hopeful = new["key"] < limit[new["cell"]]
        pool = {name: np.concatenate([pool[name], new[name][hopeful]]) for name in pool}
        order = np.lexsort((pool["key"], pool["cell"]))
        cell = pool["cell"][order]
        rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
        pool = {name: values[order][rank < num_pairs] for name, values in pool.items()}
        # No later pair with a larger key than the largest of a full cell can enter it.
        last = rank == num_pairs - 1
        limit[cell[last]] = pool["key"][np.searchsorted(pool["cell"], cell[last], side="right") - 1]
    sampled = np.bincount(pool["cell"], minlength=NUM_CELLS)
    return Pairs(
        texts=texts,
        first=pool["first"],
        second=pool["second"],
        cell=pool["cell"],
        similarity=pool["similarity"],
        seen=seen.reshape(SHAPE),
        weight=(seen / np.maximum(sampled, 1))[pool["cell"]],
    )


def pair_figures(corpus: Corpus, pairs: Pairs) -> np.ndarray:
    """What is averaged over pairs, as `(figures, p)` float64 in the order of `FIGURES`."""
    first, second = pairs.texts[pairs.first], pairs.texts[pairs.second]
    jaccard, shared = _overlap(corpus.codes, first, second)
    token_jaccard, _ = _overlap(_as_set(corpus.counts), first, second)
    return np.stack([np.ones(len(first)), jaccard, token_jaccard, shared, pairs.similarity])


def _overlap(sets: csr_array, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jaccard index and number of shared members of pairs of rows."""
    sizes = np.diff(sets.indptr)
    shared = np.zeros(len(first))
    for start in range(0, len(first), BLOCK_CELLS // 64):
        part = slice(start, start + BLOCK_CELLS // 64)
        shared[part] = sets[first[part]].multiply(sets[second[part]]).sum(axis=1)
    return shared / (sizes[first] + sizes[second] - shared), shared


def _observed_sums(pairs: Pairs, figures: np.ndarray) -> np.ndarray:
    return _sums_by_cell(pairs.cell, pairs.weight * figures)[None]


def _bootstrap_sums(pairs: Pairs, figures: np.ndarray, num_draws: int, generator: np.random.Generator) -> np.ndarray:
    """Sums over pairs for texts drawn with replacement, `(draws, strata, 2, 2, figures)`.

    A pair counts as often as the product of how often its texts were drawn. (A text drawn twice makes no pair with
    itself.)
    """
    num_texts = len(pairs.texts)
    # A text is a row, so that a pair needs two rows as they lie in memory.
    drawn = np.empty((num_texts, num_draws), np.float32)
    for draw in range(num_draws):
        drawn[:, draw] = np.bincount(generator.integers(num_texts, size=num_texts), minlength=num_texts)
    figures = (pairs.weight * figures).astype(np.float32)
    sums = np.zeros((NUM_CELLS, len(FIGURES), num_draws))
    for cell in range(NUM_CELLS):
        begin, end = np.searchsorted(pairs.cell, [cell, cell + 1])
        for start in range(begin, end, BLOCK_PAIRS):
            part = slice(start, min(start + BLOCK_PAIRS, end))
            sums[cell] += figures[:, part] @ (drawn[pairs.first[part]] * drawn[pairs.second[part]])
    return np.moveaxis(sums, -1, 0).reshape(num_draws, *SHAPE, len(FIGURES))


def _permutation_sums(
    pairs: Pairs, figures: np.ndarray, labels: np.ndarray, num_draws: int, generator: np.random.Generator
) -> np.ndarray:
    """Sums over pairs for labels permuted by text, `(draws, strata, 2, 2, figures)`.

    The sample holds more of some true arms than of others; the weights undo that for any labels.
    """
    weighted = pairs.weight * figures
    sums = np.zeros((num_draws, *SHAPE, len(FIGURES)))
    for draw in range(num_draws):
        permuted = generator.permutation(labels)
        same = permuted[pairs.first] == permuted[pairs.second]
        sums[draw] = _sums_by_cell(pairs.cell // 2 * 2 + same, weighted)
    return sums


def _sums_by_cell(cell: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    sums = [np.bincount(cell, values, minlength=NUM_CELLS) for values in weighted]
    return np.stack(sums, axis=-1).reshape(*SHAPE, len(FIGURES))


def _ratios(sums: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Ratios same ÷ different label of sums `(draws, strata, 2, 2, figures)`; NaN where too few pairs were seen."""
    matched = sums[:, :, 1]
    # Whatever the lengths, and added up from the top: each stratum with all those above it.
    above = sums.sum(axis=2)[:, ::-1].cumsum(axis=1)[:, ::-1]
    enough = (seen[:, 1] >= MIN_PAIRS).all(axis=-1)
    enough_above = (seen.sum(axis=1)[::-1].cumsum(axis=0)[::-1] >= MIN_PAIRS).all(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = matched / matched[..., [PAIRS]]
        means_above = above / above[..., [PAIRS]]
        # Standardised: as many different-label pairs in each stratum as there are same-label pairs.
        expected = np.where(enough[:, None], matched[:, :, 1, [PAIRS]] * means[:, :, 0], 0.0).sum(axis=1)
        actual = np.where(enough[:, None], matched[:, :, 1], 0.0).sum(axis=1)
        overall = actual / expected
        by_stratum = np.where(enough[:, None], means[:, :, 1] / means[:, :, 0], np.nan)
        shared = means_above[..., SHARED]
        shared_ratio = np.where(enough_above, shared[:, :, 1] / shared[:, :, 0], np.nan)
    return {
        "ratio": overall[:, JACCARD],
        "token_ratio": overall[:, TOKEN_JACCARD],
        "stratum_ratio": by_stratum[..., JACCARD],
        "stratum_token_ratio": by_stratum[..., TOKEN_JACCARD],
        "shared_ratio": shared_ratio,
        "means": means,
        "means_above": means_above,
    }


def _describe_stratum(
    stratum: int,
    pairs: Pairs,
    observed: dict[str, np.ndarray],
    bootstrap: dict[str, np.ndarray],
    permuted: dict[str, np.ndarray],
) -> dict[str, Any]:
    """All about one stratum: pairs of matched length only."""
    different, same = observed["means"][0, stratum]
    return {
        "low": STRATA[stratum],
        "high": STRATA[stratum + 1],
        **_with_interval("ratio", observed["stratum_ratio"][:, stratum], bootstrap["stratum_ratio"][:, stratum]),
        **_with_interval(
            "token_ratio", observed["stratum_token_ratio"][:, stratum], bootstrap["stratum_token_ratio"][:, stratum]
        ),
        "permuted_ratio": _mean(permuted["stratum_ratio"][:, stratum]),
        "p_value": _p_value(observed["stratum_ratio"][0, stratum], permuted["stratum_ratio"][:, stratum]),
        "num_same_pairs": int(pairs.seen[stratum, 1, 1]),
        "num_different_pairs": int(pairs.seen[stratum, 1, 0]),
        "num_sampled_same_pairs": int(np.sum(pairs.cell == (stratum * 2 + 1) * 2 + 1)),
        "num_sampled_different_pairs": int(np.sum(pairs.cell == (stratum * 2 + 1) * 2)),
        **{f"same_{name}": _number(value) for name, value in zip(FIGURES[1:], same[1:], strict=True)},
        **{f"different_{name}": _number(value) for name, value in zip(FIGURES[1:], different[1:], strict=True)},
    }


def _describe_threshold(
    stratum: int, pairs: Pairs, observed: dict[str, np.ndarray], bootstrap: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The paper's count for pairs from this stratum up, of any length."""
    different, same = observed["means_above"][0, stratum]
    num_different, num_same = pairs.seen[stratum:].sum(axis=(0, 1))
    return {
        "threshold": STRATA[stratum],
        **_with_interval("ratio", observed["shared_ratio"][:, stratum], bootstrap["shared_ratio"][:, stratum]),
        "num_same_pairs": int(num_same),
        "num_different_pairs": int(num_different),
        "same_shared": _number(same[SHARED]),
        "different_shared": _number(different[SHARED]),
    }


def _precedence(codes: Sequence[int], tokens: Sequence[str], label: int) -> tuple:
    """Sorts rows of one text; the numbers of the codes come last, where nothing else tells two rows apart."""
    kept = [(token, int(code)) for token, code in zip(tokens, codes, strict=True) if code >= 0]
    seen: dict[int, int] = {}
    pattern = [seen.setdefault(code, len(seen)) for _, code in kept]
    return label < 0, not kept, label, [token for token, _ in kept], pattern, [code for _, code in kept]


def _count(text: np.ndarray, item: np.ndarray, num_texts: int) -> csr_array:
    counts = coo_array((np.ones(len(text), np.int64), (text, item)), shape=(num_texts, item.max() + 1))
    # Converting adds up the ones of equal places.
    return counts.tocsr()


def _as_set(counts: csr_array) -> csr_array:
    return csr_array((np.ones_like(counts.data), counts.indices, counts.indptr), shape=counts.shape)


def _with_interval(name: str, observed: np.ndarray, draws: np.ndarray) -> dict[str, float | None]:
    """A figure and its 95 % interval; draws in which it is undefined are left out."""
    defined = draws[~np.isnan(draws)]
    low, high = None, None
    if np.isfinite(observed[0]) and len(defined):
        # Without interpolation: a draw whose different-label pairs share nothing has an infinite ratio.
        low, high = map(_number, np.quantile(defined, [0.025, 0.975], method="inverted_cdf"))
    return {name: _number(observed[0]), f"{name}_low": low, f"{name}_high": high}


def _p_value(observed: float, permuted: np.ndarray) -> float | None:
    """Share of label permutations with as large a ratio, the observed labels being one of them."""
    defined = permuted[~np.isnan(permuted)]
    if not np.isfinite(observed) or not len(defined):
        return None
    # Equal ratios may differ by rounding, depending on the order of their sums.
    return float((1 + np.sum(defined >= observed * (1 - 1e-12))) / (1 + len(defined)))


def _mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
