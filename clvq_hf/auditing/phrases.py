"""Concepts of one phrase: those that stand together in the texts are audited, and cut, as one.

Of a line such as *Source: Northfield Wire* every word can be enough for the host, so that removing one of them changes
nothing, and each of them hides the others.
"""

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import average, fcluster

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


def with_phrases(table: ConceptTable) -> ConceptTable:
    """The same table, in which the concepts of each phrase are merged; decisions by hand stay.

    Names that a model gave to one concept are not those of a phrase, so these have none.
    """
    by_hand, names = table.by_hand, dict(table.names)
    for codes in phrases_of(table):
        by_hand = by_hand.decide("merge", codes, author="audit")
        for code in codes:
            names.pop(code, None)
    return ConceptTable(table.tokens, table.texts, table.metadata, names, by_hand)


__all__ = ["near_pairs", "near_shares", "phrases_of", "with_phrases"]
