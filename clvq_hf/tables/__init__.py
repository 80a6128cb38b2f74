"""Concept tables: which concept each token has, with names, colours, masks and HTML."""

from .attribution import salient_tokens
from .concept_table import ConceptTable
from .concepts import Concept, Example
from .html import concept_html, text_html
from .names import ConceptName, write_names

__all__ = [
    "Concept",
    "ConceptName",
    "ConceptTable",
    "Example",
    "concept_html",
    "salient_tokens",
    "text_html",
    "write_names",
]
