"""HTML fragments for notebooks and the app: a text with its concepts, and a concept.

Everything from data is escaped. Each fragment brings its own style, which changes nothing outside of it.
"""

from typing import Any

from ..rendering.pages import fragment_style, render_page
from .concept_table import ConceptTable
from .concepts import Concept, Example
from .shading import MIN_TEXTS, NUM_COLOURS

NUM_WORDS = 20
NUM_EXAMPLES = 5
# Of a title: a number says nothing without words.
NUM_TITLE_WORDS = 3


def text_html(table: ConceptTable, text_id: int) -> str:
    """A text with every token in the colour of its concept, and the salient token outlined.

    Returns:
        `str`: A `<div>` with its style, all text escaped. The colour is that of the concept's most frequent label, and
        stronger for purer concepts; without labels, frequent concepts have colours and lines of their own.

    Raises:
        ValueError: If the table has no such text.
    """
    tokens = table.text(text_id, special_tokens=False).to_dict("records")
    row = table.texts[table.text_row(text_id)]
    text, last = row["text"], 0
    parts: list[dict[str, Any]] = []
    concepts = {code: table.concept(code, NUM_TITLE_WORDS, 0) for code in {token["code"] for token in tokens}}
    for token in tokens:
        start, end = max(token["start"], last), max(token["end"], last)  # tokens of one character share it
        concept = concepts[token["code"]]
        parts.append(
            {
                "before": text[last:start],
                "text": text[start:end],
                "title": concept_title(concept),
                "shade": table.shade(concept),
                "salient": token["position"] == row["salient_position"],
            }
        )
        last = end
    return render_page(
        "report/text_fragment.html",
        style=fragment_style(),
        text_id=text_id,
        label=table.label_name(row["label"]),
        prediction=table.prediction_name(row["prediction"]),
        tokens=parts,
        rest=text[last:],
        salient=next((part for part in parts if part["salient"]), None),
        labels=table.label_names if table.has_labels else [],
        num_colours=NUM_COLOURS,
    )


def concept_html(table: ConceptTable, code: int) -> str:
    """A concept: its frequency, labels and words, and sentences with these words marked.

    Returns:
        `str`: A `<div>` with its style, all text escaped.

    Raises:
        ValueError: If the model has no such concept.
    """
    concept = table.concept(code, NUM_WORDS, NUM_EXAMPLES)
    return render_page(
        "report/concept_fragment.html",
        style=fragment_style(),
        concept=concept,
        rare=concept.num_texts < MIN_TEXTS,
        shares=label_shares(concept),
        shade=table.shade(concept),
        examples=[
            {"pieces": example.excerpt().pieces(), "note": example_note(example)} for example in concept.examples
        ],
    )


def concept_title(concept: Concept) -> str:
    """A concept in a few words: number, name if there is one, words, and most frequent label with its share."""
    title = f"concept {concept.number}" + (f" {concept.called.quoted}" if concept.called else "")
    if concept.top_words:
        title += ": " + ", ".join(word for word, _ in concept.top_words[:NUM_TITLE_WORDS])
    return title if concept.label is None else f"{title}, {concept.label} {concept.purity:.0%}"


def label_shares(concept: Concept) -> list[dict[str, Any]]:
    """`label`, `count`, `share` and `colour` per label; empty without labels."""
    total = sum(concept.label_counts.values())
    return [
        {"label": label, "count": count, "share": count / total, "colour": number % NUM_COLOURS}
        for number, (label, count) in enumerate(concept.label_counts.items())
    ]


def example_note(example: Example) -> str:
    """Label and prediction of an example, in words."""
    names = {"label": example.label, "predicted": example.prediction}
    return ", ".join(f"{key}: {name}" for key, name in names.items() if name is not None)


__all__ = ["concept_html", "concept_title", "example_note", "label_shares", "text_html"]
