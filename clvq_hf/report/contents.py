"""What a report shows, as plain data: a function of a concept table, and of what else is known."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from ..metrics.results_tables import PROTOCOLS
from ..metrics.routing_divergence.numerics import routing_divergence
from ..metrics.routing_divergence.token_table import read_token_table
from ..models.modeling_concepts import ConceptModel
from ..tables.concept_table import ConceptTable
from ..tables.concepts import Concept, short_word
from ..tables.shading import MIN_TEXTS
from .codebook_map import codebook_map, nearest_concepts
from .word_clouds import MAX_WORDS, placed_words, word_cloud

MAX_TEXTS = 10_000
MAX_CONCEPTS = 1_000
NUM_WORDS = 100
NUM_EXAMPLES = 6
# Concepts that drive a class.
NUM_DRIVERS = 5
NUM_NEAREST = 8
# Words that stand beside the number of a concept wherever it is named.
NUM_GIST = 3
# Words of an example, and of a concept's routing table.
EXCERPT = 40
# Permutations of labels, where no evaluation has measured routing: enough to tell chance from more.
NUM_PERMUTATIONS = 20

Found = TypeVar("Found")


def report_contents(
    table: ConceptTable,
    model: ConceptModel | None = None,
    results: dict[str, Any] | None = None,
    ablations: dict[int, dict[str, Any]] | None = None,
    protocol: str | None = None,
    max_texts: int = MAX_TEXTS,
    max_concepts: int = MAX_CONCEPTS,
    seed: int = 0,
) -> dict[str, Any]:
    """Collect everything that the pages of a report show of concepts and texts.

    A model adds nearest concepts and the map. Routing comes from `results`, or is measured here. `protocol` says how
    `ablations` were made. Texts of examples come first, others are drawn at random.

    Returns:
        `dict[str, Any]`: `labels`, `has_labels` (whether a text has one), `protocol` (in words), `ablates_labels`
            (whether predictions of ablations are labels), `concepts` (in the order of their codes), `others` (the words
            of concepts that have no page, by code), `texts` (the ones that matter most first), `routing`, `drivers`
            (see [`driving_concepts`]), `missing` (figures for which there is no evidence, and why); everything is text,
            numbers, lists and dicts, as JSON knows them.
    """
    codes = table.frequent_codes(max_concepts)
    missing: list[str] = []
    routing = attempt("Where words go", lambda: measured_routing(table, results), [], missing)
    # Merged concepts are shown as one.
    shown = table.by_hand.shown_codes
    salient = Counter(shown[table.salient()["code"]].tolist()) if has_salience(table) else Counter()
    near, places = {}, {}
    if model is not None:
        near = attempt("Nearest concepts", lambda: nearest_concepts(model, codes, NUM_NEAREST), {}, missing)
        places = attempt("The map of the codebook", lambda: codebook_map(model, codes, seed), {}, missing)
    ablations = {
        text_id: {**ablation, "code": int(shown[ablation["code"]])} for text_id, ablation in (ablations or {}).items()
    }
    concepts, example_ids = [], []
    for code in tqdm(codes, desc="Reading concepts", unit="concept"):
        concept = table.concept(code, NUM_WORDS, NUM_EXAMPLES)
        example_ids += [example.text_id for example in concept.examples]
        concepts.append(
            {
                **_concept(table, concept),
                "near": near.get(code, []),
                "place": places.get(code),
                "salient": salient[code],
                "effect": _mean_effect(ablations, code),
            }
        )
    texts = _texts(table, sampled_texts(table, example_ids, max_texts, seed), ablations)
    drivers = driving_concepts(table, ablations, protocol)
    contents = {
        "labels": table.label_names,
        "has_labels": table.has_labels,
        "protocol": PROTOCOLS[protocol] if ablations and protocol is not None else None,
        # The probe predicts labels, whatever the host does.
        "ablates_labels": table.predicts_labels or protocol == "probe",
        "concepts": concepts,
        "others": {},
        "texts": texts,
        "routing": routing,
        "drivers": drivers,
        "missing": missing,
    }
    return {
        **contents,
        "others": {str(code): gist(table, code) for code in sorted(_named(contents).difference(codes))},
    }


def attempt(what: str, compute: Callable[[], Found], otherwise: Found, missing: list[str]) -> Found:
    """Compute a figure; if the data have no evidence for it, note why, and go on with the others."""
    try:
        return compute()
    except ValueError as error:
        missing.append(f"{what}: no evidence. {error}")
        return otherwise


def fewer_concepts(contents: dict[str, Any], n: int) -> dict[str, Any]:
    """The same contents with only the `n` most frequent concepts."""
    most = sorted(contents["concepts"], key=lambda concept: (-concept["tokens"], concept["code"]))[:n]
    kept = {concept["code"] for concept in most}
    concepts = [
        {**concept, "near": [near for near in concept["near"] if near[0] in kept]}
        for concept in contents["concepts"]
        if concept["code"] in kept
    ]
    left = {str(concept["code"]): concept["gist"] for concept in contents["concepts"] if concept["code"] not in kept}
    return {**contents, "concepts": concepts, "others": {**contents["others"], **left}}


def needed_words(contents: dict[str, Any]) -> dict[str, Any]:
    """The same contents, without words of concepts that are named nowhere."""
    named = {str(code) for code in _named(contents)}
    return {**contents, "others": {code: words for code, words in contents["others"].items() if code in named}}


def _named(contents: dict[str, Any]) -> set[int]:
    """Concepts that are named outside of their own pages."""
    return {
        *(code for text in contents["texts"] for code in text["codes"]),
        *(text["ablation"]["code"] for text in contents["texts"] if text["ablation"]),
        *(row["code"] for group in contents["drivers"] for row in group["concepts"]),
        *(code for word in contents["routing"] for way in word["goes"] for code in way[2]),
    }


def gist(table: ConceptTable, code: int) -> list[str]:
    """The most frequent words of a concept, stop words only if there are no others."""
    words = table.top_words(code, NUM_GIST, stop_words=False) or table.top_words(code, NUM_GIST)
    return [word for word, _ in words]


def has_salience(table: ConceptTable) -> bool:
    """Whether the table was made with salience."""
    return table.metadata.get("salience") is not None


def sampled_texts(table: ConceptTable, first: list[int], max_texts: int, seed: int) -> list[int]:
    """`text_id` of the texts that have a page: those that are examples first, then others in random order."""
    everyone = np.random.default_rng(seed).permutation(table.texts["text_id"][:]).tolist()
    return list(dict.fromkeys([*first, *everyone]))[:max_texts]


def driving_concepts(
    table: ConceptTable, ablations: dict[int, dict[str, Any]], protocol: str | None, n: int = NUM_DRIVERS
) -> list[dict[str, Any]]:
    """The concepts that predictions depend on most, for each predicted class.

    With ablations: those whose removal costs most margin, added over the texts in which they are salient. Else with
    salience: those that contribute most, added over all tokens.

    Returns:
        `list[dict]`: For each class that is predicted: `label` (its number; `None` for all texts at once, if
            predictions are no classes with names), `texts` (how many), and `concepts`, the first one first: `code`,
            `texts` (in how many it is salient), `change` (mean of the margin) and `flips` or, without ablations,
            `share` (of all positive contributions). Empty without salience.
    """
    if ablations:
        by_label = table.label_names and (table.predicts_labels or protocol == "probe")
        groups: dict[int | None, list[dict[str, Any]]] = {}
        for ablation in ablations.values():
            groups.setdefault(ablation["before"]["prediction"] if by_label else None, []).append(ablation)
        return [
            {"label": label, "texts": len(group), "concepts": _costly(group, n)}
            for label, group in sorted(groups.items(), key=lambda item: item[0] or 0)
        ]
    return _contributing(table, n) if has_salience(table) else []


def _costly(ablations: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    by_code: dict[int, list[dict[str, Any]]] = {}
    for ablation in ablations:
        by_code.setdefault(ablation["code"], []).append(ablation)
    rows = []
    for code, own in by_code.items():
        changes = [ablation["after"]["margin"] - ablation["before"]["margin"] for ablation in own]
        flips = sum(ablation["after"]["prediction"] != ablation["before"]["prediction"] for ablation in own)
        change = round(float(np.mean(changes)), 3)
        # What its removal does not harm, in the digits that are shown, drives nothing.
        if round(change, 2) < 0:
            rows.append((sum(changes), {"code": code, "texts": len(own), "change": change, "flips": flips}))
    return [row for _, row in sorted(rows, key=lambda row: (row[0], row[1]["code"]))[:n]]


def _contributing(table: ConceptTable, n: int) -> list[dict[str, Any]]:
    shown = table.by_hand.shown_codes
    salient = table.salient()
    predictions = np.asarray(table.texts["prediction"][:])
    by_label = table.label_names and table.predicts_labels
    owners = np.repeat(np.arange(len(table.texts)), np.asarray(table.texts["num_tokens"][:]))
    scores = np.where(table.column("special"), 0, np.nan_to_num(np.asarray(table.column("salience"), dtype=float)))
    groups = []
    for label in np.unique(predictions[predictions >= 0]).tolist() if by_label else [None]:
        chosen = np.ones(len(predictions), dtype=bool) if label is None else predictions == label
        kept = chosen[owners]
        sums = np.bincount(shown[table.column("code")[kept]], scores[kept], minlength=table.codebook_size)
        positive = sums[sums > 0].sum()
        here = salient if label is None else salient[salient["prediction"] == label]
        counts = Counter(shown[here["code"]].tolist())
        rows = [
            {"code": int(code), "texts": counts[int(code)], "share": round(float(sums[code] / positive), 4)}
            for code in np.argsort(-sums, kind="stable")[:n]
            if sums[code] > 0
        ]
        groups.append({"label": label, "texts": int(chosen.sum()), "concepts": rows})
    return groups


def measured_routing(table: ConceptTable, results: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Words that go to other concepts under another label, beyond chance, the most telling first.

    Returns:
        `list[dict]`: `word`, `excess` (bits), and `goes`: `[label, tokens, usual codes]` for each label.
    """
    figures = (results or {}).get("table", {}).get("routing_divergence")
    if figures is None:
        content = table.metric_inputs(words=True, stop_words=False)
        if len({label for label in content["labels"] if label >= 0}) < 2:
            return []
        figures = routing_divergence(
            read_token_table(**content), num_permutations=NUM_PERMUTATIONS, num_bootstrap=1, details=True
        )
    routed = [row for row in figures["types"] if row["routed_share"] > 0 and row["excess_jsd"] > 0]
    routed.sort(key=lambda row: (-row["excess_jsd"], row["type"]))
    return [
        {
            "word": short_word(row["type"]),
            "excess": round(row["excess_jsd"], 3),
            "goes": [
                [label, tokens, list(dict.fromkeys(table.by_hand.shown_codes[codes].tolist()))]
                for label, tokens, codes in zip(row["labels"], row["tokens"], row["usual_codes"], strict=True)
            ],
        }
        for row in routed
    ]


def _concept(table: ConceptTable, concept: Concept) -> dict[str, Any]:
    coloured = table.shade(concept)
    cloud = table.top_words(concept.code, MAX_WORDS, stop_words=False) or concept.top_words[:MAX_WORDS]
    return {
        "code": concept.code,
        "number": concept.number,
        "name": concept.name,
        "named_by": concept.called and concept.called.by,
        "name_note": concept.called and concept.called.note,
        "group": concept.group,
        "tokens": concept.num_tokens,
        "texts": concept.num_texts,
        "rare": concept.num_texts < MIN_TEXTS,
        "counts": list(concept.label_counts.values()),
        "label": None if concept.label is None else table.label_names.index(concept.label),
        "purity": None if concept.purity is None else round(concept.purity, 4),
        "colour": coloured.colour,
        "strength": coloured.strength,
        "line": coloured.line,
        "gist": [word for word, _ in cloud[:NUM_GIST]],
        "words": [list(word) for word in concept.top_words],
        "cloud": _drawn(cloud),
        "examples": [
            {
                "text": example.text_id,
                "pieces": [list(piece) for piece in example.excerpt(EXCERPT).pieces()],
                "label": example.label,
                "prediction": example.prediction,
            }
            for example in concept.examples
        ],
    }


def _drawn(words: Sequence[tuple[str, int]]) -> list[list[Any]]:
    """The words of a cloud and their places; none if no word can be drawn, such as white space."""
    try:
        return placed_words(word_cloud(words))
    except ValueError:
        return []


def _mean_effect(ablations: dict[int, dict[str, Any]], code: int) -> dict[str, Any] | None:
    """What removing a concept does in the texts where it is the salient one."""
    pairs = [(ablation["before"], ablation["after"]) for ablation in ablations.values() if ablation["code"] == code]
    if not pairs:
        return None
    changes = [after["margin"] - before["margin"] for before, after in pairs]
    flips = sum(after["prediction"] != before["prediction"] for before, after in pairs)
    return {"texts": len(pairs), "flips": flips, "margin": round(float(np.mean(changes)), 3)}


def _texts(table: ConceptTable, text_ids: list[int], ablations: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    columns = {name: table.column(name) for name in ("special", "start", "end", "code", "salience")}
    rows = table.texts.select_columns(["text", "label", "prediction", "salient_position"])
    texts = []
    for text_id in tqdm(text_ids, desc="Reading texts", unit="text"):
        row, places = rows[table.text_row(text_id)], table.token_rows(text_id)
        special, starts, ends, codes, scores = (column[places] for column in columns.values())
        codes = table.by_hand.shown_codes[codes]
        kept = np.flatnonzero(~special)
        ends = np.maximum.accumulate(ends[kept])
        before = np.concatenate([[0], ends])[:-1]
        # Tokens that are bytes of one character share it; the first of them shows it.
        starts = np.maximum(starts[kept], before)
        salient = np.flatnonzero(kept == row["salient_position"])
        read = int(ends[-1]) if len(ends) else 0
        texts.append(
            {
                "id": text_id,
                "text": row["text"][:read],
                "unread": len(row["text"]) - read,
                "label": row["label"],
                "prediction": row["prediction"] if table.predicts_labels else -1,
                "gaps": (starts - before).tolist(),
                "lengths": (ends - starts).tolist(),
                "codes": codes[kept].tolist(),
                "parts": _contributions(codes[kept], scores[kept]),
                "salient": int(salient[0]) if len(salient) else None,
                "ablation": ablations.get(text_id),
            }
        )
    return texts


def _contributions(codes: np.ndarray, scores: np.ndarray) -> list[list[Any]]:
    """`[code, tokens, sum of salience or None]` of each concept of a text: what contributes most first."""
    found, places = np.unique(codes, return_inverse=True)
    counts = np.bincount(places)
    scores = np.asarray(scores, dtype=float)
    known = np.isfinite(scores).any()
    sums = np.bincount(places, np.nan_to_num(scores))
    order = np.lexsort((found, -counts, -sums)) if known else np.lexsort((found, -counts))
    return [[int(found[place]), int(counts[place]), float(f"{sums[place]:.3g}") if known else None] for place in order]


__all__ = [
    "attempt",
    "driving_concepts",
    "fewer_concepts",
    "gist",
    "has_salience",
    "measured_routing",
    "report_contents",
    "sampled_texts",
]
