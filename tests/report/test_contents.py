"""What a report shows, as data: numbers that were counted by hand, texts that come back whole."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from datasets import load_from_disk
from helpers.made_tables import made_table

from clvq_hf.metrics.verdict import measured_protocol
from clvq_hf.report import concept_html, text_html
from clvq_hf.report.codebook_map import codebook_map, nearest_concepts
from clvq_hf.report.contents import (
    driving_concepts,
    fewer_concepts,
    measured_routing,
    needed_words,
    report_contents,
    sampled_texts,
)
from clvq_hf.report.evaluations import find_evaluation, read_ablations, read_evaluation
from clvq_hf.report.masks import mask_contents
from clvq_hf.report.page import write_report
from clvq_hf.tables.masking import ToxicMask, mask_of
from clvq_hf.tables.names import ConceptName

ABOUT = {"upper_layer": 2, "stack": None, "model_type": "clvq", "salience": "by hand"}


@pytest.fixture(scope="module")
def contents(table, model, results, evaluation):
    return report_contents(table, model, results, read_ablations(evaluation, "code"), "code")


def concept(contents, code):
    return next(concept for concept in contents["concepts"] if concept["code"] == code)


def tokens_of(text):
    """The tokens of a text, cut as the page does it."""
    tokens, place = [], 0
    for gap, length in zip(text["gaps"], text["lengths"], strict=True):
        tokens.append(text["text"][place + gap : place + gap + length])
        place += gap + length
    return tokens


class TestConcepts:
    @pytest.mark.slow
    def test_counts(self, contents):
        # Praise: one word in each of 20 good texts, and "warm" once more in text 5.
        praise = concept(contents, 1)
        assert (praise["tokens"], praise["texts"], praise["counts"]) == (21, 20, [0, 21])
        assert (praise["label"], praise["purity"], praise["colour"], praise["strength"]) == (1, 1.0, 1, 100)
        assert praise["words"] == [["funny", 8], ["warm", 8], ["bright", 5]]
        things = concept(contents, 3)
        assert things["counts"] == [20, 19], "text 5 has another film"
        assert things["strength"] == round(100 * (20 / 39 - 0.5) / 0.5)

    def test_a_concept_in_few_texts_is_marked_and_has_no_colour(self, contents):
        hostile = concept(contents, 5)
        assert hostile["texts"] == 1 and hostile["rare"] and hostile["colour"] is None

    def test_what_ablating_it_does(self, contents):
        # Odd texts 3, 5, 7, 9, 11: -3 once and -1 four times; text 3 flips.
        assert concept(contents, 1)["effect"] == {"texts": 5, "flips": 1, "margin": -1.4}
        assert concept(contents, 2)["effect"] == {"texts": 5, "flips": 0, "margin": -1.0}
        assert concept(contents, 3)["effect"] is None
        assert concept(contents, 1)["salient"] == 20

    def test_examples_come_in_pieces(self, contents, table):
        for example in concept(contents, 2)["examples"]:
            text = "".join(piece for piece, _ in example["pieces"])
            assert text == table.texts[table.text_row(example["text"])]["text"]
            assert next(piece for piece, marked in example["pieces"] if marked) in ("dull", "tedious", "clumsy")

    def test_names_come_with_their_score(self, table, model):
        named = type(table)(
            table.tokens, table.texts, table.metadata, {1: ConceptName("<b>praise</b>", "j", 1, "d", 0.9)}
        )
        found = concept(report_contents(named, model), 1)
        assert found["name"] == "<b>praise</b>"
        assert "90%" in found["name_note"] and "by a model" in found["name_note"]

    def test_a_person_names_and_merges(self, table, model):
        edited = type(table)(table.tokens, table.texts, table.metadata)
        edited.merge([1, 2], "judgement", author="Ann")
        edited.group([1], "<i>opinion</i>", author="Ann")
        edited.hide([3], author="Ann")
        contents = report_contents(edited, model)
        found = concept(contents, 1)
        assert (found["number"], found["name"], found["group"]) == ("1 + 2", "judgement", "<i>opinion</i>")
        assert found["named_by"].startswith("named by Ann, ") and found["tokens"] == 41
        assert not {2, 3} & {each["code"] for each in contents["concepts"]}
        codes = {code for text in contents["texts"] for code in text["codes"]}
        assert 2 not in codes and 3 in codes, "texts show hidden concepts, and merged ones as one"

    def test_only_the_most_frequent_ones_if_there_are_too_many(self, table, model):
        assert table.frequent_codes(2) == [0, 3], "39 tokens, more than praise and blame have"
        assert [found["code"] for found in report_contents(table, model, max_concepts=2)["concepts"]] == [0, 3]

    def test_all_of_it_is_json(self, contents):
        json.dumps(contents, allow_nan=False)


class TestTexts:
    def test_a_text_comes_back_whole_whatever_its_characters(self, contents, table):
        for text in contents["texts"]:
            row = table.texts[table.text_row(text["id"])]
            assert text["text"] == row["text"] and text["unread"] == 0
            assert tokens_of(text) == row["text"].split(" ")
            assert text["codes"] == table.text(text["id"])["code"].tolist()

    def test_special_tokens_and_text_that_was_not_read_are_left_out(self, table):
        tokens = table.tokens.to_pandas()
        here = tokens["text_id"] == 4
        ends = here & tokens["position"].isin([0, 7, 8])
        tokens.loc[ends, ["special", "start", "end", "word_id"]] = [True, 0, 0, -1]
        changed = type(table)(
            table.tokens.from_pandas(tokens, features=table.tokens.features), table.texts, table.metadata
        )
        text = next(text for text in report_contents(changed)["texts"] if text["id"] == 4)
        assert tokens_of(text) == ["tedious", "plot", "in", "the", "light", "of"]
        assert text["text"] == "a tedious plot in the light of"
        assert text["unread"] == len(" number 4")

    def test_tokens_that_share_a_character_are_shown_once(self, table):
        tokens = table.tokens.to_pandas()
        rows = tokens.index[tokens["text_id"] == 5]
        tokens.loc[rows[1], ["start", "end"]] = [0, 1]  # the second token is a byte of the first one's character
        changed = type(table)(
            table.tokens.from_pandas(tokens, features=table.tokens.features), table.texts, table.metadata
        )
        text = next(text for text in report_contents(changed)["texts"] if text["id"] == 5)
        assert tokens_of(text)[:3] == ["😀", "", "funny"]

    def test_ablation_beside_its_control(self, contents):
        text = next(text for text in contents["texts"] if text["id"] == 3)
        assert text["ablation"]["control"] == pytest.approx(-0.3)
        assert (text["ablation"]["before"]["prediction"], text["ablation"]["after"]["prediction"]) == (1, 0)
        assert text["ablation"]["after"]["margin"] == -1.0
        assert next(text for text in contents["texts"] if text["id"] == 0)["ablation"] is None

    def test_the_salient_token(self, contents):
        text = next(text for text in contents["texts"] if text["id"] == 2)
        assert tokens_of(text)[text["salient"]] == "clumsy"

    def test_a_sample_has_the_examples_first_and_the_seed_decides(self, table):
        assert sampled_texts(table, [7, 3, 7], 4, seed=0)[:2] == [7, 3]
        assert len(sampled_texts(table, [7, 3], 4, seed=0)) == 4
        assert sampled_texts(table, [], 10, seed=0) == sampled_texts(table, [], 10, seed=0)
        assert sampled_texts(table, [], 10, seed=0) != sampled_texts(table, [], 10, seed=1)
        assert sorted(sampled_texts(table, [], 10**6, seed=0)) == table.texts["text_id"][:]


class TestDrivers:
    def test_by_what_their_removal_costs(self, table, evaluation):
        ablations = read_ablations(evaluation, "code")
        # Text 11 loses most by concept 6; removing concept 3 in text 9 helps.
        ablations[11] = {**ablations[11], "code": 6}
        ablations[11]["after"] = {**ablations[11]["after"], "margin": -9.0, "prediction": 0}
        ablations[9] = {**ablations[9], "code": 3}
        ablations[9]["after"] = {**ablations[9]["after"], "margin": 2.5}
        bad, good = driving_concepts(table, ablations, "code")
        assert bad == {
            "label": 0,
            "texts": 5,
            "concepts": [{"code": 2, "texts": 5, "change": -1.0, "flips": 0}],
        }
        assert good["concepts"] == [
            {"code": 6, "texts": 1, "change": -11.0, "flips": 1},
            {"code": 1, "texts": 3, "change": -1.667, "flips": 1},
        ]
        assert [row["code"] for row in driving_concepts(table, ablations, "code", n=1)[1]["concepts"]] == [6]

    def test_by_salience_only(self, table):
        tokens = table.tokens.to_pandas()
        tokens["salience"] = 0.0
        for text_id, place, value in ((2, 1, 3.0), (4, 1, 1.0), (4, 5, 1.0), (2, 2, -9.0), (5, 2, 2.0)):
            tokens.loc[tokens.index[tokens["text_id"] == text_id][place], "salience"] = value
        scored = type(table)(
            table.tokens.from_pandas(tokens, features=table.tokens.features), table.texts, table.metadata
        )
        # Concept 2 is blame; 7 is "light" in bad texts, of all positive contributions to "bad" a fifth.
        assert driving_concepts(scored, {}, None) == [
            {
                "label": 0,
                "texts": 20,
                "concepts": [{"code": 2, "texts": 19, "share": 0.8}, {"code": 7, "texts": 0, "share": 0.2}],
            },
            {"label": 1, "texts": 20, "concepts": [{"code": 1, "texts": 19, "share": 1.0}]},
        ]

    def test_nothing_is_made_up_without_salience(self, table):
        without = type(table)(table.tokens, table.texts, {**table.metadata, "salience": None})
        assert driving_concepts(without, {}, None) == []

    def test_of_next_tokens_all_texts_are_one_group(self, table, evaluation):
        causal = type(table)(table.tokens, table.texts, {**table.metadata, "readout": "next_token"})
        (group,) = driving_concepts(causal, read_ablations(evaluation, "code"), "code")
        assert group["label"] is None and group["texts"] == 10
        assert [row["code"] for row in group["concepts"]] == [1, 2]
        assert [group["label"] for group in driving_concepts(causal, {}, None)] == [None]


def test_words_of_concepts_without_a_page(table, model):
    contents = report_contents(table, model, max_concepts=2)
    assert contents["others"]["1"] == ["funny", "warm", "bright"] and set(contents["others"]) == {
        "1",
        "2",
        "5",
        "6",
        "7",
    }
    few = fewer_concepts(report_contents(table, model), 2)
    assert few["others"]["1"] == ["funny", "warm", "bright"]
    assert needed_words(few) == few, "texts name all of them"
    drivers = [{"concepts": [{"code": 2}]}]
    assert set(needed_words({**few, "texts": [], "routing": [], "drivers": drivers})["others"]) == {"2"}
    assert needed_words({**few, "texts": [], "routing": [], "drivers": []})["others"] == {}


class TestMask:
    def test_words_of_toxic_labels_are_masked_and_places_stay(self, table, model):
        toxic = type(table)(table.tokens, table.texts, {**table.metadata, "label_names": ["toxic", "clean"]})
        contents = report_contents(toxic, model)
        lengths = [len(text["text"]) for text in contents["texts"]]
        mask_contents(contents, mask_of(toxic))
        assert [word for word, _ in concept(contents, 2)["words"]] == ["c•••••", "d•••", "t••••••"]
        assert concept(contents, 2)["gist"] == ["c•••••", "d•••", "t••••••"]
        assert "funny" in dict(concept(contents, 1)["words"])
        assert [len(text["text"]) for text in contents["texts"]] == lengths
        shown = {text["id"]: text["text"] for text in contents["texts"]}
        assert shown[4] == "a t•••••• p••• in the l•••• of n••••• 4"
        assert shown[1].startswith("a f••••"), "it is predicted to be toxic"
        assert shown[7].startswith("a funny")
        assert contents["routing"][0]["word"] == "l••••"

    def test_a_word_of_masked_texts_alone_is_masked_in_every_concept(self):
        texts = ["a nice horrid film", *["a nice dull film"] * 3, "a horrid evening"]
        about = {**ABOUT, "label_names": ["toxic", "clean"]}
        table = made_table(texts, [0, 1, 1, 1, 0], {"horrid": 1, "dull": 1}, labels=[0, 1, 1, 1, 1], **about)
        contents = report_contents(table)
        assert concept(contents, 1)["label"] == 1, "most of its tokens are in clean texts"
        mask_contents(contents, mask_of(table))
        assert concept(contents, 1)["words"] == [["dull", 3], ["h•••••", 2]]
        assert "horrid" not in json.dumps(contents)

    @pytest.mark.parametrize(
        ("label", "prediction", "hidden"),
        [
            ("clean", None, False),
            ("clean", "clean", False),
            ("clean", "toxic", True),
            ("toxic", None, True),
            ("toxic", "clean", True),
            (None, None, True),
        ],
    )
    def test_a_text_that_was_not_predicted_goes_by_its_label(self, label, prediction, hidden):
        assert ToxicMask(frozenset({"toxic"})).hides(label, prediction) is hidden

    def test_without_predictions_clean_texts_are_shown(self):
        about = {**ABOUT, "label_names": ["toxic", "clean"]}
        table = made_table(["a horrid film", "a nice film"], [-1, -1], {"film": 1}, labels=[0, 1], **about)
        contents = report_contents(table)
        mask_contents(contents, mask_of(table))
        assert sorted(text["text"] for text in contents["texts"]) == ["a h••••• f•••", "a nice film"]


class TestRouting:
    def test_a_word_that_goes_elsewhere(self, table):
        (light,) = [row for row in measured_routing(table, None) if row["word"] == "light"]
        assert light["excess"] > 0.5, "the two labels share no concept"
        assert light["goes"] == [[0, 20, [7]], [1, 20, [6]]]
        assert {row["word"] for row in measured_routing(table, None)} == {"light"}

    def test_an_evaluation_is_not_measured_again(self, table):
        types = [
            {
                **{"type": "x", "labels": [0, 1], "tokens": [12, 11], "usual_codes": [[1], [2]]},
                **{"excess_jsd": 0.25, "routed_share": 1.0},
            },
            {
                **{"type": "y", "labels": [0, 1], "tokens": [12, 11], "usual_codes": [[1], [1]]},
                **{"excess_jsd": 0.1, "routed_share": 0.0},
            },
        ]
        found = measured_routing(table, {"table": {"routing_divergence": {"types": types}}})
        assert found == [{"word": "x", "excess": 0.25, "goes": [[0, 12, [1]], [1, 11, [2]]]}]

    def test_without_labels_there_is_none(self):
        assert measured_routing(made_table(["a b"], [0], {}), None) == []


class TestMap:
    def test_nearest_by_cosine(self, model):
        vectors = model.codebook.numpy()
        near = nearest_concepts(model, [0, 4, 9], 2)
        assert len(near[4]) == 2 and 4 not in dict(near[4])
        for code, cosine in near[4]:
            expected = vectors[4] @ vectors[code] / np.linalg.norm(vectors[4]) / np.linalg.norm(vectors[code])
            assert cosine == pytest.approx(expected, abs=1e-3)
        assert near[4][0][1] >= near[4][1][1]

    @pytest.mark.parametrize("number", [0, 1, 2, 3, 19, 20, 24])
    def test_any_number_of_concepts_has_places(self, model, number):
        places = codebook_map(model, list(range(number)))
        assert len(places) == (number if number > 1 else 0)
        assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in places.values())
        assert places == codebook_map(model, list(range(number))), "the seed decides"


class TestEvaluations:
    def test_the_folder_above_the_table(self, evaluation, tmp_path):
        assert find_evaluation(evaluation / "concept_table") == evaluation
        assert find_evaluation(tmp_path / "concept_table") is None

    def test_errors(self, evaluation, table, tmp_path):
        with pytest.raises(ValueError, match=r"holds no results\.json"):
            read_evaluation(tmp_path, table)
        with pytest.raises(ValueError, match="another model"):
            read_evaluation(evaluation, made_table(["a b"], [0], {}))
        results = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))
        (tmp_path / "results.json").write_text(json.dumps({**results, "table": {}}), encoding="utf-8")
        with pytest.raises(ValueError, match="not finished"):
            read_evaluation(tmp_path, table)
        (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
        with pytest.raises(ValueError, match="holds no concept_table"):
            read_evaluation(tmp_path, table)

    def test_of_other_texts(self, evaluation, table):
        assert read_evaluation(evaluation, table)["model_fingerprint"] == table.metadata["model_fingerprint"]
        with pytest.raises(ValueError, match="other texts"):
            read_evaluation(evaluation, other_texts(table))

    def test_nothing_was_ablated(self, tmp_path):
        assert read_ablations(tmp_path, "code") == {}

    def test_the_first_protocol_that_was_measured(self, table, evaluation, tmp_path):
        assert measured_protocol({"ablation": {"probe": {}, "code": {}}}) == "code"
        assert measured_protocol({"ablation": {"probe": {}, "all": {}}}) == "all"
        assert measured_protocol({}) is None and measured_protocol(None) is None
        shutil.copytree(evaluation / "ablation-code", tmp_path / "ablation-probe")
        contents = report_contents(table, ablations=read_ablations(tmp_path, "probe"), protocol="probe")
        assert contents["protocol"] == "The paper's probe on the lower layer"
        assert concept(contents, 1)["effect"]["texts"] == 5


def other_texts(table):
    """The same table of texts that differ in one letter."""
    texts = table.texts.to_pandas()
    texts.loc[7, "text"] = texts.loc[7, "text"][:-1] + "8"
    return type(table)(table.tokens, table.texts.from_pandas(texts, features=table.texts.features), table.metadata)


class TestNextTokens:
    """A causal language model predicts tokens, whose numbers are no labels."""

    @pytest.fixture
    def causal(self, table):
        return type(table)(table.tokens, table.texts, {**table.metadata, "readout": "next_token"})

    def test_they_are_no_predictions(self, causal):
        contents = report_contents(causal)
        assert {text["prediction"] for text in contents["texts"]} == {-1}
        assert {example["prediction"] for found in contents["concepts"] for example in found["examples"]} == {None}
        assert not contents["ablates_labels"]

    def test_they_are_neither_right_nor_wrong(self, causal, table):
        assert "Accuracy of the host here" in dict(table.facts())
        assert "Accuracy of the host here" not in dict(causal.facts())
        assert "predicted" in text_html(table, 3) and "predicted" not in text_html(causal, 3)


def test_white_space_has_signs():
    table = made_table(["a \n b", "a \n c"], [0, 0], {"\n": 1}, **ABOUT)
    found = concept(report_contents(table), 1)
    assert found["words"] == [["⏎", 2]]
    assert [word[0] for word in found["cloud"]] == ["⏎"]
    assert [piece for piece, marked in found["examples"][0]["pieces"] if marked] == ["\n"]
    assert 'data-sign="⏎"' in text_html(table, 0) and 'data-sign="⏎"' in concept_html(table, 1)


def test_fewer_concepts_know_no_others(contents):
    few = fewer_concepts(contents, 2)
    assert [found["code"] for found in few["concepts"]] == [0, 3]
    assert [[near[0] for near in found["near"]] for found in few["concepts"]] == [[3], [0]]
    assert len(contents["concepts"]) == 7


class TestWhatCannotBeHad:
    """One figure that the data have no evidence for costs that figure, and no other."""

    def test_routing(self):
        # Two labels, but only texts of one have a word that counts.
        texts = ["the of and", "film plot town", "film plot light", "the and"]
        table = made_table(texts, [0, 1, 1, 0], {"film": 1, "plot": 2, "light": 3}, labels=[0, 1, 1, 0], **ABOUT)
        found = report_contents(table)
        assert found["routing"] == [] and len(found["texts"]) == 4
        assert found["missing"][0].startswith("Where words go: no evidence. The texts that have a label")
        assert "Where words go: no evidence" in page_of(table)

    def test_a_concept_of_words_that_cannot_be_drawn(self, monkeypatch):
        def fail(words):
            raise ValueError("Couldn't find space to draw.")

        monkeypatch.setitem(report_contents.__globals__, "word_cloud", fail)
        table = made_table(["film plot", "film town"], [0, 1], {"film": 5}, **ABOUT)
        assert concept(report_contents(table), 5)["cloud"] == []
        assert "Concepts of" in page_of(table)

    def test_the_map_of_a_codebook_that_is_not_finite(self, table, model, monkeypatch):
        nothing = np.full((1000, 3), np.nan)
        monkeypatch.setitem(codebook_map.__globals__, "unit_vectors", lambda model, codes: nothing[: len(codes)])
        found = report_contents(table, model)
        assert any(line.startswith("The map of the codebook: no evidence. ") for line in found["missing"])
        assert all(each["place"] is None for each in found["concepts"])

    def test_a_plot(self, table, model, evaluation, monkeypatch, tmp_path):
        def fail(*_):
            raise ValueError("Too few texts.")

        monkeypatch.setattr("clvq_hf.report.plots.plot_usage", fail)
        write_report(table, tmp_path / "report.html", model, evaluation)
        assert "How often concepts occur: no evidence. Too few texts." in (tmp_path / "report.html").read_text()

    def test_texts_of_which_the_host_says_nothing_finite(self, evaluation, tmp_path):
        shutil.copytree(evaluation, tmp_path / "evaluation")
        rows = load_from_disk(evaluation / "ablation-code")
        broken = rows[0]["text_id"]
        changed = rows.map(lambda row: {"margin": float("nan") if row["text_id"] == broken else row["margin"]})
        shutil.rmtree(tmp_path / "evaluation" / "ablation-code")
        changed.save_to_disk(tmp_path / "evaluation" / "ablation-code")
        whole = read_ablations(evaluation, "code")
        assert broken in whole
        del whole[broken]
        assert read_ablations(tmp_path / "evaluation", "code") == whole


def page_of(table):
    with TemporaryDirectory() as folder:
        write_report(table, f"{folder}/report.html")
        return Path(folder, "report.html").read_text(encoding="utf-8")


def test_words_of_a_million_characters_are_cut():
    huge = "".join(map(chr, range(97, 123))) * 40_000
    words = [huge[shift:] for shift in range(5)]
    table = made_table([" ".join(words), "film"], [0, 1], dict.fromkeys(words, 4), labels=[0, 1], **ABOUT)
    # Drawing these would take minutes.
    found = concept(report_contents(table), 4)
    assert max(len(word) for word, _ in found["words"]) == 80 and found["words"][0][0].endswith("…")
    assert {len(word) for word, *_ in found["cloud"]} == {30}
    assert all(len(word) <= 80 for word in found["gist"])
    assert sum(len(text) for example in found["examples"] for text, _ in example["pieces"]) < 1000
