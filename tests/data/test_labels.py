"""Labels and a host's classes: matched by name, or by number where there are no names, or refused."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import BertConfig, BertForSequenceClassification, BertModel

from clvq_hf.data import host_labels, label_names
from clvq_hf.data.labels import label_columns, map_labels
from clvq_hf.data.texts import load_texts
from clvq_hf.hosts.readout import Readout

NAMELESS = ["LABEL_0", "LABEL_1"]
SENTIMENT = ["negative", "positive"]
SWAPPED = ["positive", "negative"]


@pytest.fixture
def warnings_of(monkeypatch):
    """Warnings of the module, collected."""
    messages = []
    monkeypatch.setattr("clvq_hf.data.labels.logger.warning", messages.append)
    return messages


def of(labels, feature=None):
    """A dataset with these labels, of a type or of the classes with these names."""
    if isinstance(feature, list):
        feature = ClassLabel(names=feature)
    columns = {"text": [f"text {number}" for number in range(len(labels))], "label": labels}
    features = None if feature is None else Features({"text": Value("string"), "label": feature})
    return Dataset.from_dict(columns, features)


def mapped(labels, classes, feature=None):
    """Ids and names after mapping to a host's classes."""
    dataset = map_labels(of(labels, feature), classes)
    assert dataset.column_names == ["text", "label"] and dataset["text"][0] == "text 0"
    again = map_labels(dataset, classes)
    assert again.features == dataset.features and again["label"][:] == dataset["label"][:]
    return dataset["label"][:], dataset.features["label"].names


class TestByName:
    @pytest.mark.parametrize("feature", [None, SENTIMENT, SWAPPED])
    @pytest.mark.parametrize("classes", [SENTIMENT, SWAPPED, ["negative", "neutral", "positive"]])
    def test_whatever_the_order_here_and_there(self, feature, classes):
        words = ["negative", "positive", "positive"]
        labels = words if feature is None else [feature.index(word) for word in words]
        assert mapped(labels, classes, feature) == ([classes.index(word) for word in words], classes)

    @pytest.mark.parametrize(
        ("name", "host_name"),
        [
            ("NEGATIVE", "negative"),
            (" Negative ", "negative"),
            ("very negative", "Very_Negative"),
            ("very-negative", "very  negative"),
            ("Sci/Tech", "sci/tech"),
            ("label_0", "LABEL_0"),
            (" -", "-"),
        ],
    )
    def test_case_white_space_and_hyphens_do_not_count(self, name, host_name):
        assert mapped([name, "positive"], ["positive", host_name]) == ([1, 0], ["positive", host_name])

    def test_names_that_differ_in_case_alone_are_told_apart(self):
        assert mapped(["us", "US"], ["US", "us"])[0] == [1, 0]

    def test_a_class_that_no_text_has(self):
        assert mapped([1, 1], ["positive", "negative"], ["neutral", "positive"])[0] == [0, 0]

    @pytest.mark.parametrize(
        ("labels", "feature"),
        [(["ham", "spam"], None), ([0, 1], ["ham", "spam"]), (["negative", "spam"], None), (["", "spam"], None)],
    )
    def test_other_names_are_refused_with_both_lists(self, labels, feature):
        with pytest.raises(ValueError, match=r"spam; the host's classes are 0 \(positive\), 1 \(negative\)"):
            map_labels(of(labels, feature), SWAPPED)


class TestByNumber:
    @pytest.mark.parametrize(
        ("labels", "feature"),
        [
            ([1, 0], None),
            ([1, 0], Value("uint8")),
            ([1.0, 0.0], None),
            ([True, False], None),
            (["1", "0"], None),
            (["LABEL_1", "LABEL_0"], None),
            (["1", "0"], Value("large_string")),
            ([1, 0], ["0", "1"]),
            ([1, 0], NAMELESS),
            ([0, 1], ["LABEL_1", "LABEL_0"]),
        ],
    )
    @pytest.mark.parametrize("classes", [SENTIMENT, SWAPPED, NAMELESS])
    def test_numbers_yield_to_the_hosts_names(self, labels, feature, classes):
        assert mapped(labels, classes, feature) == ([1, 0], classes)

    @pytest.mark.parametrize(
        ("labels", "feature"),
        [
            ([0, 4], None),
            ([1, 2], None),
            ([0, 4], Value("float64")),
            (["1", "2"], None),
            (["LABEL_0", "LABEL_2"], None),
            (["-1", "+1"], None),
            ([0, 1], ["0", "4"]),
            ([0, 1], ["1", "2"]),
            ([0, -2], None),
        ],
    )
    @pytest.mark.parametrize("classes", [SENTIMENT, NAMELESS])
    def test_numbers_of_no_class_are_refused(self, labels, feature, classes):
        with pytest.raises(
            ValueError, match=r"The labels in the column 'label' are .*; the host's classes are 0.*, 1"
        ):
            map_labels(of(labels, feature), classes)

    def test_classes_whose_names_are_numbers(self):
        stars = ["1", "2", "3"]
        assert mapped(["3", "1"], stars)[0] == [2, 0]
        assert mapped([3, 1], stars)[0] == [2, 0]
        assert mapped([0, 2], stars)[0] == [0, 2]
        with pytest.raises(ValueError, match="could be names or ids of the host's classes, 1, 2, 3"):
            map_labels(of([1, 2]), stars)

    def test_classes_that_are_called_true_and_false(self):
        assert mapped([True, False], ["true", "false"]) == ([0, 1], ["true", "false"])


class TestHostWithoutNames:
    def test_classes_of_a_dataset_keep_ids_and_names(self):
        assert mapped([1, 0], NAMELESS, SENTIMENT) == ([1, 0], SENTIMENT)

    def test_another_number_of_classes(self):
        with pytest.raises(ValueError, match="are 3 without names, and the dataset has 2"):
            map_labels(of([1, 0], SENTIMENT), ["LABEL_0", "LABEL_1", "LABEL_2"])

    def test_strings_are_not_numbered_by_the_alphabet(self):
        with pytest.raises(ValueError, match=r"are neg, pos; .* have no names.*--label negative.*label_names="):
            map_labels(of(["pos", "neg"]), NAMELESS)
        named = map_labels(of(["pos", "neg"]), ["pos", "neg"], owner="the names given for them")
        assert map_labels(named, NAMELESS)["label"][:] == [0, 1]


class TestNoHost:
    @pytest.mark.parametrize(
        ("labels", "feature", "expected"),
        [
            (["pos", "neg"], None, ([1, 0], ["neg", "pos"])),
            ([1, 0], SWAPPED, ([1, 0], SWAPPED)),
            ([0, 2], None, ([0, 2], ["0", "1", "2"])),
            ([2.0, None], None, ([2, None], ["0", "1", "2"])),
            (["10", "2"], None, ([10, 2], [str(number) for number in range(11)])),
            ([True, True], None, ([1, 1], ["False", "True"])),
            ([None, None], None, ([None, None], [])),
            ([None, "a"], None, ([None, 0], ["a"])),
        ],
    )
    def test_labels_keep_their_own_names(self, labels, feature, expected):
        assert mapped(labels, None, feature) == expected

    @pytest.mark.parametrize("labels", [[123456, 1], [f"id {number}" for number in range(1001)], [-2, 0]])
    def test_identifiers(self, labels):
        with pytest.raises(ValueError, match="numbers from 0 to 999"):
            map_labels(of(labels), None)

    def test_spellings_are_one_class(self, warnings_of):
        labels = ["SPORTS", "Business ", "sports", "Business", "Sports", "sci_tech", "Sci-Tech"]
        names = ["Business", "Sci-Tech", "Sports"]
        assert mapped(labels, None) == ([2, 0, 2, 0, 2, 1, 1], names)
        assert label_names(of(labels)) == names and mapped(labels, names) == ([2, 0, 2, 0, 2, 1, 1], names)
        assert any("'Business' = 'Business '" in warning for warning in warnings_of)

    def test_ids_of_classes_that_are_called_by_other_numbers(self):
        for names in (["1", "0"], ["LABEL_1", "LABEL_0"]):
            for labels in ([True, False], [0, 1]):
                with pytest.raises(ValueError, match="names"):
                    map_labels(of(labels), names)

    def test_names_for_a_new_head(self):
        assert label_names(of(["pos", "neg"])) == ["neg", "pos"]
        assert label_names(of([1, 0, None])) == ["0", "1"]
        assert label_names(of([1], SENTIMENT)) == SENTIMENT
        for labels in ([0, 4], [1, 2]):
            with pytest.raises(ValueError, match=f"are {labels[0]}, {labels[1]}, with gaps"):
                label_names(of(labels))
        with pytest.raises(ValueError, match=r"no column 'label'; it has \['text'\]"):
            label_names(of([1]).remove_columns("label"))


@pytest.mark.parametrize("classes", [SENTIMENT, NAMELESS, None])
class TestNeverAClass:
    @pytest.mark.parametrize("labels", [[0.2, 0.9], [1.0, 0.5], [float("inf"), 0.0]])
    def test_scores(self, labels, classes):
        with pytest.raises(ValueError, match="numbers like"):
            map_labels(of(labels), classes)

    @pytest.mark.parametrize(
        ("labels", "feature"),
        [([[0, 1], [1, 0]], List(Value("int64"))), ([{"a": 1}, {"a": 2}], {"a": Value("int64")})],
    )
    def test_several_at_once(self, labels, feature, classes):
        with pytest.raises(ValueError, match="not classes"):
            map_labels(of(labels, feature), classes)

    @pytest.mark.parametrize("labels", [[-1, 1], [-1.0, 1.0], [-1, 0]])
    def test_minus_one_beside_one_class(self, labels, classes):
        with pytest.raises(ValueError, match="is -1 a class, or no label"):
            map_labels(of(labels), classes)


class TestNoLabel:
    @pytest.mark.parametrize("classes", [SENTIMENT, NAMELESS, None])
    def test_none_and_nan(self, classes, warnings_of):
        assert mapped([1, None, 0], classes)[0] == [1, None, 0]
        assert mapped([1.0, float("nan"), 0.0], classes)[0] == [1, None, 0]
        assert warnings_of == []

    @pytest.mark.parametrize("classes", [SENTIMENT, NAMELESS, None])
    def test_minus_one_beside_all_classes_is_said(self, classes, warnings_of):
        assert mapped([1, -1, 0], classes)[0] == [1, None, 0]
        [warning] = warnings_of
        assert warning.startswith("-1 counts as no label in the column 'label'")

    def test_minus_one_alone(self, warnings_of):
        assert mapped([-1, -1], SENTIMENT)[0] == [None, None]
        assert len(warnings_of) == 1

    def test_minus_one_of_a_class_label_has_no_name(self, warnings_of):
        assert mapped([1, -1], SWAPPED, SENTIMENT)[0] == [0, None]
        assert len(warnings_of) == 1

    def test_minus_one_in_the_place_of_a_class(self):
        three = ["negative", "neutral", "positive"]
        with pytest.raises(ValueError, match="are -1, 0, 1; is -1 a class, or no label"):
            map_labels(of([-1, 0, 1]), three)

    def test_texts_that_must_have_labels(self):
        with pytest.raises(ValueError, match="2 of 4 texts have no label"):
            map_labels(of([0, 1, -1, None]), SENTIMENT, complete=True)
        unlabelled = of([0]).remove_columns("label")
        assert map_labels(unlabelled, SENTIMENT) is unlabelled
        with pytest.raises(ValueError, match=r"no column 'label' of labels; it has \['text'\]"):
            map_labels(unlabelled, SENTIMENT, complete=True)


class TestHost:
    def test_names_of_a_head(self):
        config = BertConfig(
            vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
        )
        config.id2label = {0: "positive", 1: "negative"}
        host = BertForSequenceClassification(config)
        assert host_labels(of(["negative", "positive"]), host)["label"][:] == [1, 0]
        host.config.id2label = {"1": "positive", "0": "negative"}
        assert host_labels(of(["negative", "positive"]), host)["label"][:] == [0, 1]
        host.config.id2label = {0: "the same", 1: "the same"}
        assert host_labels(of([1, 0], SENTIMENT), host).features["label"].names == SENTIMENT
        host.config.problem_type = "multi_label_classification"
        assert host_labels(of(["b", "a"]), host)["label"][:] == [1, 0]
        assert host_labels(of(["b", "a"]), BertModel(config))["label"][:] == [1, 0]

    def test_rows_in_another_order_and_another_column(self):
        dataset = of(["a", "b", "a", "b"]).rename_column("label", "class").select([3, 0]).with_format("numpy")
        new = map_labels(dataset, ["b", "a"], "class")
        assert new["class"][:] == [0, 1] and new["text"][:] == ["text 3", "text 0"]


INSULT = Readout(
    "multi_label", target=2, class_names=("not insult", "insult"), outputs=("toxic", "identity_hate", "insult")
)


class TestOneOfSeveralLabels:
    @pytest.mark.parametrize(
        ("labels", "feature"),
        [
            ([["insult", "toxic"], ["Identity-Hate"], [], None], List(Value("string"))),
            ([[2, 0], [1], [], None], List(Value("int64"))),
            ([[0, 2], [1], [], None], List(ClassLabel(names=["toxic", "identity hate", "insult"]))),
            ([[1, 0, 1], [0, 1, 0], [0, 0, 0], None], List(Value("int64"))),
            ([[True, False, True], [False, True, False], [False] * 3, None], List(Value("bool"))),
            ([[1.0, 0, 1], [0, 1, 0], [0, 0, 0], None], List(Value("float32"))),
            (["insult", "toxic", "identity_hate", None], None),
            (["insult", "not insult", "not insult", ""], None),
            ([1, 0, 0, -1], None),
            ([1.0, 0.0, 0.0, float("nan")], None),
            ([True, False, False, None], None),
            (["1", "0", "0", None], None),
        ],
    )
    def test_however_they_are_written(self, labels, feature):
        dataset = host_labels(of(labels, feature), None, readout=INSULT)
        assert dataset["label"][:] == [1, 0, 0, None]
        assert dataset.features["label"].names == ["not insult", "insult"]
        assert host_labels(dataset, None, readout=INSULT)["label"][:] == [1, 0, 0, None]

    def test_the_column_of_the_label_comes_first(self):
        dataset = of([0, 0, 0]).add_column("Insult", [1, 0, 1])
        for given in (dataset, dataset.remove_columns("label")):
            assert host_labels(given, None, readout=INSULT)["label"][:] == [1, 0, 1]
        named = dataset.rename_column("label", "mine")
        assert host_labels(named, None, "mine", readout=INSULT)["mine"][:] == [0, 0, 0]
        with pytest.raises(ValueError, match="'toxic' is called as another label"):
            host_labels(of([0, 1]).rename_column("label", "toxic"), None, "toxic", readout=INSULT)

    @pytest.mark.parametrize(
        ("labels", "feature", "message"),
        [
            ([["rude"]], List(Value("string")), r"lists with rude\. The host's labels are 0 \(toxic\)"),
            ([[5]], List(Value("int64")), "lists with 5"),
            ([[1, 0]], List(Value("bool")), "3 zeros and ones"),
            ([0.3, 0.7], None, "numbers like 0.3, 0.7, not classes"),
            ([0, 3], None, "are 0, 3"),
            (["clean", "insult"], None, "clean, insult"),
        ],
    )
    def test_what_says_something_else_is_refused(self, labels, feature, message):
        with pytest.raises(ValueError, match=message):
            host_labels(of(labels, feature), None, readout=INSULT)

    def test_of_a_file(self, tmp_path):
        file = tmp_path / "comments.csv"
        file.write_text("comment_text,toxic,Insult\nGood.,0,1\nBad.,1,0\n")
        assert load_texts(str(file), readout=INSULT)["label"][:] == [1, 0]
        assert load_texts(str(file))["label"][:] == [0, 1]
        file.write_text("text,toxic\nGood.,0\n")
        assert load_texts(str(file), readout=INSULT).column_names == ["text"], "toxic is no answer"
        with pytest.raises(ValueError, match=r"label_column=…, or the label with target=…"):
            load_texts(str(file), label_column="toxic", readout=INSULT)
        assert label_columns(None)[0] == "label"


class TestNumbers:
    HALF = Readout("regression", target=0, outputs=("LABEL_0",)).with_centre(0.5)

    @pytest.mark.parametrize("labels", [[0.5, 0.75, None, -1.0], [0, 1, None, -3]])
    def test_lie_below_or_above(self, labels):
        dataset = host_labels(of(labels), None, readout=self.HALF)
        assert dataset["label"][:] == [0, 1, None, 0]
        assert dataset.features["label"].names == ["below 0.5", "above 0.5"]
        assert host_labels(dataset, None, readout=self.HALF)["label"][:] == [0, 1, None, 0]

    @pytest.mark.parametrize("labels", [["good", "bad"], [True, False], [[1.0], [2.0]]])
    def test_other_labels_are_refused(self, labels):
        with pytest.raises(ValueError, match="the host's output is a number"):
            host_labels(of(labels), None, readout=self.HALF)

    def test_of_a_file(self, tmp_path):
        (tmp_path / "test.csv").write_text("text,Score\nGood.,0.9\nBad.,-1\n")
        assert load_texts(str(tmp_path / "test.csv"), readout=self.HALF)["label"][:] == [0.9, -1.0]


def test_labels_of_tokens_are_not_read():
    readout = Readout("token_classification", class_names=("O", "PER"), outputs=("O", "PER"))
    assert host_labels(of([[0, 1], [0, 0]]), None, readout=readout).column_names == ["text"]
    assert host_labels(of(["PER", "O"]), None, readout=readout)["label"][:] == [1, 0]
