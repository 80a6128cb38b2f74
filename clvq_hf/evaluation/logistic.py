"""Many small logistic regressions at once: for each of them, a call of a library costs more than the regression."""

import numpy as np

# Newton's method has converged when no entry of the gradient of the mean loss is larger.
TOLERANCE = 1e-6
MAX_STEPS = 100


def fit_logistic(features: np.ndarray, classes: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Fit balanced logistic regressions, each to its own features and its own share of the same rows.

    The loss and its minimum are those of scikit-learn's `LogisticRegression(class_weight="balanced")`: weighted
    cross-entropy plus half the squared coefficients, without the intercepts. By Newton's method.

    Args:
        features (`np.ndarray` of shape `(F, N, k)`): Of each of `F` regressions.
        classes (`np.ndarray` of shape `(N,)`, int64): From 0 to `C` - 1.
        learned (`np.ndarray` of shape `(F, N)`, bool): Rows that are learned from; all classes are among them.

    Returns:
        `np.ndarray` of shape `(F, N, C)`: Scores of all rows, of which the largest is the class that is found.
    """
    number = classes.max() + 1
    ones = np.eye(number)[classes]
    # Of each row: inversely to how frequent its class is.
    weights = learned * (learned.sum(1, keepdims=True) / (number * (learned @ ones)))[:, classes]
    design = np.concatenate([features, np.ones_like(features[..., :1])], -1)
    width = design.shape[-1]
    # Two classes have one vector of coefficients, whose halves the two here are.
    penalty = np.full(width, 2.0 if number == 2 else 1.0)
    penalty[-1] = 1e-9  # intercepts are free, but for a common shift

    def loss(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = design @ coefficients
        scores -= scores.max(-1, keepdims=True)
        shares = np.exp(scores)
        shares /= shares.sum(-1, keepdims=True)
        surprise = -np.log(np.maximum((shares * ones).sum(-1), 1e-300))
        return (weights * surprise).sum(-1) + (penalty[:, None] * coefficients**2).sum((1, 2)) / 2, shares

    coefficients = np.zeros((len(features), width, number))
    value, shares = loss(coefficients)
    for _ in range(MAX_STEPS):
        residual = weights[..., None] * (shares - ones)
        gradient = design.transpose(0, 2, 1) @ residual + penalty[:, None] * coefficients
        if np.abs(gradient).max() < TOLERANCE * len(classes):
            break
        hessian = np.zeros((len(features), number, width, number, width))
        for first in range(number):
            for second in range(first, number):
                curvature = weights * shares[..., first] * ((first == second) - shares[..., second])
                block = design.transpose(0, 2, 1) @ (curvature[..., None] * design)
                hessian[:, first, :, second] = hessian[:, second, :, first] = block
            hessian[:, first, :, first] += np.diag(penalty)
        size = number * width
        step = np.linalg.solve(
            hessian.reshape(-1, size, size), gradient.transpose(0, 2, 1).reshape(-1, size, 1)
        ).reshape(-1, number, width)
        step = step.transpose(0, 2, 1)
        # Half the step where the loss would not fall: only far from the minimum.
        length = np.ones(len(features))
        for _ in range(30):
            moved = coefficients - length[:, None, None] * step
            new, new_shares = loss(moved)
            worse = new > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        coefficients, value, shares = moved, new, new_shares
    return design @ coefficients


__all__ = ["fit_logistic"]
