"""Which labels are toxic, and which words a mask leaves."""

import pytest
from helpers.made_tables import made_table

from clvq_hf.tables.masking import ToxicMask, called_toxic, mask_of, masked_labels


@pytest.mark.parametrize(
    ("names", "masked"),
    [
        (["clean", "toxic"], {"toxic"}),
        (["non-toxic", "toxic"], {"toxic"}),
        (["not_hate", "hate"], {"hate"}),
        (["neither", "offensive", "hate speech"], {"offensive", "hate speech"}),
        (["negative", "positive"], set()),
        (["0", "1"], {None, "0", "1"}),
        (["LABEL_0", "LABEL_1"], {None, "LABEL_0", "LABEL_1"}),
        (["neutral", "insult", "identity_hate"], {"insult", "identity_hate"}),
        (["inoffensive", "offensive"], {"offensive"}),
        (["no hate", "nontoxic", "notes about abuse"], {"notes about abuse"}),
        ([], set()),
    ],
)
def test_which_labels_are_masked(names, masked):
    assert masked_labels(names) == masked
    assert called_toxic(names) == (masked if None not in masked else set())
    assert masked_labels(names, mask_toxic=False) == set()


def test_labels_may_be_named():
    assert masked_labels(["0", "1"], mask_label=["1"]) == {"1"}
    assert masked_labels(["clean", "toxic", "rude"], mask_label=["rude"]) == {"toxic", "rude"}
    assert masked_labels(["clean", "toxic", "rude"], mask_toxic=False, mask_label=["rude"]) == {"rude"}
    with pytest.raises(ValueError, match=r"no label '2' .* mask_label=… to some of \['0', '1'\]"):
        masked_labels(["0", "1"], mask_label=["1", "2"])


def test_a_folders_name_masks_nothing():
    about = {"host_name_or_path": "hosts/toxic-jigsaw", "label_names": ["negative", "positive"]}
    table = made_table(["a horrid film", "a nice film"], [0, 1], {"film": 1}, **about)
    assert mask_of(table) is None
    assert mask_of(table, mask_label=["negative"]).labels == {"negative"}


def test_a_mask_keeps_lengths_stop_words_and_words_of_shown_texts():
    mask = ToxicMask(frozenset({"toxic"}), frozenset({"garden"}))
    assert mask.mask_text("you are a stupidface", "toxic", None) == "you are a s•••••••••"
    assert mask.mask_text("what a stupidface", "clean", None) == "what a stupidface"
    assert mask.mask_words("garden stupidface", "clean") == "garden s•••••••••"
    assert mask.mask_words("garden", "toxic") == mask.mask_words("garden", None) == "g•••••"
