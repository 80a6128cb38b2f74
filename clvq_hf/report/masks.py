"""A report without words of toxic labels, as a model's card masks them."""

from typing import Any

from ..tables.masking import ToxicMask, masked


def mask_contents(contents: dict[str, Any], mask: ToxicMask) -> None:
    """Mask, in what a report shows, texts whose label or prediction is toxic, and words that no other text has.

    Words and names of concepts whose majority label is toxic are masked too, and all words that go elsewhere.

    Args:
        contents (`dict`): Of [`report_contents`][clvq_hf.report.contents.report_contents]; changed in place.
        mask ([`ToxicMask`][clvq_hf.tables.masking.ToxicMask]): The mask of the same table.
    """
    labels = contents["labels"]

    def name(number: int | None) -> str | None:
        return labels[number] if number is not None and 0 <= number < len(labels) else None

    for concept in contents["concepts"]:
        label = name(concept["label"])
        concept["name"] = concept["name"] and mask.word(concept["name"], label)
        for words in (concept["words"], concept["cloud"]):
            for word in words:
                word[0] = mask.word(word[0], label)
        for example in concept["examples"]:
            if mask.hides_text(example["label"], example["prediction"]):
                example["pieces"] = [[masked(text), marked] for text, marked in example["pieces"]]
    for text in contents["texts"]:
        if mask.hides_text(name(text["label"]), name(text["prediction"])):
            text["text"] = masked(text["text"])
    for word in contents["routing"]:
        word["word"] = masked(word["word"])


__all__ = ["mask_contents"]
