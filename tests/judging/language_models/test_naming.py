"""Names: evidence and detection share no text, the score is by hand, names survive disk and Hub."""

import json

import pytest
from datasets import load_dataset
from helpers.made_tables import made_table
from helpers.stub_judge import StubJudge, material, namer

from clvq_hf import ConceptTable
from clvq_hf.judging.language_models import EndpointJudge, LimitReached, NamingSettings, name_concepts
from clvq_hf.judging.language_models.naming import balanced_accuracy, gather_evidence
from clvq_hf.tables.names import NAMES_FILE, ConceptName, write_names

NAME = ConceptName("<b>praise</b>", "local:/home/me/judge", 1, "http://10.0.0.1/v1", 0.75, 8)


def code_of(table, word):
    return next(row["code"] for row in table.tokens if row["token"] == word)


class TestEvidence:
    def test_nothing_is_shared(self, random_table):
        for code in random_table.active_codes.tolist():
            found = gather_evidence(random_table, code, NamingSettings())
            read = {sentence.replace("**", "") for sentence in found.sentences}
            assert not read & set(found.held_out) and len(found.held_out) == len(set(found.held_out))
            assert sum(found.belongs) == len(found.belongs) / 2 == 5 and len(found.sentences) == 5
            having = {
                random_table.texts[random_table.text_row(e.text_id)]["text"] for e in random_table.examples(code, 99)
            }
            for text, belongs in zip(found.held_out, found.belongs, strict=True):
                assert (text in having) == belongs and "**" not in text

    def test_words_of_held_out_texts_do_not_count(self, word_table):
        code = code_of(word_table, "warm")
        assert word_table.top_words(code) == [("warm", 6)]
        found = gather_evidence(word_table, code, NamingSettings())
        # Six texts; the second, fourth and sixth best are held out.
        assert len(found.sentences) == 3 and sum(found.belongs) == 3 and found.words == ["warm"]
        hidden = [example.text_id for example in word_table.examples(code, 10)[1::2]]
        assert word_table.top_words(code, without=hidden) == [("warm", 3)]
        assert word_table.top_words(code, without=[]) == [("warm", 6)]

    def test_a_concept_of_one_text(self, make_table):
        table = make_table(lambda word, text_id: 1 if (word, text_id) == ("warm", 0) else 0, 2)
        found = gather_evidence(table, 1, NamingSettings())
        assert len(found.sentences) == 1 and found.held_out == []

    def test_equal_texts_are_no_sentences_without_it_and_come_once(self):
        # The word with the concept is "Warm"; "warm" has another one, in texts that are equal but for case.
        texts = ["Warm is this film of ours", "Warm is that film of ours", "Warm is one film of ours"]
        others = [text.lower() for text in texts] + [f"{a} thing is not like it" for a in ("Some", "SOME", "a", "A ")]
        table = made_table(texts + others, [0] * 10, {})
        codes = [1 if row["token"] == "Warm" else 0 for row in table.tokens]
        table = ConceptTable(
            table.tokens.remove_columns("code").add_column("code", codes).cast(table.tokens.features),
            table.texts,
            table.metadata,
        )
        for seed in range(5):
            found = gather_evidence(table, 1, NamingSettings(num_sentences=4, seed=seed))
            mixed = list(zip(found.held_out, found.belongs, strict=True))
            assert [text for text, belongs in mixed if belongs] == [texts[1]]
            (other,) = [" ".join(text.lower().split()) for text, belongs in mixed if not belongs]
            assert other in ("some thing is not like it", "a thing is not like it")
        two = gather_evidence(table, 1, NamingSettings(num_sentences=4)).held_out
        assert len({" ".join(text.lower().split()) for text in two}) == len(two)

    def test_a_concept_of_one_text_in_two_spellings_is_named_from_that_text(self):
        table = made_table(["a warm film of ours", "A  WARM film of ours", "a dull thing"], [0] * 3, {"warm": 1})
        assert [example.text_id for example in table.examples(1)] == [0]
        found = gather_evidence(table, 1, NamingSettings())
        assert found.words == ["warm"] and len(found.sentences) == 1 and found.held_out == []

    def test_a_concept_of_every_text(self, make_table):
        found = gather_evidence(make_table(lambda word, text_id: 0, 1), 0, NamingSettings())
        assert all(found.belongs), "there is none without it: nothing to detect"


@pytest.mark.parametrize(
    ("chosen", "score"),
    [
        ([1, 2], 1),
        ([], 0.5),
        ([1, 2, 3, 4, 5], 0.5),
        ([1], 0.75),
        ([3, 4, 5], 0),
        ([1, 3], 0.5 * (0.5 + 2 / 3)),
        (None, None),
    ],
)
def test_balanced_accuracy(chosen, score):
    assert balanced_accuracy(chosen, [True, True, False, False, False]) == (score and pytest.approx(score))
    assert balanced_accuracy([1], [True, True]) is None


class TestNaming:
    def test_names_with_scores(self, word_table, tmp_path):
        codes = [code_of(word_table, word) for word in ("warm", "dull")]
        with StubJudge(namer) as one, StubJudge(namer) as two:
            judge, detector = EndpointJudge("one", url=one.url), EndpointJudge("two", url=two.url)
            settings = NamingSettings(concurrency=1)  # requests then come in the order of the concepts
            names = name_concepts(
                word_table, judge, tmp_path / "a.jsonl", detector=detector, codes=codes, settings=settings
            )
            assert (len(one.requests), len(two.requests)) == (2, 2)
            name_concepts(word_table, judge, tmp_path / "a.jsonl", detector=detector, codes=codes)
            assert (len(one.requests), len(two.requests)) == (2, 2)
        assert names == {
            code: ConceptName(word, "one", 1, "two", 1.0, 6)
            for code, word in zip(codes, ("warm", "dull"), strict=True)
        }
        # The detector sees neither words nor marks, nor a sentence that the namer has seen.
        for read, detected in zip(map(material, one.requests), map(material, two.requests), strict=True):
            assert set(detected) == {"concept", "sentences"} and "**" not in json.dumps(detected)
            seen = {sentence.replace("**", "") for sentence in read["sentences"]}
            assert seen and not seen & set(detected["sentences"].values())

    def test_it_goes_on_after_the_limit(self, random_table, tmp_path):
        settings, told = NamingSettings(num_concepts=4), []
        with StubJudge(namer) as stub:
            judge = EndpointJudge("one", url=stub.url)
            with pytest.raises(LimitReached):
                name_concepts(random_table, judge, tmp_path / "a.jsonl", settings=settings, max_requests=5)
            names = name_concepts(random_table, judge, tmp_path / "a.jsonl", settings=settings, confirm=told.append)
            assert len(names) == 4 and told[0][0].requests == 3 and len(stub.requests) == 8

    def test_malformed_and_refused_names_are_left_out_and_told(self, word_table, tmp_path, caplog):
        def behave(number, body):
            return (400, {}, b"too long") if "**warm**" in str(body) else "Hm."

        codes = [code_of(word_table, word) for word in ("warm", "dull", "funny")]
        with StubJudge(behave) as stub, caplog.at_level("WARNING"):
            assert name_concepts(word_table, EndpointJudge("x", url=stub.url), tmp_path / "a", codes=codes) == {}
        assert "3 of 3 concepts have no name: 2 answers of x were malformed, 1 questions failed" in caplog.text
        assert "too long" in caplog.text

    def test_a_concept_that_does_not_occur(self, word_table, tmp_path):
        with pytest.raises(ValueError, match="19 occurs nowhere"):
            name_concepts(word_table, EndpointJudge("x", url="http://127.0.0.1:1"), tmp_path / "a", codes=[19])


class TestNamesOfATable:
    @pytest.fixture
    def named(self, word_table):
        return ConceptTable(word_table.tokens, word_table.texts, word_table.metadata, {3: NAME})

    @pytest.mark.parametrize("save", ["save_to_disk", "save_as_parquet"])
    def test_they_are_kept(self, named, tmp_path, save):
        getattr(named, save)(tmp_path / "table")
        loaded = ConceptTable.load_from_disk(tmp_path / "table", cache_dir=tmp_path / "cache")
        assert loaded.names == {3: NAME}
        assert loaded.concept(3).name == "<b>praise</b>" and loaded.concept(4).name is None
        content = json.loads((tmp_path / "table" / NAMES_FILE).read_text())
        assert content["machine_made"] is True and content["names"]["3"]["score"] == 0.75

    def test_a_table_without_names_leaves_none(self, named, word_table, tmp_path):
        named.save_to_disk(tmp_path / "table")
        word_table.save_to_disk(tmp_path / "table")
        assert not (tmp_path / "table" / NAMES_FILE).exists()

    @pytest.mark.parametrize(
        "content",
        ["{", "[]", '{"format_version": 2}', '{"format_version": 1}', '{"format_version": 1, "names": {"x": {}}}',
         '{"format_version": 1, "names": {"1": {"name": 5, "judge": "j", "prompt_version": 1}}}',
         '{"format_version": 1, "names": {"1": {"name": "n", "judge": "j", "prompt_version": 1, "score": "high"}}}'],
    )  # fmt: skip
    def test_damaged_names(self, word_table, tmp_path, content):
        word_table.save_to_disk(tmp_path / "table")
        (tmp_path / "table" / NAMES_FILE).write_text(content)
        with pytest.raises(ValueError, match=r"concept_names.json"):
            ConceptTable.load_from_disk(tmp_path / "table")

    def test_writing_is_all_or_nothing(self, tmp_path):
        write_names(tmp_path, {3: NAME})
        with pytest.raises(TypeError):
            write_names(tmp_path, {3: NAME, 4: "no name"})
        assert "praise" in (tmp_path / NAMES_FILE).read_text() and len(list(tmp_path.iterdir())) == 1

    @pytest.mark.slow
    def test_on_the_hub_without_paths_and_addresses(self, named, word_table, hub, tmp_path):
        named.push_to_hub("org/table")
        found = ConceptTable.from_hub("org/table", cache_dir=str(tmp_path)).names[3]
        assert (found.name, found.score) == (NAME.name, NAME.score)
        assert "/home" not in found.judge and "10.0.0.1" not in found.detector
        assert len(load_dataset("org/table", "texts", split="train", cache_dir=str(tmp_path))) == len(word_table.texts)
        word_table.push_to_hub("org/table")
        assert ConceptTable.from_hub("org/table", cache_dir=str(tmp_path)).names == {}
