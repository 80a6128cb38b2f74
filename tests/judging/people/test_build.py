"""The page and its key: blind, balanced, made again the same."""

import base64
import hashlib
import json
import re
import stat
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from helpers.made_tables import made_table

from clvq_hf.judging.people import StudyKey, build_study


def page_data(folder: Path) -> dict[str, Any]:
    page = (folder / "page.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', page, re.DOTALL)[1])


def shown_text(question: dict[str, Any]) -> str:
    """All that a question shows, but for its text."""
    words = [word for word, _ in question.get("words", [])]
    return "\n".join([*words, *("".join(pieces) for pieces in question.get("sentences", []))])


class TestBlinding:
    def test_a_question_has_an_opaque_name_and_what_is_shown(self, folder):
        for group in page_data(folder)["groups"]:
            for question in group:
                assert set(question) in ({"id", "words"}, {"id", "sentences"})
                assert re.fullmatch(r"[0-9a-f]{16}", question["id"])

    def test_no_method_in_the_page(self, folder):
        page = (folder / "page.html").read_text(encoding="utf-8")
        assert "-method" not in page and "method" not in json.dumps(page_data(folder))

    def test_only_the_script_of_ours_may_run(self, folder):
        page = (folder / "page.html").read_text(encoding="utf-8")
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
        script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"

    def test_the_key_is_for_its_owner_alone(self, folder, key):
        for earlier_mode in (None, 0o644):
            if earlier_mode is not None:  # as earlier versions wrote it
                (folder / "key.json").chmod(earlier_mode)
                key.save(folder / "key.json")
            assert stat.S_IMODE((folder / "key.json").stat().st_mode) == 0o600

    def test_the_order_in_the_file_says_nothing(self, folder):
        for group in page_data(folder)["groups"]:
            names = [question["id"] for question in group]
            assert names == sorted(names)

    def test_checks_look_like_other_questions(self, folder, key):
        by_id = {question["id"]: question for group in page_data(folder)["groups"] for question in group}
        for question in key.questions:
            told = [label for label in key.label_names if f"“{label}”" in shown_text(by_id[question.id])]
            assert told == ([question.answer] if question.is_check else [])
            if question.is_check and question.kind == "sentences":
                assert len(by_id[question.id]["sentences"]) == 6
        checks = [question for question in key.questions if question.is_check]
        assert len({question.id for question in checks}) == 3 * 4

    def test_a_check_does_not_tell_what_the_model_predicts(self, tables, tmp_path):
        key = build_study(tables, tmp_path, num_items=12, num_checks=8, show_text=True)
        predictions = {row["text"]: key.label_names[row["prediction"]] for row in tables["plain-method"].texts}
        shown = [question for group in page_data(tmp_path)["groups"] for question in group]
        checks = [question for question in shown if key.by_id[question["id"]].is_check]
        assert all(key.by_id[check["id"]].answer != predictions[check["text"]] for check in checks)
        assert {key.by_id[check["id"]].answer for check in checks} == set(key.label_names)


class TestDesign:
    def test_each_group_sees_each_text_once(self, key):
        for group in range(key.num_groups):
            texts = [question.text_id for question in key.of_group(group) if not question.is_check]
            assert len(texts) == len(set(texts)) == 12

    def test_each_text_is_seen_under_each_condition_by_one_group(self, key):
        asked = [question for question in key.questions if not question.is_check]
        seen = Counter((question.text_id, question.method, question.kind) for question in asked)
        assert len(seen) == 12 * 4 and set(seen.values()) == {1}

    def test_conditions_are_balanced_within_a_group_and_over_strata(self, tables, tmp_path):
        two = {name: tables[name] for name in ("plain-method", "mixed-method")}
        key = build_study(two, tmp_path, num_items=24, num_checks=0)
        for group in range(4):
            counts = Counter((question.method, question.kind) for question in key.of_group(group))
            assert set(counts.values()) == {6}
            predictions = defaultdict(Counter)
            for question in key.of_group(group):
                predictions[question.method, question.kind][question.answer] += 1
            assert all(abs(count["good"] - count["bad"]) <= 2 for count in predictions.values())

    def test_items_are_stratified_by_prediction_and_correctness(self, key):
        strata = Counter((question.answer, question.correct) for question in key.of_group(0) if not question.is_check)
        assert strata == {(label, correct): 3 for label in ("good", "bad") for correct in (True, False)}

    def test_checks_are_not_put_beside_texts_that_are_asked_about(self, tables, tmp_path):
        key = build_study(tables, tmp_path, num_items=12, num_checks=3, show_text=True)
        for number, group in enumerate(page_data(tmp_path)["groups"]):
            assert len({question["text"] for question in group}) == len(group) == len(key.of_group(number)) == 15


class TestContent:
    def test_never_the_item_itself(self, tables, folder, key):
        texts = tables["plain-method"].texts["text"][:]
        by_id = {question["id"]: question for group in page_data(folder)["groups"] for question in group}
        for question in key.questions:
            if not question.is_check:
                assert texts[question.text_id] not in shown_text(by_id[question.id])

    def test_the_text_is_shown_only_if_asked_for(self, tables, folder, tmp_path):
        assert "text" not in page_data(folder)["groups"][0][0]
        key = build_study(tables, tmp_path, num_items=6, num_checks=0, show_text=True)
        texts = tables["plain-method"].texts["text"][:]
        for question in (question for group in page_data(tmp_path)["groups"] for question in group):
            assert question["text"] == texts[key.by_id[question["id"]].text_id]

    def test_marks_survive_characters_beyond_sixteen_bits(self, folder):
        # Browsers count 😀 as two characters, Python as one: so pieces, no places.
        sentences = [
            pieces
            for group in page_data(folder)["groups"]
            for question in group
            for pieces in question.get("sentences", [])
        ]
        marked = {piece for pieces in sentences for piece in pieces[1::2]}
        assert marked <= {"dull", "tedious", "warm", "funny", "good", "bad"}
        assert any("😀" in piece for pieces in sentences for piece in pieces)

    def test_data_cannot_end_the_script(self, folder):
        page = (folder / "page.html").read_text(encoding="utf-8")
        assert "<b>actors" not in page and any(
            "<b>actors" in shown_text(question) for question in page_data(folder)["groups"][0]
        )

    def test_concepts_of_one_text_are_empty_and_counted(self, tables, tmp_path):
        key = build_study({"rare-method": tables["rare-method"]}, tmp_path, num_items=6, num_checks=1, kinds=["words"])
        assert all(question.is_empty for question in key.questions if not question.is_check)

    def test_what_annotators_read(self, tables, tmp_path):
        key = build_study(
            tables, tmp_path, num_items=6, label_names=["Thumbs <down>", "Thumbs up"], notice="Mind the <script>."
        )
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert key.label_names == ["Thumbs <down>", "Thumbs up"]
        assert "Thumbs &lt;down&gt;" in page and "Mind the &lt;script&gt;." in page
        assert {question.answer for question in key.questions} == {"Thumbs <down>", "Thumbs up"}
        assert page_data(tmp_path)["labels"] == key.label_names


class TestAgain:
    def test_the_same_arguments_give_the_same_study(self, tables, folder, key, tmp_path):
        two = {name: tables[name] for name in ("plain-method", "mixed-method")}
        assert build_study(two, tmp_path, num_items=12, num_checks=3) == key
        assert (tmp_path / "page.html").read_bytes() == (folder / "page.html").read_bytes()
        assert build_study(two, tmp_path, num_items=12, num_checks=3) == key  # over itself

    def test_the_key_of_another_study_is_not_overwritten(self, tables, tmp_path):
        first = build_study(tables, tmp_path, num_items=6, num_checks=1)
        with pytest.raises(ValueError, match="key to another study"):
            build_study(tables, tmp_path, num_items=6, num_checks=1, seed=1)
        assert StudyKey.load(tmp_path / "key.json") == first

    def test_another_seed_draws_other_texts_and_names(self, tables, key, tmp_path):
        two = {name: tables[name] for name in ("plain-method", "mixed-method")}
        other = build_study(two, tmp_path, num_items=12, num_checks=3, seed=1)
        assert other.study != key.study
        assert not set(other.by_id) & set(key.by_id)


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"kinds": ["pictures"]}, "words, sentences.*pictures"),
            ({"kinds": []}, "none"),
            ({"kinds": ["words", "words"]}, "each once"),
            ({"num_items": 0}, "at least one item"),
            ({"raters": 0}, "one rater"),
            ({"num_checks": 40}, "40 different texts.*fewer checks"),
            ({"label_names": ["good"]}, r"2 labels \(bad, good\), but got 1"),
            ({"label_names": ["good", " good"]}, "different names"),
            ({"label_names": ["0", "1"]}, "--label"),
            ({"label_names": ["LABEL_0", "LABEL_1"]}, "--label"),
        ],
    )
    def test_arguments(self, tables, tmp_path, arguments, message):
        with pytest.raises(ValueError, match=message):
            build_study(tables, tmp_path / "new", **arguments)
        assert not (tmp_path / "new").exists()

    def test_labels_that_nobody_named(self, tmp_path):
        table = made_table(["a warm film"] * 2, [0, 1], {"warm": 1}, label_names=["0", "1"])
        with pytest.raises(ValueError, match="means nothing to a reader"):
            build_study({"a": table}, tmp_path)

    def test_fewer_texts_than_asked_for(self, tables, tmp_path):
        assert build_study(tables, tmp_path, num_items=60, num_checks=3).num_texts == 37

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "damaged.*delete it"),
            ("[]", "no JSON object.*delete it"),
            ('{"format": "clvq-hf study answers", "format_version": 1}', "something else"),
            ('{"format": "clvq-hf study key", "format_version": 2, "clvq_version": "9"}', "9"),
            ('{"format": "clvq-hf study key", "format_version": 1}', "damaged"),
            ('{"format": "clvq-hf study key", "format_version": 1, "questions": [{"id": 1}]}', "damaged.*Delete it"),
            ('{"format": "clvq-hf study key", "format_version": 1, "questions": []}', "damaged"),
        ],
    )
    def test_broken_keys(self, tmp_path, content, message):
        (tmp_path / "key.json").write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            StudyKey.load(tmp_path / "key.json")
        assert "key.json" in str(caught.value)

    def test_no_key(self, tmp_path):
        with pytest.raises(ValueError, match="study build"):
            StudyKey.load(tmp_path / "key.json")
