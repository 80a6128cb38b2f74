"""A report without words of toxic labels, as a model's card masks them."""

from typing import Any

from ..tables.masking import ToxicMask


def mask_contents(contents: dict[str, Any], mask: ToxicMask) -> None:
    """Mask, in place, words of toxic texts wherever a report shows them: texts, examples, words, names of concepts."""
    labels = contents["labels"]

    def name(number: int | None) -> str | None:
        return labels[number] if number is not None and 0 <= number < len(labels) else None

    for concept in contents["concepts"]:
        label = name(concept["label"])
        for field in ("name", "group"):
            concept[field] = concept[field] and mask.mask_words(concept[field], label)
        for word in (*concept["words"], *concept["cloud"]):
            word[0] = mask.mask_words(word[0], label)
        concept["gist"] = [mask.mask_words(word, label) for word in concept["gist"]]
        for example in concept["examples"]:
            own = example["label"], example["prediction"]
            example["pieces"] = [[mask.mask_text(text, *own), marked] for text, marked in example["pieces"]]
    # Of these no label is known.
    for code, words in contents["others"].items():
        contents["others"][code] = [mask.mask_words(word, None) for word in words]
    for text in contents["texts"]:
        text["text"] = mask.mask_text(text["text"], name(text["label"]), name(text["prediction"]))
    for word in contents["routing"]:
        word["word"] = mask.mask_words(word["word"], None)


__all__ = ["mask_contents"]
