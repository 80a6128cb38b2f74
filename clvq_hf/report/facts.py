"""What concept tables and models are of, as names and values, for whoever shows them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..models.model_card import method_of
from ..tables.concept_table import ConceptTable

if TYPE_CHECKING:
    from ..models.modeling_concepts import ConceptModel


def table_facts(table: ConceptTable, model: "ConceptModel | None" = None) -> list[tuple[str, str]]:
    """What a table is of: host, layers, method, texts, concepts, labels, salience."""
    known, texts = table.metadata, table.texts
    labels, predictions = np.asarray(texts["label"][:]), np.asarray(texts["prediction"][:])
    judged = (labels >= 0) & (predictions >= 0) & table.predicts_labels
    names = ", ".join(dict.fromkeys(short_name(name) for name in texts["dataset"][:] if name)) or "unnamed"
    splits = ", ".join(dict.fromkeys(texts["split"][:]))
    facts = [
        ("Host", short_name(known["host_name_or_path"])),
        ("Layers", _layers(known["lower_layer"], known["upper_layer"], known["stack"])),
        ("Method", known["model_type"] if model is None else method_of(model.config).title),
        ("Texts", f"{len(texts):,} of {names} ({splits})"),
        ("Tokens", f"{len(table):,}"),
        ("Concepts in use", f"{len(table.active_codes):,} of {table.codebook_size:,}"),
    ]
    if table.label_names:
        facts.append(("Labels", ", ".join(table.label_names)))
    if judged.any():
        facts.append(("Accuracy of the host here", f"{(labels == predictions)[judged].mean():.1%}"))
    facts.append(("Salience", known["salience"] or "none"))
    return facts


def model_facts(model: "ConceptModel") -> list[tuple[str, str]]:
    """What a concept model is: host, layers, size, and whether it is fitted."""
    config = model.config
    return [
        ("Method", method_of(config).title),
        ("Host", short_name(config.host_name_or_path) or "not recorded"),
        ("Layers", _layers(config.lower_layer, config.upper_layer, config.stack)),
        ("Concepts", f"{config.codebook_size:,} of {config.hidden_size:,} dimensions"),
        ("Decoder", "yes" if config.has_decoder else "no: it encodes, attaches and ablates"),
        ("Fitted", "yes" if model.is_initialized else "no: its codes mean nothing yet"),
    ]


def frequent_codes(table: ConceptTable, n: int) -> list[int]:
    """The `n` codes that most tokens have (special ones left out), in the order of their numbers."""
    counts = np.bincount(table.column("code")[~table.column("special")], minlength=table.codebook_size)
    most = np.lexsort((np.arange(len(counts)), -counts))[:n]
    return sorted(int(code) for code in most if counts[code])


def short_name(name: str | None) -> str:
    """A Hub id as it is; of a folder the last two parts: a report may be shared, and says nothing of a home folder."""
    if not name:
        return ""
    return "/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name


def _layers(lower: int | None, upper: int | None, stack: str | None) -> str:
    return f"{lower} → {upper}" + (f" ({stack})" if stack else "")


__all__ = ["frequent_codes", "model_facts", "short_name", "table_facts"]
