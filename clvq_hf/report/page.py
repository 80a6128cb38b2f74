"""The report: one HTML file with everything in it."""

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ..auditing.result import Audit
from ..auditing.summary import sentences_of, suspects_table, with_names
from ..files import write_whole
from ..hub.provenance import public_name
from ..metrics.results_tables import PROTOCOLS, removal_table
from ..metrics.verdict import measured_protocol, verdict, wilson_interval
from ..models.model_card import measures_of
from ..models.modeling_concepts import ConceptModel
from ..rendering.pages import read_asset, render_page, script_hash
from ..rendering.text_tables import ReportTable, number, percent
from ..tables.concept_table import ConceptTable, public_metadata
from ..tables.masking import ToxicMask, called_toxic, mask_of
from ..tables.shading import MIN_TEXTS, NUM_COLOURS, Shade
from ..version import __version__
from . import plots
from .contents import NUM_WORDS, attempt, fewer_concepts, has_salience, needed_words, report_contents
from .evaluations import read_ablations, read_evaluation
from .masks import mask_contents
from .terms import terms

# Small enough for a browser to open quickly, and for an e-mail.
MAX_BYTES = 5_000_000
SCRIPTS = ("parts", "concepts", "texts", "report")
# The fact of a table that the overview says in a sentence.
ACCURACY = "Accuracy of the host here"
# The purest concepts on the first page: approximate number, and minimum tokens and texts of each.
NUM_PUREST, MIN_TOKENS, MIN_PUREST_TEXTS = 16, 20, 10


def write_report(
    table: ConceptTable,
    file: str | Path,
    model: ConceptModel | None = None,
    evaluation: str | Path | None = None,
    mask_toxic: bool = False,
    seed: int = 0,
    mask_label: Sequence[str] = (),
    audit: str | Path | None = None,
) -> None:
    """Write a report of a concept table: overview, concepts, texts, in one HTML file that loads nothing.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): The concepts of a set of texts.
        file (`str` or `Path`): The HTML file. An earlier one is replaced when this one is whole.
        model ([`ConceptModel`][clvq_hf.ConceptModel], *optional*): The model of these concepts. Without it there
            are no nearest concepts and no map.
        evaluation (`str` or `Path`, *optional*): Folder that `clvq-hf evaluate` has written: its figures, and what
            ablating the salient concept does to each text.
        mask_toxic (`bool`): Whether texts and words are masked whose label is called toxic, hateful or the like.
        seed (`int`): Random seed of the draw of texts, if there are too many, and of the map.
        mask_label (`Sequence[str]`): Labels whose texts and words are masked, whatever they are called.
        audit (`str` or `Path`, *optional*): Folder of an [`Audit`][clvq_hf.auditing.Audit] by this model.

    Raises:
        ValueError: If the table, the model and the evaluation do not belong together, or masking is asked for and no
            label is called toxic.
        OSError: If the file cannot be written.
    """
    if not Path(file).parent.is_dir():
        raise ValueError(f"There is no folder {Path(file).parent} for the report. Make it first.")
    if Path(file).is_dir():
        raise ValueError(
            f"{file} is a folder, and the report is a file: give its name, as in {Path(file, 'report.html')}."
        )
    if model is not None:
        table.check_model(model)
    if mask_toxic and not mask_label and not called_toxic(table.label_names):
        raise ValueError(
            f"No label of the table is called toxic or the like, so nothing would be masked; its labels are "
            f"{table.label_names}. Name those whose texts are to be masked with mask_label=…."
        )
    mask = mask_of(table, mask_toxic, mask_label)
    results, ablations = None, {}
    if evaluation is not None:
        results = read_evaluation(evaluation, table)
    audited = None if audit is None else _read_audit(audit, table)
    if (protocol := measured_protocol(results)) is not None:
        ablations = read_ablations(evaluation, protocol)
    contents = report_contents(table, model, results, ablations, protocol, seed=seed)
    if mask is not None:
        mask_contents(contents, mask)
    facts = table.facts(None if model is None else model.config.title)
    write_whole(file, _fitting(contents, lambda some: _render(table, facts, results, some, mask, audited)))


def _fitting(contents: dict[str, Any], render: Callable[[dict[str, Any]], str]) -> str:
    """The page of as many texts as leave it small enough; of fewer concepts, if these alone are too many."""
    page = render(contents)
    if _size(page) <= MAX_BYTES:
        return page
    # What is around the data hardly changes: figures are drawn anew only when the data fit.
    bare = needed_words({**contents, "texts": []})
    room = MAX_BYTES - (_size(render(bare)) - len(pack_contents(bare)))
    while (rest := len(pack_contents(needed_words({**contents, "texts": []})))) > room and len(
        contents["concepts"]
    ) > 1:
        contents = fewer_concepts(contents, max(1, int(0.9 * room / rest * len(contents["concepts"]))))
    while (size := len(pack_contents(needed_words(contents)))) > room and contents["texts"]:
        # A little fewer than would fit if all were of one length.
        share = max(0.0, 0.98 * (room - rest) / (size - rest))
        contents = {**contents, "texts": contents["texts"][: int(share * len(contents["texts"]))]}
    return render(needed_words(contents))


def pack_contents(contents: dict[str, Any]) -> str:
    """Contents as JSON, packed with zlib, in base64: a tenth of a browser's limit, and no text can end its element."""
    text = json.dumps(contents, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", errors="replace"), 9)).decode("ascii")


def _render(
    table: ConceptTable,
    facts: list[tuple[str, str]],
    results: dict[str, Any] | None,
    contents: dict[str, Any],
    mask: ToxicMask | None,
    audit: dict[str, Any] | None,
) -> str:
    script = "\n".join(read_asset(f"report/{name}.js") for name in SCRIPTS)
    protocol = measured_protocol(results)
    words = {concept["code"]: concept["gist"] for concept in contents["concepts"]}
    words |= {int(code): gist for code, gist in contents["others"].items()}
    facts = [fact for fact in facts if fact[0] != ACCURACY]
    # In place of the contents' own list, since a page is rendered again if it is too large.
    contents = {**contents, "missing": list(contents["missing"])}
    figures = _plots(table, results, contents)
    return render_page(
        "report/report.html",
        title=f"Concepts of {public_name(table.metadata['host_name_or_path'])}",
        facts=facts,
        quality=_quality(table),
        drivers=_drivers(table, contents),
        has_ablations=contents["protocol"] is not None,
        driver_note=_driver_note(contents),
        verdict=[] if protocol is None else verdict(results),
        removals=None if protocol is None else removal_table(results["ablation"][protocol]),
        audit=[] if audit is None else sentences_of(audit, mask),
        suspects=None if audit is None else suspects_table(audit, mask),
        terms=terms(table.has_labels, has_salience(table), protocol is not None, results is not None),
        label_names=table.label_names,
        has_labels=table.has_labels,
        predicts_labels=table.predicts_labels,
        num_words=NUM_WORDS,
        num_colours=NUM_COLOURS,
        plots=figures,
        cards=_cards(table, contents),
        min_tokens=MIN_TOKENS,
        min_texts=MIN_PUREST_TEXTS,
        mask_note="" if mask is None else mask.note,
        tables=[] if results is None else _tables(results, mask, words),
        notes=_notes(table, contents),
        contents=pack_contents(contents),
        settings={"num_colours": NUM_COLOURS},
        script=Markup(script),
        script_hash=script_hash(script),
        version=__version__,
    )


def _read_audit(folder: str | Path, table: ConceptTable) -> dict[str, Any]:
    """The first suspects of an audit by the model of a table."""
    found = Audit.load_from_disk(folder).summary()
    if found["model_fingerprint"] != table.metadata["model_fingerprint"]:
        raise ValueError(
            f"{folder} holds the audit of another model (their fingerprints differ). Give the one that belongs to this "
            "concept table."
        )
    return with_names(found, table)


def _size(page: str) -> int:
    return len(page.encode("utf-8", errors="replace"))


def _notes(table: ConceptTable, contents: dict[str, Any]) -> list[str]:
    """What of the table is not in this file."""
    notes = []
    if (shown := len(contents["texts"])) < len(table.texts):
        notes.append(
            f"{shown:,} of {len(table.texts):,} texts have a page here, those of the example sentences and others "
            "drawn at random, so that the file stays small. All figures cover all texts."
        )
    if (shown := len(contents["concepts"])) < len(table.active_codes):
        notes.append(f"The {shown:,} most frequent of {len(table.active_codes):,} concepts are shown.")
    return [*notes, *contents["missing"]]


def _tables(results: dict[str, Any], mask: ToxicMask | None, words: dict[int, list[str]]) -> list[ReportTable]:
    """All figures, without paths of this machine; concepts with their words."""
    public = public_metadata(results)
    public["texts"] = {**results["texts"], "dataset": public_name(results["texts"]["dataset"]) or "unnamed texts"}
    return measures_of(public, mask is not None, lambda code: words.get(code, ()))


def _quality(table: ConceptTable) -> str:
    """How good the model is on these texts, in words."""
    labels, predictions = (np.asarray(table.texts[name][:]) for name in ("label", "prediction"))
    if not table.predicts_labels:
        return "The model predicts the next token, not a label, so there is no share of right predictions."
    if not (predictions >= 0).any():
        return "The model makes no predictions here."
    labelled = (labels >= 0) & (predictions >= 0)
    if not labelled.any():
        return "The texts have no labels, so how often the model is right is unknown."
    total = int(labelled.sum())
    accuracy = float((labels == predictions)[labelled].mean())
    low, high = wilson_interval(accuracy, total)
    counts = np.bincount(labels[labelled])
    name = table.label_name(int(counts.argmax())) or str(counts.argmax())
    texts = "1 labelled text" if total == 1 else f"{total:,} labelled texts"
    return (
        f"The model is right on {percent(accuracy)} of {texts} (95 % interval {percent(low)} to {percent(high)}). "
        f"Always "
        f"giving the most frequent label, “{name}”, would be right on {percent(counts.max() / total)}."
    )


def _drivers(table: ConceptTable, contents: dict[str, Any]) -> list[dict[str, Any]]:
    """The concepts that drive each class, with what the page says of them."""
    concepts = {concept["code"]: concept for concept in contents["concepts"]}
    groups = []
    for group in contents["drivers"]:
        label = group["label"]
        rows = [
            {
                **row,
                "concept": concepts.get(row["code"]),
                "gist": contents["others"].get(str(row["code"]), []),
                "change": None if row.get("change") is None else number(row["change"]).replace("-", "−"),
                "share": None if row.get("share") is None else percent(row["share"]),
            }
            for row in group["concepts"]
        ]
        name = None if label is None else table.label_name(label) or f"class {label}"
        groups.append(
            {"name": name, "colour": None if label is None else label % NUM_COLOURS, **group, "concepts": rows}
        )
    return groups


def _driver_note(contents: dict[str, Any]) -> str:
    """How the concepts that drive a class were chosen."""
    if not contents["drivers"]:
        return ""
    if contents["protocol"] is None:
        return (
            "Sorted by contribution: the sum of the salience of a concept's tokens, as a share of all salience that "
            "supports the predictions. What removing them costs was not measured."
        )
    return (
        "Sorted by what removing the concept costs in all texts in which it is the salient one. Means of few texts are "
        f"uncertain. {contents['protocol']}."
    )


def _cards(table: ConceptTable, contents: dict[str, Any]) -> list[dict[str, Any]]:
    """The purest concepts of each label, of those that are frequent enough to tell; else the most frequent ones."""
    if not table.has_labels:
        most = sorted(contents["concepts"], key=lambda concept: (-concept["tokens"], concept["code"]))[:NUM_PUREST]
        return [{"label": None, "colour": None, "concepts": most}] if most else []
    telling = [
        concept
        for concept in contents["concepts"]
        if concept["label"] is not None and concept["tokens"] >= MIN_TOKENS and concept["texts"] >= MIN_PUREST_TEXTS
    ]
    telling.sort(key=lambda concept: (-concept["purity"], -concept["tokens"], concept["code"]))
    each = max(1, NUM_PUREST // max(len(table.label_names), 1))
    groups = []
    for place, label in enumerate(table.label_names):
        if own := [concept for concept in telling if concept["label"] == place][:each]:
            groups.append({"label": label, "colour": place % NUM_COLOURS, "concepts": own})
    return groups


def _plots(table: ConceptTable, results: dict[str, Any] | None, contents: dict[str, Any]) -> list[dict[str, Any]]:
    """The plots that there are data for."""
    figures = []

    def add(identity: str, title: str, caption: str, draw: Callable[[], Any]) -> None:
        figure = attempt(title, draw, None, contents["missing"])
        if figure is not None:
            svg = plots.to_svg(figure, f"{title}. {caption}", identity)
            figures.append({"kind": identity, "title": title, "caption": caption, "svg": svg})

    dots = [
        plots.Dot(
            concept["code"],
            *concept["place"],
            concept["tokens"],
            Shade(concept["colour"], concept["strength"], concept["line"]),
            concept["label"],
        )
        for concept in contents["concepts"]
        if concept["place"] is not None
    ]
    colour = (
        f"Colour: the label of most of its tokens, stronger if purer; hollow: in fewer than {MIN_TEXTS} texts."
        if table.has_labels
        else "Colours only distinguish frequent concepts; they have no meaning."
    )
    if dots:
        add(
            "map",
            "The codebook",
            f"Concepts with similar directions lie close together. {colour} Area: how often a concept occurs. Point "
            f"at a dot "
            "to see its words, click it to open its page.",
            lambda: plots.draw_map(dots, table.label_names),
        )
    add(
        "usage",
        "How often concepts occur",
        "Number of concepts by their number of tokens.",
        lambda: plots.plot_usage(table),
    )
    if (protocol := measured_protocol(results)) is not None:
        add(
            "ablations",
            "All removals",
            f"{PROTOCOLS[protocol]}: change of the prediction's margin when a concept or a control is removed, with "
            "95 % intervals over texts. Further left: it matters more.",
            lambda: plots.plot_ablations(results, protocol),
        )
    if results is not None and "label_purity" in results.get("table", {}):
        add(
            "purity",
            "How pure concepts are",
            "Cross-fitted: labels of concepts from one half of the texts, tested on the other; with 95 % intervals.",
            lambda: plots.plot_purity(results),
        )
    if results is not None and results.get("table", {}).get("routing_divergence", {}).get("num_types"):
        add(
            "routing",
            "Where words go",
            "How far labels separate the concepts of a word, in bits, and by chance, with labels permuted by text.",
            lambda: plots.plot_routing(results),
        )
    return figures


__all__ = ["MAX_BYTES", "write_report"]
