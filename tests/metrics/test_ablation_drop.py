"""Hand-computed figures, invariances, unusable input, and the metric as `evaluate` loads it."""

import itertools
import json

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from clvq_hf.metrics.ablation_drop import ablation_drop as script
from clvq_hf.metrics.ablation_drop import accuracies
from clvq_hf.metrics.ablation_drop.accuracies import assign_classes, macro_auc, rate_matched_accuracy
from clvq_hf.metrics.ablation_drop.numerics import ablation_drop
from clvq_hf.metrics.ablation_drop.outcomes import COLUMNS
from clvq_hf.metrics.ablation_drop.statistics import holm, sign_flip_p_value, studentized_interval


def table(rows):
    """Columns of rows `(text_id, condition, draw, margin, p1, matched)`.

    Four texts with two classes. Without removal:

    | text | label | prediction | margin | p1 |
    |---|---|---|---|---|
    | 0 | 1 | 1 | 2 | 0.9 |
    | 1 | 0 | 1 | 1 | 0.7 |
    | 2 | 0 | 0 | 3 | 0.1 |
    | 3 | missing | 0 | 4 | 0.2 |
    """
    plain = {0: (1, 1, 2, 0.9), 1: (0, 1, 1, 0.7), 2: (0, 0, 3, 0.1), 3: (-1, 0, 4, 0.2)}
    columns = {name: [] for name in COLUMNS}
    for text_id, condition, draw, margin, p1, matched in rows:
        label, prediction, plain_margin, plain_p1 = plain[text_id]
        before, after = [1 - plain_p1, plain_p1], [1 - p1, p1]
        row = {
            "text_id": text_id,
            "condition": condition,
            "draw": draw,
            "label": label,
            "prediction_plain": prediction,
            "prediction": prediction if margin > 0 else 1 - prediction,
            "margin_plain": float(plain_margin),
            "margin": float(margin),
            "probability_plain": before[prediction],
            "probability": after[prediction],
            "gold_probability_plain": before[label] if label >= 0 else -1.0,
            "gold_probability": after[label] if label >= 0 else -1.0,
            "kl": abs(plain_p1 - p1),
            "probabilities_plain": before,
            "probabilities": after,
            "num_positions": text_id + draw,
            "removed_norm": 1.0 + draw,
            "matched": matched,
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns


SMALL = [
    (0, "salient", 0, -1, 0.3, True),
    (1, "salient", 0, 0.5, 0.6, True),
    (2, "salient", 0, -2, 0.8, True),
    (3, "salient", 0, 4, 0.2, True),
    # Text 2 has no other code, and text 1 only one draw.
    (0, "other_code", 0, 1, 0.8, True),
    (0, "other_code", 1, -0.5, 0.4, False),
    (1, "other_code", 0, -0.5, 0.45, False),
    (3, "other_code", 0, 3, 0.1, True),
    (3, "other_code", 1, 2, 0.3, False),
]


def random_table(seed, num_texts=12, num_classes=3, num_draws=3, stored=True):
    """A coherent experiment from random logits: other conditions than `salient` lack some texts and draws."""
    generator = np.random.default_rng(seed)
    columns = {name: [] for name in COLUMNS}
    for text_id in range(num_texts):
        label = int(generator.integers(-1, num_classes))
        plain = generator.normal(size=num_classes).round(1)
        prediction = int(plain.argmax())
        for condition in ("salient", "other_code", "other_text_same", "other_text_opposite", "leace"):
            for draw in range(1 if condition in ("salient", "leace") else num_draws):
                if condition != "salient" and generator.random() < 0.2:
                    continue
                # Rounded, so that ties occur.
                logits = (plain + generator.normal(size=num_classes)).round(1)
                before, after = (np.exp(x) / np.exp(x).sum() for x in (plain, logits))
                row = {
                    "text_id": text_id,
                    "condition": condition,
                    "draw": draw,
                    "label": label,
                    "prediction_plain": prediction,
                    "prediction": int(logits.argmax()),
                    "margin_plain": plain[prediction] - np.delete(plain, prediction).max(),
                    "margin": logits[prediction] - np.delete(logits, prediction).max(),
                    "probability_plain": before[prediction],
                    "probability": after[prediction],
                    "gold_probability_plain": before[label] if label >= 0 else -1.0,
                    "gold_probability": after[label] if label >= 0 else -1.0,
                    "kl": (before * np.log(before / after)).sum(),
                    "probabilities_plain": before.tolist() if stored else [],
                    "probabilities": after.tolist() if stored else [],
                    "num_positions": int(generator.integers(1, 4)),
                    "removed_norm": generator.random(),
                    "matched": bool(generator.random() < 0.7) or condition == "salient",
                }
                for name, value in row.items():
                    columns[name].append(value)
    return columns


def select(columns, rows):
    return {name: [values[row] for row in rows] for name, values in columns.items()}


def run(columns, **kwargs):
    return ablation_drop(columns, **{"num_bootstrap": 100, "num_permutations": 100, **kwargs})


@pytest.fixture(scope="module")
def result():
    return run(table(SMALL), details=True)


class TestByHand:
    def test_without_removal(self, result):
        # Texts 0, 1 and 2 have labels 1, 0, 0 and predictions 1, 1, 0.
        assert result["accuracy"] == pytest.approx(2 / 3)
        assert result["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
        assert result["majority_accuracy"] == pytest.approx(2 / 3)
        assert result["macro_auc"] == 1  # .9 > .7 and .1
        assert (result["num_texts"], result["num_unlabelled"]) == (4, 1)

    def test_salient(self, result):
        assert result["salient_margin_change"] == pytest.approx((-3 - 0.5 - 5 + 0) / 4)
        assert result["salient_flip_rate"] == 2 / 4
        assert result["salient_accuracy"] == result["salient_balanced_accuracy"] == 0
        assert result["salient_macro_auc"] == 0  # .3 < .6 and .8
        # Two of the three labelled texts were predicted 1; now texts 2 (.8) and 1 (.6) are, and text 0 is not.
        assert result["salient_rate_matched_accuracy"] == 0
        assert result["salient_kl"] == pytest.approx((0.6 + 0.1 + 0.7 + 0) / 4)
        # Of the plain prediction: .9 → .3, .7 → .6, .9 → .2, .8 → .8; of the label: .9 → .3, .3 → .4, .9 → .2.
        assert result["salient_probability_change"] == pytest.approx((-0.6 - 0.1 - 0.7) / 4)
        assert result["salient_gold_probability_change"] == pytest.approx((-0.6 + 0.1 - 0.7) / 3)
        assert (result["salient_num_texts"], result["salient_num_labelled"]) == (4, 3)

    def test_draws_are_averaged_within_the_text_first(self, result):
        # Text 0: -1 and -2.5; text 1: -1.5; text 3: -1 and -2.
        assert result["other_code_margin_change"] == pytest.approx((-1.75 - 1.5 - 1.5) / 3)
        assert result["other_code_flip_rate"] == pytest.approx((1 / 2 + 1 + 0) / 3)
        assert result["other_code_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
        assert result["other_code_balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
        assert result["other_code_matched_share"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
        assert result["other_code_num_positions"] == pytest.approx((0.5 + 1 + 3.5) / 3)
        assert result["other_code_removed_norm"] == pytest.approx((1.5 + 1 + 1.5) / 3)
        assert (result["other_code_num_texts"], result["other_code_num_labelled"]) == (3, 2)
        # Text 2 has none; of the others text 0 has no position to compare with, 1 has 1 of 1, and 3 has 3 and 4 of 3.
        assert result["other_code_text_share"] == 3 / 4
        assert result["other_code_position_share"] == pytest.approx((1 + 3.5 / 3) / 2)
        assert (result["salient_text_share"], result["salient_position_share"]) == (1, 1)

    def test_runs_through_the_draws(self, result):
        # First .8 (text 0) against .45 (text 1), then .4 against .45 again: in order, then not.
        assert result["other_code_macro_auc"] == 1 / 2
        # Both texts were predicted 1, and are again; one of them has label 1.
        assert result["other_code_rate_matched_accuracy"] == 1 / 2

    def test_token_specificity(self, result):
        # Texts 0, 1 and 3 have both: -3 + 1.75, -.5 + 1.5, 0 + 1.5.
        assert result["token_specificity"] == pytest.approx((-1.25 + 1 + 1.5) / 3)
        assert result["token_specificity_num_texts"] == 3
        # Sums of all signs: ±3.75, ±1.25 (the observed one), ±1.75, ±.75: six of eight.
        assert result["token_specificity_p_value"] == 6 / 8
        # A resample of three may hold one text only, and says nothing of its spread: there is no interval.
        assert result["token_specificity_low"] is result["token_specificity_high"] is None
        assert result["token_specificity_verdict"] == "tie"
        # 1 - 1/2, 0 - 1, 0 - 0. First draws: text 0 flips under salient only, text 1 under the other code only.
        assert result["token_specificity_flip_change"] == pytest.approx((0.5 - 1 + 0) / 3)
        assert result["token_specificity_mcnemar_p_value"] == 1

    def test_mcnemar_takes_first_draws(self):
        # Under the other code three texts flip in the second draw only, under salient at once: 2 / 2^3.
        draws = [("salient", 0, -1), ("other_code", 0, 1), ("other_code", 1, -1)]
        rows = [(text_id, *draw, 0.5, True) for text_id in range(3) for draw in draws]
        assert run(table(rows))["token_specificity_mcnemar_p_value"] == pytest.approx(2 / 8)

    def test_matched_draws_only(self, result):
        # Texts 0 and 3: -3 + 1 and 0 + 1.
        assert result["token_specificity_matched"] == pytest.approx((-2 + 1) / 2)
        assert result["token_specificity_matched_num_texts"] == 2

    def test_contrasts_without_a_condition(self, result):
        for name in ("text_specificity", "class_specificity"):
            assert result[f"{name}_num_texts"] == 0
            for figure in ("", "_low", "_high", "_p_value", "_p_holm", "_verdict", "_flip_change", "_mcnemar_p_value"):
                assert result[name + figure] is None
        assert result["token_specificity_p_holm"] == result["token_specificity_p_value"]

    def test_flip_matrix(self, result):
        assert result["flip_matrix"]["salient"] == [
            {"from": 0, "to": 0, "count": 1},
            {"from": 0, "to": 1, "count": 1},
            {"from": 1, "to": 0, "count": 1},
            {"from": 1, "to": 1, "count": 1},
        ]
        assert result["flip_matrix"]["other_code"] == [
            {"from": 0, "to": 0, "count": 1},
            {"from": 1, "to": 0, "count": 1.5},
            {"from": 1, "to": 1, "count": 0.5},
        ]

    def test_strata(self, result):
        assert result["strata"]["salient"] == {
            "prediction": [
                {"prediction": 0, "margin_change": -2.5, "flip_rate": 0.5, "num_texts": 2},
                {"prediction": 1, "margin_change": -1.75, "flip_rate": 0.5, "num_texts": 2},
            ],
            "correct": [
                {"correct": True, "margin_change": -4, "flip_rate": 1, "num_texts": 2},
                {"correct": False, "margin_change": -0.5, "flip_rate": 0, "num_texts": 1},
            ],
        }
        assert result["strata"]["token_specificity"]["correct"] == [
            {"correct": True, "margin_change": -1.25, "flip_rate": 0.5, "num_texts": 1},
            {"correct": False, "margin_change": 1, "flip_rate": -1, "num_texts": 1},
        ]
        assert result["strata"]["class_specificity"]["prediction"] == []

    def test_differences(self, result):
        assert result["differences"]["token_specificity"] == {
            "text_id": [0, 1, 3],
            "margin_change": [-1.25, 1, 1.5],
            "flip_rate": [0.5, -1, 0],
        }
        assert result["differences"]["text_specificity"] == {"text_id": [], "margin_change": [], "flip_rate": []}

    def test_intervals_and_p_values_are_those_of_the_statistics(self):
        result = run(random_table(0, num_texts=40), details=True, seed=3)
        p_values = []
        for name in ("token_specificity", "text_specificity", "class_specificity"):
            differences = result["differences"][name]["margin_change"]
            interval = studentized_interval(differences, num_bootstrap=100, seed=3)
            assert (result[f"{name}_low"], result[f"{name}_high"]) == interval
            p_values.append(sign_flip_p_value(differences, num_permutations=100, seed=3))
            assert result[f"{name}_p_value"] == p_values[-1]
        assert [result[f"{name}_p_holm"] for name in result["differences"]] == holm(p_values).tolist()

    @pytest.mark.parametrize(("shift", "verdict"), [(-10, "lower"), (0, "tie"), (10, "higher")])
    def test_verdict(self, shift, verdict):
        columns = random_table(1, num_texts=40)
        columns["margin"] = [
            margin + shift * (condition == "salient")
            for margin, condition in zip(columns["margin"], columns["condition"], strict=True)
        ]
        assert run(columns)["token_specificity_verdict"] == verdict


class TestAccuracies:
    def test_macro_auc_is_that_of_scikit_learn(self):
        generator = np.random.default_rng(0)
        labels = generator.integers(0, 4, size=200)
        # One decimal gives ties.
        probabilities = generator.dirichlet(np.ones(4), size=200).round(1)
        expected = np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in range(4)])
        assert macro_auc(probabilities, labels) == pytest.approx(expected, abs=1e-12)

    def test_macro_auc_of_the_classes_that_occur(self):
        probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]])
        assert macro_auc(probabilities, np.array([0, 2])) == 1
        assert macro_auc(probabilities, np.array([2, 2])) is None

    def test_rates_undo_a_shift(self):
        # Everything is predicted 1, but the order is kept.
        probabilities = np.array([[0.4, 0.6], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9]])
        labels = np.array([0, 0, 1, 1])
        assert rate_matched_accuracy(probabilities, labels, labels) == 1
        assert rate_matched_accuracy(probabilities[::-1], labels, labels) == 0
        # One text was predicted 1: of texts 2 and 3 only the latter still is.
        assert rate_matched_accuracy(probabilities, labels, np.array([0, 0, 0, 1])) == 3 / 4

    @pytest.mark.parametrize("num_classes", [2, 3])
    def test_ties_are_shared(self, num_classes):
        # All texts look alike: 6 of 8 labels and 6 of 8 predictions are 0. By chance .75² + .25² agree, however sorted.
        probabilities = np.full((8, num_classes), 1 / num_classes)
        labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
        for plain in (labels, labels[::-1]):
            assert rate_matched_accuracy(probabilities, labels, plain) == pytest.approx(0.75**2 + 0.25**2)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 4))
    def test_assignment_is_the_best_one(self, seed, size, num_classes):
        generator = np.random.default_rng(seed)
        scores = generator.normal(size=(size, num_classes)).round(1)
        counts = np.bincount(generator.integers(0, num_classes, size=size), minlength=num_classes)
        classes = assign_classes(scores, counts)
        assert np.bincount(classes, minlength=num_classes).tolist() == counts.tolist()
        best = max(
            scores[np.arange(size), list(order)].sum()
            for order in itertools.permutations(np.repeat(np.arange(num_classes), counts).tolist())
        )
        assert scores[np.arange(size), classes].sum() == pytest.approx(best)

    @pytest.mark.parametrize("num_classes", [3, 20])
    def test_many_texts(self, monkeypatch, num_classes):
        generator = np.random.default_rng(0)
        scores = generator.normal(size=(400, num_classes))
        counts = np.bincount(generator.integers(0, num_classes, size=400), minlength=num_classes)
        exact = scores[np.arange(400), assign_classes(scores, counts)].sum()
        monkeypatch.setattr(accuracies, "MAX_ASSIGNMENT", 0)
        monkeypatch.setattr(accuracies, "_NUM_SWEEPS", 1)
        classes = assign_classes(scores, counts)
        assert np.bincount(classes, minlength=num_classes).tolist() == counts.tolist()
        assert exact * 0.97 <= scores[np.arange(400), classes].sum() <= exact + 1e-9

    def test_rates_of_the_plain_run_give_its_accuracy(self):
        generator = np.random.default_rng(0)
        for num_classes in (2, 5):
            probabilities = generator.dirichlet(np.ones(num_classes), size=60)
            labels = generator.integers(0, num_classes, size=60)
            predictions = probabilities.argmax(axis=1)
            accuracy = (predictions == labels).mean()
            assert rate_matched_accuracy(probabilities, labels, predictions) == pytest.approx(accuracy)


class TestInvariance:
    @pytest.mark.slow
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000), st.sampled_from([2, 3]))
    def test_order_of_rows(self, seed, num_classes):
        columns = random_table(seed, num_classes=num_classes)
        order = np.random.default_rng(seed).permutation(len(columns["text_id"]))
        assert run(select(columns, order), details=True) == run(columns, details=True)

    @pytest.mark.slow
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000))
    def test_numbers_of_texts_and_draws(self, seed):
        columns = random_table(seed)
        text_ids, draws = [3 * number - 7 for number in columns["text_id"]], [2 * draw + 1 for draw in columns["draw"]]
        assert run({**columns, "text_id": text_ids, "draw": draws}) == run(columns)

    @pytest.mark.slow
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000))
    def test_numbers_of_classes(self, seed):
        columns = random_table(seed, num_classes=3)
        names = [2, 0, 1]
        renamed = dict(columns)
        for name in ("label", "prediction", "prediction_plain"):
            renamed[name] = [value if value < 0 else names[value] for value in columns[name]]
        for name in ("probabilities", "probabilities_plain"):
            renamed[name] = [[row[names.index(k)] for k in range(3)] for row in columns[name]]
        result, expected = run(renamed), run(columns)
        for name, value in expected.items():
            # Among several best assignments, the numbers of the classes may decide.
            if not name.endswith("rate_matched_accuracy"):
                # Sums over classes are taken in another order.
                assert result[name] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), name

    def test_other_conditions(self):
        columns = random_table(0)
        without = select(columns, [row for row, name in enumerate(columns["condition"]) if name != "leace"])
        result, smaller = run(columns), run(without)
        assert {name: value for name, value in result.items() if not name.startswith("leace")} == smaller

    def test_scalars_are_plain_and_finite(self):
        for columns in (random_table(0), random_table(1, num_texts=1), random_table(2, stored=False), table(SMALL)):
            result = run(columns)
            json.dumps(result, allow_nan=False)
            for name, value in result.items():
                kind = int if "num_" in name and not name.endswith("num_positions") else (float, str, type(None))
                assert isinstance(value, kind), name
            json.dumps(run(columns, details=True), allow_nan=False)


class TestWhatIsMissing:
    def test_no_probabilities(self):
        stored, empty = run(random_table(0)), run(random_table(0, stored=False))
        for name, value in empty.items():
            needs_probabilities = name.endswith(("macro_auc", "rate_matched_accuracy"))
            assert value == (None if needs_probabilities else stored[name]), name

    def test_no_labels(self):
        columns = random_table(0)
        columns["label"] = [-1] * len(columns["label"])
        result = run(columns)
        assert result["num_unlabelled"] == result["num_texts"] == 12
        assert result["salient_num_labelled"] == 0
        needs_labels = ("accuracy", "macro_auc", "gold_probability_change")
        assert all((value is None) == name.endswith(needs_labels) for name, value in result.items())

    def test_one_class_of_labels(self):
        result = run(table(SMALL[1:3]))
        assert result["macro_auc"] is None and result["salient_macro_auc"] is None
        assert result["accuracy"] == 1 / 2 and result["majority_accuracy"] == 1

    def test_one_text_has_no_interval(self):
        result = run(table([row for row in SMALL if row[0] == 0]))
        assert result["salient_margin_change_low"] is None and result["token_specificity_verdict"] is None
        assert result["token_specificity"] == -1.25 and result["token_specificity_p_value"] == 1

    def test_no_matched_draw(self):
        result = run(table([row for row in SMALL if row[0] == 1]))
        assert result["token_specificity"] == 1
        assert result["token_specificity_matched"] is None and result["token_specificity_matched_num_texts"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({name: [] for name in COLUMNS}, "no outcomes; run an ablation experiment"),
        ({"condition": ["other_code"] * 9}, "no condition 'salient' among"),
        ({"condition": ["salient"] * 8 + [""]}, "has no name"),
        ({"condition": ["salient"] * 8 + [None]}, "one string per row in condition"),
        ({"probabilities": [[0.5, 0.5]] * 8 + [[0.2, 0.3, 0.5]]}, "as many classes in every row"),
        ({"probabilities": [[0.5, 0.5]] * 8 + [[]]}, "as many classes in every row"),
        ({"probabilities": [[0.5, 0.5]] * 8 + [None]}, "as many classes in every row"),
        ({"probabilities": [[]] * 9}, "store all classes in both"),
        ({"probabilities": [[1.0]] * 9, "probabilities_plain": [[1.0]] * 9}, r"\[1 - p, p\]"),
        ({"probabilities": [[-1.0, 2.0]] * 9}, "apply softmax"),
        ({"probabilities": [[float("nan"), 0.5]] * 9}, "probabilities is not finite"),
        ({"prediction": [5] * 9}, "prediction 5 is none of the 2 classes"),
        ({"prediction": [-1] * 9}, "prediction -1 is none of the 2 classes"),
        ({"margin": [1.0] * 8 + [float("inf")]}, "margin is not finite for text_id 3, condition other_code, draw 1"),
        ({"margin_plain": [float("nan")] * 9}, "margin_plain is not finite"),
        ({"kl": [float("inf")] * 9}, "compute it in float32 with log_softmax"),
        ({"draw": [0] * 9}, "several rows of text_id 0, condition other_code, draw 0"),
        ({"margin_plain": [2.0, 1, 3, 4, 2, 2, 1, 4, 5]}, "margin_plain differs between the rows of text 3"),
        ({"label": [1, 0, 0, -1, 1, 1, 1, -1, -1]}, "label differs between the rows of text 1"),
        ({"label": [1, 0, 0, None, 1, 1, 0, None, None]}, r"one int64 per row in label \(-1 where it is missing\)"),
        ({"label": [0.5] * 9}, "one int64 per row in label"),
        ({"matched": [2] * 9}, "one bool per row in matched"),
        ({"margin": ["1"] * 9}, "one float64 per row in margin"),
        ({"gold_probability": [-1.0] * 9}, "-1 is for texts without one"),
        ({"kl": [0.0]}, "one value per row, got lengths"),
    ],
)
def test_unusable_input(change, message):
    with pytest.raises(ValueError, match=message):
        run(table(SMALL) | change)


def test_unusable_settings():
    columns = table(SMALL)
    with pytest.raises(ValueError, match=r"lack the columns \['kl', 'matched'\]"):
        run({name: values for name, values in columns.items() if name not in ("kl", "matched")})
    for setting in ("num_bootstrap", "num_permutations"):
        with pytest.raises(ValueError, match=f"{setting} must be at least 1"):
            run(columns, **{setting: 0})
    # "salient" + "rate_matched_accuracy" and "salient_rate_matched" + "accuracy".
    clashing = table([*SMALL, (0, "salient_rate_matched", 0, 1, 0.6, True)])
    with pytest.raises(ValueError, match="Two figures would be called salient_rate_matched_accuracy"):
        run(clashing)


class TestMetric:
    @pytest.mark.parametrize("stored", [True, False])
    def test_same_as_the_numerics(self, stored):
        columns = random_table(0, stored=stored)
        metric = script.AblationDrop(keep_in_memory=True)
        result = metric.compute(**columns, num_bootstrap=100, num_permutations=100, seed=1, details=True)
        assert result == run(columns, seed=1, details=True)

    def test_datasets_arrays_and_frames(self):
        columns = random_table(0)
        dataset = Dataset.from_dict(columns)
        expected = run(columns)
        assert run({name: dataset[name] for name in dataset.column_names}) == expected
        assert run(dataset.to_pandas()) == expected
        assert run({name: np.array(values) for name, values in columns.items()}) == expected

    def test_no_rows(self):
        metric = script.AblationDrop(keep_in_memory=True)
        with pytest.raises(ValueError, match="no outcomes"):
            metric.compute(**{name: [] for name in COLUMNS})
