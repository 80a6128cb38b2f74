"""Wins, ties, ranks and tables of cells that were made by hand."""

import copy
import json
from functools import reduce
from itertools import cycle

import numpy as np
import pytest
from datasets import Dataset

from clvq_hf.comparison.cell import _beyond_word, _coded
from clvq_hf.comparison.duels import by_method
from clvq_hf.comparison.report import _shareable, write_report
from clvq_hf.comparison.summary import Summary, effect, mean_and_spread, read_cells, study_cells, swept
from clvq_hf.comparison.tables import report_tables
from clvq_hf.rendering.text_tables import to_markdown


def entry(values, k=1, variant="codebook", unmatched=0):
    """A sweep entry; the last `unmatched` texts have no matched concept."""
    values = [float(value) for value in values]
    matched = values[: len(values) - unmatched]
    figures = {}
    for name, some in (("token_specificity", values), ("token_specificity_matched", matched)):
        figures |= {
            name: float(np.mean(some)) if some else None,
            f"{name}_low": min(some, default=None),
            f"{name}_high": max(some, default=None),
        }
    return {
        "variant": variant,
        "k": k,
        **figures,
        "num_texts": len(values),
        "num_matched": len(matched),
        "margin_change": -1.0,
        "flip_rate": 0.1,
        "num_positions": 2.0,
        "removed_norm": 10.0,
        "removed_energy": 0.5,
        "text_id": list(range(len(values))),
        "differences": values,
        "matched_differences": matched + [None] * unmatched,
    }


def cell(method, values, host="bert", dataset="news", seed=0, probe=0.5, **fields):
    return {
        "cell": {"host": host, "dataset": dataset, "method": method, "seed": seed},
        "title": method.upper(),
        "control": False,
        "codebook_size": 400,
        "first_seed": 0,
        "host": {
            "num_parameters": 1_000_000,
            "layers": [1, 2],
            "num_blocks": 3,
            "num_texts": {"host_train": 10, "train": 20, "test": 30},
            "accuracy": 0.9,
            "majority": 0.5,
            "linear_explained_variance": 0.6,
        },
        "table": {"label_purity": {"cross_fitted_purity": 0.8, "null_purity": 0.5, "exclusive_share": 0.1}},
        "ablation": {"probe": {"accuracy": 0.9, "salient_accuracy": probe, "random_active_code_accuracy": 0.7}},
        "bottleneck": {},
        "sweep": [entry(values)],
        "seconds": {"fit": 1.0},
        **fields,
    }


STRONG, WEAK = np.linspace(-3, -2, 24), np.linspace(-0.6, -0.4, 24)


def test_a_study_is_compared_with_what_its_studies_share():
    cells = [
        cell("default", WEAK),
        cell("default", WEAK - 1, seed=1),
        cell("wide", STRONG),
        cell("same", WEAK + 0.001),
    ]
    studies = {"size": ["wide", "default"], "other": ["same", "default"]}
    tables = {table.title: table for table in report_tables(Summary(cells), studies)}
    size = {row[0]: row for row in tables["Study: size"].rows}
    place = tables["Study: size"].header.index("minus default")
    # STRONG averages -2.5, the two seeds of the default -0.5 and -1.5.
    assert size["WIDE"][place].startswith("-1.500 [")
    assert size["DEFAULT"][place] == "–"


def test_what_concepts_say_beyond_their_word():
    figures = {"salient_margin_change": -0.5, "word_ceiling_margin_change": -0.4}
    figures |= {f"word_residual_margin_change{end}": x for end, x in (("", -0.1), ("_low", -0.2), ("_high", 0.0))}
    cells = [cell("clvq", WEAK, ablation={"code": figures}), cell("kmeans", WEAK)]
    table = {table.title: table for table in report_tables(Summary(cells))}["What concepts say beyond their word"]
    assert table.header == ["host, dataset", "CLVQ"]
    assert table.rows[0][1].startswith("-0.500 / -0.400 / -0.100 [-0.200, ")
    figures["word_random_margin_change"] = -0.05
    figures |= {"word_residual_text_share": 0.9, "word_residual_position_share": 0.75}
    table = {table.title: table for table in report_tables(Summary(cells))}["What concepts say beyond their word"]
    assert table.rows[0][1].endswith("] / -0.050 (90.0 %, 75.0 %)")
    del figures["word_ceiling_margin_change"]  # not among the grid's conditions
    table = {table.title: table for table in report_tables(Summary(cells))}["What concepts say beyond their word"]
    assert table.rows[0][1].startswith("-0.500 / – / -0.100 [-0.200, ")


def test_concepts_are_compared_in_pairs_beyond_their_word():
    texts = list(range(30))
    ours = {"text_id": texts, "differences": [-1.0] * 30}
    theirs = {"text_id": texts[::-1], "differences": [-0.25 - text / 100 for text in texts[::-1]]}
    cells = [cell("clvq", WEAK, beyond_word=ours), cell("kmeans", WEAK, beyond_word=theirs), cell("sae", WEAK)]
    title = "What concepts say beyond their word: CLVQ-VAE minus the others"
    table = {table.title: table for table in report_tables(Summary(cells))}[title]
    assert table.header == ["host, dataset", "KMEANS"]
    assert table.rows[0][1].startswith("-0.605 ["), "-1 minus the mean of -0.25 … -0.54"


def test_controls_and_seeds_count_in_pairs_beyond_the_word():
    texts = list(range(30))

    def beyond(effect, control):
        return {"text_id": texts, "differences": [effect] * 30, "control": [control] * 30}

    cells = [
        cell("clvq", WEAK, beyond_word=beyond(-1.0, -0.5)),
        cell("clvq", WEAK, beyond_word=beyond(-2.0, -0.5), seed=1),
        cell("kmeans", WEAK, beyond_word={**beyond(-0.25, 0.0), "text_share": 1.0}),
    ]
    title = "What concepts say beyond their word: CLVQ-VAE minus the others"
    table = {table.title: table for table in report_tables(Summary(cells))}[title]
    # (-1 - 2) / 2 + 0.25; less the control -1.5 + 0.5 + 0.25.
    effect, beside = table.rows[0][1].split(" / ")
    assert effect.startswith("-1.250 [") and beside.startswith("-0.750 [") and beside.endswith("] (n = 30)")


def test_a_cell_keeps_its_effects_beyond_the_word():
    rows = [
        # text, condition, draw, margin, positions; without removal 1.
        *((text, "salient", 0, 0.0, 4) for text in (3, 5, 8)),
        *((3, "word_residual", 0, 0.5, 1), (8, "word_residual", 0, -1.0, 3)),
        *((3, "word_random", 0, 1.0, 1), (3, "word_random", 1, 0.5, 1)),
        *((8, "word_random", 0, 1.5, 3), (8, "word_random", 1, 1.0, 3)),
    ]
    names = ("text_id", "condition", "draw", "margin", "num_positions")
    outcome = Dataset.from_list([{**dict(zip(names, row, strict=True)), "margin_plain": 1.0} for row in rows])
    assert _beyond_word(outcome) == {
        "text_id": [3, 8],
        "differences": [-0.5, -2.0],
        "control": [-0.25, 0.25],
        "salient_margin_change": -1.0,
        "text_share": 2 / 3,
        "position_share": 0.5,
    }
    assert _beyond_word(outcome.select(range(3)))["text_id"] == []


def test_too_few_texts_give_no_verdict():
    few = cell("sae", STRONG, sweep=[entry(STRONG, unmatched=10)])
    summary = Summary([few, cell("clvq", WEAK)])
    assert effect(few) is None and effect(few, matched=False)[3] == 24
    assert summary.duels() == [] and summary.ranks() == {("bert", "news"): ["clvq"]}
    assert len(summary.duels(matched=False)) == 1
    assert summary.ranks(matched=False) == {("bert", "news"): ["sae", "clvq"]}
    none = cell("kmeans", STRONG, sweep=[entry(STRONG, unmatched=24)])
    assert effect(none) is None
    tables = {table.title: table for table in report_tables(Summary([few, none, cell("clvq", WEAK)]))}
    table = tables["Token specificity, 1 direction removed, matched draws"]
    assert table.header == ["host, dataset", "CLVQ", "KMEANS", "SAE"]
    assert table.rows[0][2:] == ["– (n = 0)", "– (n = 14)"] and table.rows[0][1].endswith("(n = 24)")


def test_p_values_are_corrected_for_all_duels():
    # One method of ten differs from the others, and by itself would barely be told from any of them.
    generator = np.random.default_rng(0)
    names = [f"m{number}" for number in range(9)]
    cells = [cell(name, generator.normal(0, 1, 24)) for name in names]
    cells.append(cell("clvq", generator.normal(-0.5, 1, 24)))
    duels = Summary(cells).duels()
    assert len(duels) == 45
    alone = [duel.difference.p_value for duel in duels]
    assert min(alone) < 0.05 and all(duel.p_value >= p for duel, p in zip(duels, alone, strict=True))
    assert min(duel.p_value for duel in duels) == pytest.approx(min(1, 45 * min(alone)))
    assert all(duel.outcome("clvq") == "tie" for duel in duels if "clvq" in (duel.first, duel.second))


def test_a_duel_is_shown_with_what_it_could_have_seen():
    noise = np.random.default_rng(0).normal(0, 1, 24)
    cells = [cell("kmeans", WEAK), cell("clvq", STRONG), cell("vqvae", WEAK + noise - noise.mean())]
    [table] = [table for table in report_tables(Summary(cells)) if table.title == "Duels of CLVQ"]
    by_rival = {row[1]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert by_rival["KMEANS"]["verdict"] == by_rival["VQVAE"]["verdict"] == "win"
    assert all(row["texts"] == "24" and row["equal within"].startswith("± ") for row in by_rival.values())
    assert all(float(row["could have seen"]) > 0 for row in by_rival.values())


def test_only_a_corrected_p_value_decides():
    noise = np.random.default_rng(0).normal(0, 1, 24)
    summary = Summary([cell("clvq", STRONG), cell("kmeans", WEAK), cell("vqvae", WEAK + noise - noise.mean())])
    outcomes = {(duel.first, duel.second): duel.outcome(duel.first) for duel in summary.duels()}
    assert outcomes == {("clvq", "vqvae"): "win", ("clvq", "kmeans"): "win", ("vqvae", "kmeans"): "tie"}
    table = by_method(summary.duels(), ["clvq", "vqvae", "kmeans"])
    assert table["kmeans"]["clvq"] == {"win": 0, "tie": 0, "loss": 1}
    assert table["clvq"]["kmeans"] == {"win": 1, "tie": 0, "loss": 0}


def test_a_report_of_hosts_that_are_all_at_chance():
    tables = report_tables(Summary([cell("clvq", [], sweep=[], refused="at chance", ablation={})]))
    assert [table.rows for table in tables if table.title == "Not ablated"] == [[["bert, news", "at chance"]]]


def test_controls_and_what_was_not_ablated_take_no_part():
    cells = [
        cell("clvq", WEAK),
        cell("token-types", STRONG, control=True),
        cell("kmeans", STRONG, refused="at chance", sweep=[]),
    ]
    summary = Summary(cells)
    assert summary.rivals("bert", "news") == ["clvq"]
    assert summary.duels() == [] and summary.ranks() == {("bert", "news"): ["clvq"]}
    assert list(summary.methods()) == ["clvq", "kmeans"]
    assert list(summary.methods(control=True)) == ["token-types"]


def test_the_same_bars_mark_every_method_and_keep_none_out():
    # From layer to layer 80 % of the linear map's 0.6 are 0.48; within one layer it is 0.8.
    single = {"settings": {"method": {"single_layer": True}}}
    cells = [
        cell("clvq", WEAK, bottleneck={"num_active": 1.0, "explained_variance": 0.47, "leak": 0.0}),
        cell("kmeans", WEAK, bottleneck={"num_active": 1.0, "explained_variance": 0.49, "leak": 0.0}),
        cell("vqvae", WEAK, bottleneck={"num_active": 1.0, "explained_variance": 0.79, "leak": 0.0}, **single),
        cell("sae", WEAK, bottleneck={"num_active": 100.0, "explained_variance": 0.9, "leak": 0.0}),
    ]
    summary = Summary(cells)
    marks = {record["cell.method"]: record["mark"] for record in summary.records}
    assert marks == {
        "clvq": "explained variance 0.47",
        "kmeans": None,
        "vqvae": "explained variance 0.79",
        "sae": "L0 = 100",
    }
    assert len(summary.duels()) == 6
    tables = {table.title: table for table in report_tables(summary)}
    row = tables["Token specificity, 1 direction removed, matched draws"].rows[0]
    assert [text.endswith("†") for text in row[1:]] == [True, True, False, True]
    duels = {row[1]: row[0] for row in tables["Duels of CLVQ"].rows}
    assert duels == dict.fromkeys(["KMEANS", "VQVAE †", "SAE †"], "bert, news †")


def test_each_method_is_compared_with_its_own_number_of_directions():
    sparse = cell("sae", WEAK, bottleneck={"num_active": 32.0, "explained_variance": 0.9, "leak": 0.0})
    sparse["sweep"] = [entry(WEAK, 1, "encoder"), entry(STRONG, 10, "encoder"), entry(WEAK, 10, "decoder")]
    ours = cell("clvq", STRONG + 0.1, bottleneck={"num_active": 1.0, "explained_variance": 0.9, "leak": 0.0})
    ours["sweep"].append(entry(WEAK, 10))
    summary = Summary([ours, sparse])
    assert summary.looks() == [None, 10, 1]
    means = {k: summary.duels(k)[0].difference.mean for k in summary.looks()}
    assert means == {None: pytest.approx(0.1), 10: pytest.approx(2), 1: pytest.approx(-1.9)}
    assert summary.ranks() == {("bert", "news"): ["sae", "clvq"]}
    titles = [table.title for table in report_tables(summary)]
    own = "Token specificity, 1 direction (10 for methods with several neurons per token) removed, matched draws"
    assert titles.index(own) < titles.index("Token specificity, 10 directions removed, matched draws")


def test_a_verdict_is_over_all_seeds():
    cells = [
        cell(method, values, seed=seed)
        for seed in (0, 1, 2)
        for method, values in (("clvq", STRONG + 2 * seed), ("kmeans", STRONG + 2.5))
    ]
    [duel] = Summary(cells).duels()
    assert duel.difference.seeds == (3, 3) and duel.difference.mean == pytest.approx(-0.5)
    assert duel.outcome("clvq") == "tie", "seeds differ by more than methods do"


def test_ranks_ours_and_the_papers():
    cells = [cell("clvq", STRONG, probe=0.6), cell("kmeans", WEAK, probe=0.3)]
    summary = Summary(cells)
    assert summary.ranks() == {("bert", "news"): ["clvq", "kmeans"]}
    assert summary.probe_ranks() == {("bert", "news"): ["kmeans", "clvq"]}
    [table] = [table for table in report_tables(summary) if table.title == "Who is first"]
    assert table.rows == [
        ["1", "CLVQ", *["1 of 1"] * 4, "0 of 1", "1 of 1"],
        ["1", "KMEANS", *["0 of 1", "1 of 1"] * 2, "1 of 1", "1 of 1"],
    ]


def test_tables_are_of_the_first_seed_and_spread_is_over_all():
    cells = [
        cell(
            "clvq",
            STRONG,
            seed=seed,
            ablation={"code": {"token_specificity_matched": value}},
            first_seed=3,
            stability={"ami": 0.5} if seed > 3 else None,
        )
        for seed, value in ((3, -1.0), (4, -2.0), (5, -3.0))
    ]
    cells[1]["sweep"] = []
    summary = Summary(cells)
    assert summary.first_seed == 3 and summary.cell("bert", "news", "clvq")["cell"]["seed"] == 3
    assert len(summary.seeds("bert", "news", "clvq")) == 3
    tables = {table.title: table for table in report_tables(summary)}
    assert tables["Spread over seeds"].rows[0][3] == "-2.000 ± 1.000"
    assert tables["Stability over seeds"].rows[0][2:4] == ["3", "0.500"]


def test_means_of_fewer_seeds_say_so():
    cells = [
        cell(
            "clvq",
            STRONG,
            seed=seed,
            ablation={"code": {"token_specificity_matched": value}},
            fidelity={"code_fidelity": 0.5 if seed < 5 else None},
            first_seed=3,
            stability={"ami": 0.5} if seed == 4 else None,
        )
        for seed, value in ((3, -1.0), (4, -2.0), (5, -3.0))
    ]
    for each in cells:
        each["sweep"] = each["sweep"] if each["cell"]["seed"] == 3 else []
    tables = {table.title: table for table in report_tables(Summary(cells))}
    spread = dict(zip(tables["Spread over seeds"].header, tables["Spread over seeds"].rows[0], strict=True))
    assert spread["seeds"] == "3" and spread["token specificity"] == "-2.000 ± 1.000"
    assert spread["code fidelity"] == "0.500 ± 0.000 (n = 2)"
    assert tables["Stability over seeds"].rows[0][2:4] == ["2 of 3", "0.500"]


def test_controls_are_shown_for_one_direction_whatever_the_sweep_begins_with():
    cells = [cell("clvq", STRONG), cell("random-states", WEAK, control=True)]
    cells[0]["sweep"], cells[1]["sweep"] = [entry(STRONG, 5)], [entry(STRONG, 5), entry(WEAK, 1)]
    [table] = [table for table in report_tables(Summary(cells)) if table.title == "Sanity controls"]
    shown = {row[1]: row[-1] for row in table.rows}
    assert shown["CLVQ-VAE, for comparison"] == "–" and shown["RANDOM-STATES"].startswith("-0.500")


def test_a_sweep_is_found_by_k_and_variant():
    sparse = cell("sae", WEAK)
    sparse["sweep"] = [entry(WEAK, 1, "encoder"), entry(STRONG, 10, "encoder"), entry(WEAK, 10, "decoder")]
    assert swept(sparse, 10)["token_specificity"] == pytest.approx(-2.5)
    assert swept(sparse, 10, "decoder")["token_specificity"] == pytest.approx(-0.5)
    assert swept(sparse, 5) is None and swept(None, 1) is None


def test_what_is_missing_is_none():
    assert mean_and_spread([None]) is None
    assert mean_and_spread([1.0, None, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_a_shared_cell_names_no_folder():
    settings = {"host": {"model": "/secret/host"}, "dataset": {"texts": "/secret/texts"}}
    settings["method"] = {"config": {"path": "/secret/model", "codebook_size": 4}}
    whole = cell("clvq", WEAK, settings=settings, identity={"host": {"name": "/secret/host", "content": "1f"}})
    shared = _shareable(whole)
    assert "secret" not in str(shared) and shared["settings"] == {"method": {"config": {"codebook_size": 4}}}
    assert shared["sweep"] == whole["sweep"]


def test_names_from_data_are_escaped_in_the_report():
    evil = cell("clvq", STRONG, host="<b>x</b>")
    assert "<b>" not in to_markdown(report_tables(Summary([evil])))


def test_cells_from_a_file_of_lines(tmp_path):
    cells = [cell("clvq", STRONG), cell("kmeans", WEAK)]
    file = tmp_path / "cells.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in cells) + "\n")
    assert list(read_cells(file).values()) == cells


def test_a_damaged_cell_is_named(tmp_path, monkeypatch):
    """Every value of a cell that is replaced or missing is harmless, or refused with the line that it is in."""
    cells = [json.loads(json.dumps(cell(method, STRONG))) for method in ("clvq", "kmeans")]
    file = tmp_path / "cells.jsonl"
    monkeypatch.setattr("clvq_hf.comparison.report.draw_figures", lambda *args: {})
    named = 0
    for path, content in zip(paths(cells[1]), cycle(["DELETED", None, "x", [], {}, float("nan")]), strict=False):
        damaged = copy.deepcopy(cells[1])
        place = reduce(lambda inner, key: inner[key], path[:-1], damaged)
        if content == "DELETED":
            del place[path[-1]]
        else:
            place[path[-1]] = content
        file.write_text(f"{json.dumps(cells[0])}\n{json.dumps(damaged)}\n")
        try:
            write_report(file, tmp_path / "out")
        except ValueError as error:
            assert str(error).startswith(f"line 2 of {file} is damaged"), (path, error)
            named += 1
    assert named > 10


def paths(content, path=()):
    """The keys that lead to each value."""
    inner = content.items() if isinstance(content, dict) else list(enumerate(content))[:1]
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*path, key))


def matched(value):
    name = "token_specificity_matched"
    return {name: value, f"{name}_low": value - 1, f"{name}_high": value + 1}


def test_a_study_is_of_the_settings_that_have_its_methods():
    cells = [cell("a", WEAK), cell("b", WEAK), cell("a", WEAK, host="other")]
    assert study_cells(Summary(cells), ["a", "b"]) == [("bert", "news", "a"), ("bert", "news", "b")]
    assert study_cells(Summary(cells), ["a"]) == [("bert", "news", "a"), ("other", "news", "a")]
    assert study_cells(Summary(cells), ["c"]) == []


def test_a_study_is_ranked_by_token_specificity():
    small, large = cell("clvq", WEAK), copy.deepcopy(cell("clvq-50", STRONG))
    small["ablation"] = {"code": matched(-0.5)}
    large["ablation"] = {"code": matched(-2.5)}
    tables = report_tables(Summary([small, large]), {"codebook size": ["clvq", "clvq-50"]})
    [table] = [table for table in tables if table.title == "Study: codebook size"]
    assert [row[0] for row in table.rows] == ["CLVQ-50", "CLVQ"]


def coded(method, values, seed=0, control=False, unexplained=None, family="clusters", space="states", **fidelity):
    """A cell with what each text loses when its tokens are their codes."""
    texts = {"text_id": list(range(len(values))), "kl_coded": list(values)}
    if unexplained is not None:
        texts |= {key: list(unexplained) for key in ("unexplained", "unexplained_within_class")}
    settings = {"method": {"family": family, "config": {"codebook_space": space}}}
    made = cell(method, [-1.0] * 30, seed=seed, coded=texts, settings=settings)
    return made | {"control": control, "fidelity": fidelity}


PLAIN = np.linspace(0, 1, 30)


def test_what_codes_lose_is_compared_with_kmeans_in_pairs():
    cells = [
        coded("kmeans", PLAIN, unexplained=PLAIN + 0.5, code_fidelity=0.9),
        coded("clvq", PLAIN - 0.1, unexplained=PLAIN + 0.3, family="clvq", code_fidelity=0.95),
    ]
    tables = {table.title: table for table in report_tables(Summary(cells))}
    for title, difference in (
        ("What codes lose less than those of K-means", "0.100 [0.100, 0.100]"),
        ("Upper layer explained by codes: more than by K-means", "0.200 [0.200, 0.200]"),
        ("Upper layer explained within the class: more than by K-means", "0.200 [0.200, 0.200]"),
    ):
        assert tables[title].header == ["host, dataset", "CLVQ"]
        assert tables[title].rows == [["bert, news", difference]]


def test_what_training_adds_is_compared_in_the_space_it_starts_in():
    cells = [
        coded("kmeans", PLAIN, unexplained=PLAIN),
        coded("kmeans-functional", PLAIN - 0.2, unexplained=PLAIN - 0.2, space="functional"),
        coded("clvq-functional", PLAIN - 0.3, unexplained=PLAIN - 0.1, family="clvq", space="functional"),
        # With fewer codes nothing is like it.
        {**coded("clvq-50", PLAIN - 0.3, unexplained=PLAIN, family="clvq"), "codebook_size": 50},
    ]
    [table] = [table for table in report_tables(Summary(cells)) if table.title == "What training adds to the space"]
    assert table.header == ["host, dataset", "CLVQ-FUNCTIONAL"]
    assert table.rows == [["bert, news", "0.100 [0.100, 0.100] / -0.100 [-0.100, -0.100] / -0.100 [-0.100, -0.100]"]]


def test_a_cell_keeps_what_codes_leave_unexplained_of_each_text():
    rows = {
        "text_id": [0, 1],
        "kl_coded": [0.1, 0.3],
        "residual_code": [1.0, 4.0],
        "residual_mean": [4.0, 6.0],
        "residual_cell": [1.0, 1.0],
        "residual_class": [2.0, 2.0],
    }
    kept = _coded(Dataset.from_dict(rows))
    # In units of 5 and of 2: together 1 - 5 / 10 and 1 - 2 / 4 are explained.
    assert kept["unexplained"] == [0.2, 0.8]
    assert kept["unexplained_within_class"] == [0.5, 0.5]
    rows |= {key: [None, None] for key in ("residual_cell", "residual_class")}
    assert "unexplained_within_class" not in _coded(Dataset.from_dict(rows))


def test_a_figure_that_a_control_reaches_is_told():
    cells = [
        coded("kmeans", [0.1] * 30, code_fidelity=0.9, explained_variance_within_class=0.3),
        coded("clvq", [0.1] * 30, code_fidelity=0.8, explained_variance_within_class=0.2),
        coded("class-only", [0.1] * 30, control=True, code_fidelity=0.86, explained_variance_within_class=0.0),
    ]
    table = next(table for table in report_tables(Summary(cells)) if table.title == "Which figures can be fooled")
    verdicts = {row[0]: row[-1] for row in table.rows}
    # The median of the methods is 0.85, and 0.25 within the class.
    assert verdicts["code fidelity"] == "CLASS-ONLY"
    assert verdicts["… within the class"] == "no control"
