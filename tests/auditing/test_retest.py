"""Retests of small hosts, against predictions by hand, with strangers' data, and as files and pages."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from helpers.evaluated_hosts import balanced_classifier
from helpers.headed_hosts import bert_with
from helpers.hook_hosts import count_hooks

from clvq_hf import ClusterConfig, ClusterModel
from clvq_hf.auditing import Retest
from clvq_hf.auditing.retest_figures import BROKEN, FAVOURED, WITH, WITHOUT, Figure
from clvq_hf.auditing.retest_run import DELETED, OTHER, RANDOM, choose_other, without_words
from clvq_hf.hosts import hooks


def clusters_of(host, tokenizer, sentences):
    """Eight clusters around states of the first texts."""
    encoded = tokenizer(sentences[:8], padding=True, return_tensors="pt")
    states = hooks.run(host, dict(encoded), [1])[1].detach()
    model = ClusterModel(ClusterConfig.from_host(host, 1, 3, codebook_size=8))
    model.centroids.vectors.copy_(states[:, 2])
    model.centroids.mean.copy_(states[encoded["attention_mask"].bool()].mean(0))
    model.centroids.initialized.fill_(True)
    return model.eval()


@pytest.fixture
def host(tokenizer, texts):
    return balanced_classifier(tokenizer, texts["text"])


@pytest.fixture
def model(host, tokenizer, texts):
    return clusters_of(host, tokenizer, texts["text"])


@pytest.fixture
def edit(model, host):
    return model.edit(host, [2, 5])


def logits_of(host, tokenizer, texts):
    with torch.no_grad():
        return torch.stack([host(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts])


class TestAgainstTheHost:
    def test_before_and_after(self, edit, host, tokenizer, texts):
        with edit:
            after = logits_of(host, tokenizer, texts["text"])
        before = logits_of(host, tokenizer, texts["text"])
        labels, hooked = torch.tensor(texts["label"]), count_hooks(host)
        result = edit.retest(texts, tokenizer, batch_size=7)
        assert count_hooks(host) == hooked and not edit.is_applied
        accuracy, changed = result.figure("accuracy"), result.figure("changed")
        assert accuracy.before == pytest.approx(float((before.argmax(-1) == labels).double().mean()))
        assert accuracy.after == pytest.approx(float((after.argmax(-1) == labels).double().mean()))
        assert changed.after == pytest.approx(float((before.argmax(-1) != after.argmax(-1)).double().mean())) and (
            changed.after > 0
        )
        loss = torch.nn.functional.cross_entropy
        assert result.figure("log_loss").before == pytest.approx(float(loss(before, labels)), abs=1e-4)
        assert result.figure("log_loss").after == pytest.approx(float(loss(after, labels)), abs=1e-4)

    def test_labels_in_another_order_are_asked_about(self, edit, host, tokenizer, texts):
        edit.remove()
        with torch.no_grad():
            answers = logits_of(host, tokenizer, texts["text"]).argmax(-1).tolist()
        right, wrong = (
            texts.remove_columns("label").add_column("label", [answer ^ flip for answer in answers]) for flip in (0, 1)
        )
        assert "below chance" in " ".join(edit.retest(wrong, tokenizer).verdict)
        assert "below chance" not in " ".join(edit.retest(right, tokenizer).verdict)
        # Where a shortcut is broken, only the texts that have it are below chance.
        shares = {"all texts": 0.4, "without the concept": 0.8, "with the concept": 0.2}
        figures = [Figure(group, "edit", "accuracy", 50, share, share, 0.0) for group, share in shares.items()]
        facts = edit.retest(right, tokenizer).facts
        assert "below chance" not in " ".join(Retest(facts, figures).verdict)
        assert "below chance" in " ".join(Retest(facts, [figures[0]]).verdict)

    def test_an_edit_that_is_applied_stays_so(self, model, host, tokenizer, texts):
        edit = model.edit(host, 2)
        with edit:
            hooked = count_hooks(host)
            edit.retest(texts.select(range(5)), tokenizer)
            assert edit.is_applied and count_hooks(host) == hooked

    def test_groups(self, edit, host, tokenizer, texts):
        result = edit.retest(texts, tokenizer)
        numbers = {each.group: each.num_texts for each in result.figures if each.condition == "edit"}
        assert numbers[WITH] + numbers[WITHOUT] == len(texts)
        assert numbers[FAVOURED] + numbers[BROKEN] == numbers[WITH]
        without = result.figure("margin", WITHOUT)
        assert without.change == 0 and result.figure("margin", WITH).change != 0
        assert result.facts["coverage"] == pytest.approx(numbers[WITH] / len(texts))

    def test_the_favoured_label_is_the_one_that_loses(self, edit, host, tokenizer, texts):
        edit.remove()
        with torch.no_grad():
            host.config.id2label = {0: "bad", 1: "good"}
            result = edit.retest(texts.select_columns("text"), tokenizer)
            before = logits_of(host, tokenizer, texts["text"])
            with edit:
                lost = (before - logits_of(host, tokenizer, texts["text"])).mean(0)
        assert result.facts["favoured_label"] == ["bad", "good"][int(lost.argmax())]

    def test_the_favoured_label_of_a_host_without_names(self, edit, host, tokenizer, texts):
        named = texts.cast_column("label", ClassLabel(names=["negative", "positive"]))
        assert set(host.config.id2label.values()) == {"LABEL_0", "LABEL_1"}
        assert edit.retest(named, tokenizer).facts["favoured_label"] in ("negative", "positive")
        assert edit.retest(texts.remove_columns("label"), tokenizer).facts["favoured_label"] in ("LABEL_0", "LABEL_1")

    def test_special_tokens_do_not_count(self, model, host, tokenizer, texts):
        """A text has a concept if a token that is not special has it, as in an audit."""
        encoded = tokenizer(texts["text"][:8], padding=True, return_tensors="pt")
        model.centroids.vectors[0] = hooks.run(host, dict(encoded), [1])[1].detach()[:, 0].mean(0)
        table = model.concept_table(host, tokenizer, texts)
        has = np.isin(table.column("code"), [0]) & ~table.column("special")
        texts_with = set(np.asarray(table.column("text_id"))[has])
        assert len(texts_with) < len(texts), "every text has it at its first token"
        result = model.edit(host, [0], how="project").retest(texts, tokenizer)
        assert result.facts["coverage"] == pytest.approx(len(texts_with) / len(texts))

    def test_controls(self, edit, model, host, tokenizer, texts):
        result = edit.retest(texts, tokenizer)
        other = result.facts["other_codes"]
        assert len(other) == 2 and not set(other) & {2, 5}
        labels = np.asarray(texts["label"])
        edit.remove()
        with model.edit(host, other):
            rows = logits_of(host, tokenizer, texts["text"])
        assert result.figure("accuracy", condition=OTHER).after == pytest.approx(
            float((rows.argmax(-1).numpy() == labels).mean())
        )
        for control in (RANDOM, DELETED):
            assert result.figure("margin", WITHOUT, control).change == pytest.approx(0, abs=1e-6)
            assert result.figure("margin", WITH, control).change != 0
        both = result.figure("margin", WITH, f"edit - {RANDOM}")
        assert both.change == pytest.approx(
            result.figure("margin", WITH).change - result.figure("margin", WITH, RANDOM).change
        )

    def test_does_not_depend_on_batches_and_order(self, edit, tokenizer, texts):
        first = edit.retest(texts, tokenizer, batch_size=3)
        second = edit.retest(texts.select([*reversed(range(len(texts)))]), tokenizer, batch_size=16)
        for one, two in zip(first.figures, second.figures, strict=True):
            assert one.group == two.group
            assert one.change == pytest.approx(two.change, abs=1e-4)


class TestSlices:
    def test_by_column_function_and_list(self, edit, tokenizer, texts):
        texts = texts.select(range(30)).add_column("source", ["a", "b", None] * 10)
        result = edit.retest(texts, tokenizer, slices="source")
        assert [result.figure("changed", f"source={value}").num_texts for value in ("None", "a", "b")] == [10, 10, 10]
        slices = {"long": lambda row: len(row["text"]) > 100, "first": [True] * 5 + [False] * 25}
        result = edit.retest(texts, tokenizer, slices=slices)
        assert result.figure("changed", "first").num_texts == 5
        assert result.figure("changed", "long").num_texts == sum(len(text) > 100 for text in texts["text"])

    @pytest.mark.parametrize(
        ("slices", "message"),
        [
            ("nothing", "no column 'nothing'"),
            ("text", "60 values"),
            ({"few": [True]}, "one truth value for each of the 60"),
            ({"all texts": [True] * 60}, "another name"),
        ],
    )
    def test_refusals(self, edit, tokenizer, texts, slices, message):
        with pytest.raises(ValueError, match=message):
            edit.retest(texts, tokenizer, slices=slices)


class TestStrangersData:
    def test_labels_by_name_in_another_order(self, edit, host, tokenizer, texts):
        host.config.id2label = {0: "negative", 1: "positive"}
        names = [["negative", "positive"][label] for label in texts["label"]]
        named = Dataset.from_dict({"text": texts["text"], "label": names})
        first, second = (edit.retest(each, tokenizer).figure("accuracy") for each in (texts, named))
        assert first == second
        with pytest.raises(ValueError, match="the host's classes"):
            edit.retest(Dataset.from_dict({"text": ["a film"], "label": ["neutral"]}), tokenizer)

    def test_without_labels(self, edit, tokenizer, texts):
        result = edit.retest(texts.select_columns("text"), tokenizer)
        assert {each.figure for each in result.figures} == {"changed"}
        assert "no labels" in " ".join(result.verdict)

    def test_some_labels_empty_texts_and_one_class(self, edit, tokenizer, texts):
        chosen = texts["text"][:10]
        some = Dataset.from_dict({"text": [*chosen, "", " "], "label": [1, None] * 6})
        result = edit.retest(some, tokenizer)
        assert result.facts["num_texts"] == 10 and result.facts["num_left_out"] == 2
        assert result.figure("accuracy").num_texts == 5 and result.facts["num_labelled"] == 5
        assert "too few texts" in " ".join(result.verdict)

    def test_no_text_has_the_concept(self, edit, tokenizer, caplog):
        result = edit.retest(Dataset.from_dict({"text": ["a"] * 25, "label": [0, 1, 1, 1, 1] * 5}), tokenizer)
        if result.facts["coverage"] == 0:
            assert "None of these texts has the concept" in caplog.text
            assert "no evidence" in " ".join(result.verdict)

    @pytest.mark.parametrize("kind", ["multi_label", "regression", "tokens"])
    def test_every_head(self, kind, tokenizer, texts):
        texts = texts.select(range(24))
        host = bert_with(kind, tokenizer, texts["text"])
        model = clusters_of(host, tokenizer, texts["text"])
        labels = {"multi_label": [0, 1] * 12, "regression": [0.5, -0.5] * 12, "tokens": ["PER", "LOC"] * 12}[kind]
        given = Dataset.from_dict({"text": texts["text"], "label": labels})
        edit = model.edit(host, [0, 1, 2])
        edit.remove()
        result = edit.retest(given, tokenizer)
        assert result.figure("accuracy").num_texts == 24
        assert ("brier" in {each.figure for each in result.figures}) == (kind != "regression")

    def test_next_tokens_have_no_labels(self, causal_host, tokenizer, texts):
        model = clusters_of(causal_host, tokenizer, texts["text"])
        edit = model.edit(causal_host, 0)
        with pytest.raises(ValueError, match="classification head"):
            edit.retest(texts, tokenizer)


class TestWithoutWords:
    def row(self, tokenizer, text):
        from clvq_hf.data.tokenization import tokenize_texts

        return tokenize_texts(Dataset.from_dict({"text": [text]}), tokenizer, with_words=True)[0]

    def test_whole_words_with_their_space(self, tokenizer):
        text = "It was unwatchably dull, so dull!"
        row = self.row(tokenizer, text)
        pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
        assert "dull" in pieces and "unwatchably" not in pieces
        dull = np.asarray([piece == "dull" for piece in pieces])
        assert without_words(text, row, dull) == "It was unwatchably, so!"
        # One piece of a word takes the whole word with it; padding follows.
        first = pieces.index("##wat") if "##wat" in pieces else 4
        piece = np.arange(len(pieces) + 3) == first
        assert without_words(text, row, piece) == "It was dull, so dull!"

    def test_special_tokens_are_no_words(self, tokenizer):
        row = self.row(tokenizer, "fine")
        assert without_words("fine", row, np.asarray([True, False, True])) == "fine"
        assert without_words("fine", row, np.asarray([False, True, False])) == ""


def test_the_control_occurs_in_as_many_texts(edit):
    edit.forbid = (2, 5)
    codes = [np.asarray(own) for own in ([2, 0, 1], [2, 1, -1], [2, 1], [5, 3], [3, 4], [0, 1])]
    # 2 is in three texts, and so is none: 1 is in four, 0 and 3 are in two. 5 is in one, as 4 is.
    assert choose_other(edit, codes) == [0, 4]
    assert choose_other(edit, [np.asarray([2, 5])]) == []
    # 1 stands beside 2, as the words of a phrase do; 3 is in one text more.
    codes = [np.asarray(own) for own in ([2, 1], [2, 1], [3], [3], [3], [4], [4], [4], [4])]
    assert choose_other(edit, codes)[0] == 3


class TestFiles:
    def test_saved_and_loaded(self, edit, tokenizer, texts, tmp_path):
        result = edit.retest(texts, tokenizer, slices={"short": lambda row: len(row["text"]) < 100})
        result.save(tmp_path / "edited")
        loaded = Retest.load(tmp_path / "edited")
        assert loaded.figures == result.figures and loaded.facts == json.loads(json.dumps(result.facts))
        assert loaded.verdict == result.verdict and str(loaded) == str(result)
        assert len(result.to_pandas()) == len(result.figures)
        file = tmp_path / "edited" / "retest.json"
        file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
        with pytest.raises(ValueError, match="damaged"):
            Retest.load(tmp_path / "edited")
        with pytest.raises(ValueError, match="There is no file"):
            Retest.load(tmp_path)

    def test_the_page_is_whole_and_escaped(self, edit, tokenizer, texts, tmp_path):
        name = "<script>alert(1)</script>"
        edit.retest(texts, tokenizer, slices={name: [True] * len(texts)}).save(tmp_path)
        page = (tmp_path / "retest.html").read_text()
        assert name not in page and "&lt;script&gt;alert" in page
        assert "http:" not in page and "https:" not in page and "src=" not in page
        assert "Expected calibration error" in page and "Controls" in page
