"""Planted shortcuts: how often they agree with the class, and that they are where the record says."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(f"planted_{name}", ROOT / "scripts" / "planted" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


shortcuts = script("shortcuts")
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
