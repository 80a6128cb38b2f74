"""What is shown of a concept: never the text in question, texts from every stratum, tables that belong together."""

from collections import Counter

import numpy as np
import pytest
from helpers.made_tables import made_table

from clvq_hf.judging.exhibits import check_tables, draw_items, exhibit_concept, open_tables, random_code, salient_codes

TEXTS = [
    "a warm film",
    "A  WARM film",  # equal to the first but for case and white space
    "a warm and funny story of a town",
    "a dull film",
    "the dull dull plot of a dull comedy with nobody in it",
    "nothing to see",  # no salient token
]
PREDICTIONS = [1, 1, 1, 0, 0, 0]
LABELS = [1, 1, 0, 0, 0, 1]
CODES = {"warm": 1, "funny": 1, "dull": 2, "the": 3}
SALIENT = [1, 2, 1, 1, 1, -1]  # two spaces make an empty word


@pytest.fixture(scope="module")
def table():
    return made_table(TEXTS, PREDICTIONS, CODES, labels=LABELS, salient_positions=SALIENT)


class TestExhibit:
    def test_words_without_the_text_and_its_equals(self, table):
        # warm: texts 0, 1 and 2; funny: text 2. Beside text 0 only text 2 counts.
        assert exhibit_concept(table, 1, "words", without=0).words == [("funny", 1), ("warm", 1)]
        assert exhibit_concept(table, 1, "words", without=1).words == [("funny", 1), ("warm", 1)]
        assert exhibit_concept(table, 1, "words", without=2).words == [("warm", 2)]
        assert exhibit_concept(table, 1, "words", without=5).words == [("warm", 3), ("funny", 1)]

    def test_sentences_without_the_text_and_its_equals(self, table):
        assert [example.text_id for example in exhibit_concept(table, 1, "sentences", without=0).sentences] == [2]
        assert [example.text_id for example in exhibit_concept(table, 1, "sentences", without=1).sentences] == [2]
        assert [example.text_id for example in exhibit_concept(table, 2, "sentences", without=3).sentences] == [4]

    def test_the_concepts_words_are_marked(self, table):
        (example,) = exhibit_concept(table, 1, "sentences", without=0).sentences
        assert example.marked("[", "]") == "a [warm] and [funny] story of a town"

    def test_a_concept_of_this_text_alone_is_empty(self, table):
        for kind in ("words", "sentences"):
            shown = exhibit_concept(table, 3, kind, without=4)
            assert shown.is_empty and (shown.words, shown.sentences) == ([], [])

    def test_stop_words_only_where_there_are_no_others(self, table):
        assert exhibit_concept(table, 3, "words", without=0).words == [("the", 1)]
        mixed = made_table(["the film the", "the end"], [1, 0], {"the": 1, "film": 1})
        assert exhibit_concept(mixed, 1, "words", without=1).words == [("film", 1)]

    def test_ten_words_and_five_sentences_at_most(self):
        words = [f"word{number}x" for number in range(12)]
        many = made_table(
            ["other", *(f"{word} is here in this text" for word in words)], [0] * 13, dict.fromkeys(words, 1)
        )
        assert len(exhibit_concept(many, 1, "words", without=0).words) == 10
        assert len(exhibit_concept(many, 1, "sentences", without=0).sentences) == 5

    def test_long_sentences_are_cut_around_the_concept(self):
        long = " ".join(["filler"] * 60 + ["warm"] + ["filler"] * 60)
        table = made_table(["a warm film", long], [1, 1], {"warm": 1})
        (example,) = exhibit_concept(table, 1, "sentences", without=0).sentences
        assert "[warm]" in example.marked("[", "]")
        assert len(example.text.replace("…", "").split()) == 30
        assert example.text.startswith("… ") and example.text.endswith(" …")

    def test_an_unknown_kind(self, table):
        with pytest.raises(ValueError, match="words, sentences"):
            exhibit_concept(table, 1, "cloud", without=0)


class TestDraw:
    def test_equal_texts_count_once_and_texts_without_salience_not_at_all(self, table):
        items = draw_items({"a": table}, 100)
        assert len(items) == 4
        assert {item.text_id for item in items} - {0, 1} == {2, 3, 4}

    def test_what_an_item_says(self, table):
        items = {item.text_id: item for item in draw_items({"a": table}, 100)}
        assert (items[2].text, items[2].label, items[2].prediction, items[2].correct) == (
            TEXTS[2],
            "bad",
            "good",
            False,
        )
        assert (items[3].label, items[3].prediction, items[3].correct) == ("bad", "bad", True)

    def test_without_labels_nobody_knows_who_is_right(self):
        table = made_table(TEXTS, PREDICTIONS, CODES, salient_positions=SALIENT)
        assert {(item.label, item.correct) for item in draw_items({"a": table}, 100)} == {(None, None)}

    def test_a_text_must_be_usable_in_every_table(self, table):
        other = made_table(TEXTS, PREDICTIONS, CODES, labels=LABELS, salient_positions=[1, 2, -1, 1, 1, -1])
        assert 2 not in {item.text_id for item in draw_items({"a": table, "b": other}, 100)}

    def test_equal_parts_of_each_stratum_and_the_others_fill_up(self):
        # 40 right and 3 wrong of each prediction: 5 of each cannot be had of the wrong ones.
        predictions = [0] * 43 + [1] * 43
        labels = [0] * 40 + [1] * 3 + [1] * 40 + [0] * 3
        texts = [f"text {number} is warm" for number in range(86)]
        table = made_table(texts, predictions, {"warm": 1}, labels=labels)
        counts = Counter((item.prediction, item.correct) for item in draw_items({"a": table}, 8))
        assert set(counts.values()) == {2} and len(counts) == 4
        counts = Counter((item.prediction, item.correct) for item in draw_items({"a": table}, 20))
        assert counts == {("bad", True): 7, ("good", True): 7, ("bad", False): 3, ("good", False): 3}

    def test_the_seed_decides_and_a_smaller_draw_is_part_of_a_larger_one(self):
        texts = [f"text {number} is warm" for number in range(50)]
        table = made_table(texts, [0, 1] * 25, {"warm": 1})
        drawn = [item.text_id for item in draw_items({"a": table}, 10, seed=3)]
        assert drawn == [item.text_id for item in draw_items({"a": table}, 10, seed=3)]
        assert drawn != [item.text_id for item in draw_items({"a": table}, 10, seed=4)]
        assert set(drawn) <= {item.text_id for item in draw_items({"a": table}, 30, seed=3)}
        # In no order of the strata: predictions do not come in turns or in blocks.
        orders = {tuple(item.prediction for item in draw_items({"a": table}, 6, seed=seed)) for seed in range(10)}
        assert len(orders) > 3

    def test_salient_codes(self, table):
        assert salient_codes(table) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2}


class TestTables:
    def test_names(self, table, tmp_path):
        for folder in ("kmeans", "clvq/concept_table"):
            table.save_to_disk(tmp_path / folder)
        sources = [tmp_path / "kmeans", tmp_path / "clvq" / "concept_table", f"mine={tmp_path / 'kmeans'}"]
        assert list(open_tables(sources)) == ["kmeans", "clvq", "mine"]

    def test_an_equals_sign_in_a_path(self, table, tmp_path):
        table.save_to_disk(tmp_path / "k=400")
        assert list(open_tables([tmp_path / "k=400"])) == ["k=400"]
        assert list(open_tables([f"mine={tmp_path / 'k=400'}"])) == ["mine"]

    def test_a_name_that_comes_twice(self, table, tmp_path):
        table.save_to_disk(tmp_path / "a")
        with pytest.raises(ValueError, match=r"named 'a'.*clvq="):
            open_tables([tmp_path / "a", f"a={tmp_path / 'a'}"])

    def test_no_table(self, tmp_path):
        with pytest.raises(ValueError, match="no concept table"):
            open_tables([])
        with pytest.raises(ValueError, match="nothing"):
            open_tables([tmp_path / "nothing"])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"texts": ["another film", *TEXTS[1:]]}, "column 'text'"),
            ({"predictions": [0, *PREDICTIONS[1:]]}, "column 'prediction'"),
            ({"first_id": 7}, "column 'text_id'"),
            ({"labels": [0, *LABELS[1:]]}, "column 'label'"),
            ({"salient_positions": [2, *SALIENT[1:]]}, "column 'salient_position'.*settings of salience"),
            ({"label_names": ["sad", "glad"]}, "different names of labels"),
            ({"salience": None}, "no salience.*clvq-hf evaluate"),
        ],
    )
    def test_tables_that_do_not_belong_together(self, table, change, message):
        arguments = {"texts": TEXTS, "predictions": PREDICTIONS, "code_of": CODES, "labels": LABELS}
        other = made_table(**{**arguments, "salient_positions": SALIENT, **change})
        with pytest.raises(ValueError, match=message):
            check_tables({"a": table, "b": other})

    def test_a_host_without_predictions(self):
        with pytest.raises(ValueError, match="no classification head"):
            check_tables({"a": made_table(TEXTS, [-1] * 6, CODES, salient_positions=SALIENT)})
        with pytest.raises(ValueError, match="no classification head"):
            check_tables({"a": made_table(TEXTS, [9] * 6, CODES, salient_positions=SALIENT, readout="next_token")})


class TestRandomCode:
    def test_every_other_concept_that_occurs_is_as_likely(self, table):
        generator = np.random.default_rng(0)
        drawn = Counter(random_code(table, 1, generator) for _ in range(900))
        assert set(drawn) == {0, 2, 3}
        assert min(drawn.values()) > 240

    def test_there_must_be_another_one(self):
        with pytest.raises(ValueError, match="only one concept"):
            random_code(made_table(["warm warm"], [1], {"warm": 1}), 1, np.random.default_rng(0))
