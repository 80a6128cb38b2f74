from clvq_hf.metrics.results_tables import CONTRASTS, ablation_tables


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
