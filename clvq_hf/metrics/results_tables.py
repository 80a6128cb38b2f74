"""The results of an evaluation as tables: for Markdown files and for terminals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..rendering.text_tables import NOTHING, ReportTable, interval, number, percent, to_markdown, with_range
from .ablation_drop.conditions import CONDITIONS
from .verdict import verdict

Figures = Mapping[str, Any]
Cell = Callable[[Figures], str]

CONTRASTS = {
    "token_specificity": "token specificity: salient − another concept of the text",
    "token_specificity_matched": "… matched draws only",
    "text_specificity": "text specificity: salient − another text's",
    "class_specificity": "class specificity: same − other prediction",
}
PROTOCOLS = {
    "code": "Concept removed inside the model, at the tokens that have it",
    "all": "Concept removed inside the model, at every token",
    "probe": "The paper's probe on the lower layer",
}
NOTES = {
    "code": "Δmargin: logit of the prediction minus the best other, after − before; negative: the concept mattered. "
    "Means over texts, draws averaged within a text, 95 % bootstrap intervals over texts.",
    "all": "Removal everywhere mostly removes the direction of the class: compare the first row with the ceiling, "
    "which removes only that direction, the same for every text.",
    "probe": "Accuracies of a probe, not of the model. Below chance means that labels flip, not that information is "
    "gone.",
}
NUMBER_NOTE = (
    "Δmargin: distance of the output from its centre on the side of the prediction, after − before, in units of the "
    "output; negative: the concept mattered. Means over texts, draws averaged within a text, 95 % bootstrap intervals "
    "over texts."
)
ROUTING_TITLE = "Words that go elsewhere under another label"
MAX_ROUTED_WORDS = 12


def report_tables(results: dict[str, Any], words: Callable[[int], Sequence[str]] | None = None) -> list[ReportTable]:
    """Tables of the results of [`evaluate_concepts`][clvq_hf.evaluation.evaluate_concepts], without missing figures.

    Args:
        results (`dict[str, Any]`): What `results.json` holds.
        words (`Callable`, *optional*): From a concept to its words, which are shown beside its number.

    Returns:
        `list[ReportTable]`: What was measured; per ablation protocol contrasts and conditions; specificity, routing,
        overlap; codebook and bottleneck.
    """
    tables = [_overview(results)]
    is_number = (results.get("readout") or {}).get("kind") == "regression"
    for protocol, figures in results.get("ablation", {}).items():
        tables += ablation_tables(protocol, figures, is_number)
    sections = {
        section: figures
        for name in ("table", "bottleneck", "fidelity", "words")
        for section, figures in results.get(name, {}).items()
    }
    if "codes" in sections:
        tables.insert(1, _tabulate("What codes say", FIDELITY, _fidelity_rows(sections["codes"]), FIDELITY_NOTE))
    if "label_purity" in sections:
        sections.setdefault("label_purity_with_special_tokens", {})
        tables.append(_list_figures("Specificity", SPECIFICITY, sections))
    if examples := sections.get("routing_divergence", {}).get("examples"):
        tables.append(_routing(examples, results["texts"]["label_names"], words))
    if bags := sections.get("bag_of_codes"):
        tables.append(_bags(bags))
    if overlap := sections.get("codebook_overlap"):
        tables.append(_tabulate("Overlap of the codes of two texts", OVERLAP, [overlap, *overlap["strata"]]))
    return [*tables, _list_figures("Codebook and bottleneck", CODEBOOK, sections)]


def results_markdown(results: dict[str, Any], tables: Iterable[ReportTable] | None = None) -> str:
    """The page `results.md`: the verdict in words, then tables, by default those of `report_tables`."""
    tables = report_tables(results) if tables is None else tables
    return f"# Results\n\n{' '.join(verdict(results))}\n\n{to_markdown(tables)}"


def ablation_tables(protocol: str, figures: dict[str, Any], is_number: bool = False) -> list[ReportTable]:
    """Contrasts and conditions of one protocol (`"code"`, `"all"`, `"probe"`), from what `ablation_drop` returns.

    `is_number` says that the host's output is a number, whose margins are no logits.
    """
    note = NUMBER_NOTE if is_number and protocol == "code" else NOTES[protocol]
    contrasts = [
        {"title": title, **_with_prefix(figures, name)} for name, title in CONTRASTS.items() if name in figures
    ]
    plain = {"title": "nothing removed", **figures}
    conditions = [
        {"title": title, **_with_prefix(figures, f"{name}_")}
        for name, title in CONDITIONS.items()
        if f"{name}_margin_change" in figures
    ]
    columns = CONDITION_COLUMNS
    if is_number and protocol != "probe":
        columns = {name: cell for name, cell in columns.items() if name not in OF_PROBABILITIES}
    table = _tabulate(PROTOCOLS[protocol], columns, [plain, *conditions], optional=OPTIONAL_COLUMNS)
    # Without a removal there is no effect to show, not a missing one.
    table.rows[0] = [
        cell if column in PLAIN_COLUMNS else "" for cell, column in zip(table.rows[0], table.header, strict=True)
    ]
    return [_tabulate(f"{PROTOCOLS[protocol]}: contrasts", CONTRAST_COLUMNS, contrasts, note), table]


def _with_prefix(figures: Figures, prefix: str) -> dict[str, Any]:
    """The figures whose name begins so, by the rest of their name."""
    return {name.removeprefix(prefix): value for name, value in figures.items() if name.startswith(prefix)}


def _interval(name: str) -> Cell:
    return lambda figures: interval(dict(figures), name)


def _number(name: str, digits: int) -> Cell:
    return lambda figures: number(figures.get(name), digits)


def _percent(name: str) -> Cell:
    return lambda figures: percent(figures.get(name))


def _text(name: str) -> Cell:
    return lambda figures: str(figures[name])


def _pair(name: str, null: str) -> Cell:
    return lambda figures: f"{number(figures[name], 3)} ({number(figures[null], 3)})"


def _p_value(figures: Figures) -> str:
    value = figures.get("_p_holm", figures.get("_p_value"))
    if value is None:
        return NOTHING
    text = "< 0.001" if value < 0.001 else f"{value:.3f}"
    return text if "_p_holm" in figures else f"{text} uncorrected"


def _stratum(figures: Figures) -> str:
    return f"TF-IDF cosine {figures['low']:g}–{figures['high']:g}" if "low" in figures else "all strata"


def _pairs(figures: Figures) -> str:
    return str(min(figures["num_same_pairs"], figures["num_different_pairs"])) if "low" in figures else ""


# Tables with a row per thing: header → cell.
CONTRAST_COLUMNS: dict[str, Cell] = {
    "contrast": _text("title"),
    "Δmargin difference [95 %]": _interval(""),
    "p (Holm)": _p_value,
    "texts": _text("_num_texts"),
}
CONDITION_COLUMNS: dict[str, Cell] = {
    "removed": _text("title"),
    "Δmargin [95 %]": _interval("margin_change"),
    "flips": _percent("flip_rate"),
    "accuracy": _percent("accuracy"),
    "balanced": _percent("balanced_accuracy"),
    "AUC": _number("macro_auc", 3),
    "rate-matched": _percent("rate_matched_accuracy"),
    "KL": _number("kl", 3),
    "positions": _number("num_positions", 1),
    "norm": _number("removed_norm", 1),
    "left out": _percent("excluded_share"),
    "of texts": _percent("text_share"),
    "of positions": _percent("position_share"),
}
REMOVAL_COLUMNS: dict[str, Cell] = {
    "removed": _text("title"),
    "change of the margin [95 %]": _interval("margin_change"),
    "predictions that change": _percent("flip_rate"),
    "texts": _text("num_texts"),
}
# Those that the verdict compares.
VERDICT_CONDITIONS = ("salient", "other_code", "other_text_same", "class_ceiling", "word_ceiling")
OF_PROBABILITIES = ("AUC", "rate-matched", "KL")
PLAIN_COLUMNS = ("removed", "accuracy", "balanced", "AUC")
OPTIONAL_COLUMNS = ("balanced", "rate-matched", "KL", "norm", "left out", "of texts", "of positions")
OVERLAP: dict[str, Cell] = {
    "same-label ÷ different-label pairs": _stratum,
    "codes [95 %]": _interval("ratio"),
    "token types [95 %]": _interval("token_ratio"),
    "permuted": _number("permuted_ratio", 2),
    "pairs": _pairs,
}
# Tables with a row per figure: title, section of the results, cell.
SPECIFICITY: list[tuple[str, str, Cell]] = [
    ("label purity, cross-fitted", "label_purity", _interval("cross_fitted_purity")),
    (
        "… labels permuted by text",
        "label_purity",
        lambda purity: with_range(purity["null_purity"], purity["null_low"], purity["null_high"]),
    ),
    ("… of token types instead of codes", "label_purity", _number("token_purity", 3)),
    ("lexical gain: codes − token types, same tokens", "label_purity", _interval("lexical_gain")),
    ("gain within words: codes and token types − token types", "label_purity", _interval("within_word_gain")),
    ("label purity, plain", "label_purity", _number("purity", 3)),
    ("… cross-fitted, special tokens too", "label_purity_with_special_tokens", _number("cross_fitted_purity", 3)),
    ("share of tokens under the most frequent label", "label_purity", _number("majority_share", 3)),
    ("codes with one label only (permuted)", "label_purity", _pair("exclusive_share", "null_exclusive_share")),
    ("codes in fewer than 5 texts", "label_purity", _text("num_rare_codes")),
    ("routing divergence, bits (permuted)", "routing_divergence", _pair("jsd", "null_jsd")),
    ("… excess", "routing_divergence", _interval("excess_jsd")),
    (
        "words with another usual code under another label (permuted)",
        "routing_divergence",
        _pair("routed_share", "null_routed_share"),
    ),
    ("words that could be compared", "routing_divergence", _text("num_types")),
]
# What tokens are replaced by: header → cell.
FIDELITY: dict[str, Cell] = {
    "each token is": _text("title"),
    "fidelity": _interval("code_fidelity"),
    "… beyond the class": _interval("fidelity_beyond_class"),
    "upper layer explained": _interval("explained_variance"),
    "… within the class": _interval("explained_variance_within_class"),
    "bits per token": _number("bits_per_token", 2),
}
FIDELITY_ROWS = {
    "random": "the nearest of as many random states",
    "word": "its token type",
    "class": "the predicted class",
}
FIDELITY_NAMES = {"code_fidelity": "fidelity", "explained_variance": "explained_variance"}
FIDELITY_NOTE = (
    "Fidelity: the state of every token but special ones is replaced by the mean state of training tokens with the "
    "same code (the same token type, the same predicted class); 1: the host answers as before, 0: as if all tokens "
    "were the mean state. Beyond the class: 0 is what the predicted class alone gives. Upper layer: share of the "
    "variance that such means explain there. 95 % intervals over texts."
)
CODEBOOK: list[tuple[str, str, Cell]] = [
    ("perplexity", "codebook_usage", _number("perplexity", 1)),
    ("active codes", "codebook_usage", lambda usage: f"{usage['active_codes']} ({percent(usage['active_share'])})"),
    ("Gini coefficient of use", "codebook_usage", _number("gini", 3)),
    ("mean cosine of active codes", "codebook_similarity", _number("active_mean_cosine", 3)),
    ("… centred", "codebook_similarity", _number("active_mean_centred_cosine", 3)),
    ("splice fidelity", "splice", _interval("splice_fidelity")),
    ("leak (codes permuted)", "splice", _interval("leak")),
    ("accuracy with the splice", "splice", _percent("splice_accuracy")),
    ("share of a word's context that its code carries", "senses", _interval("sense_share")),
    ("… of the words whose code was exchanged", "senses", _interval("exchanged_share")),
    (
        "… words whose code was exchanged",
        "senses",
        lambda figures: f"{figures['num_exchanged']} of {figures['num_tokens']}",
    ),
]


def _tabulate(
    title: str, columns: Mapping[str, Cell], rows: Iterable[Figures], note: str = "", optional: tuple[str, ...] = ()
) -> ReportTable:
    cells = [[cell(figures) for cell in columns.values()] for figures in rows]
    return ReportTable(title, list(columns), cells, note, optional)


def _list_figures(
    title: str, figures: Iterable[tuple[str, str, Cell]], sections: Mapping[str, Figures]
) -> ReportTable:
    rows = [[name, cell(sections[section])] for name, section, cell in figures if section in sections]
    return ReportTable(title, ["", ""], rows)


def _overview(results: dict[str, Any]) -> ReportTable:
    texts = results["texts"]
    rows = [
        ["host", str(results["host_name_or_path"])],
        ["layers", " → ".join(map(str, results["layers"]))],
        ["texts", f"{texts['num_texts']} of {texts['dataset']} ({texts['split']})"],
        ["left out: repeated, or trained on", str(texts["num_left_out"])],
    ]
    readout = results.get("readout") or {}
    if readout.get("kind") in ("multi_label", "regression") and readout.get("class_names"):
        rows.append(["the host is asked", " or ".join(readout["class_names"]) + "?"])
    if texts.get("median_salience_error") is not None:
        rows.append(["median completeness error of the salience", f"{texts['median_salience_error']:.1%}"])
    in_model = next((figures for name, figures in results.get("ablation", {}).items() if name != "probe"), None)
    if in_model is not None:
        rows.append(["accuracy of the host", percent(in_model["accuracy"])])
        rows.append(["always the most frequent label", percent(in_model["majority_accuracy"])])
    return ReportTable("What was measured", ["", ""], rows)


def _bags(figures: Figures) -> ReportTable:
    targets = {"prediction": "the host's prediction", "label": "the label"}
    sizes = [name.rpartition("_")[2] for name in figures if name.startswith("prediction_codes_")]
    rows = []
    for target, title in targets.items():
        if f"{target}_classes" not in figures:
            continue
        for size in sizes:
            codes, words = (number(figures[f"{target}_{kind}_{size}"], 3) for kind in ("codes", "words"))
            rows.append([f"{title}, {size}", codes, words, interval(dict(figures), f"{target}_gain_{size}")])
        rows.append([f"{title}, dense states", number(figures.get(f"{target}_dense"), 3), "", ""])
    note = "Balanced accuracy of logistic regressions, cross-fitted."
    return ReportTable("What a few codes of a text tell", ["of", "codes", "token types", "codes − types"], rows, note)


def removal_table(figures: dict[str, Any]) -> ReportTable:
    """What removing concepts costs, with the controls that a verdict names: a small table for a first look."""
    rows = [
        {"title": CONDITIONS[name], **_with_prefix(figures, f"{name}_")}
        for name in VERDICT_CONDITIONS
        if figures.get(f"{name}_margin_change") is not None
    ]
    return _tabulate("", REMOVAL_COLUMNS, rows)


def _fidelity_rows(figures: Figures) -> list[dict[str, Any]]:
    """A row for the codes, and one for each thing that they are compared with, if there is one."""
    codes = {name: value for name, value in figures.items() if not name.startswith(("word", "random", "class"))}
    rows = [{"title": "codes", **codes}]
    for name, title in FIDELITY_ROWS.items():
        values = {key: figures.get(f"{name}_{rest}") for key, rest in FIDELITY_NAMES.items()}
        if values["code_fidelity"] is not None:
            rows.append({"title": title, **values})
    return rows


def _routing(
    examples: list[dict[str, Any]], label_names: list[str], words: Callable[[int], Sequence[str]] | None
) -> ReportTable:
    def named(code: int) -> str:
        return f"#{code}" if words is None else f"#{code} {', '.join(words(code))}"

    def concepts(example: Figures) -> str:
        return " / ".join(
            f"{named(way['code'])} ({percent(way['code_purity'])} {label_names[way['code_label']]})"
            for way in example["labels"]
        )

    columns: dict[str, Cell] = {
        "word": _text("word"),
        "its usual concept (that concept's majority label)": concepts,
        "under": lambda example: " / ".join(label_names[way["label"]] for way in example["labels"]),
        "JSD": _number("jsd", 2),
    }
    note = "Chosen on one half of the texts; the figures are of the other half."
    return _tabulate(ROUTING_TITLE, columns, examples[:MAX_ROUTED_WORDS], note)


__all__ = ["CONDITIONS", "ablation_tables", "removal_table", "report_tables", "results_markdown"]
