"""Concept tables: which concept each token has, with names, colours, masks and HTML."""

from .attribution import salient_tokens
from .by_hand import ByHand, Decision, write_by_hand
from .concept_table import ConceptTable
from .concepts import Concept, Example
from .html import concept_html, text_html
from .names import Called, ConceptName, write_names

__all__ = [
    "ByHand",
    "Called",
    "Concept",
    "ConceptName",
    "ConceptTable",
    "Decision",
    "Example",
    "concept_html",
    "salient_tokens",
    "text_html",
    "write_by_hand",
    "write_names",
]
