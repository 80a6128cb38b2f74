"""The card of a concept model, from its config, its concept table and its results; unknown facts are left out."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..auditing.summary import sentences_of, suspects_table, with_names
from ..hub.provenance import is_hub_id
from ..hub.repositories import EVALUATION_FOLDER, LIBRARY, REFERENCE_NAME, RESULTS_NAME
from ..hub.uploads import MARKER, TAGS, repository_link
from ..metrics.results_tables import PROTOCOLS, ROUTING_TITLE, report_tables
from ..metrics.verdict import measured_protocol, verdict
from ..rendering.markdown import Markdown, escape_markdown
from ..rendering.text_tables import ReportTable, to_markdown
from ..tables.concepts import Concept, Example
from ..tables.masking import ToxicMask, mask_of, masked_labels
from .configuration_concepts import ConceptConfig
from .registry import method_class

if TYPE_CHECKING:
    from ..tables.concept_table import ConceptTable

NUM_CONCEPTS = 12
# Rarer concepts are not shown, because their purity means little.
MIN_TOKENS, MIN_TEXTS = 20, 10
LONGEST_SENTENCE = 300


def model_card(
    config: ConceptConfig,
    repo_id: str,
    *,
    table: "ConceptTable | None" = None,
    results: dict[str, Any] | None = None,
    audit: dict[str, Any] | None = None,
    has_reference: bool = False,
    licences: dict[tuple[str, str], dict[str, Any]] | None = None,
    license: str | None = None,
    mask_toxic: bool = True,
    mask_label: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> ModelCard:
    """Write the card of a concept model, with the purest concepts of its table and the content of `results.json`.

    `audit` is the [`summary`][clvq_hf.auditing.Audit.summary] of an audit.
    `licences` are, by (`"model"` or `"dataset"`, Hub id), the entries `license`, `license_name` and `license_link` of
    cards; datasets that it lacks are not on the Hub. `license` is that of the concept model, else the host's.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "rendering" / "templates"),
        undefined=StrictUndefined,
        finalize=escape_markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # `finalize` escapes everything, for Markdown
    )
    licences = licences or {}
    host, name = config.host_name_or_path, repo_id.split("/")[-1]
    datasets = datasets_of(config, table, results)
    terms = {"license": license} if license is not None else licences.get(("model", host), {})
    own_tags = (*TAGS, config.hub_tag)
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="feature-extraction",
        tags=[*own_tags, *(tag for tag in tags if tag not in own_tags)],
        base_model=host if is_hub_id(host) else None,
        base_model_relation="adapter" if is_hub_id(host) else None,
        datasets=[name for name in datasets if ("dataset", name) in licences] or None,
        **terms,
        model_name=name,
        eval_results=None if results is None else _eval_results(results, repo_id) or None,
    )
    text = environment.get_template("model_card.md").render(
        marker=Markdown(MARKER),
        name=name,
        config=config,
        source=Markdown(config.source),
        verdict="" if measured_protocol(results) is None else " ".join(verdict(results)),
        host_link=repository_link(host),
        snippet=Markdown(_snippet(config, repo_id, has_reference, table is not None)),
        has_reference=has_reference,
        reference_file=Markdown(f"`{REFERENCE_NAME}`"),
        **_concepts_section(table, mask_toxic, mask_label),
        measures=Markdown(
            ""
            if results is None
            else to_markdown(measures_of(results, has_masked_labels(results, mask_toxic, mask_label)), level=3)
        ),
        measured="" if results is None else results["texts"].get("split"),
        **_audit_section(audit, table, mask_toxic, mask_label),
        training=_training_rows(config),
        licences=_licence_rows(host, datasets, licences),
    )
    # Sections that were left out leave blank lines.
    text = re.sub(r"\n{3,}", "\n\n", text)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


# ------------------------------------------------------------------------------------------------------------ concepts


def _concepts_section(table: "ConceptTable | None", mask_toxic: bool, mask_label: Sequence[str]) -> dict[str, Any]:
    if table is None:
        return {"concepts": []}
    concepts = table.purest(NUM_CONCEPTS, MIN_TOKENS, MIN_TEXTS, stop_words=False)
    order = "with the purest labels" if concepts and concepts[0].label_counts else "with the most tokens"
    mask = mask_of(table, mask_toxic, mask_label)
    return {
        "concepts": [_row(concept, mask) for concept in concepts],
        "chosen_by": f"{order} (at least {MIN_TOKENS} tokens in {MIN_TEXTS} texts, and a word that is no stop word)",
        "num_active": len(table.active_codes),
        "num_texts": f"{len(table.texts):,}",
        "dataset": ", ".join(filter(None, _unique(table.texts["dataset"][:]))) or "unnamed texts",
        "splits": ", ".join(filter(None, _unique(table.texts["split"][:]))),
        "mask_note": "" if mask is None else mask.note,
        "labels_note": _labels_note(concepts, table),
        "table_place": Markdown("`model.concepts`"),
    }


def _audit_section(
    audit: dict[str, Any] | None, table: "ConceptTable | None", mask_toxic: bool, mask_label: Sequence[str]
) -> dict[str, Any]:
    if audit is None:
        return {"audit": [], "suspects": ""}
    if table is not None and table.metadata["model_fingerprint"] == audit["model_fingerprint"]:
        audit = with_names(audit, table)
    # A label that only the table has cannot be asked of the audit's classes.
    labels = masked_labels(audit["classes"], mask_toxic, [name for name in mask_label if name in audit["classes"]])
    mask = (mask_of(table, mask_toxic, mask_label) if table is not None else None) or (
        ToxicMask(labels) if labels else None
    )
    return {
        "audit": sentences_of(audit, mask),
        "suspects": Markdown(to_markdown([suspects_table(audit, mask)], level=3)),
    }


def _row(concept: Concept, mask: ToxicMask | None) -> dict[str, Any]:
    words = [word if mask is None else mask.mask_words(word, concept.label) for word, _ in concept.top_words]
    return {
        "code": _called(concept, mask),
        "num_tokens": f"{concept.num_tokens:,}",
        "label": "–" if concept.label is None else f"{concept.label} ({concept.purity:.0%})",
        "words": ", ".join(words),
        "sentence": _sentence(concept.examples[0], mask) if concept.examples else "",
    }


def _called(concept: Concept, mask: ToxicMask | None) -> str:
    """The number of a concept, and what it is called."""
    if concept.called is None:
        return concept.number
    called = concept.called
    if mask is not None:
        called = replace(called, name=mask.mask_words(called.name, concept.label))
    return f"{concept.number}: {called.quoted}"


def _sentence(example: Example, mask: ToxicMask | None) -> Markdown:
    if mask is not None:
        example = replace(example, text=mask.mask_text(example.text, example.label, example.prediction))
    return Markdown(example.excerpt(LONGEST_SENTENCE, LONGEST_SENTENCE).marked("**", "**", escape=_escaped_piece))


def _escaped_piece(text: str) -> str:
    # Escaping trims: the spaces at both ends belong to the sentence.
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return (" " if before else "") + escape_markdown(text) + (" " if after and text.strip() else "")


def has_masked_labels(results: dict[str, Any], mask_toxic: bool, mask_label: Sequence[str]) -> bool:
    """Whether some of the labels that were measured are masked."""
    return bool(masked_labels(results["texts"].get("label_names") or [], mask_toxic, mask_label))


def measures_of(
    results: dict[str, Any], is_masked: bool, words: Callable[[int], Sequence[str]] | None = None
) -> list[ReportTable]:
    """The tables of the results; without words that are routed by labels, if some labels are masked.

    `words` gives the words of a concept, to be shown beside its number.
    """
    return [table for table in report_tables(results, words) if not is_masked or table.title != ROUTING_TITLE]


def _labels_note(concepts: list[Concept], table: "ConceptTable") -> str:
    if not concepts or not concepts[0].label_counts:
        return ""
    lengths, labels = np.asarray(table.texts["num_tokens"][:]), np.asarray(table.texts["label"][:])
    tokens = np.bincount(labels[labels >= 0], lengths[labels >= 0], minlength=len(table.label_names))
    shares = zip(table.label_names, tokens / tokens.sum(), strict=True)
    return (
        "The label is the most frequent label of the texts that contain the concept's tokens, with its share in "
        "brackets. Concepts were selected for it, so expect less purity on other texts. Shares among all tokens: "
        + ", ".join(f"{name} {share:.0%}" for name, share in shares)
        + "."
    )


# ------------------------------------------------------------------------------------------------------------- the rest


def _snippet(config: ConceptConfig, repo_id: str, has_reference: bool, has_table: bool) -> str:
    host_class = config.host_architecture or "AutoModel"
    on_hub = is_hub_id(config.host_name_or_path) and not host_class.startswith("Peft")
    method = method_class(config.model_type)
    loader = "ConceptModel" if method is None else method.__name__
    # Public names of this package need no module; a method from outside is imported from its own.
    is_ours = method is None or method.__module__.startswith("clvq_hf.")
    module = "clvq_hf" if is_ours else method.__module__
    lines = [f"from {module} import {loader}"]
    if not on_hub:
        if host_class.startswith("Peft") or not host_class.isidentifier():
            host_class = "AutoModel"
        lines.append(f"from transformers import AutoTokenizer, {host_class}")
    lines += ["", f'model = {loader}.from_pretrained("{repo_id}")']
    if on_hub:
        lines += ["host, tokenizer = model.load_host(), model.load_tokenizer()"]
    else:
        lines += [
            f'host = {host_class}.from_pretrained("your-host").eval()  # it is not on the Hub: use your own copy',
            'tokenizer = AutoTokenizer.from_pretrained("your-host")',
        ]
    if has_reference:
        lines.append("print(model.verify(host, tokenizer))")
    lines += [
        "with model.attach(host) as tap:",
        '    host(**tokenizer("what a wonderful film", return_tensors="pt"))',
        "print(tap.codes)  # (batch, sequence): one concept per token",
    ]
    if has_table:
        lines.append("print(model.concepts)")
    return "\n".join(lines)


def _eval_results(results: dict[str, Any], repo_id: str) -> list[EvalResult]:
    texts = results["texts"]
    common = {
        "task_type": "text-classification" if texts.get("label_names") else "feature-extraction",
        "dataset_type": texts["dataset"] or "unknown",
        "dataset_name": texts["dataset"] or "unknown",
        "dataset_split": texts["split"],
        "source_name": "clvq-hf evaluate",
        "source_url": f"https://huggingface.co/{repo_id}/blob/main/{EVALUATION_FOLDER}/{RESULTS_NAME}",
    }
    entries: list[EvalResult] = []

    def add(figures: dict[str, Any], key: str, metric: str, name: str, **controls: Any) -> None:
        if figures.get(key) is None:
            return
        args = {
            "low": figures.get(f"{key}_low"),
            "high": figures.get(f"{key}_high"),
            **controls,
            "num_texts": figures.get(f"{key}_num_texts", texts["num_texts"]),
            "model_fingerprint": results.get("model_fingerprint"),
        }
        args = {name: value for name, value in args.items() if value is not None}
        entries.append(
            EvalResult(metric_type=metric, metric_name=name, metric_value=figures[key], metric_args=args, **common)
        )

    for protocol, figures in results.get("ablation", {}).items():
        where = PROTOCOLS[protocol][0].lower() + PROTOCOLS[protocol][1:]
        title = f"Token specificity ({where}): Δmargin, salient − another concept"
        add(figures, "token_specificity", "ablation_drop", title)
        add(figures, "accuracy", "accuracy", f"Accuracy, nothing removed ({where})")
        add(figures, "salient_accuracy", "accuracy", f"Accuracy without the salient concept ({where})")
    purity = results.get("table", {}).get("label_purity", {})
    add(
        purity,
        "cross_fitted_purity",
        "label_purity",
        "Label purity, cross-fitted",
        labels_permuted=purity.get("null_purity"),
        token_types=purity.get("token_purity"),
    )
    codes = results.get("fidelity", {}).get("codes", {})
    add(codes, "code_fidelity", "code_fidelity", "Code fidelity", class_alone=codes.get("class_fidelity"))
    add(codes, "fidelity_beyond_class", "code_fidelity", "Code fidelity beyond the class")
    add(results.get("bottleneck", {}).get("splice", {}), "splice_fidelity", "splice_fidelity", "Splice fidelity")
    return entries


def _training_rows(config: ConceptConfig) -> list[tuple[str, Any]]:
    training = config.training or {}
    stack = f" of the {config.stack}" if config.stack else ""
    facts = {
        "host": repository_link(config.host_name_or_path),
        "its commit": config.host_revision,
        "its class": config.host_architecture,
        "layers": f"{config.lower_layer} → {config.upper_layer}{stack}",
        **training.get("dictionary", {}),
        "texts": training.get("dataset"),
        "number of texts": _figure(training.get("num_texts")),
        "tokens that count": _figure(training.get("num_tokens")),
    }
    rows = [
        *facts.items(),
        *training.get("settings", {}).items(),
        *((name, getattr(config, name, None)) for name in config.card_settings),
        *((f"{name}, held-out texts", _figure(value)) for name, value in training.get("figures", {}).items()),
        ("clvq-hf", config.clvq_version),
    ]
    named = [(name.replace("_", " "), value) for name, value in rows if value is not None]
    return [*named, *(config.library_versions or {}).items()]


def _figure(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _licence_rows(
    host: str | None, datasets: list[str], licences: dict[tuple[str, str], dict[str, Any]]
) -> list[tuple[Markdown, str]]:
    rows = []
    for what, kind, name in (("host", "model", host), *(("texts", "dataset", name) for name in datasets)):
        if name:
            terms = licences.get((kind, name), {})
            licence = terms.get("license_name") or terms.get("license")
            licence = ", ".join(licence) if isinstance(licence, list) else licence
            link = repository_link(name, kind if (kind, name) in licences or kind == "model" else None)
            rows.append((Markdown(f"{what}: {link}"), licence or "not stated: look it up before you use the model"))
    return rows


def datasets_of(config: ConceptConfig, table: "ConceptTable | None", results: dict[str, Any] | None) -> list[str]:
    """Names of the datasets that the model, its table and its results are of."""
    names = [(config.training or {}).get("dataset")]
    names += [] if table is None else _unique(table.texts["dataset"][:])
    names += [] if results is None else [results["texts"].get("dataset")]
    return _unique(name for name in names if name)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


__all__ = ["datasets_of", "measures_of", "model_card"]
