from clvq_hf.metrics.results_tables import CONTRASTS, _bags, ablation_tables


def test_a_p_value_that_is_not_corrected_says_so():
    figures = {"accuracy": 0.9, "macro_auc": 0.95}
    for name in CONTRASTS:
        figures |= {name: -1.0, f"{name}_low": -1.5, f"{name}_high": -0.5, f"{name}_num_texts": 30}
        figures[f"{name}_p_value"] = 0.01
        if name != "token_specificity_matched":
            figures[f"{name}_p_holm"] = 0.03
    contrasts, _ = ablation_tables("code", figures)
    p_values = [row[contrasts.header.index("p (Holm)")] for row in contrasts.rows]
    expected = dict.fromkeys(CONTRASTS, "0.030") | {"token_specificity_matched": "0.010 uncorrected"}
    assert p_values == list(expected.values())


def test_a_few_codes_of_a_text():
    figures = {"prediction_classes": 2, "prediction_dense": 0.9, "num_texts": 50}
    gain = {"prediction_gain_2": 0.25, "prediction_gain_2_low": 0.125, "prediction_gain_2_high": 0.375}
    table = _bags({**figures, "prediction_codes_2": 0.75, "prediction_words_2": 0.5, **gain})
    assert table.rows[0] == ["the host's prediction, 2", "0.750", "0.500", "0.250 [0.125, 0.375]"]
    assert table.rows[1] == ["the host's prediction, dense states", "0.900", "", ""]
    nothing = dict.fromkeys(("prediction_codes_2", "prediction_words_2", *gain))
    assert len(set(_bags({"prediction_classes": 1, **nothing}).rows[0][1:])) == 1, "all of them are missing"
