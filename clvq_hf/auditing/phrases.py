"""Concepts of one phrase: those that stand together in the texts are audited, and cut, as one.

Of a line such as *Source: Northfield Wire* every word can be enough for the host, so that removing one of them changes
nothing, and each of them hides the others.
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..tables.concept_table import ConceptTable
from .signals import BOILERPLATE_TEXTS

# Words from one concept to another that stands near it, at most.
REACH = 2
# Concepts belong together if so much of one is near the other, so much of the other near it, and the former so many
# times as often as any word: almost everything is near a frequent word.
MOST_OF_ONE, PART_OF_OTHER, TIMES_USUAL = 0.5, 0.2, 2.0


def phrases_of(table: ConceptTable) -> list[tuple[int, ...]]:
    """Groups of concepts that make up a phrase, in ascending order; most concepts are in none.

    Two concepts belong together if half of the words that have one of them, and a fifth of those that have the other,
    stand in the same word as the other concept or at most two words away from it, the half at least twice as often as
    words in general, in at least four different texts. Chains of such concepts are one group. Concepts that were
    merged by hand count as one; hidden ones are not joined with others.
    """
    shares = near_shares(table)
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
    size = table.codebook_size
    joined = coo_array((np.ones(len(pairs)), (pairs["code"], pairs["other"])), shape=(size, size))
    _, groups = connected_components(joined, directed=False)
    sizes = np.bincount(groups)
    return sorted(tuple(np.flatnonzero(groups == group).tolist()) for group in np.flatnonzero(sizes > 1))


def near_shares(table: ConceptTable) -> pd.DataFrame:
    """How often concepts stand near each other.

    Returns:
        `pandas.DataFrame`: A row per ordered pair of shown concepts that ever do: `code`, `other`, `share` (of the
        words with the first, those that have the other within reach), `usual` (the same of all words without the
        other) and `num_texts` (different ones in which it is).
    """
    words = table.words()
    words["number"], words["same"] = np.arange(len(words)), table.same_text[_rows(table, words)]
    own = words.drop(columns="code").explode("codes", ignore_index=True).rename(columns={"codes": "code"})
    own["code"] = table.by_hand.shown_codes[own["code"].astype(np.int64)]
    own = own[["text_id", "same", "number", "code"]].drop_duplicates()
    others = own[["text_id", "number", "code"]].rename(columns={"code": "other"})
    near = pd.concat(
        own.merge(others.assign(number=others["number"] - step), on=["text_id", "number"])
        for step in range(-REACH, REACH + 1)
    )
    near = near[near["code"] != near["other"]].drop_duplicates(["number", "code", "other"])
    found = near.groupby(["code", "other"]).agg(words=("number", "size"), num_texts=("same", "nunique")).reset_index()
    sizes = own.groupby("code").size()
    found["share"] = found["words"] / found["code"].map(sizes)
    beside = near.drop_duplicates(["number", "other"]).merge(
        others, on=["number", "other"], how="left", indicator=True
    )
    beside = beside[beside["_merge"] == "left_only"].groupby("other").size()  # not the words that have it themselves
    found["usual"] = found["other"].map(beside.reindex(sizes.index, fill_value=0) / (len(words) - sizes))
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


def _rows(table: ConceptTable, words: pd.DataFrame) -> np.ndarray:
    return np.searchsorted(np.asarray(table.texts["text_id"][:]), words["text_id"])


__all__ = ["near_shares", "phrases_of", "with_phrases"]
