"""How well classes are told apart: balanced accuracy, macro-AUC, and accuracy at the plain run's class counts."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

# The assignment holds texts × texts numbers: 32 MB at this size.
MAX_ASSIGNMENT = 2_000
_NUM_SWEEPS = 10


def mean_or_none(values: ArrayLike) -> float | None:
    """Mean, or `None` of nothing."""
    return float(np.mean(values)) if len(values) else None


def balanced_accuracy(correct: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean over the classes that occur of the mean over their texts.

    Args:
        correct (`np.ndarray` of shape `(n,)`): Share of each text's draws that were correct.
        labels (`np.ndarray` of shape `(n,)`, int64): Classes.
    """
    return mean_or_none([correct[labels == label].mean() for label in np.unique(labels)])


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean one-vs-rest area under the ROC curve over the classes that occur; `None` if fewer than two do.

    By ranks: the area is the share of (text of the class, other text) pairs in the right order, ties counted half.
    Equal to `roc_auc_score` of scikit-learn, which takes many times longer, most of it to check its input.

    Args:
        probabilities (`np.ndarray` of shape `(n, classes)`): Of all classes.
        labels (`np.ndarray` of shape `(n,)`, int64): Classes.
    """
    present = np.unique(labels)
    if len(present) < 2:
        return None
    members = labels[:, None] == present
    sizes = members.sum(axis=0)
    rank_sums = (rankdata(probabilities[:, present], axis=0) * members).sum(axis=0)
    # The ranks of m texts sum to at least m(m + 1) / 2.
    pairs_in_order = rank_sums - sizes * (sizes + 1) / 2
    return float((pairs_in_order / (sizes * (len(labels) - sizes))).mean())


def rate_matched_accuracy(
    probabilities: np.ndarray, labels: np.ndarray, plain_predictions: np.ndarray
) -> float | None:
    """Accuracy if every class is predicted as often as in the plain run.

    An ablation that pushes all texts towards one class loses accuracy even where it keeps their order. Here the
    probabilities only rank: classes are handed out so that their counts are the plain ones and the summed
    log-probability is largest. For two classes that is a threshold, for more an assignment problem, solved exactly up
    to 2,000 texts. Texts with equal probabilities share what is handed to them, so that no tie is broken by order.

    Args:
        probabilities (`np.ndarray` of shape `(n, classes)`): Of all classes, under the ablation.
        labels (`np.ndarray` of shape `(n,)`, int64): Classes.
        plain_predictions (`np.ndarray` of shape `(n,)`, int64): Predictions without ablation.
    """
    if len(labels) == 0:
        return None
    num_classes = probabilities.shape[1]
    counts = np.bincount(plain_predictions, minlength=num_classes)
    # Probabilities that float32 rounds to 0 count as its smallest normal number.
    scores = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    if num_classes == 2:
        scores = scores[:, 1:] - scores[:, :1]
        predictions = np.zeros(len(labels), dtype=np.int64)
        predictions[np.argsort(scores[:, 0], kind="stable")[counts[0] :]] = 1
    else:
        predictions = assign_classes(scores, counts)
    group = np.unique(scores, axis=0, return_inverse=True)[1].ravel()  # NumPy 2.0 gives it a second axis
    predicted, actual = np.zeros((2, group.max() + 1, num_classes))
    np.add.at(predicted, (group, predictions), 1)
    np.add.at(actual, (group, labels), 1)
    # Within a group of m equal texts, each of its predictions meets each of its labels with probability 1 / m.
    return float(((predicted * actual).sum(axis=1) / predicted.sum(axis=1)).sum() / len(labels))


def assign_classes(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Give each text a class, each class `counts` times, with the largest sum of scores.

    If biases of the classes make the largest biased scores fall into the classes as often as wanted, that is the
    optimum (the biases are the dual variables of the assignment problem). Where ties or many classes keep them from it,
    the assignment is solved from there: biases change no optimum but save most of the time. Beyond 2,000 texts, those
    with the clearest preference choose first among the classes with room left.

    Args:
        scores (`np.ndarray` of shape `(n, classes)`): Log-probabilities.
        counts (`np.ndarray` of shape `(classes,)`, int64): They add up to `n`.

    Returns:
        `np.ndarray` of shape `(n,)`, int64: Classes.
    """
    size, num_classes = scores.shape
    biased = scores.copy()
    for _ in range(_NUM_SWEEPS):
        for k in range(num_classes):
            biased[:, k] += _bias(biased, k, int(counts[k]))
        best = biased.argmax(axis=1)
        if np.array_equal(np.bincount(best, minlength=num_classes), counts):
            return best
    regret = biased - biased.max(axis=1, keepdims=True)
    if size <= MAX_ASSIGNMENT:
        seats = np.repeat(np.arange(num_classes), counts)
        return seats[linear_sum_assignment(regret[:, seats], maximize=True)[1]]
    left = counts.copy()
    classes = np.empty(size, dtype=np.int64)
    for text in np.argsort(np.sort(regret, axis=1)[:, -2], kind="stable"):
        chosen = np.where(left > 0, regret[text], -np.inf).argmax()
        classes[text] = chosen
        left[chosen] -= 1
    return classes


def _bias(scores: np.ndarray, k: int, count: int) -> float:
    """What to add to class `k` so that it scores highest for `count` texts: half-way between the two candidates."""
    gaps = np.sort(np.delete(scores, k, axis=1).max(axis=1) - scores[:, k])
    low = gaps[count - 1] if count else gaps[0] - 1
    high = gaps[count] if count < len(gaps) else gaps[-1] + 1
    return (low + high) / 2
