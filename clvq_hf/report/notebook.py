"""How notebooks show tables and models: `_repr_html_` of `ConceptTable` and of every concept model."""

from typing import TYPE_CHECKING

from ..rendering.pages import render_page
from ..tables.concept_table import ConceptTable
from ..tables.html import fragment_style
from ..tables.names import name_note
from ..tables.shading import shade
from .facts import frequent_codes, model_facts, table_facts

if TYPE_CHECKING:
    from ..models.modeling_concepts import ConceptModel

NUM_CONCEPTS = 10
NUM_WORDS = 8


def table_html(table: ConceptTable) -> str:
    """A concept table in short: what it is of, and its most frequent concepts.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Any.

    Returns:
        `str`: A `<div>` with its style, all text escaped.
    """
    concepts = [table.concept(code, NUM_WORDS, 0) for code in frequent_codes(table, NUM_CONCEPTS)]
    rows = [
        {
            "concept": concept,
            "name_note": name_note(table.names[concept.code]) if concept.name else None,
            "shade": shade(concept, table.label_names),
        }
        for concept in sorted(concepts, key=lambda concept: -concept.num_tokens)
    ]
    return render_page(
        "report/repr.html", style=fragment_style(), title="ConceptTable", facts=table_facts(table), rows=rows
    )


def model_html(model: "ConceptModel") -> str:
    """A concept model in short: its host, layers, size, and whether it is fitted.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): Of any method.

    Returns:
        `str`: A `<div>` with its style, all text escaped.
    """
    title = type(model).__name__
    return render_page("report/repr.html", style=fragment_style(), title=title, facts=model_facts(model), rows=[])


__all__ = ["model_html", "table_html"]
