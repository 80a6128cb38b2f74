"""Concepts that come together, as the words of a phrase or in the same texts, are audited, and cut, as one.

Of a line such as *Source: Northfield Wire* every word can be enough for the host, and so can each of two quotation
marks. Removing one of them changes nothing then, and each of them hides the others.
"""

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import average, complete, fcluster
from scipy.sparse import coo_array

from ..tables.concept_table import ConceptTable
from .signals import BOILERPLATE_TEXTS

# Words from one concept to another that stands near it, at most.
REACH = 2
# Concepts belong together if so much of one is near the other, so much of the other near it, and the former so many
# times as often as any word: almost everything is near a frequent word.
MOST_OF_ONE, PART_OF_OTHER, TIMES_USUAL = 0.5, 0.2, 2.0
# Groups are joined if so many of the pairs between them belong together. Of a long line few do, because its ends are
# far apart; of two phrases that have one word in common even fewer.
LEAST_PAIRS = 0.15
# Less of a concept is beside the others of a group if it mostly stands elsewhere, such as the full stop of an address.
LEAST_INSIDE = 1 / 3
# Concepts are in the same texts if their presence correlates so much, and so many different texts have both.
SAME_TEXTS, LEAST_SAME_TEXTS = 0.8, 10


def phrases_of(table: ConceptTable) -> list[tuple[int, ...]]:
    """Groups of concepts that make up a phrase, in ascending order; most concepts are in none.

    Two concepts belong together if half of the words that have one of them, and a fifth of those that have the other,
    stand in the same word as the other concept or at most two words away from it, the half at least twice as often as
    words in general, in at least four different texts. Groups are joined as long as 15 % of the pairs between them
    belong together (average linkage). Of these, concepts are left out that stand elsewhere in more than two thirds of
    their words, such as the full stop of an address. Concepts that were merged by hand count as one; hidden ones are
    not joined with others.
    """
    near = near_pairs(table)
    shares = near_shares(near)
    back = shares.rename(columns={"code": "other", "other": "code", "share": "back"})
    pairs = shares.merge(back[["code", "other", "back"]], on=["code", "other"])
    is_hidden = [pairs[name].isin(table.by_hand.hidden) for name in ("code", "other")]
    pairs = pairs[
        (pairs["share"] >= MOST_OF_ONE)
        & (pairs["back"] >= PART_OF_OTHER)
        & (pairs["share"] >= TIMES_USUAL * pairs["usual"])
        & (pairs["num_texts"] >= BOILERPLATE_TEXTS)
        & (is_hidden[0] == is_hidden[1])
    ]
    codes = np.unique(pairs[["code", "other"]])
    if len(codes) == 0:
        return []
    apart = np.ones((len(codes), len(codes)))
    first, second = (np.searchsorted(codes, pairs[name]) for name in ("code", "other"))
    apart[first, second] = apart[second, first] = 0
    groups = fcluster(average(apart[np.triu_indices(len(codes), 1)]), 1 - LEAST_PAIRS, "distance")
    sizes = _num_words(near)
    found = (_without_strays(codes[groups == group].tolist(), near, sizes) for group in np.unique(groups))
    return sorted(tuple(group) for group in found if len(group) > 1)


def _without_strays(group: list[int], near: pd.DataFrame, sizes: pd.Series) -> list[int]:
    """Those concepts of a group that stand beside others of it in at least a third of their words."""
    while len(group) > 1:
        beside = near[near["code"].isin(group) & near["other"].isin(group) & (near["code"] != near["other"])]
        counts = beside.drop_duplicates(["number", "code"]).groupby("code").size().reindex(group, fill_value=0)
        inside = counts / sizes[group]
        if inside.min() >= LEAST_INSIDE:
            break
        group = [code for code in group if code != inside.idxmin()]
    return group


def near_pairs(table: ConceptTable) -> pd.DataFrame:
    """Each concept of each word, with each concept of the same word or of one within reach; shown concepts.

    Returns:
        `pandas.DataFrame`: `number` of the word, `same` (the same for equal texts), `code`, `other`, which is `code`,
        too.
    """
    words = table.words()
    rows = np.searchsorted(np.asarray(table.texts["text_id"][:]), words["text_id"])
    words["number"], words["same"] = np.arange(len(words)), table.same_text[rows]
    own = words.drop(columns="code").explode("codes", ignore_index=True).rename(columns={"codes": "code"})
    own["code"] = table.by_hand.shown_codes[own["code"].astype(np.int64)]
    others = own[["text_id", "number", "code"]].rename(columns={"code": "other"})
    near = pd.concat(
        own.merge(others.assign(number=others["number"] - step), on=["text_id", "number"])
        for step in range(-REACH, REACH + 1)
    )
    return near.drop_duplicates(["number", "code", "other"])[["number", "same", "code", "other"]]


def _num_words(near: pd.DataFrame) -> pd.Series:
    """Of each concept, how many words have it."""
    return near[near["code"] == near["other"]].groupby("code").size()


def near_shares(near: pd.DataFrame) -> pd.DataFrame:
    """How often concepts stand near each other, from `near_pairs`.

    Returns:
        `pandas.DataFrame`: A row per ordered pair of different concepts that ever do: `code`, `other`, `share` (of the
        words with the first, those that have the other within reach), `usual` (the same of all words without the
        other) and `num_texts` (different ones in which it is).
    """
    sizes = _num_words(near)
    found = near[near["code"] != near["other"]].groupby(["code", "other"])
    found = found.agg(words=("number", "size"), num_texts=("same", "nunique")).reset_index()
    found["share"] = found["words"] / found["code"].map(sizes)
    beside = near.drop_duplicates(["number", "other"]).groupby("other").size() - sizes
    found["usual"] = found["other"].map(beside / (near["number"].nunique() - sizes))
    return found[["code", "other", "share", "usual", "num_texts"]]


def companions_of(table: ConceptTable) -> list[tuple[int, ...]]:
    """Groups of concepts that are in the same texts, in ascending order, such as opening and closing quotation marks.

    Of each pair in a group the presence in a text correlates by at least 0.8 over the different texts, and at least ten
    of these have both. Concepts that were merged by hand count as one; hidden ones are not joined with others.
    """
    is_content = ~table.column("special")
    # Empty texts have a number, and no row.
    rows = np.searchsorted(np.asarray(table.texts["text_id"][:]), table.column("text_id")[is_content])
    _, text = np.unique(table.same_text[rows], return_inverse=True)
    shown, code = np.unique(table.by_hand.shown_codes[table.column("code")[is_content]], return_inverse=True)
    present = coo_array((np.ones(len(code)), (code, text))).tocsr()  # equal places are added up
    present.data[:] = 1
    sizes, number = present.sum(axis=1), present.shape[1]
    # One that is in all texts is nobody's companion, for its presence says nothing.
    varies = sizes < number
    shown, sizes, present = shown[varies], sizes[varies], present[varies]
    if len(shown) < 2:
        return []
    both = (present @ present.T).toarray()
    spread = np.sqrt(sizes * (number - sizes))
    alike = (number * both - np.outer(sizes, sizes)) / np.outer(spread, spread)
    is_hidden = np.isin(shown, list(table.by_hand.hidden))
    alike[(both < LEAST_SAME_TEXTS) | (is_hidden[:, None] != is_hidden)] = -1
    groups = fcluster(complete(1 - alike[np.triu_indices(len(shown), 1)]), 1 - SAME_TEXTS, "distance")
    found = (tuple(shown[groups == group].tolist()) for group in np.unique(groups))
    return sorted(group for group in found if len(group) > 1)


def with_phrases(table: ConceptTable) -> ConceptTable:
    """The same table, in which concepts that come together are merged: of a phrase, then in the same texts.

    Decisions by hand stay. Names that a model gave to one concept are not those of several, so these have none.
    """
    names = dict(table.names)
    for find in (phrases_of, companions_of):
        by_hand = table.by_hand
        for codes in find(table):
            by_hand = by_hand.decide("merge", codes, author="audit")
            for code in codes:
                names.pop(code, None)
        table = ConceptTable(table.tokens, table.texts, table.metadata, names, by_hand)
    return table


__all__ = ["companions_of", "near_pairs", "near_shares", "phrases_of", "with_phrases"]
