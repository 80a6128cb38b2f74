"""Decisions about concepts: what follows from them, that they can be taken back, and their file."""

import datetime
import json
from unittest.mock import Mock

import pytest
from helpers.made_tables import made_table

from clvq_hf import ConceptTable
from clvq_hf.tables.by_hand import BY_HAND_FILE, ByHand, read_by_hand, write_by_hand
from clvq_hf.tables.names import ConceptName

TEXTS = ["warm warm film", "cold film", "dull film", "warm dull"]
CODES = {"warm": 1, "cold": 2, "dull": 3, "film": 4}


@pytest.fixture
def table():
    made = made_table(TEXTS, [1, 0, 0, 1], CODES, labels=[1, 0, 0, 1], name="f")
    return ConceptTable(made.tokens, made.texts, made.metadata, {2: ConceptName("chill", "judge", 1, "d", 0.75)})


class TestNames:
    def test_a_person_comes_before_a_model(self, table):
        assert table.called(1) is None and table.concept(1).name is None
        machine = table.called(2)
        assert (machine.name, machine.by) == ("chill", "named by a model") and "75%" in machine.note
        assert machine.quoted == "“chill” (named by a model)"
        table.rename(2, "  weather ", author="Ann")
        today = datetime.date.today().isoformat()
        found = table.concept(2).called
        assert (found.name, found.by, found.quoted) == ("weather", f"named by Ann, {today}", "“weather”")
        table.rename(2, None)
        assert table.called(2) == machine

    def test_only_the_latest_name_is_kept(self, table):
        table.rename(1, "warmth", author="Ann")
        table.rename(1, "heat", author="Ben")
        assert [(each.name, each.author) for each in table.by_hand.decisions] == [("heat", "Ben")]

    @pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 101, "esc\x1b[31m"])
    def test_what_cannot_be_shown_on_a_line_is_no_name(self, table, name):
        with pytest.raises(ValueError, match="one line of 1 to 100 characters"):
            table.rename(1, name)
        assert not table.by_hand

    def test_the_author_is_the_user_of_the_machine(self, table, monkeypatch):
        monkeypatch.setattr("getpass.getuser", lambda: "carla")
        table.rename(1, "warmth")
        assert table.by_hand.decisions[0].author == "carla"

    def test_where_users_have_no_names_one_is_asked_for(self, table, monkeypatch):
        monkeypatch.setattr("getpass.getuser", Mock(side_effect=KeyError("getpwuid(): uid not found: 1234")))
        with pytest.raises(ValueError, match=r"say with author=… who decides"):
            table.rename(1, "warmth")
        table.rename(1, "warmth", author="carla")

    def test_unknown_concepts_are_refused(self, table):
        for decide in (
            lambda: table.rename(20, "x"),
            lambda: table.hide([-1]),
            lambda: table.merge([1, 99]),
            lambda: table.called(-1),
        ):
            with pytest.raises(ValueError, match="Codes run from 0 to 19"):
                decide()
        with pytest.raises(ValueError, match="at least one concept"):
            table.hide([])


class TestMerge:
    def test_merged_concepts_are_counted_as_one(self, table):
        before = table.concept(1)
        table.merge([3, 1], "words of mood", author="Ann")
        for code in (1, 3):
            both = table.concept(code)
            assert (both.code, both.number, both.members, both.name) == (1, "1 + 3", (1, 3), "words of mood")
            # warm, three times, in texts 0 and 3; dull, twice, in texts 2 and 3.
            assert (both.num_tokens, both.num_texts, both.label_counts) == (5, 3, {"bad": 1, "good": 4})
            assert both.top_words == [("warm", 3), ("dull", 2)]
        assert table.active_codes.tolist() == [1, 2, 4] and table.frequent_codes(1) == [1]
        # Tokens keep their codes.
        assert table.column("code").tolist() == [1, 1, 4, 2, 4, 3, 4, 1, 3]
        table.merge([3], undo=True)
        assert table.concept(1).num_tokens == before.num_tokens and table.active_codes.tolist() == [1, 2, 3, 4]
        # The name was given to the whole; it is still that of its number.
        assert table.concept(1).name == "words of mood" and table.concept(3).name is None

    def test_merges_grow_together(self, table):
        table.merge([3, 4], author="Ann")
        table.merge([1, 4], author="Ben")
        assert table.by_hand.members(3) == (1, 3, 4) and table.by_hand.shown_codes[:5].tolist() == [0, 1, 2, 1, 1]
        assert len(table.by_hand.decisions) == 1

    def test_what_is_said_of_a_part_is_said_of_the_whole(self, table):
        table.rename(3, "dullness", author="Ann")
        table.group([3], "mood", author="Ann")
        table.merge([1, 3], author="Ann")
        assert table.concept(1).name == "dullness" and table.concept(1).group == "mood"
        table.rename(3, "mood", author="Ann")
        assert [each.name for each in table.by_hand.decisions if each.kind == "rename"] == ["mood"]

    def test_a_name_that_is_none_merges_nothing(self, table):
        with pytest.raises(ValueError, match="one line"):
            table.merge([1, 3], " ")
        assert not table.by_hand

    def test_one_concept_is_no_merge(self, table):
        with pytest.raises(ValueError, match="at least two"):
            table.merge([1, 1])
        with pytest.raises(ValueError, match="nobody has decided to merge 1"):
            table.merge([1], undo=True)


class TestGroupsAndHiding:
    def test_a_concept_is_in_one_group(self, table):
        table.group([1, 2], "temperature", author="Ann")
        table.group([2, 3], "bad", author="Ann")
        assert table.by_hand.groups == {1: "temperature", 2: "bad", 3: "bad"}
        assert table.concept(2).group == "bad" and len(table.active_codes) == 4
        table.group([1, 2, 3], None, undo=True)
        assert not table.by_hand

    def test_hidden_concepts_are_in_no_list(self, table):
        table.hide([4], author="Ann")
        assert table.frequent_codes(9) == [1, 2, 3]
        assert 4 not in [concept.code for concept in table.purest(9, 1, 1)]
        assert 4 in table.active_codes and table.concept(4).num_tokens == 3
        table.hide([4], undo=True)
        assert table.frequent_codes(9) == [1, 2, 3, 4]


class TestFile:
    def decided(self):
        return ByHand(20).decide("merge", [1, 3], author="Zoë").decide("rename", [3], "größer", author="Zoë")

    def test_round_trip(self, tmp_path):
        metadata = {"codebook_size": 20, "model_fingerprint": "f"}
        assert read_by_hand(tmp_path, metadata) == ByHand(20)
        write_by_hand(tmp_path, self.decided(), "f")
        assert read_by_hand(tmp_path, metadata) == self.decided()
        write_by_hand(tmp_path, ByHand(20), "f")
        assert list(tmp_path.iterdir()) == []

    def test_it_is_saved_with_the_table(self, table, tmp_path):
        table.merge([1, 3], "mood", author="Ann")
        table.save_to_disk(tmp_path / "arrow")
        table.save_as_parquet(tmp_path / "parquet")
        for folder in ("arrow", "parquet"):
            found = ConceptTable.load_from_disk(tmp_path / folder)
            assert found.by_hand == table.by_hand and found.concept(3).name == "mood"
        assert table.without_paths().by_hand == table.by_hand

    def test_decisions_about_another_codebook_are_refused(self, table):
        with pytest.raises(ValueError, match="about 19 concepts, and this table has 20"):
            table.set_by_hand(ByHand(19))

    def test_of_another_model_it_is_refused(self, tmp_path):
        write_by_hand(tmp_path, self.decided(), "g")
        with pytest.raises(ValueError, match="another model"):
            read_by_hand(tmp_path, {"codebook_size": 20, "model_fingerprint": "f"})

    @pytest.mark.parametrize(
        "damage",
        [
            {"kind": "delete"},
            {"codes": []},
            {"codes": [3, 1]},
            {"codes": [1, True]},
            {"codes": [1, 20]},
            {"codes": "13"},
            {"name": 7},
            {"author": ""},
            {"author": "a\x1b[31m"},
            {"date": "yesterday"},
            {"more": 1},
        ],
    )
    def test_damage_is_found(self, tmp_path, damage):
        write_by_hand(tmp_path, self.decided(), "f")
        content = json.loads((tmp_path / BY_HAND_FILE).read_text())
        content["decisions"][0] |= damage
        (tmp_path / BY_HAND_FILE).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"{BY_HAND_FILE} is damaged"):
            read_by_hand(tmp_path, {"codebook_size": 20, "model_fingerprint": "f"})

    def test_no_concept_is_merged_twice(self, tmp_path):
        write_by_hand(tmp_path, self.decided(), "f")
        content = json.loads((tmp_path / BY_HAND_FILE).read_text())
        content["decisions"].append({**content["decisions"][0], "codes": [3, 4]})
        (tmp_path / BY_HAND_FILE).write_text(json.dumps(content))
        with pytest.raises(ValueError, match="merged twice"):
            read_by_hand(tmp_path, {"codebook_size": 20, "model_fingerprint": "f"})
