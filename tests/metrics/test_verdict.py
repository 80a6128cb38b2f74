"""The verdict in words: every branch with figures that are written down, and a run of the numerics."""

import pytest
from datasets import Dataset
from helpers.report_fixtures import ablation_rows

from clvq_hf.metrics.ablation_drop.numerics import ablation_drop
from clvq_hf.metrics.results_tables import results_markdown
from clvq_hf.metrics.verdict import ablation_verdict, fidelity_verdict, measured_protocol, verdict

NUM_TEXTS = 100


def condition(name, cost, half=0.01, num_texts=NUM_TEXTS, **more):
    """What removing something costs, with an interval of `half` to either side."""
    change = {
        f"{name}_margin_change": -cost,
        f"{name}_margin_change_low": -cost - half,
        f"{name}_margin_change_high": -cost + half,
    }
    return change | {f"{name}_num_texts": num_texts} | {f"{name}_{key}": value for key, value in more.items()}


def contrast(name, difference, half=0.01, p_value=0.001, num_texts=NUM_TEXTS, corrected="p_holm"):
    """By how much more the first of two conditions costs."""
    return {
        name: -difference,
        f"{name}_low": -difference - half,
        f"{name}_high": -difference + half,
        f"{name}_{corrected}": p_value,
        f"{name}_num_texts": num_texts,
    }


HOST = {"accuracy": 0.9, "majority_accuracy": 0.5, "num_texts": NUM_TEXTS, "num_unlabelled": 0}
# The issue's example: 0.27 for the salient concept, 0.03 for another one, 0.24 for one of another text.
ISSUE = (
    HOST
    | condition("salient", 0.27)
    | condition("other_code", 0.03)
    | condition("other_text_same", 0.24)
    | condition("other_text_opposite", -0.1)
    | contrast("token_specificity", 0.24)
    | contrast("text_specificity", 0.03)
    | contrast("class_specificity", 0.34)
)


def said(*changes, protocol="code", without=(), **unit):
    figures = dict(ISSUE)
    for change in changes:
        figures |= change
    figures = (
        {name: value for name, value in figures.items() if not name.startswith(tuple(without))} if without else figures
    )
    return " ".join(ablation_verdict(figures, protocol, **unit))


def test_the_example():
    assert said() == (
        "Removing the salient concept costs 0.27 logits, another concept of the same text 0.03: the salient concept "
        "matters "
        "more. Another text's concept with the same prediction costs 0.24, so most of it is the class."
    )
    assert "costs 0.27 points," in said(unit="points")


class TestSalientAndOther:
    @pytest.mark.parametrize(
        "change",
        [
            contrast("token_specificity", 0.24, half=0.3),
            contrast("token_specificity", 0.24, p_value=0.051),
            {"token_specificity_low": None, "token_specificity_high": None},
        ],
    )
    def test_an_interval_with_0_or_a_large_p_value_or_none_is_no_difference(self, change):
        assert said(change).startswith(
            "Removing the salient concept costs 0.27 logits, another concept of the same text 0.03; the two cannot "
            "be told "
            "apart on 100 texts. "
        )
        assert "matters" not in said(change)

    def test_another_concept_costs_more(self):
        words = said(condition("other_code", 0.4), contrast("token_specificity", -0.13))
        assert "another concept of the same text 0.40: the other concept matters more." in words

    def test_another_concept_that_helps_keeps_its_sign(self):
        assert "another concept of the same text −0.03: the" in said(condition("other_code", -0.03))

    def test_nothing_can_be_told(self):
        words = said(
            condition("salient", 0.02, 0.1),
            condition("other_code", -0.01, 0.1),
            contrast("token_specificity", 0.03, 0.1, 0.8),
        )
        assert words == (
            "Removing the salient concept costs 0.02 logits, which cannot be told apart from no change on 100 texts; "
            "another "
            "concept of the same text gains 0.01, and the two cannot be told apart on 100 texts."
        )
        assert "no effect" not in words

    def test_nothing_can_be_told_of_the_concept_but_another_one_costs_less_or_more(self):
        unclear = condition("salient", 0.02, 0.1)
        assert said(unclear, condition("other_code", -0.2)).endswith(
            "another concept of the same text gains 0.20, less than the salient concept."
        )
        assert said(unclear, condition("other_code", 0.2), contrast("token_specificity", -0.18)).endswith(
            "another concept of the same text costs 0.20, more than the salient concept."
        )

    def test_a_removal_that_helps(self):
        words = said(condition("salient", -0.1), contrast("token_specificity", -0.13))
        assert words == (
            "Removing the salient concept makes the prediction more certain, by 0.10 logits; another concept of the "
            "same text "
            "costs 0.03, more than the salient concept."
        )

    def test_without_the_control(self):
        without = ("other_code", "token_specificity")
        assert "any concept may cost as much" in said(without=without)
        assert said(condition("salient", 0.02, 0.1), without=without).endswith(
            "no other concept of the same texts was removed."
        )

    def test_of_one_size(self):
        """The primary contrast may be a matter of size; the one of matched draws is in no family of tests."""
        matched = "token_specificity_matched"
        assert said(contrast(matched, 0.2, corrected="p_value")) == said()
        assert "change the text by as much, the difference cannot be told on 1 text." in said(
            contrast(matched, 0.2, corrected="p_value", num_texts=1)
        )
        assert "the difference cannot be told on 100 texts." in said(
            contrast(matched, 0.2, 0.3, 0.4, corrected="p_value")
        )
        nothing = {matched: None, f"{matched}_low": None, f"{matched}_high": None, f"{matched}_num_texts": 0}
        assert "the size of the change may be the reason" in said(nothing)


class TestOtherTexts:
    def test_most_of_it_is_its_own(self):
        words = said(condition("other_text_same", 0.05), contrast("text_specificity", 0.22))
        assert words.endswith("costs 0.05, so most of it belongs to the text's own concept.")

    def test_about_half(self):
        words = said(condition("other_text_same", 0.13), contrast("text_specificity", 0.14, 0.05))
        assert words.endswith("a part of the cost belongs to this concept, the rest may not.")

    def test_it_costs_more(self):
        words = said(condition("other_text_same", 0.4), contrast("text_specificity", -0.13))
        assert words.endswith("more than the text's own: the cost is not particular to this concept.")

    def test_it_cannot_be_told(self):
        words = said(contrast("text_specificity", 0.03, 0.2, 0.7))
        assert words.endswith("costs 0.24, which cannot be told apart from the text's own on 100 texts.")

    def test_few_texts_have_another_one(self):
        words = said(contrast("text_specificity", 0.03, num_texts=1))
        assert words.endswith("costs 0.24, on 1 text: too few to tell how much of the cost is the class.")

    def test_without_other_texts(self):
        assert said(without=("other_text", "text_spec", "class_spec")).endswith(
            "how much of this is the class is unknown."
        )

    def test_it_is_the_class_only_if_the_other_class_costs_less(self):
        words = said(condition("other_text_opposite", 0.2), contrast("class_specificity", 0.04, 0.1, 0.3))
        assert "nor need it be the class, as a concept with another prediction (0.20) cannot be told apart" in words
        words = said(condition("other_text_opposite", 0.4), contrast("class_specificity", -0.16))
        assert "with another prediction (0.40) costs even more." in words
        words = said(without=("other_text_opposite", "class_specificity"))
        assert words.endswith("so most of it is not particular to the text's own concept.")


class TestCeilings:
    def test_the_class(self):
        ceiling = condition("class_ceiling", 0.3)
        opening = " Removing only the class directions (the class ceiling) costs 0.30"
        assert said(ceiling).endswith(f"{opening}.")
        assert said(ceiling, condition("class_residual", 0.05)).endswith(
            f"{opening}; beyond them, the salient concept costs 0.05."
        )
        assert said(ceiling, condition("class_residual", 0.004)).endswith(
            "the salient concept costs 0.004, which cannot be told apart from no change on 100 texts."
        )
        assert said(ceiling, condition("class_residual", -0.05)).endswith(
            "makes the prediction more certain, by 0.05."
        )
        assert said(ceiling, condition("class_residual", 0.05, num_texts=7)).endswith("on too few texts to tell (7).")

    def test_the_word(self):
        ceiling, beyond = condition("word_ceiling", 0.2, text_share=0.6), condition("word_residual", 0.1)
        opening = (
            " Removing only the mean state of the word (the word ceiling), known in 60 % of the texts, costs 0.20"
        )
        assert said(ceiling).endswith(f"{opening}.")
        assert said(ceiling, beyond).endswith(f"{opening}; beyond it, the salient concept costs 0.10.")
        assert said(ceiling, beyond, condition("word_random", 0.02)).endswith(
            "costs 0.10, more than a random change of the same size (0.02)."
        )
        assert said(ceiling, beyond, condition("word_random", 0.09)).endswith(
            "which cannot be told apart from a random change of the same size (0.09)."
        )
        assert "known in" not in said(condition("word_ceiling", 0.2, text_share=1.0))
        few = condition("word_ceiling", 0.2, num_texts=9)
        assert said(few, beyond).endswith(" The word ceiling is known for 9 texts only, too few for a verdict.")

    def test_only_beside_a_concept_that_costs(self):
        words = said(condition("salient", 0.02, 0.1), condition("class_ceiling", 0.3), condition("word_ceiling", 0.3))
        assert "ceiling" not in words


class TestTexts:
    def test_few(self):
        few = {name: 19 for name in ISSUE if name.endswith("num_texts")}
        words = said(few)
        assert words == (
            "Only 19 texts were measured, too few for a verdict (20 are needed): removing the salient concept costs "
            "0.27 logits on average; removing another concept of the same text costs 0.03."
        )
        assert "Only 1 text was" in said(condition("salient", -0.2, num_texts=1), without=("other",))
        assert said(without=("salient",)).startswith("No text has a salient concept")

    def test_the_host_is_at_chance(self):
        words = said({"accuracy": 0.59})  # Wilson: 49.2 to 68.1
        assert words.endswith(
            "The model is right on 59.0 % of the texts, which cannot be told apart from always answering the most "
            "frequent "
            "label (50.0 %): what such predictions rest on means little."
        )
        assert "The model is right" not in said({"accuracy": 0.60})  # 50.2 to 69.1
        assert "less often than by always answering" in said({"accuracy": 0.3})
        assert "The model is right" in said({"accuracy": 0.60, "num_unlabelled": 80}), "only 20 of them are known"

    def test_one_label_only(self):
        assert said({"majority_accuracy": 1.0}).endswith(
            "All texts have the same label, so whether the classes are told apart is unknown."
        )

    def test_no_labels(self):
        unknown = {"accuracy": None, "majority_accuracy": None}
        assert said(unknown | {"num_unlabelled": NUM_TEXTS}).endswith("whether the predictions are right is unknown.")

    def test_a_regression(self):
        """Values, no classes: no accuracy, and no other class to compare with."""
        unknown = {"accuracy": None, "majority_accuracy": None}
        words = said(unknown, unit="points", without=("other_text", "text_spec", "class_spec"))
        assert words.startswith("Removing the salient concept costs 0.27 points, another concept")
        assert "right" not in words and "label" not in words


class TestProtocols:
    def test_the_probe_only(self):
        words = said({"accuracy": 0.5}, protocol="probe")
        assert words.startswith("Only the paper's probe was measured: it shows what the lower layer contains")
        assert "The probe is right on 50.0 %" in words

    def test_everywhere(self):
        assert said(protocol="all").startswith("The concept was removed at every token of the text, which mostly")

    def test_the_first_that_was_measured(self):
        assert measured_protocol({"ablation": {"probe": ISSUE, "code": {}}}) == "code"
        assert verdict({"ablation": {"probe": ISSUE, "code": ISSUE}}) == ablation_verdict(ISSUE)
        assert verdict({}) == verdict({"ablation": {}}) == ["What removing a concept costs was not measured."]


@pytest.mark.parametrize(
    ("cost", "shown"),
    [(0.0034, "0.003"), (0.00004, "less than 0.001"), (1234.567, "1,234.57"), (0.006, "0.01"), (0.0, "0.00")],
)
def test_small_and_large_figures(cost, shown):
    assert f"another concept of the same text {shown}:" in said(condition("other_code", cost))
    assert "−0.00" not in said(condition("other_code", -0.000001))


def test_of_the_numerics():
    """Five of ten texts lose 1.0, one loses 3.0: too few; three times as many texts are enough."""
    rows = ablation_rows()
    few = ablation_drop(Dataset.from_list(rows).to_dict(), num_bootstrap=200)
    assert (
        "Only 10 texts were measured" in ablation_verdict(few)[0] and "costs 1.20 logits" in ablation_verdict(few)[0]
    )
    more = [{**row, "text_id": row["text_id"] + 100 * copy} for copy in range(3) for row in rows]
    figures = ablation_drop(Dataset.from_list(more).to_dict(), num_bootstrap=200)
    assert ablation_verdict(figures) == [
        "Removing the salient concept costs 1.20 logits, another concept of the same text 0.30: the salient concept "
        "matters more.",
        f"It changes {figures['salient_flip_rate']:.0%} of the predictions.",
        "No concept of another text was removed, so how much of this is the class is unknown.",
    ]


@pytest.mark.parametrize(
    ("rate", "words"), [(0.004, "changes no prediction, or hardly any"), (0.287, "changes 29% of")]
)
def test_flips_are_said(rate, words):
    assert words in said({"salient_flip_rate": rate})


def test_it_is_on_top_of_the_results():
    results = {"host_name_or_path": "h", "layers": [1, 2], "ablation": {"code": ISSUE}}
    results["texts"] = {"num_texts": 100, "dataset": "d", "split": "test", "num_left_out": 0}
    lines = results_markdown(results, []).splitlines()
    assert lines[0] == "# Results" and lines[2] == " ".join(verdict(results))


class TestCodes:
    FIGURES = {"code_fidelity": 0.93, "random_fidelity": 0.88, "class_fidelity": 0.9, "num_texts": 300}
    START = (
        "With every token replaced by the mean state of its concept, the model keeps 93% of what it reads in the "
        "tokens"
    )

    @pytest.mark.parametrize(
        ("low", "high", "said"),
        [
            (0.1, 0.5, "more than"),
            (-0.5, -0.1, "less than"),
            (-0.1, 0.5, "which cannot be told apart on 300 texts from what"),
        ],
    )
    def test_beside_the_class(self, low, high, said):
        beyond = {
            "fidelity_beyond_class": (low + high) / 2,
            "fidelity_beyond_class_low": low,
            "fidelity_beyond_class_high": high,
        }
        assert fidelity_verdict(self.FIGURES | beyond) == [
            f"{self.START} (88% with as many random states for concepts), {said} the predicted class alone would keep "
            "(90%)."
        ]

    def test_without_classes(self):
        figures = self.FIGURES | {"fidelity_beyond_class": None}
        assert fidelity_verdict(figures) == [f"{self.START} (88% with as many random states for concepts)."]

    def test_comes_first(self):
        results = {"fidelity": {"codes": self.FIGURES}, "ablation": {}}
        first, second = verdict(results)
        assert first.startswith(self.START) and second == "What removing a concept costs was not measured."

    def test_what_was_not_measured_is_not_said(self):
        assert fidelity_verdict({}) == [] == fidelity_verdict({"code_fidelity": None})
