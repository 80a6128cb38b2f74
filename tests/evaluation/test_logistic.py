"""Many logistic regressions at once are those of a library, one by one."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clvq_hf.evaluation.logistic import fit_logistic


@pytest.mark.parametrize("number", [2, 3, 7])
@pytest.mark.parametrize("size", [1, 6])
def test_each_is_what_scikit_learn_fits_to_its_rows(number, size):
    generator = np.random.default_rng(0)
    classes = np.concatenate([np.arange(number), generator.integers(0, number, 90) * generator.integers(0, 2, 90)])
    features = generator.normal(size=(4, len(classes), size))
    features[..., 0] += classes
    # One in which a feature separates the first class, and one whose feature is constant.
    features[1, :, 0] = np.where(classes == 0, 5.0, -5.0)
    features[2, :, 0] = 0.0
    learned = generator.random((4, len(classes))) < 0.8
    learned[:, :number] = True
    scores = fit_logistic(features, classes, learned)
    for row in range(4):
        probe = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000)
        expected = probe.fit(features[row][learned[row]], classes[learned[row]]).decision_function(features[row])
        if number == 2:
            expected = np.stack([-expected / 2, expected / 2], -1)
        centred = scores[row] - scores[row].mean(-1, keepdims=True)
        np.testing.assert_allclose(centred, expected - expected.mean(-1, keepdims=True), atol=2e-4)


def test_what_is_not_learned_from_changes_nothing():
    generator = np.random.default_rng(0)
    classes, features = generator.integers(0, 3, 60), generator.normal(size=(2, 60, 4))
    learned = np.arange(60) < np.array([[40], [50]])
    scores = fit_logistic(features, classes, learned)
    changed, others = features.copy(), classes.copy()
    changed[0, 40:], changed[1, 50:], others[50:] = 9.0, -9.0, 0
    again = fit_logistic(changed, others, learned)
    np.testing.assert_allclose(again[0, :40], scores[0, :40])
    np.testing.assert_allclose(again[1, :50], scores[1, :50])
