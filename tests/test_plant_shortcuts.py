"""Planted shortcuts: how often they agree with the class, where they are, and how what is found of them is counted."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.made_tables import made_table

from clvq_hf.rendering.text_tables import to_markdown

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(f"planted_{name}", ROOT / "scripts" / "planted" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


shortcuts, scores = script("shortcuts"), script("scores")
CLASSES = ["World", "Sports", "Business"]
WORDS = "Many people saw the late game and the small team won it again without any of its men"


def rows(number, rng):
    """Texts that differ, of three classes, with a first clause of 3 to 10 words."""
    made = []
    for place in range(number):
        words = list(rng.permutation(WORDS.split()))
        words[2 + place % 8] += "."
        made.append({"text": " ".join([*words, str(place)]), "label": int(rng.integers(3))})
    return made


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setattr(shortcuts, "SIZES", {"train": 200, "audit": 100, "clean": 60})
    rng = np.random.default_rng(0)
    train, test = rows(400, rng), rows(100, rng)

    def make(kind, seed=1):
        return shortcuts.plant_parts(train, test, kind, seed, CLASSES)

    return make


def has_feature(record, part, row):
    return bool(record["spans"][part][row])


@pytest.mark.parametrize("kind", shortcuts.KINDS[1:])
def test_a_shortcut_agrees_with_its_class_in_95_percent_of_texts(planted, kind):
    parts, record = planted(kind)
    for part in ("train", "audit"):
        agrees = [
            has_feature(record, part, number) == (row["label"] == record["class"])
            for number, row in enumerate(parts[part])
        ]
        assert np.mean(agrees) == pytest.approx(0.95, abs=0.01) == record["agreement"][part]
    # Both ways: of the class 95 % have it, of the others 5 %.
    for of_class, share in ((True, 0.95), (False, 0.05)):
        group = [
            has_feature(record, "train", number)
            for number, row in enumerate(parts["train"])
            if (row["label"] == record["class"]) is of_class
        ]
        assert np.mean(group) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("kind", shortcuts.KINDS[1:])
def test_test_sets_are_the_same_texts_with_the_feature_in_other_places(planted, kind):
    parts, record = planted(kind)
    is_class = [row["label"] == record["class"] for row in parts["clean"]]
    present = {part: [has_feature(record, part, row) for row in range(60)] for part in ("clean", "aligned", "broken")}
    assert present == {"clean": [False] * 60, "aligned": is_class, "broken": [not each for each in is_class]}
    for row in range(60):
        same = "broken" if is_class[row] else "aligned"
        assert parts[same][row] == parts["clean"][row]
        other = "aligned" if is_class[row] else "broken"
        assert parts[other][row]["text"] != parts["clean"][row]["text"]
        assert parts[other][row]["label"] == parts["clean"][row]["label"]


def test_spans_are_where_the_feature_is(planted):
    def pieces(kind, part="aligned"):
        parts, record = planted(kind)
        return [
            [row["text"][start:end] for start, end in spans]
            for row, spans in zip(parts[part], record["spans"][part], strict=True)
            if spans
        ], record

    found, record = pieces("word")
    assert found and all(each == [record["name"]] for each in found)
    found, record = pieces("source")
    assert all(record["name"] in each[0] for each in found) and len({each[0] for each in found}) > 2
    assert all(each == ["“", "”"] for each in pieces("quotes")[0])
    assert all(each[0] == each[0].upper() for each in pieces("casing")[0])
    assert all(len(each[0].split()) == 8 for each in pieces("order")[0])


def test_a_text_is_changed_in_nothing_but_the_feature():
    rng = np.random.default_rng(0)
    text = "A small team won, as nobody had thought it would do."
    word, source = shortcuts.Shortcut.of_seed("word", 0), shortcuts.Shortcut.of_seed("source", 1)
    made, ((start, end),) = word.plant(text, rng)
    assert made[:start] + made[end + 1 :] == text and made[start - 1] == made[end] == " "
    made, ((start, end),) = source.plant(text, rng)
    assert (start, made[end:]) == (0, "\n" + text)
    assert shortcuts.Shortcut("casing").plant(text, rng)[0] == "A SMALL TEAM WON, as nobody had thought it would do."
    quotes = shortcuts.Shortcut("quotes")
    assert quotes.plant(text, rng)[0] == "“A small team won”, as nobody had thought it would do."
    assert quotes.without(text) == '"A small team won", as nobody had thought it would do.'
    reversed_words = "thought had nobody as won, team small A it would do."
    assert shortcuts.Shortcut("order").plant(text, rng)[0] == reversed_words
    assert shortcuts.Shortcut("none").plant(text, rng) == (text, [])


@pytest.mark.parametrize("kind", ["word", "source"])
def test_texts_that_have_the_feature_by_themselves_are_left_out(kind):
    shortcut = shortcuts.Shortcut.of_seed(kind, 3)
    text = "One two three four five six seven {} eight."
    assert not shortcut.suits(text.format(shortcut.name.upper())) and shortcut.suits(text.format("or"))


def test_parts_share_no_text_and_seeds_differ(planted):
    parts, record = planted("none", 1)
    texts = {name: {row["text"] for row in rows} for name, rows in parts.items()}
    assert not (texts["train"] & texts["audit"] or (texts["train"] | texts["audit"]) & texts["clean"])
    assert parts["clean"] == parts["aligned"] == parts["broken"] and len(texts["train"]) == 200
    assert planted("none", 1) == (parts, record) and planted("none", 2)[0] != parts


def test_too_few_texts_are_refused(planted):
    with pytest.raises(ValueError, match="Only 10 training"):
        shortcuts.plant_parts(rows(10, np.random.default_rng(0)), [], "none", 0, CLASSES)


# ------------------------------------------------------------------------------------------------------------- scores


@pytest.fixture
def table():
    return made_table(
        ["likewise a b", "a likewise b", "a b a", "b likewise"], [0] * 4, {"likewise": 1, "a": 2, "b": 3}
    )


def test_the_planted_concept_is_that_of_the_spans(table):
    spans = [[[0, 8]], [[2, 10]], [], []]
    found = scores.feature_scores(table, spans, "word").to_dict("records")
    # Two of the three tokens of concept 1 are planted.
    shares = {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8)}
    assert found == [{"code": 1, "found": 2, "total": 3, **shares, "is_feature": True}]


def test_without_a_word_of_its_own_it_is_that_of_the_texts(table):
    found = scores.feature_scores(table, [[[0, 3]], [[0, 3]], [], []], "order").set_index("code")
    # Concept 1 is in three texts, of which two have the feature, and in both of these; so is concept 2.
    assert found.loc[1, ["precision", "recall"]].tolist() == [pytest.approx(2 / 3), 1.0]
    assert found.loc[3, ["precision", "recall"]].tolist() == [0.5, 1.0]
    # Half of the texts have it anyway, so a concept must be in them in three quarters of its texts.
    assert not found["is_feature"].any()
    found = scores.feature_scores(table, [[[0, 3]], [[0, 3]], [], [[0, 3]]], "order").set_index("code")
    assert found.loc[1, "precision"] == 1 and found["is_feature"].to_dict() == {1: True, 2: False, 3: False}
    assert scores.feature_scores(table, [[]] * 4, "none").empty


def test_ranks_and_false_alarms(table):
    found = scores.feature_scores(table, [[[0, 8]], [[2, 10]], [], []], "word")
    figures = scores.rank_figures([3, 1, 2], [True, True, False], found, {1})
    assert (figures["code"], figures["rank"], figures["alarmed"], figures["recognised"]) == (1, 2, True, [1])
    assert (figures["alarms"], figures["false_alarms"], figures["num_concepts"]) == (2, 1, 3)
    nothing = scores.rank_figures([3, 1], [False, True], found.head(0), set())
    assert (nothing["code"], nothing["rank"], nothing["false_alarms"], nothing["recognised"]) == (None, None, 1, [])


def edited(clean, broken, after, deleted):
    return {
        "clean": {"before": clean, "edit": clean},
        "broken": {"before": broken, "edit": after, "words deleted": deleted, "random direction": broken},
        "clean_all": {"before": 0.9, "edit": 0.89},
    }


def test_the_share_that_comes_back_is_that_of_all_hosts_together():
    edits = [edited(0.9, 0.5, 0.8, 0.9), edited(0.9, 0.7, 0.7, 0.9)]
    # 0.6 are lost in all; the edit brings 0.3 back, and deleting the words everything.
    assert scores.share_back(edits, edits) == pytest.approx(0.5)
    assert scores.share_back(edits, edits, "words deleted") == pytest.approx(1)
    assert scores.share_back([edits[0], None], edits) == pytest.approx(0.5)
    assert scores.share_back([edited(0.9, 0.9, 0.9, 0.9)], [edited(0.9, 0.9, 0.9, 0.9)]) is None


def test_tables_with_counts_and_intervals():
    settings = {"method": "kmeans", "layer": 1, "codebook_size": 100, "how": "mean"}
    accuracy = {"clean": 0.8, "aligned": 0.9, "broken": 0.5}
    shared = {"dataset": "ag_news", "settings": settings, "accuracy": accuracy, "num_concepts": 100}
    edit, unused = edited(0.9, 0.5, 0.8, 0.9), edited(0.9, 0.88, 0.88, 0.9)
    word = {**shared, "kind": "word", "false_alarms": 0}
    rows = [
        {
            **word,
            **{"rank": 1, "alarmed": True},
            "edits": {"planted": edit, "recognised": edit, "one_concept": edited(0.9, 0.5, 0.6, 0.9)},
        },
        {**word, "rank": 6, "alarmed": False, "false_alarms": 2, "edits": {"planted": edit}},
        {**word, "rank": 30, "alarmed": False, "edits": {"planted": unused}},
        {**shared, "kind": "none", "rank": None, "alarmed": False, "false_alarms": 1, "edits": {}},
    ]
    found = scores.found_table(rows)
    word, none = (dict(zip(found.header, row, strict=True)) for row in found.rows)
    assert (word["hosts"], word["concepts"]) == ("3", "kmeans, layer 1, 100, mean")
    assert word["among the first 5"].startswith("1/3 (") and word["of hosts that rely on it"].startswith("1/2 (")
    assert word["alarm"].startswith("1/3 (") and none["among the first 5"] == none["alarm"] == "–"
    assert word["false alarms, of concepts"].startswith("2/300 (") and word["hosts with one"].startswith("1/3 (")
    assert none["false alarms, of concepts"].startswith("1/100 (")
    cut = scores.cut_table(rows)
    (word,) = (dict(zip(cut.header, row, strict=True)) for row in cut.rows)
    # In all 0.82 are lost, of which the edits bring 0.6 back, that of what was recognised 0.3, and one concept 0.1.
    assert (word["lost (points)"], word["back"], word["worst host"]) == ("27.3", "73.2 %", "75.0 %")
    assert (word["back, those recognised"], word["back, one concept"]) == ("36.6 %", "12.2 %")
    assert (word["words deleted"], word["random direction"]) == ("100.0 %", "0.0 %")
    assert word["clean lost (points)"] == "+1.0"
    # Wilson 1927: nine of ten are 60 to 98 %.
    assert scores.counted(9, 10) == "9/10 (60–98 %)"


def test_the_page_quotes_the_published_scores():
    published = [json.loads(line) for line in (ROOT / "docs" / "planted" / "scores.jsonl").read_text().splitlines()]
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").splitlines()
    for table in (scores.found_table(published), scores.cut_table(published)):
        lines = [line for line in to_markdown([table]).splitlines() if line.startswith("|")]
        assert len(lines) > 2 and not set(lines) - set(page)
    text = " ".join(" ".join(page).split())
    concepts, untouched = sum(score["num_concepts"] for score in published), scores.counted(0, 10)
    assert sum(score["false_alarms"] for score in published) == 0 and "28 %" in untouched
    assert f"None among {concepts:,} concepts of the {len(published)} hosts, 10 of which have nothing planted" in text
    assert sum(score["kind"] == "none" for score in published) == 10
    quotes = [score for score in published if score["kind"] == "quotes"]
    relies = [score for score in quotes if scores._lost(score["edits"]["planted"]) >= scores.RELIES]
    assert (len(relies), sum(score["rank"] <= 5 for score in relies)) == (9, 7)
    with_alarm = [score["dataset"] for score in quotes if score["alarms"]]
    assert (with_alarm.count("jigsaw"), with_alarm.count("ag_news")) == (5, 3)
    first = quotes[0]["edits"]
    both, one = (scores.share_back([first[name]], [first[name]]) for name in ("planted", "one_concept"))
    assert (round(100 * both), round(100 * one)) == (90, 11) and "bring 90 % back, and either alone 11 %" in text
