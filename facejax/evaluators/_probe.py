"""Fits a linear probe on a training part, with its strength chosen on a validation part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facejax.evaluators import _logistic


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        axes: standardises and rotates the features.
        linear: the class-balanced logistic regression.
        prior: f64[C], log prior odds of the training part, which the balanced fit leaves out.
        l2: the chosen strength.
        exclusive: softmax over C classes of one column; otherwise C binary columns.
    """

    axes: _logistic.Axes
    linear: _logistic.Linear
    prior: np.ndarray
    l2: float
    exclusive: bool

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class numbers i64[n, A] for f64[n, D]: for accuracy, and for balanced accuracy."""
        logits = self.linear(self.axes.apply(x))
        return _decide(logits + self.prior, self.exclusive), _decide(logits, self.exclusive)


def fit_probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    exclusive: bool,
    strengths: Sequence[float],
) -> Probe:
    """Fits one probe per strength, from the strongest until validation gets worse; keeps the best.

    Args:
        train: f64[n, D] and class numbers i64[n, A], -1 where unknown.
        validation: the same of other people.
        classes: classes of a column.
        exclusive: softmax over the classes of the only column; otherwise A binary columns.
        strengths: of the penalty; of equally good ones the strongest is kept.
    """
    axes = _logistic.Axes.of(train[0])
    x, x_validation = axes.apply(train[0]), axes.apply(validation[0])
    counts = np.stack([np.sum(train[1] == c, axis=0) for c in range(classes)], axis=-1)
    weights = np.stack([_logistic.balanced_weights(y, classes) for y in train[1].T], axis=-1)
    with np.errstate(divide="ignore"):  # a class that training lacks is never predicted
        log_counts = np.log(counts)
    if exclusive:
        loss = _logistic.softmax_loss(train[1][:, 0], weights[:, 0], classes)
        prior = log_counts[0]
    else:
        loss = _logistic.binary_loss(2.0 * train[1] - 1, weights)
        prior = log_counts[:, 1] - log_counts[:, 0]
    linear = _logistic.Linear(np.zeros((x.shape[1], len(prior))), np.zeros(len(prior)))
    best, chosen = -1.0, None
    for l2 in sorted(strengths, reverse=True):
        linear = _logistic.fit(x, axes.variance, loss, l2, start=linear)
        correct = _decide(linear(x_validation), exclusive) == validation[1]
        score = float(np.nan_to_num(balanced_accuracy(validation[1], correct)[0]))
        if score < best:  # weaker ones overfit more, and take the longest
            break
        if score > best:
            best, chosen = score, Probe(axes, linear, prior, l2, exclusive)
    return chosen


def recalls(label: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None):
    """The share of each column's each class that is recognised, f64[draws, A, C].

    NaN where a draw holds none of the class.

    Args:
        label: i64[n, A], -1 where unknown.
        correct: bool[n, A].
        weights: f64[draws, n] of the pictures; None is one draw of all.
    """
    weights = np.ones((1, len(label))) if weights is None else weights
    found = []
    for c in range(label.max(initial=0) + 1):
        of_class = label == c
        with np.errstate(invalid="ignore"):
            found.append(weights @ (of_class & correct) / (weights @ of_class))
    return np.stack(found, axis=-1)


def balanced_accuracy(
    label: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """The mean over all recalls that exist, f64[draws]; see `recalls`."""
    cells = recalls(label, correct, weights)
    there = ~np.isnan(cells)
    with np.errstate(invalid="ignore"):
        return np.where(there, cells, 0).sum(axis=(1, 2)) / there.sum(axis=(1, 2))


def mean_accuracy(
    label: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """The mean over columns of the share of known pictures that are right, f64[draws]."""
    weights = np.ones((1, len(label))) if weights is None else weights
    known = label >= 0
    with np.errstate(invalid="ignore"):
        return (weights @ (known & correct) / (weights @ known)).mean(axis=1)


def _decide(logits: np.ndarray, exclusive: bool) -> np.ndarray:
    if exclusive:
        return logits.argmax(axis=1)[:, None]
    return (logits > 0).astype(np.int64)
