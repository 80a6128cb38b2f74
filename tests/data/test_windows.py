"""Texts of any length as windows: nothing is lost, nothing is longer than the limit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clvq_hf.data.windows import cut_into_windows

WORDS = ["a", "film", "moving", "dull", "wonderful", "actors", "!", "unbelievably"]


def test_short_text_is_as_the_tokenizer_reads_it(tokenizer):
    [text] = cut_into_windows(["A moving film!"], tokenizer, 32)
    encoded = tokenizer("A moving film!")
    [window] = text.windows
    assert window["input_ids"] == encoded["input_ids"] and window["attention_mask"] == encoded["attention_mask"]
    assert window["token_mask"] == [0, 1, 1, 1, 1, 0]
    assert text.word_id.tolist() == [-1, 0, 1, 2, 3, -1]
    assert [text.text[a:b] for a, b in zip(text.start, text.end, strict=True)] == ["", "A", "moving", "film", "!", ""]
    assert text.weights.tolist() == [1.0] and text.num_cut == 0


def test_windows_by_hand(tokenizer):
    """Ten words in windows of eight tokens: six words each, of which the next window repeats one."""
    words = "one two three four five six seven eight nine ten"
    [text] = cut_into_windows([words], tokenizer, 8)
    assert [tokenizer.convert_ids_to_tokens(window["input_ids"]) for window in text.windows] == [
        ["[CLS]", "one", "two", "three", "four", "five", "six", "[SEP]"],
        ["[CLS]", "five", "six", "seven", "eight", "nine", "ten", "[SEP]"],
    ]
    # Six words, and four new ones.
    assert text.weights.tolist() == [0.6, 0.4]
    assert text.places[1].tolist() == [0, 5, 6, 7, 8, 9, 10, 11]
    [start] = cut_into_windows([words], tokenizer, 8, "truncate")
    [end] = cut_into_windows([words], tokenizer, 8, "end")
    assert start.windows[0] | {"text_index": 0} == text.windows[0] | {"text_index": 0}
    assert end.windows[0]["input_ids"] == text.windows[1]["input_ids"]
    assert start.num_cut == end.num_cut == 4
    assert len(start) == 8 and start.places[0].tolist() == [*range(8)]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), limit=st.integers(3, 20))
def test_windows_cover_every_token(tokenizer, words, limit):
    [text] = cut_into_windows([" ".join(words)], tokenizer, limit)
    assert np.isclose(text.weights.sum(), 1) and (text.weights > 0).all()
    assert sorted(set(np.concatenate(text.places).tolist())) == [*range(len(text))]
    for window, place in zip(text.windows, text.places, strict=True):
        assert len(window["input_ids"]) == len(place) <= limit
        assert window["input_ids"] == text.token_ids[place].tolist()


def test_empty_texts_and_limits(tokenizer):
    assert cut_into_windows(["", " \n", "\u200b"], tokenizer, 8) == [None, None, None]
    assert cut_into_windows([], tokenizer, 8) == []
    with pytest.raises(ValueError, match="leaves no room"):
        cut_into_windows(["a"], tokenizer, 2)
    with pytest.raises(ValueError, match="long_texts must be one of"):
        cut_into_windows(["a"], tokenizer, 8, "middle")
