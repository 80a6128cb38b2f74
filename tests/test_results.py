"""What docs/results.md says of the committed cells, recomputed from them; no figure on the page is without a claim."""

# ruff: noqa: E501 - sentences of the page

import re
from collections.abc import Iterator
from functools import cache

import pytest
from helpers import claims_on_codes, claims_on_worlds  # noqa: F401 - the claims of the latter
from helpers.results_page import CLAIMS, DATASETS, GRIDS, ROOT, claims, listed, plain, span, summary

from clvq_hf.comparison.duels import Duel, by_method, paired_difference
from clvq_hf.comparison.grid import load_grid
from clvq_hf.comparison.report import write_report
from clvq_hf.comparison.summary import CELL, MIN_EXPLAINED_VARIANCE, PURITY, SPECIFICITY, Record
from clvq_hf.comparison.tables import report_tables
from clvq_hf.metrics.ablation_drop.statistics import MIN_TEXTS, holm
from clvq_hf.rendering.text_tables import ReportTable

pytestmark = pytest.mark.slow

VARIABLES = {"CLVQ_DATA": "data", "CLVQ_MINILM": "m", "CLVQ_SMOLLM2": "s", "CLVQ_SMOLLM2_FILE": "f"}
# What is no figure: blocks of code, code in a line, addresses, and names with digits.
NO_FIGURES = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|\b(MiniLM-L6|SmolLM2(-135M)?|L0|gpt2-small|roberta-small)\b", re.DOTALL
)
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("function", CLAIMS, ids=lambda function: function.__name__)
def test_the_page_says_what_the_cells_do(function):
    said = plain(PAGE)
    for sentence in function():
        assert plain(sentence) in said, f"The page does not say: {sentence}"


def test_the_readme_says_the_same():
    """Its findings, with the figures that this page is checked for."""
    said = plain((ROOT / "README.md").read_text(encoding="utf-8"))
    [shares] = re.findall(r"costs ([\d, and]+ %) of what removing the concept", plain(PAGE))
    for words in (
        f"mean state costs {shares} as much",
        f"tie in all {verdicts('kmeans').removesuffix(' ties')} settings",
        "in all nine settings",
        claims_on_codes.the_readmes_sentence(),
    ):
        assert words in said, words


def test_no_figure_is_without_a_claim():
    rest = plain(NO_FIGURES.sub(" ", PAGE))
    for sentence in sorted((plain(NO_FIGURES.sub(" ", each)) for make in CLAIMS for each in make()), key=len)[::-1]:
        rest = rest.replace(sentence, " ")
    left = re.findall(r".{0,60}\d.{0,60}", rest)
    assert not left, left


@pytest.mark.parametrize("name", ["better", "paper", "words", "studies"])
def test_reports_are_those_of_the_cells(name, tmp_path, monkeypatch):
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("clvq_hf.comparison.report.draw_figures", lambda *_: {})
    monkeypatch.setattr("clvq_hf.comparison.report.Summary", lambda _: summary(name))  # it keeps what it has compared
    grid = load_grid(ROOT / "scripts" / "grids" / "studies.yaml") if name == "studies" else None
    written = write_report(GRIDS / name / "cells.jsonl", tmp_path, grid).read_text(encoding="utf-8")
    committed = (GRIDS / name / "report.md").read_text(encoding="utf-8")
    assert written.partition("## Figures")[0] == committed.partition("## Figures")[0]


@cache
def duels(k: int | None = None, matched: bool = True) -> list[Duel]:
    return summary("paper").duels(k, matched)


def verdicts(rival: str, k: int | None = None, matched: bool = True, ours: str = "clvq") -> str:
    """Such as "2 wins, 6 ties and 3 losses"."""
    counts = by_method(duels(k, matched), list(summary("paper").methods()))[ours][rival]
    plurals = {"win": "wins", "tie": "ties", "loss": "losses"}
    parts = [f"{number} {name if number == 1 else plurals[name]}" for name, number in counts.items() if number]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def cells(name: str, figure: str, method: str, host: str = "minilm") -> list[float]:
    """A figure of the first seed on each dataset, in the order of the page."""
    return [summary(name).record(host, dataset, method)[figure] for dataset in DATASETS]


def percents(values: list[float]) -> str:
    return f"{100 * min(values):.0f}–{100 * max(values):.0f} %"


def records(*hosts: str, methods: tuple[str, ...] | None = None) -> list[Record]:
    """Cells of the paper's grid, of the first seed and without controls."""
    paper = summary("paper")
    found = paper.first_records(methods or paper.methods())
    return [record for record in found if record["cell.host"] in hosts]


SMALL = ("minilm", "gpt2-small", "roberta-small")


@claims
def sizes() -> Iterator[str]:
    paper = summary("paper")
    yield f"The comparison has {len(paper.cells)} cells"
    found = {host: records(host, methods=("clvq",)) for host in (*SMALL, "smollm2")}

    def number(host: str, name: str) -> int:
        [value] = {record[name] for record in found[host]}
        return value

    texts = "host.num_texts."
    yield (
        f"Concepts were learned from {number('minilm', texts + 'train')} texts and measured on "
        f"{number('minilm', texts + 'test')}, with at most "
        f"{number('minilm', 'settings.sizes.max_length')} tokens each, drawn with seed 0"
    )
    sparse = {record["codebook_size"] for record in records(*SMALL, methods=("sae", "transcoder"))}
    yield f"K is {number('minilm', 'codebook_size')} ({sparse.pop():,} neurons for sparse models)."
    accuracy = {host: percents([record["host.accuracy"] for record in found[host]]) for host in found}
    yield f"MiniLM-L6 was fine-tuned on {number('minilm', texts + 'host_train'):,} texts (accuracy {accuracy['minilm']})"
    scratch = [record for host in SMALL[1:] for record in found[host]]
    [width] = {record["host.hidden_size"] for record in scratch}
    [blocks] = {record["host.num_blocks"] for record in scratch}
    parameters = {f"{record['host.num_parameters'] / 1e6:.1f}" for record in scratch}
    assert (blocks, parameters) == (4, {"3.0"})
    most = max(record[texts + "host_train"] for record in scratch)
    yield (
        f"with four blocks of width {width} (3.0 million parameters), were trained from scratch on up to {most:,} texts "
        f"({percents([record['host.accuracy'] for record in scratch])})"
    )
    by_dataset = {record["cell.dataset"]: record["host.accuracy"] for record in found["smollm2"]}
    accuracies = [f"{100 * by_dataset[name]:.0f} % on {title}" for name, title in DATASETS.items()]
    yield (
        f"fine-tuned on {number('smollm2', texts + 'host_train')} texts, concepts were learned from "
        f"{number('smollm2', texts + 'train')} texts, and {number('smollm2', texts + 'test')} texts are measured, with "
        f"one draw each (accuracy {', '.join(accuracies)})"
    )


@claims
def what_agrees() -> Iterator[str]:
    change = "ablation.code.{}_margin_change"
    differences = {
        (record["setting"], record["cell.method"]): record[change.format("salient")]
        - record[change.format("random_active_code")]
        for record in records(*SMALL)
    }
    assert len({setting for setting, _ in differences}) == 9 and max(differences.values()) < 0
    smallest = max(differences, key=differences.__getitem__)
    assert smallest == ("gpt2-small, eraser-movie", "sae")
    yield "in all nine settings of the three smaller hosts and for all methods"
    record = summary("paper").record("gpt2-small", "eraser-movie", "sae")
    both = [record[change.format(name)] for name in ("salient", "random_active_code")]
    yield f"ERASER-Movie ({listed(both)})"
    purity, null = (
        [record[f"table.label_purity.{name}"] for record in records(*SMALL)]
        for name in ("cross_fitted_purity", "null_purity")
    )
    yield f"cross-fitted purity is {span(purity)} against {span(null)} with labels permuted"
    closed, open_ = (records("minilm", "roberta-small", methods=(method,)) for method in ("clvq", "clvq-paper"))
    fidelity, leak = "bottleneck.splice_fidelity", "bottleneck.leak"
    yield (
        f"falls from {span([r[fidelity] for r in closed])} to {span([r[leak] for r in closed])} on MiniLM and "
        f"roberta-small. With the paper's open memory {span([r[leak] for r in open_])} remain"
    )


@claims
def k_means() -> Iterator[str]:
    assert verdicts("kmeans") == verdicts("kmeans", 1) == verdicts("kmeans", 10) == "12 ties"
    yield "On matched draws there are 12 ties of 12, with 1 direction removed and with 10"
    assert verdicts("kmeans", None, False) == "12 ties"
    yield "and so there are on all texts with 1"
    against = [duel for duel in duels() if {duel.first, duel.second} == {"clvq", "kmeans"}]
    groups = {"MiniLM and `roberta-small`": SMALL[::2], "SmolLM2": ("smollm2",), "`gpt2-small`": ("gpt2-small",)}
    margins = [
        f"±{span([duel.difference.margin for duel in against if duel.host in hosts], 3).replace(' to ', ' to ±')}"
        for hosts in groups.values()
    ]
    yield f"equal within {margins[0]} logits; on SmolLM2 the data allow {margins[1]}"
    yield f"and on `gpt2-small` {margins[2]}, where the second seed"


@claims
def other_methods() -> Iterator[str]:
    yield f"Against agglomerative clusters there are {verdicts('agglomerative')}"
    yield f"against the single-layer VQ-VAE {verdicts('vqvae')}"
    ranks = list(summary("paper").ranks().values())
    first_two = {name: sum(name in methods[:2] for methods in ranks) for name in summary("paper").methods()}
    yield f"CLVQ-VAE is first or second in {first_two['clvq']} of {len(ranks)} settings"
    yield (
        f"agglomerative clusters in {first_two['agglomerative']}, CLVQ-VAE with the paper's settings in "
        f"{first_two['clvq-paper']}, the SAE in {first_two['sae']}, K-means and the transcoder in {first_two['kmeans']}"
    )
    assert first_two["kmeans"] == first_two["transcoder"]
    yield (
        f"Against the SAE, with 10 neurons removed, CLVQ-VAE has {verdicts('sae')} on matched draws and "
        f"{verdicts('sae', None, False)} on all texts"
    )
    yield f"against the transcoder {verdicts('transcoder')}, and {verdicts('transcoder', None, False)}"
    assert (verdicts("sae", 1), verdicts("transcoder", 1)) == ("2 wins and 9 ties", "2 wins and 6 ties")
    yield "(With 1 direction removed it has 2 wins and 9 ties, and 2 wins and 6 ties"
    wins = {(d.host, d.dataset, d.second) for d in duels() if d.first == "clvq" and d.outcome("clvq") == "win"}
    assert wins == {
        ("minilm", "jigsaw", "sae"),
        ("minilm", "eraser-movie", "transcoder"),
        ("minilm", "eraser-movie", "agglomerative"),
    }
    also = {(d.host, d.dataset, d.second) for d in duels() if d.first == "kmeans" and d.outcome("kmeans") == "win"}
    assert also >= {("minilm", "jigsaw", "sae"), ("minilm", "eraser-movie", "transcoder")}


@claims
def poor_dictionaries() -> Iterator[str]:
    paper = summary("paper")
    marked = {
        method: sum(record["mark"] is not None for record in records(*SMALL, "smollm2", methods=(method,)))
        for method in paper.methods()
    }
    yield f"less than {MIN_EXPLAINED_VARIANCE:.0%} explained".replace("%", " %")
    yield f"In the other settings fewer than {MIN_TEXTS} texts match in both"
    yield (
        f"the transcoder in {marked['transcoder']} of 12 settings, CLVQ-VAE in {marked['clvq']} (MiniLM on ERASER-Movie "
        f"and all of SmolLM2), K-means in {marked['kmeans']}, the SAE, agglomerative clusters and the single-layer "
        f"VQ-VAE in {marked['sae']}"
    )
    assert marked["sae"] == marked["agglomerative"] == marked["vqvae"]
    places = {r["setting"] for r in records(*SMALL, "smollm2", methods=("clvq",)) if r["mark"]}
    assert places == {"minilm, eraser-movie", "smollm2, ag-news", "smollm2, eraser-movie", "smollm2, jigsaw"}


@claims
def the_papers_count() -> Iterator[str]:
    ranks = summary("paper").probe_ranks().values()
    first = {name: sum(methods[0] == name for methods in ranks) for name in summary("paper").methods()}
    assert first["clvq"] == first["vqvae"] == first["kmeans"] == first["sae"]
    yield f"the transcoder is first in {first['transcoder']} settings, and CLVQ-VAE, the single-layer VQ-VAE, K-means and "
    yield f"the SAE in {first['clvq']} each"


@claims
def smollm2() -> Iterator[str]:
    explained = {
        m: cells("paper", "bottleneck.explained_variance", m, "smollm2") for m in ("clvq", "kmeans", "transcoder")
    }
    interval = [
        (record["own.on_matched_low"], record["own.on_matched_high"])
        for record in records("smollm2", methods=("clvq",))
    ]
    assert all(low <= 0 <= high for low, high in interval)
    yield f"(explained variance {span(explained['clvq'], 1)})"
    yield f"K-means ({span(explained['kmeans'])})"
    yield f"the transcoder ({span(explained['transcoder'])})"


@claims
def gpt2_small() -> Iterator[str]:
    found = records("gpt2-small", methods=("clvq",))
    yield f"token specificity of gpt2-small ({span([r['own.on_matched'] for r in found], 1)}) comes from the position"
    text = {DATASETS[r["cell.dataset"]]: r["ablation.code.text_specificity"] for r in found}
    yield f"the difference is {text['Jigsaw']:.2f} on Jigsaw, {text['ERASER-Movie']:.2f} on ERASER-Movie and {text['AG News']:.2f} on AG News"


@claims
def caveats() -> Iterator[str]:
    linear = [record["host.linear_explained_variance"] for record in records("gpt2-small", methods=("clvq",))]
    yield f"(a linear map explains {percents(linear)} of the upper layer)"
    errors = [
        record["texts.median_salience_error"] for record in records("gpt2-small", "roberta-small", methods=("clvq",))
    ]
    yield f"(median completeness error {span(errors)})"


@claims
def stability() -> Iterator[str]:
    means = summary("paper").over_seeds("stability.ami")
    ami = {m: [means["gpt2-small", d, m]["stability.ami"] for d in DATASETS] for m in ("clvq", "kmeans")}
    yield f"is {listed(ami['clvq'])} for CLVQ-VAE on Jigsaw, ERASER-Movie and AG News, and {listed(ami['kmeans'])} for K-means"


@claims
def sanity_controls() -> Iterator[str]:
    gain, purity, null = (
        f"table.label_purity.{name}" for name in ("lexical_gain", "cross_fitted_purity", "null_purity")
    )

    def intervals(method: str, figure: str) -> str:
        bounds = [cells("paper", figure + end, method) for end in ("", "_low", "_high")]
        return ", ".join(f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in zip(*bounds, strict=True))

    def plainly(method: str, figure: str) -> str:
        return ", ".join(f"{value:.2f}" for value in cells("paper", figure, method))

    yield f"| re-initialised host | lexical gain 0 | {intervals('reinitialised-host', gain)} |"
    yield (
        f"| labels permuted by text | purity at its null | {plainly('permuted-labels', purity)} (null "
        f"{plainly('permuted-labels', null)}) |"
    )
    yield f"| pretrained host | below the fine-tuned | purity {plainly('pretrained-host', purity)} against {plainly('clvq', purity)} |"


@claims
def studies() -> Iterator[str]:
    studied = summary("studies")
    default = studied.record("minilm", "jigsaw", "default")
    texts = default["host.num_texts.train"], default["host.num_texts.test"]
    yield f"Concepts were learned from {texts[0]} texts and measured on {texts[1]}, with two seeds"
    others = [method for method in studied.methods() if method != "default"]
    reference = studied.sweeps("minilm", "jigsaw", "default", 1)
    found = [paired_difference(studied.sweeps("minilm", "jigsaw", method, 1), reference) for method in others]
    outside = [each for each in found if not each.interval[0] <= 0 <= each.interval[1]]
    corrected = holm([each.p_value for each in found])
    assert {each.seeds for each in found} == {(2, 2)} and not outside
    yield f"of {len(found)} differences none excludes 0 over texts and both seeds"
    yield f"(smallest p {corrected.min():.2f})"


@claims
def settings() -> Iterator[str]:
    studied = summary("studies")
    names = ("default", "K-50", "init-random", "epochs-20", "depth-0", "depth-6")
    first = {name: studied.record("minilm", "jigsaw", name) for name in names}
    means = studied.over_seeds(SPECIFICITY, "stability.ami")
    seeds = {
        name: {key.split(".")[-1]: value for key, value in means["minilm", "jigsaw", name].items()} for name in names
    }
    specificity = {name: f"{seeds[name]['token_specificity_matched']:.2f}" for name in names}
    used = first["init-random"]["table.codebook_usage.active_codes"]
    yield (
        f"Token specificity is {specificity['K-50']} with 50 codes and {specificity['init-random']} with random "
        f"initialisation, which leaves {used} codes in use, against {specificity['default']} by default"
    )
    purity = {name: f"{first[name][PURITY]:.2f}" for name in names}
    yield f"Both lose purity ({purity['K-50']} and {purity['init-random']} against {purity['default']})"
    yield f"(AMI {seeds['init-random']['ami']:.2f} against {seeds['default']['ami']:.2f})"
    explained, fidelity = (
        {name: f"{first[name][f'bottleneck.{figure}']:.2f}" for name in names}
        for figure in ("explained_variance", "splice_fidelity")
    )
    yield (
        f"token specificity is {specificity['epochs-20']}, explained variance {explained['epochs-20']} against "
        f"{explained['default']}"
    )
    yield (
        f"its splice fidelity is {fidelity['depth-0']} against {fidelity['default']} by default, because MiniLM's upper "
        f"layer mixes the other tokens into `[CLS]`. Two layers do as well as six ({fidelity['depth-6']})"
    )


@claims
def layers() -> Iterator[str]:
    yield f"The grid uses layer {records('minilm')[0]['host.layers.0']}."
    studied = summary("studies")
    low, high = (
        next(r for r in studied.records if r["source"]["host"]["layers"] == layers and r["cell.seed"] == 0)
        for layers in ([1, 6], [5, 6])
    )
    means = studied.over_seeds(SPECIFICITY)

    def figures(record: Record) -> tuple[float, ...]:
        names = (PURITY, "table.label_purity.null_purity", "table.label_purity.lexical_gain")
        return means[tuple(record[name] for name in CELL)][SPECIFICITY], *(record[name] for name in names)

    specificity, purity, null, gain = figures(low)
    yield f"Token specificity is {specificity:.2f} from layer 1 to 6, where purity is {purity:.2f} (null {null:.2f})"
    # Not "-0.00".
    yield f"with a lexical gain of {round(gain, 2) + 0:.2f}, and {figures(high)[0]:.2f} from layer 5 to 6"
    yield f"where purity is {figures(high)[1]:.2f} with a gain of {figures(high)[3]:.2f}"


@cache
def word_tables() -> dict[str, ReportTable]:
    return {table.title: table for table in report_tables(summary("words"))}


def word_rows(title: str) -> Iterator[str]:
    """The rows of a table of the report, turned: one for each method, datasets in the order of the page."""
    table = word_tables()[title]
    by_setting = {row[0]: row for row in table.rows}
    rows = [by_setting[f"minilm, {dataset}"] for dataset in DATASETS]
    for column, name in enumerate(table.header[1:], 1):
        yield f"| {name} | " + " | ".join(row[column] for row in rows) + " |"


@claims
def beyond_the_word() -> Iterator[str]:
    words = summary("words")
    seeds = {cell["cell"]["seed"] for cell in words.cells}
    yield f"{len(words.cells)} cells on MiniLM, with {len(seeds)} training seeds of each method"
    yield from word_rows("What concepts say beyond their word")
    whole = cells("words", "beyond_word.salient_margin_change", "clvq")
    word, rest = (
        cells("words", f"ablation.code.{name}_margin_change", "clvq") for name in ("word_ceiling", "word_residual")
    )
    shares = [100 * part / effect for part, effect in zip(word, whole, strict=True)]
    assert rest[0] > 0
    yield f"Removing the word's mean state costs {listed(shares, 0)} % of what removing the concept costs the same texts"
    yield f"{listed(rest[1:])} of {listed(whole[1:])} on the others"
    differences = {}
    for dataset, title in DATASETS.items():
        sides = [summary("words").beyond_word("minilm", dataset, name) for name in ("clvq", "random-states")]
        differences[title] = paired_difference(*sides, "differences")
    jigsaw, *others = differences.values()
    assert jigsaw.interval[0] > 0 and all(each.interval[0] < 0 < each.interval[1] for each in others)
    yield f"on Jigsaw it is {jigsaw.mean:.3f} [{jigsaw.interval[0]:.3f}, {jigsaw.interval[1]:.3f}], so that theirs says more"
    yield from word_rows("What concepts say beyond their word: CLVQ-VAE minus the others")


@claims
def same_tokens() -> Iterator[str]:
    yield from word_rows("Label purity, compared on the same tokens")
    control = {
        name: cells("words", "table.label_purity.lexical_gain", name)
        for name in ("clvq", "kmeans", "random-states", "token-types")
    }
    yield (
        f"The lexical gain is {listed(control['clvq'])} for CLVQ-VAE, {listed(control['kmeans'])} for K-means, "
        f"{listed(control['random-states'])} for random states, and {listed(control['token-types'])} for type means"
    )


@claims
def what_token_specificity_tells() -> Iterator[str]:
    found = {
        name: cells("words", "k1.on_matched", name) for name in ("clvq", "kmeans", "random-states", "token-types")
    }
    yield (
        f"Token specificity is {listed(found['clvq'])} for CLVQ-VAE, {listed(found['kmeans'])} for K-means, "
        f"{listed(found['random-states'])} for random states and {listed(found['token-types'])} for type means"
    )
    energy = {
        name: [100 * value for value in cells("words", "k1.removed_energy", name)] for name in ("clvq", "kmeans")
    }
    yield f"(of its squared norm {listed(energy['clvq'], 0)} % for CLVQ-VAE)"
    text = cells("words", "ablation.code.text_specificity", "clvq")
    yield f"Text specificity, which compares with another text's concept at the same tokens, is {listed(text)} for CLVQ-VAE"
    splice = {name: cells("words", "bottleneck.splice_fidelity", name) for name in ("clvq", "kmeans")}
    yield f"CLVQ-VAE preserves {listed(splice['clvq'])} of the fidelity, clusters nothing ({listed(splice['kmeans'])} for K-means)"


@claims
def duels_over_seeds() -> Iterator[str]:
    against = [duel for duel in summary("words").duels() if "clvq" in (duel.first, duel.second)]
    assert {duel.difference.seeds for duel in against} == {(3, 3)}
    with_k_means = [duel for duel in against if "kmeans" in (duel.first, duel.second)]
    assert {duel.outcome("clvq") for duel in with_k_means} == {"tie"}
    margins = [duel.difference.margin for duel in with_k_means]
    yield f"over three seeds each, CLVQ-VAE and K-means are equal within ±{span(margins, 3).replace(' to ', ' to ±')} logits"
