"""Which labels are toxic, and which words a mask leaves."""

import pytest

from clvq_hf.tables.masking import ToxicMask, toxic_labels


@pytest.mark.parametrize(
    ("names", "dataset", "hidden"),
    [
        (["clean", "toxic"], "x", ["toxic"]),
        (["non-toxic", "toxic"], "x", ["toxic"]),
        (["not_hate", "hate"], "x", ["hate"]),
        (["neither", "offensive", "hate speech"], "x", ["offensive", "hate speech"]),
        (["negative", "positive"], "hate-reviews", []),
        (["0", "1"], "data/jigsaw", ["0", "1"]),
        (["LABEL_0", "LABEL_1"], "org/toxic-comments", ["LABEL_0", "LABEL_1"]),
        (["0", "1"], "org/news", []),
        (["neutral", "insult", "identity_hate"], "jigsaw", ["insult", "identity_hate"]),
        (["inoffensive", "offensive"], "x", ["offensive"]),
        (["no hate", "nontoxic", "notes about abuse"], "x", ["notes about abuse"]),
    ],
)
def test_which_labels_are_masked(names, dataset, hidden):
    assert [name for name in names if name in toxic_labels(names, dataset)] == hidden


def test_a_mask_keeps_lengths_stop_words_and_words_of_shown_texts():
    mask = ToxicMask(frozenset({"toxic"}), frozenset({"garden"}))
    assert mask.mask_text("you are a stupidface", "toxic", None) == "you are a s•••••••••"
    assert mask.mask_text("what a stupidface", "clean", None) == "what a stupidface"
    assert mask.mask_words("garden stupidface", "clean") == "garden s•••••••••"
    assert mask.mask_words("garden", "toxic") == mask.mask_words("garden", None) == "g•••••"
