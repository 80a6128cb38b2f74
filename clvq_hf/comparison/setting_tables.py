"""Tables of a comparison with a row for each host and dataset."""

from collections.abc import Callable
from typing import Any

from ..rendering.text_tables import NOTHING, ReportTable, interval, number, percent
from .methods import MAX_ACTIVE, MIN_EXPLAINED_VARIANCE
from .summary import MIN_TEXTS, Summary, effect, figure, paired_difference, swept


def _grid_table(
    summary: Summary,
    title: str,
    cell_text: Callable[[dict[str, Any]], str | None],
    note: str,
    methods: dict[str, str] | None = None,
) -> ReportTable:
    """A row for each host and dataset, a column for each method that has anything to say."""
    methods = summary.methods() if methods is None else methods
    columns: dict[str, list[str]] = {}
    for method, name in methods.items():
        found = [summary.cell(host, dataset, method) for host, dataset in summary.settings()]
        texts = [None if cell is None else cell_text(cell) for cell in found]
        if any(texts):
            columns[name] = [text or NOTHING for text in texts]
    rows = [
        [f"{host}, {dataset}", *(column[place] for column in columns.values())]
        for place, (host, dataset) in enumerate(summary.settings())
    ]
    return ReportTable(title, ["host, dataset", *columns], rows if columns else [], note)


def hosts_table(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        cells = [c for c in summary.cells if (c["cell"]["host"], c["cell"]["dataset"]) == (host, dataset)]
        cell = next((c for c in cells if not c["control"]), cells[0])
        record = cell["host"]
        rows.append(
            [
                f"{host}, {dataset}",
                f"{record['num_parameters'] / 1e6:.1f} M",
                f"{record['layers'][0]} → {record['layers'][1]} of {record['num_blocks']}",
                f"{record['num_texts']['host_train']:,}",
                f"{record['num_texts']['train']:,}",
                f"{record['num_texts']['test']:,}",
                f"{record['accuracy']:.1%}",
                f"{record['majority']:.1%}",
                number(record["linear_explained_variance"], 3),
            ]
        )
    header = ["host, dataset", "parameters", "layers", "host texts", "concept texts", "test texts"]
    note = "Linear EV: what the best linear map of a token's lower state explains of its upper state, on other texts."
    return ReportTable("Hosts and texts", [*header, "accuracy", "majority", "linear EV"], rows, note)


def token_specificity_tables(summary: Summary) -> list[ReportTable]:
    tables = []
    for k in summary.ks():
        for matched in (True, False):

            def text(cell: dict[str, Any], k: int = k, matched: bool = matched) -> str | None:
                entry = swept(cell, k)
                if entry is None:
                    return None
                mark = " †" if cell.get("undertrained") else ""
                found = effect(cell, k, matched)
                if found is None:
                    return f"{NOTHING} (n = {entry['num_matched' if matched else 'num_texts']}){mark}"
                middle, low, high, texts = found
                count = f" (n = {texts})" if matched else ""
                return f"{number(middle, 3)} [{number(low, 3)}, {number(high, 3)}]{count}{mark}"

            which = "matched draws" if matched else "all texts"
            tables.append(
                _grid_table(
                    summary,
                    f"Token specificity, {k} direction{'s' if k > 1 else ''} removed, {which}",
                    text,
                    _MATCHED_NOTE if matched else _ALL_NOTE,
                )
            )
    return tables


_MATCHED_NOTE = (
    "Change of the margin when the salient concept is removed where it occurs, minus that of another concept of the "
    "same text with about as many positions and as much removed norm; logits, 95 % bootstrap intervals over texts, "
    "one training seed. More negative: the concept matters more. n: texts with such another concept; below "
    f"{MIN_TEXTS} no figure is given. † undertrained (L0 of {MAX_ACTIVE} or more, or less than "
    f"{MIN_EXPLAINED_VARIANCE:.0%} explained of the variance, from layer to layer of what a linear map explains); no "
    "rival."
)
_ALL_NOTE = (
    "The same on all texts: where no concept matches, the nearest stands in. Methods with few broad codes remove "
    "more than what they are compared with, and look better here."
)


def text_specificity_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["ablation"].get("code", {})
        return None if figures.get("text_specificity") is None else interval(figures, "text_specificity")

    return _grid_table(
        summary,
        "Text specificity",
        text,
        "Change of the margin when the salient concept is removed, minus that of another text's salient concept "
        "with the same prediction, at the same tokens. What is left of token specificity if the place is the same: "
        "negative where the concept is this text's own.",
        {**summary.methods(), **summary.methods(control=True)},
    )


def probe_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["ablation"].get("probe")
        if not figures:
            return None
        salient, active = figures["salient_accuracy"], figures["random_active_code_accuracy"]
        return f"{figures['accuracy']:.1%} → {salient:.1%} ({active:.1%})"

    return _grid_table(
        summary,
        "The paper's protocol: accuracy of a probe",
        text,
        "Plain → salient concept removed (a random active code removed), one direction, from the representation at "
        "the lower layer. Accuracies of a probe, not of the model; below chance labels flip.",
    )


def random_active_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["ablation"].get("code")
        if not figures:
            return None
        names = ("salient", "random_active_code", "random_direction", "class_ceiling")
        return " / ".join(number(figures.get(f"{name}_margin_change"), 3) for name in names)

    return _grid_table(
        summary,
        "Controls of the ablation",
        text,
        "Change of the margin in logits, where the salient concept occurs: salient concept / random active code / "
        "random direction of the same norm / directions of the classes.",
    )


def words_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["ablation"].get("code", {})
        if figures.get("word_residual_margin_change") is None:
            return None
        salient, word = (number(figures.get(f"{name}_margin_change"), 3) for name in ("salient", "word_ceiling"))
        return f"{salient} / {word} / {interval(figures, 'word_residual_margin_change')}"

    return _grid_table(
        summary,
        "What concepts say beyond their word",
        text,
        "Change of the margin in logits, where the salient concept occurs: salient concept / mean state of each "
        "token's type / salient concept orthogonal to that. Near 0: the dictionary says no more than the word.",
        {**summary.methods(), **summary.methods(control=True)},
    )


def beyond_word_table(summary: Summary) -> ReportTable:
    """CLVQ-VAE against the others by what concepts say beyond their word."""

    def text(cell: dict[str, Any]) -> str | None:
        ours = summary.cell(cell["cell"]["host"], cell["cell"]["dataset"], "clvq")
        if ours is None or ours is cell or not (ours.get("beyond_word") and cell.get("beyond_word")):
            return None
        found = paired_difference(ours["beyond_word"], cell["beyond_word"], matched=False)
        return None if found is None else f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]"

    return _grid_table(
        summary,
        "What concepts say beyond their word: CLVQ-VAE minus the others",
        text,
        "Paired by text, 95 % intervals. Negative: the concept of CLVQ-VAE says more; an interval with 0 is a tie.",
        {**summary.methods(), **summary.methods(control=True)},
    )


def k_sweep_table(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        for method, name in summary.methods().items():
            cell = summary.cell(host, dataset, method)
            entries = [] if cell is None else cell.get("sweep", [])
            if len({entry["variant"] for entry in entries}) < 2:
                continue
            for entry in entries:
                rows.append(
                    [
                        f"{host}, {dataset}",
                        name,
                        entry["variant"].replace("_", " "),
                        str(entry["k"]),
                        interval(entry, "token_specificity"),
                        number(entry["margin_change"], 3),
                        number(entry["num_positions"], 1),
                        percent(entry["num_matched"] / entry["num_texts"]),
                        percent(entry["removed_energy"]),
                    ]
                )
    header = [
        "host, dataset",
        "method",
        "rows, chosen by",
        "k",
        "token specificity",
        "Δmargin",
        "positions",
        "matched",
    ]
    header.append("energy removed")
    note = (
        "All texts. Neurons are chosen by activation, or by activation × gradient. Energy: share of the squared norm."
    )
    return ReportTable("Sparse methods: which directions, and how many", header, rows, note)


def transcoder_table(summary: Summary) -> ReportTable:
    rows = []
    for host, dataset in summary.settings():
        transcoder = summary.cell(host, dataset, "transcoder")
        for k in summary.ks():
            entry, ours = swept(transcoder, k), swept(summary.cell(host, dataset, "clvq"), k)
            if entry is None or ours is None:
                continue
            matched = [effect(summary.cell(host, dataset, method), k) for method in ("transcoder", "clvq")]
            rows.append(
                [
                    f"{host}, {dataset}",
                    str(k),
                    number(entry["token_specificity"], 3),
                    number(ours["token_specificity"], 3),
                    *(NOTHING if found is None else number(found[0], 3) for found in matched),
                    number(figure(transcoder, "bottleneck", "num_active"), 0),
                    number(figure(transcoder, "bottleneck", "explained_variance"), 3),
                    transcoder.get("undertrained") or "no",
                ]
            )
    header = ["host, dataset", "k", "transcoder", "CLVQ-VAE", "transcoder, matched", "CLVQ-VAE, matched", "L0"]
    header += ["explained variance", "undertrained"]
    return ReportTable("TopK transcoder against CLVQ-VAE: token specificity", header, rows)


def purity_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("label_purity")
        if not figures:
            return None
        purity, null = figures["cross_fitted_purity"], figures["null_purity"]
        return f"{number(purity, 3)} ({number(null, 3)}); {percent(figures['exclusive_share'])}"

    return _grid_table(
        summary,
        "Label purity and exclusive codes",
        text,
        "Cross-fitted purity (labels permuted by text); share of the codes that have one label only.",
    )


def routing_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("routing_divergence")
        if not figures or figures.get("excess_jsd") is None:
            return None
        low, high = figures["excess_jsd_low"], figures["excess_jsd_high"]
        return f"{number(figures['excess_jsd'], 3)} [{number(low, 3)}, {number(high, 3)}]"

    return _grid_table(
        summary,
        "Routing: does a word go elsewhere under another label?",
        text,
        "Jensen–Shannon divergence in bits, minus its mean over permutations of the labels.",
    )


def overlap_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("codebook_overlap")
        if not figures or figures.get("ratio") is None:
            return None
        return f"{number(figures['ratio'], 3)} [{number(figures['ratio_low'], 3)}, {number(figures['ratio_high'], 3)}]"

    return _grid_table(
        summary,
        "Overlap of the codes of two texts",
        text,
        "Pairs with the same label ÷ pairs with different ones, of like TF-IDF similarity.",
    )


def cosine_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell["table"].get("codebook_similarity")
        if not figures:
            return None
        return f"{number(figures['active_mean_cosine'], 3)} ({number(figures['active_mean_centred_cosine'], 3)})"

    return _grid_table(
        summary, "Cosine of the codes in use", text, "Mean over pairs; in brackets after the mean code is subtracted."
    )


def bottleneck_table(summary: Summary) -> ReportTable:
    def text(cell: dict[str, Any]) -> str | None:
        figures = cell.get("bottleneck")
        if not figures:
            return None
        # A sparse model passes many neurons, and the permuted code is one: its leak would be low by construction.
        leak = None if figures["num_active"] != 1 else figures["leak"]
        return " / ".join(number(x, 3) for x in (figures["splice_fidelity"], leak, figures["explained_variance"]))

    return _grid_table(
        summary,
        "What passes the bottleneck",
        text,
        "Splice fidelity / leak (the same with permuted codes; for methods of one code a token) / explained "
        "variance at the upper layer, for single-layer methods at the lower one.",
    )


def refusals_tables(summary: Summary) -> list[ReportTable]:
    rows = []
    for host, dataset in summary.settings():
        cells = [c for c in summary.cells if (c["cell"]["host"], c["cell"]["dataset"]) == (host, dataset)]
        if reason := next((cell["refused"] for cell in cells if cell.get("refused")), None):
            rows.append([f"{host}, {dataset}", reason])
    return [ReportTable("Not ablated", ["host, dataset", "why"], rows)]


__all__ = [
    "beyond_word_table",
    "bottleneck_table",
    "cosine_table",
    "hosts_table",
    "k_sweep_table",
    "overlap_table",
    "probe_table",
    "purity_table",
    "random_active_table",
    "refusals_tables",
    "routing_table",
    "text_specificity_table",
    "token_specificity_tables",
    "transcoder_table",
    "words_table",
]
