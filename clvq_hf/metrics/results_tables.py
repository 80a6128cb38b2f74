"""The results of an evaluation as tables: for Markdown files and for terminals."""

from typing import Any

from ..rendering.text_tables import NOTHING, ReportTable, interval, number, percent, with_range

CONDITIONS = {
    "salient": "the salient concept",
    "other_code": "another concept of the text",
    "other_text_same": "another text's, same prediction",
    "other_text_opposite": "another text's, other prediction",
    "random_direction": "random direction, same norm",
    "random_active_code": "random active code",
    "mean_direction": "the codebook's mean direction",
    "class_ceiling": "class directions (ceiling)",
    "class_residual": "salient, orthogonal to these",
    "leace": "LEACE",
    "word_ceiling": "the word's mean state",
    "word_residual": "salient, orthogonal to that",
}
CONTRASTS = {
    "token_specificity": "token specificity: salient − another concept of the text",
    "token_specificity_matched": "… matched draws only",
    "text_specificity": "text specificity: salient − another text's",
    "class_specificity": "class specificity: same − other prediction",
}
PROTOCOLS = {
    "code": "In the model, where the concept occurs",
    "all": "In the model, at every token",
    "probe": "The paper's probe on the lower layer",
}
NOTES = {
    "code": "Δmargin: logit of the prediction minus the best other, after − before; negative: the concept mattered. "
    "Means over texts, draws averaged within a text, 95 % bootstrap intervals over texts.",
    "all": "Removal everywhere mostly removes the direction of the class: read the first row beside the ceiling, which "
    "takes nothing but that, the same for every text.",
    "probe": "Accuracies of a probe, not of the model. Below chance means that labels flip, not that information is "
    "gone.",
}


ROUTING_TITLE = "Words that go elsewhere under another label"


def report_tables(results: dict[str, Any]) -> list[ReportTable]:
    """Tables of what [`evaluate_concepts`][clvq_hf.evaluation.evaluate.evaluate_concepts] found; what is missing is left out."""
    tables = [_overview(results)]
    for protocol, figures in results.get("ablation", {}).items():
        tables += ablation_tables(protocol, figures)
    table = results.get("table", {})
    if "label_purity" in table:
        tables.append(_specificity(table))
    if examples := table.get("routing_divergence", {}).get("examples"):
        tables.append(_routing(examples, results["texts"]["label_names"]))
    if "codebook_overlap" in table:
        tables.append(_overlap(table["codebook_overlap"]))
    tables.append(_codebook(table, results.get("bottleneck", {}).get("splice")))
    return tables


def ablation_tables(protocol: str, figures: dict[str, Any]) -> list[ReportTable]:
    """Contrasts and conditions of one protocol (`"code"`, `"all"`, `"probe"`), from what `ablation_drop` gives."""
    return [_contrasts(protocol, figures), _conditions(protocol, figures)]


def _overview(results: dict[str, Any]) -> ReportTable:
    texts = results["texts"]
    rows = [
        ["host", str(results["host_name_or_path"])],
        ["layers", " → ".join(map(str, results["layers"]))],
        ["texts", f"{texts['num_texts']} of {texts['dataset']} ({texts['split']})"],
        ["left out: repeated, or trained on", str(texts["num_left_out"])],
    ]
    if texts.get("median_salience_error") is not None:
        rows.append(["median completeness error of the salience", f"{texts['median_salience_error']:.1%}"])
    first = next((figures for name, figures in results.get("ablation", {}).items() if name != "probe"), None)
    if first is not None:
        rows.append(["accuracy of the host", percent(first["accuracy"])])
        rows.append(["always the most frequent label", percent(first["majority_accuracy"])])
    return ReportTable("What was measured", ["", ""], rows)


def _contrasts(protocol: str, figures: dict[str, Any]) -> ReportTable:
    rows = []
    for name, title in CONTRASTS.items():
        holm = figures.get(f"{name}_p_holm", figures.get(f"{name}_p_value"))
        rows.append([title, interval(figures, name), _p(holm), str(figures[f"{name}_num_texts"])])
    header = ["contrast", "Δmargin difference [95 %]", "p (Holm)", "texts"]
    return ReportTable(f"{PROTOCOLS[protocol]}: contrasts", header, rows, NOTES[protocol])


def _conditions(protocol: str, figures: dict[str, Any]) -> ReportTable:
    rows = [
        [
            "nothing removed", "", "", percent(figures["accuracy"]), percent(figures["balanced_accuracy"]),
            number(figures["macro_auc"], 3), "", "", "", "",
        ]
    ]  # fmt: skip
    for name, title in CONDITIONS.items():
        if f"{name}_margin_change" not in figures:
            continue
        rows.append(
            [
                title,
                interval(figures, f"{name}_margin_change"),
                percent(figures[f"{name}_flip_rate"]),
                percent(figures[f"{name}_accuracy"]),
                percent(figures[f"{name}_balanced_accuracy"]),
                number(figures[f"{name}_macro_auc"], 3),
                percent(figures[f"{name}_rate_matched_accuracy"]),
                number(figures[f"{name}_kl"], 3),
                number(figures[f"{name}_num_positions"], 1),
                number(figures[f"{name}_removed_norm"], 1),
            ]
        )
    header = [
        "removed", "Δmargin [95 %]", "flips", "accuracy", "balanced", "AUC", "rate-matched", "KL", "positions", "norm",
    ]  # fmt: skip
    return ReportTable(PROTOCOLS[protocol], header, rows, optional=("balanced", "rate-matched", "KL", "norm"))


def _specificity(table: dict[str, Any]) -> ReportTable:
    purity, routing = table["label_purity"], table.get("routing_divergence", {})
    special = table.get("label_purity_with_special_tokens", {})
    rows = [
        ["label purity, cross-fitted", interval(purity, "cross_fitted_purity")],
        ["… labels permuted by text", with_range(purity["null_purity"], purity["null_low"], purity["null_high"])],
        ["… of token types in place of codes", number(purity["token_purity"], 3)],
        ["lexical gain: codes − token types, same tokens", interval(purity, "lexical_gain")],
        ["label purity, plain", number(purity["purity"], 3)],
        ["… cross-fitted, special tokens too", number(special.get("cross_fitted_purity"), 3)],
        ["share of tokens under the most frequent label", number(purity["majority_share"], 3)],
        ["codes with one label only (permuted)", _pair(purity["exclusive_share"], purity["null_exclusive_share"])],
        ["codes in fewer than 5 texts", str(purity["num_rare_codes"])],
    ]
    if routing:
        rows += [
            ["routing divergence, bits (permuted)", _pair(routing["jsd"], routing["null_jsd"])],
            ["… excess", interval(routing, "excess_jsd")],
            ["words with another usual code under another label (permuted)",
             _pair(routing["routed_share"], routing["null_routed_share"])],
            ["words that could be compared", str(routing["num_types"])],
        ]  # fmt: skip
    return ReportTable("Specificity", ["", ""], rows)


def _routing(examples: list[dict[str, Any]], label_names: list[str], limit: int = 12) -> ReportTable:
    rows = []
    for example in examples[:limit]:
        ways = [
            f"#{way['code']} ({percent(way['code_purity'])} {label_names[way['code_label']]})"
            for way in example["labels"]
        ]
        under = [label_names[way["label"]] for way in example["labels"]]
        rows.append([example["word"], " / ".join(ways), " / ".join(under), number(example["jsd"], 2)])
    header = ["word", "its usual concept (that concept's majority label)", "under", "JSD"]
    note = "Chosen on one half of the texts; the figures are of the other half."
    return ReportTable(ROUTING_TITLE, header, rows, note)


def _overlap(overlap: dict[str, Any]) -> ReportTable:
    rows = [
        [
            "all strata",
            interval(overlap, "ratio"),
            interval(overlap, "token_ratio"),
            number(overlap["permuted_ratio"], 2),
            "",
        ]
    ]
    for stratum in overlap["strata"]:
        rows.append(
            [
                f"TF-IDF cosine {stratum['low']:g}–{stratum['high']:g}",
                interval(stratum, "ratio"),
                interval(stratum, "token_ratio"),
                number(stratum["permuted_ratio"], 2),
                str(min(stratum["num_same_pairs"], stratum["num_different_pairs"])),
            ]
        )
    header = ["same-label ÷ different-label pairs", "codes [95 %]", "token types [95 %]", "permuted", "pairs"]
    return ReportTable("Overlap of the codes of two texts", header, rows)


def _codebook(table: dict[str, Any], bottleneck: dict[str, Any] | None) -> ReportTable:
    usage, similarity = table["codebook_usage"], table["codebook_similarity"]
    rows = [
        ["perplexity", number(usage["perplexity"], 1)],
        ["active codes", f"{usage['active_codes']} ({percent(usage['active_share'])})"],
        ["Gini coefficient of use", number(usage["gini"], 3)],
        ["mean cosine of active codes", number(similarity["active_mean_cosine"], 3)],
        ["… centred", number(similarity["active_mean_centred_cosine"], 3)],
    ]
    if bottleneck is not None:
        rows += [
            ["splice fidelity", interval(bottleneck, "splice_fidelity")],
            ["leak (codes permuted)", interval(bottleneck, "leak")],
            ["accuracy with the splice", percent(bottleneck["splice_accuracy"])],
        ]
    return ReportTable("Codebook and bottleneck", ["", ""], rows)


def _p(value: float | None) -> str:
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _pair(value: float | None, null: float | None) -> str:
    return f"{number(value, 3)} ({number(null, 3)})"


__all__ = ["ablation_tables", "report_tables"]
