"""Audits of small hosts, against the live interventions."""

import copy
import json
import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Value
from helpers.evaluated_hosts import balanced_classifier, clvq_on_states
from helpers.headed_hosts import bert_with

from clvq_hf.auditing import Audit, Auditor
from clvq_hf.auditing import occurrences as occurrences_module
from clvq_hf.auditing.phrases import phrases_of
from clvq_hf.data import text_readout
from clvq_hf.hosts import hooks
from clvq_hf.hosts.readout import Readout
from clvq_hf.tables import ConceptName


@pytest.fixture
def host(tokenizer, texts):
    return balanced_classifier(tokenizer, texts["text"][:24])


@pytest.fixture
def model(host, tokenizer, texts):
    return clvq_on_states(host, tokenizer, texts["text"][:24])


@pytest.fixture
def table(model, host, tokenizer, texts):
    return model.concept_table(host, tokenizer, texts.select(range(24)))


@pytest.fixture
def auditor(model, host, tokenizer, table):
    def make(**options):
        # Concepts of one phrase apart, because most tests are about single concepts.
        return Auditor(model, host, tokenizer, table, **{"phrases": False, **options})

    return make


def centred_logits(host, tokenizer, text):
    with torch.no_grad():
        logits = host(**tokenizer(text, return_tensors="pt")).logits[0].double()
    return (logits - logits.mean()).numpy()


class TestRows:
    def test_effects_are_those_of_ablate(self, auditor, model, host, tokenizer, table):
        audit = auditor(how="project").run()
        for row in audit.rows.select(range(0, len(audit.rows), 17)):
            text = table.texts[table.text_row(row["text_id"])]["text"]
            with model.ablate(host, row["code"]):
                without = centred_logits(host, tokenizer, text)
            assert row["effect"] == pytest.approx(centred_logits(host, tokenizer, text) - without, abs=1e-4)

    def test_a_removal_is_that_of_an_edit(self, auditor, model, host, tokenizer, table):
        """At special tokens, too, although a text has only concepts of other tokens."""
        audit = auditor(how="project", max_texts_per_concept=None).run()
        ids, special = np.asarray(table.column("text_id")), table.column("special")
        at_special = set(zip(ids[special].tolist(), table.column("code")[special].tolist(), strict=True))
        both = [row for row in audit.rows if (row["text_id"], row["code"]) in at_special]
        assert both, "a concept of a special token that a word of its text has, too"
        for row in both[:3]:
            text = table.texts[table.text_row(row["text_id"])]["text"]
            with model.edit(host, row["code"], how="project"):
                without = centred_logits(host, tokenizer, text)
            assert row["effect"] == pytest.approx(centred_logits(host, tokenizer, text) - without, abs=1e-4)
            assert row["logits"] == pytest.approx(centred_logits(host, tokenizer, text), abs=1e-4)

    def test_a_phrase_loses_the_concepts_of_all_its_tokens(self, auditor, model, host, tokenizer, table):
        codes = phrases_of(table)[0]
        audit = auditor(how="project", phrases=True, max_texts_per_concept=None).run()
        suspects = audit.suspects().set_index("code")
        assert suspects.loc[codes[0], "number"] == " + ".join(map(str, codes))
        assert not set(codes[1:]) & set(suspects.index)
        rows = [row for row in audit.rows if row["code"] == codes[0]]
        has = np.isin(table.column("code"), codes) & ~table.column("special")
        assert {row["text_id"] for row in rows} == set(table.column("text_id")[has].tolist())
        for row in rows[:3]:
            text = table.texts[table.text_row(row["text_id"])]["text"]
            with ExitStack() as ablations:
                for code in codes:
                    ablations.enter_context(model.ablate(host, code))
                without = centred_logits(host, tokenizer, text)
            assert row["effect"] == pytest.approx(centred_logits(host, tokenizer, text) - without, abs=1e-4)

    def test_within_an_edit_the_rest_is_audited(self, auditor, model, host, tokenizer, table):
        """What is found stays, of a host that does without the first suspect."""
        first = int(auditor(how="project").run().suspects(1)["code"].iloc[0])
        with model.edit(host, first, how="project"):
            rest = model.concept_table(host, tokenizer, table.texts.select_columns("text"))
            audit = model.audit(host, tokenizer, rest, how="project", phrases=False, max_texts_per_concept=None)
        assert first not in audit.concepts["code"]
        for row in audit.rows.select(range(0, len(audit.rows), 40)):
            text = rest.texts[rest.text_row(row["text_id"])]["text"]
            with model.edit(host, first, how="project"):
                before = centred_logits(host, tokenizer, text)
            # The edit that is made last changes the states first; the one within which is audited has the last word.
            edits = [model.edit(host, code, how="project") for code in (first, row["code"], first)]
            without = centred_logits(host, tokenizer, text)
            for edit in edits:
                edit.remove()
            assert row["effect"] == pytest.approx(before - without, abs=1e-4)

    def test_the_mean_makes_way_for_the_mean(self, auditor, model, host, tokenizer, table):
        """Independently: means over the table's tokens, and a hook that exchanges them."""
        audit = auditor(how="mean").run()
        states, codes = [], []
        for text in table.texts["text"][:]:
            with torch.no_grad():
                state = host(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1]
            states.append(state[0, 1:-1])
            codes.append(model.encode(state)[0, 1:-1])
        states, codes = torch.cat(states), torch.cat(codes)
        for row in audit.rows.select(range(0, len(audit.rows), 23)):
            text = table.texts[table.text_row(row["text_id"])]["text"]
            shift = states.mean(0) - states[codes == row["code"]].mean(0)

            def exchange(state, code=row["code"], shift=shift):
                return state + shift * (model.encode(state) == code)[..., None]

            with hooks.edit(host, 1, exchange):
                without = centred_logits(host, tokenizer, text)
            assert row["effect"] == pytest.approx(centred_logits(host, tokenizer, text) - without, abs=1e-3)

    def test_every_concept_of_every_text_is_removed_once(self, auditor, table):
        audit = auditor(max_texts_per_concept=None).run()
        special = table.column("special")
        found = set(zip(audit.rows["text_id"][:], audit.rows["code"][:], strict=True))
        owners = np.repeat(table.texts["text_id"][:], table.texts["num_tokens"][:])
        assert found == set(zip(owners[~special].tolist(), table.column("code")[~special].tolist(), strict=True))
        assert len(found) == len(audit.rows)

    def test_at_most_so_many_texts_of_a_concept(self, auditor):
        audit = auditor(max_texts_per_concept=20).run()
        concepts = audit.concepts.to_pandas()
        assert concepts["num_measured"].max() == 20 and concepts["num_texts"].max() == 24
        with pytest.raises(ValueError, match="max_texts_per_concept must be at least 20"):
            auditor(max_texts_per_concept=3)

    def test_an_interrupted_audit_goes_on(self, auditor, tmp_path, monkeypatch):
        monkeypatch.setattr(occurrences_module, "TEXTS_PER_SHARD", 8)
        whole = auditor().run()
        read, calls = occurrences_module._of_texts, []

        def dies(*args):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return read(*args)

        monkeypatch.setattr(occurrences_module, "_of_texts", dies)
        with pytest.raises(KeyboardInterrupt):
            auditor().run(tmp_path / "audit")
        calls.clear()
        monkeypatch.setattr(occurrences_module, "_of_texts", lambda *args: calls.append(args) or read(*args))
        audit = auditor().run(tmp_path / "audit")
        assert 1 <= len(calls) <= 2, "two of the three or four shards were there"
        assert audit.rows[:] == whole.rows[:]
        assert sorted(path.name for path in (tmp_path / "audit").iterdir() if path.name[0] != ".") == [
            *("audit.json", "concepts", "effects", "rows")
        ]

    def test_an_audit_of_another_model_is_not_replaced(self, auditor, model, tmp_path):
        first = auditor().run(tmp_path / "audit")
        other = auditor()
        other._model = copy.deepcopy(model)
        other._model.config.lower_layer += 1
        with pytest.raises(ValueError, match="holds an audit by another concept model"):
            other.run(tmp_path / "audit")
        assert Audit.load_from_disk(tmp_path / "audit").rows[:] == first.rows[:]

    def test_an_audit_of_other_texts_is_not_replaced(self, model, host, tokenizer, texts, table, tmp_path):
        first = model.audit(host, tokenizer, table, output_dir=tmp_path / "audit")
        others = model.concept_table(host, tokenizer, texts.select(range(20, 40)))
        with pytest.raises(ValueError, match=r"holds an audit of other texts.*overwrite"):
            model.audit(host, tokenizer, others, output_dir=tmp_path / "audit")
        assert Audit.load_from_disk(tmp_path / "audit").rows[:] == first.rows[:]
        replaced = model.audit(host, tokenizer, others, output_dir=tmp_path / "audit", overwrite=True)
        assert Audit.load_from_disk(tmp_path / "audit").rows[:] == replaced.rows[:] != first.rows[:]

    def test_a_finished_audit_is_not_repeated(self, auditor, table, tmp_path, monkeypatch):
        first = auditor().run(tmp_path / "audit")
        monkeypatch.setattr(occurrences_module, "_of_texts", None)  # the host would be needed
        numbers = range(max(table.texts["text_id"][:]) + 1)
        again = auditor(slices={"parity": [number % 2 for number in numbers]}).run(tmp_path / "audit")
        assert again.rows[:] == first.rows[:] and "slice_parity" in again.concepts.column_names
        assert Audit.load_from_disk(tmp_path / "audit").metadata["slices"] == ["parity"]
        with pytest.raises(TypeError):
            auditor(how="project").run(tmp_path / "audit")


class TestResult:
    def test_what_people_decided_about_concepts_holds(self, model, host, tokenizer, table):
        codes = Counter(table.column("code")[~table.column("special")].tolist()).most_common(4)
        first, second, third, fourth = (code for code, _ in codes)
        apart = model.audit(host, tokenizer, table, how="project", phrases=False)
        table.merge([first, second], "both", author="Ann")
        table.hide([third], author="Ann")
        table.names[fourth] = ConceptName("guess", "judge", 1)
        together = model.audit(host, tokenizer, table, how="project", phrases=False)
        suspects = together.suspects().set_index("code")
        both = min(first, second)
        assert max(first, second) not in suspects.index and len(suspects) == len(apart.concepts) - 1
        assert suspects.index[suspects["hidden"]].tolist() == [third], "it is kept, and not shown"
        assert str(third) not in {row[0].removesuffix(" !") for row in together.table(99).rows}
        assert suspects.loc[both, "name"] == "both" and suspects.loc[both, "num_tokens"] == codes[0][1] + codes[1][1]
        shown = [row[1] for row in together.table(99).rows]
        assert f"{both} + {max(first, second)}" in {row[0].removesuffix(" !") for row in together.table(99).rows}
        assert {"“both”", "“guess” (named by a model)"} <= set(shown)
        row = next(row for row in together.rows if row["code"] == both)
        text = table.texts[table.text_row(row["text_id"])]["text"]
        with model.ablate(host, first), model.ablate(host, second):
            without = centred_logits(host, tokenizer, text)
        assert row["effect"] == pytest.approx(centred_logits(host, tokenizer, text) - without, abs=1e-4)

    def test_it_is_saved_and_loaded(self, auditor, tmp_path):
        audit = auditor(slices={"source": list("ab") * 12}, groups={"people": ["She", "he"]}).run(tmp_path / "audit")
        loaded = Audit.load_from_disk(tmp_path / "audit")
        for first, second in zip(audit.to_pandas(), loaded.to_pandas(), strict=True):
            assert first.equals(second)
        assert loaded.metadata == audit.metadata
        assert {"slice_source", "slice_source_at", "effect_gap", "group_people"} <= set(loaded.concepts.column_names)
        assert str(loaded) == str(audit)

    def test_a_damaged_one_is_refused(self, auditor, tmp_path):
        auditor().run(tmp_path / "audit")
        file = next((tmp_path / "audit" / "effects").glob("*.arrow"))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            Audit.load_from_disk(tmp_path / "audit")
        with pytest.raises(ValueError, match="holds no audit"):
            Audit.load_from_disk(tmp_path)

    def test_suspects_are_sorted_by_any_signal(self, auditor):
        audit = auditor().run()
        by_score = audit.suspects()
        assert by_score["score"].tolist() == sorted(by_score["score"], reverse=True)
        assert audit.suspects(3, "boilerplate")["boilerplate"].is_monotonic_decreasing
        assert len(audit.suspects(3)) == 3
        with pytest.raises(ValueError, match="cannot be sorted by 'magic'"):
            audit.suspects(by="magic")

    def test_what_is_told(self, auditor):
        audit = auditor().run()
        assert dict(audit.facts())["Texts"] == "24"
        assert "concepts support a class" in audit.sentences()[0]
        assert "Suspects" in str(audit) and "<script" not in audit._repr_html_()

    def test_all_documented_signals_are_orders(self, auditor):
        page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
        signals = page.split("| column | what it says |")[1].split("\n\n")[0]
        names = [
            name for line in signals.strip().splitlines() for name in re.findall("`([a-z_]+)`", line.split("|")[1])
        ]
        assert {"kind", "effect_gap", "lexical", "misleads"} <= set(names)
        audit = auditor().run()
        for name in names:
            assert len(audit.suspects(2, by=name)) == 2


class TestDoors:
    def test_a_host_without_names_of_classes(self, auditor, model, host, tokenizer, texts):
        """Its classes have the names of the dataset's labels, of which they are the ids."""
        assert list(host.config.id2label.values()) == ["LABEL_0", "LABEL_1"]
        named = texts.select(range(24)).cast_column("label", ClassLabel(names=["negative", "positive"]))
        table = model.concept_table(host, tokenizer, named)
        audit = model.audit(host, tokenizer, table)
        assert audit.metadata["classes"] == ["negative", "positive"]
        concepts = audit.concepts.to_pandas()
        assert set(concepts["class"]) <= {"negative", "positive"} and concepts["label_share"].notna().all()

    def test_slices_with_the_same_column_are_refused(self, auditor):
        values = ["a"] * 24
        with pytest.raises(ValueError, match="'source' and 'source_at' would have the same column"):
            auditor(slices={"source": values, "source_at": values})

    def test_texts_without_labels(self, model, host, tokenizer, texts):
        bare = texts.select(range(20)).remove_columns("label")
        audit = model.audit(host, tokenizer, model.concept_table(host, tokenizer, bare))
        assert audit.concepts.to_pandas()[["label_share", "misleads"]].isna().all(axis=None)

    def test_texts_of_one_label_with_empty_ones(self, model, host, tokenizer):
        rows = [{"text": text, "label": "LABEL_1"} for text in ["a fine film", "", " ", "dull", "a long dull story"]]
        table = model.concept_table(host, tokenizer, Dataset.from_list(rows))
        audit = model.audit(host, tokenizer, table, slices={"source": ["x", "y", "y", "x", "z"]})
        assert audit.metadata["num_texts"] == 3 and len(audit.alarms()) == 0

    def test_what_does_not_fit_is_refused(self, auditor, model, host, tokenizer, table, causal_host):
        with pytest.raises(ValueError, match="has 3 values, but the table has texts up to number 23"):
            auditor(slices={"source": ["a", "b", "c"]})
        with pytest.raises(ValueError, match="how must be one of"):
            auditor(how="magic")
        with pytest.raises(ValueError, match="The concept table is of something else"):
            Auditor(model, causal_host, tokenizer, table)

    def test_a_language_model_needs_label_words(self, make_model, fit, causal_host, tokenizer, texts):
        causal = fit(make_model(), causal_host, tokenizer, texts)
        few = texts.select(range(20)).remove_columns("label")
        with pytest.raises(ValueError, match="this one has a whole vocabulary"):
            causal.audit(causal_host, tokenizer, causal.concept_table(causal_host, tokenizer, few))
        readout = Readout.of(causal_host, tokenizer, label_words=["good", "bad"])
        audit = causal.audit(
            causal_host, tokenizer, causal.concept_table(causal_host, tokenizer, few, readout=readout)
        )
        assert audit.metadata["classes"] == ["good", "bad"]

    def test_a_host_with_labels(self, model, host, tokenizer, texts):
        """Every label is audited by itself, although the table asks about one."""
        host.config.problem_type = "multi_label_classification"
        table = model.concept_table(host, tokenizer, texts.select(range(20)).remove_columns("label"))
        audit = model.audit(host, tokenizer, table)
        assert audit.metadata["classes"] == ["LABEL_0", "LABEL_1"]
        sums = np.asarray(audit.rows["effect"][:]).sum(1)
        assert np.abs(sums).max() > 1e-3, "they are not relative to each other"

    @pytest.mark.parametrize("kind", ["multi_label", "regression"])
    def test_answers_that_do_not_compete(self, tokenizer, texts, kind):
        """Concepts that raise and that lower one; labels are those of the answer that the table asks about."""
        names = ["rude", "toxic"] if kind == "multi_label" else None
        texts = texts.select(range(24))
        host = bert_with(kind, tokenizer, texts["text"], names)
        model = clvq_on_states(host, tokenizer, texts["text"])
        readout = Readout.of(host, target="toxic" if names else None)
        readout = text_readout(host, tokenizer, texts, readout, stack=model.config.stack)
        answers = texts.cast_column("label", Value("int64" if names else "float32"))
        table = model.concept_table(host, tokenizer, answers, readout=readout)
        audit = model.audit(host, tokenizer, table)
        concepts = audit.concepts.to_pandas()
        assert set(concepts["direction"]) == {"for", "against"} and (concepts["effect"] >= 0).all()
        rows = audit.rows.to_pandas()
        for _, concept in concepts.iterrows():
            own = rows[rows["code"] == concept["code"]]
            number = audit.metadata["classes"].index(concept["class"])
            sign = 1 if concept["direction"] == "for" else -1
            assert concept["effect"] == pytest.approx(sign * np.stack(own["effect"])[:, number].mean(), abs=1e-5)
            labels = np.asarray([table.texts[table.text_row(text)]["label"] for text in own["text_id"]])
            if number == len(audit.metadata["classes"]) - 1:
                assert concept["label_share"] == pytest.approx(np.mean(labels == (sign > 0)))
            else:
                assert np.isnan(concept["label_share"]), "the labels say nothing of this answer"
        json.dumps(audit.summary(), allow_nan=False)

    def test_references_of_other_texts(self, auditor, model, host, tokenizer, texts):
        from clvq_hf.evaluation import fit_references

        references = fit_references(model, host, tokenizer, texts.select(range(30, 60)))
        audit = auditor(references=references).run()
        assert audit.metadata["references"] is True
        assert audit.rows["effect"][:] != auditor().run().rows["effect"][:]

    def test_the_cost_is_known_before(self, auditor, table):
        assert "removals from 24 texts: about as much as running the host on these texts" in auditor().cost()

    def test_directions(self, make_sparse, fit, host, tokenizer, texts):
        sparse = fit(make_sparse(), host, tokenizer, texts)
        table = sparse.concept_table(host, tokenizer, texts.select(range(20)))
        audit = sparse.audit(host, tokenizer, table)
        assert audit.metadata["how"] == "project"
        with pytest.raises(ValueError, match="are directions"):
            sparse.audit(host, tokenizer, table, how="mean")
