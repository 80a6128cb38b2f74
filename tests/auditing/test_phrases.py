"""Which concepts are a phrase, in tables written down by hand."""

import numpy as np
import pytest
from helpers.made_tables import made_table

from clvq_hf.auditing.phrases import companions_of, near_pairs, near_shares, phrases_of, with_phrases
from clvq_hf.tables import ConceptName

CODES = {"source": 1, "north": 2, "wire": 3, "team": 4, "won": 5}


def texts_with(phrase, number=5, first=0):
    # Every word of no phrase has the concept 0, and numbers make the texts differ.
    return [f"team {place} x y z q won again {place} {phrase}" for place in range(first, first + number)]


def table_of(texts, codes=CODES):
    return made_table(texts, [0] * len(texts), codes)


def test_shares_of_words_near_each_other():
    found = near_shares(near_pairs(table_of(["north wire", "north a b wire", "north a wire", "wire"]))).set_index(
        ["code", "other"]
    )
    # "north" is followed by "wire" at once, after two words, after one: the first and the last are near.
    assert found.loc[(2, 3), "share"] == pytest.approx(2 / 3) and found.loc[(3, 2), "share"] == pytest.approx(2 / 4)
    assert found.loc[(2, 3), "num_texts"] == 2
    # Of the six words that are not "wire", all but the first one of the second text have it near.
    assert found.loc[(2, 3), "usual"] == pytest.approx(5 / 6)
    assert (2, 2) not in found.index and (4, 2) not in found.index


def test_words_of_a_line_are_a_phrase_and_others_are_not():
    texts = texts_with("source north wire") + [f"won {place} a b c d team" for place in range(5)]
    assert phrases_of(table_of(texts)) == [(1, 2, 3)]


def test_a_line_in_several_wordings_is_one():
    # Of its names a third stand beside "source": all of these are there.
    texts = texts_with("source north wire", 5) + texts_with("by the north wire", 10, first=5)
    assert phrases_of(table_of(texts)) == [(1, 2, 3)]


def test_a_word_that_also_stands_elsewhere_is_none_of_it():
    # Of 30 "source" only 5 are in the line.
    texts = texts_with("source north wire") + [f"a b {place} source c d e f" for place in range(25)]
    assert phrases_of(table_of(texts)) == [(2, 3)]


def test_what_is_near_a_frequent_word_only_is_no_phrase():
    # All of "won" stand beside "team", but only a tenth of "team" beside "won".
    texts = [f"team won {place} a b" for place in range(5)] + [f"team a b c {place}" for place in range(5, 50)]
    assert phrases_of(table_of(texts)) == []


def test_the_ends_of_a_line_need_not_be_near_each_other():
    codes = {word: number for number, word in enumerate(["https", "t", "co", "one", "two", "three", "four"], 1)}
    assert phrases_of(table_of(texts_with(" ".join(codes)), codes)) == [(1, 2, 3, 4, 5, 6, 7)]


def test_a_word_of_two_phrases_does_not_join_them():
    hashtag, residue = ["big", "news", "today", "show"], ["s", "quote", "semicolon", "end"]
    codes = {word: number for number, word in enumerate(["#", *hashtag, *residue], 1)}
    texts = texts_with("# " + " ".join(hashtag), 8) + texts_with("# " + " ".join(residue), 9, first=8)
    first, second = phrases_of(table_of(texts, codes))
    assert {frozenset(first) - {1}, frozenset(second) - {1}} == {frozenset({2, 3, 4, 5}), frozenset({6, 7, 8, 9})}


def test_what_mostly_stands_elsewhere_is_left_out():
    # A fifth of the full stops is in the address, beside all of its words.
    codes = {"t": 1, ".": 2, "co": 3}
    texts = texts_with("t . co") + [f"a b {place} c d . e f" for place in range(20)]
    near = near_shares(near_pairs(table_of(texts, codes))).set_index(["code", "other"])
    assert near.loc[(1, 2), "share"] == 1 and near.loc[(2, 1), "share"] == pytest.approx(0.2)
    assert phrases_of(table_of(texts, codes)) == [(1, 3)]


def test_a_few_texts_are_no_phrase_nor_is_one_text_many_times():
    assert phrases_of(table_of(texts_with("north wire", 3))) == []
    assert phrases_of(table_of(["team x y z north wire"] * 9)) == []


def test_what_was_decided_by_hand_stays():
    table = table_of(texts_with("source north wire"))
    table.merge([3, 7], author="Ada")
    table.rename(2, "agency", author="Ada")
    table.hide([1], author="Ada")
    assert phrases_of(table) == [(2, 3)]  # a hidden concept is not joined with others
    joined = with_phrases(table)
    assert joined.by_hand.members(2) == (2, 3, 7)
    assert joined.called(2).name == "agency" and joined.by_hand.hidden == {1}
    assert table.by_hand.members(2) == (2,), "the given table stays as it is"
    assert phrases_of(joined) == []


def test_a_name_of_one_concept_is_not_that_of_the_phrase():
    table = table_of(texts_with("north wire"))
    table.names.update({2: ConceptName("compass", "judge", 1), 4: ConceptName("teams", "judge", 1)})
    joined = with_phrases(table)
    assert joined.called(2) is None and joined.called(4).name == "teams" and table.called(2).name == "compass"


def far_apart(first, last, number=12, start=0):
    return [f"{first} a {place} b c d e f {last}" for place in range(start, start + number)]


def test_what_is_in_the_same_texts_comes_together_wherever_it_stands():
    # "north" also is in one text of 28 by itself: its presence and that of "wire" correlate by 0.93.
    texts = far_apart("north", "wire") + far_apart("a", "b", 15, start=12) + ["north a 99 b"]
    assert phrases_of(table_of(texts)) == [] and companions_of(table_of(texts)) == [(2, 3)]
    assert companions_of(made_table(texts, [0] * 28, CODES, first_id=40)) == [(2, 3)]  # ids are no rows
    joined = with_phrases(table_of(texts))
    assert joined.by_hand.members(2) == (2, 3) and with_phrases(joined).by_hand.members(2) == (2, 3)
    # In four texts of 28 by itself: 0.75.
    texts = far_apart("north", "wire") + far_apart("north", "b", 4, start=12) + far_apart("a", "b", 12, start=16)
    present = [["north" in text, "wire" in text] for text in texts]
    assert np.corrcoef(np.transpose(present))[0, 1] == pytest.approx(0.75)
    assert companions_of(table_of(texts)) == []


def test_a_phrase_has_companions_too():
    texts = far_apart("north wire", "won") + far_apart("a", "b", 15, start=12)
    assert phrases_of(table_of(texts)) == [(2, 3)]
    assert with_phrases(table_of(texts)).by_hand.members(2) == (2, 3, 5)


def test_what_is_in_few_texts_in_all_or_hidden_has_no_companions():
    others = far_apart("a", "b", 15, start=20)
    assert companions_of(table_of(far_apart("north", "wire", 9) + others)) == []
    assert companions_of(table_of(["north a 1 b c d e f wire"] * 20 + others)) == []  # one text many times
    assert companions_of(table_of(far_apart("north", "wire"))) == []
    table = table_of(far_apart("north", "wire") + others)
    table.hide([3], author="Ada")
    assert companions_of(table) == []
    assert companions_of(table_of([""])) == []
