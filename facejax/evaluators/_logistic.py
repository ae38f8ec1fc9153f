"""L2-regularised logistic regression by L-BFGS, in float64, for many targets at once.

The loss of each target is the mean over its class-balanced sample weights plus l2 / 2 * |w|^2; the
bias is free. Features are rotated to the axes of their covariance, and each axis is scaled by its
share of the Hessian, so that a few dozen iterations suffice even for raw pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

# logits f64[n, C] -> (value, gradient f64[n, C])
LogitLoss = Callable[[np.ndarray], tuple[float, np.ndarray]]

ITERATIONS = 200


@dataclass(frozen=True)
class Axes:
    """Standardises features by the training part and rotates them to its principal axes.

    Attributes:
        mean: f64[D].
        scale: f64[D], standard deviation; 1 for a constant feature.
        rotation: f64[D, R], R = min(n, D) orthonormal columns; the optimum lies in their span.
        variance: f64[R], along the new axes.
    """

    mean: np.ndarray
    scale: np.ndarray
    rotation: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, train: np.ndarray) -> "Axes":
        """Measures f64[n, D]."""
        mean, std = train.mean(axis=0), train.std(axis=0)
        scale = np.where(std > 1e-12 * np.abs(mean).max(initial=1e-30), std, 1.0)
        standard = (train - mean) / scale
        _, spread, axes = np.linalg.svd(standard, full_matrices=False)
        return cls(mean, scale, axes.T, spread**2 / len(train))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """f64[n, D] -> f64[n, R]."""
        return ((x - self.mean) / self.scale) @ self.rotation


@dataclass(frozen=True)
class Linear:
    """logits = x @ weight + bias, of features that `Axes` has rotated; f64[R, C] and f64[C]."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


def fit(x: np.ndarray, variance: np.ndarray, loss: LogitLoss, l2: float, start: Linear) -> Linear:
    """Minimises loss(x @ w + b) + l2 / 2 * |w|^2.

    Args:
        x: f64[n, R], rotated.
        variance: f64[R] of its axes.
        loss: of the logits.
        l2: strength.
        start: where to begin; its shape is the result's.
    """
    scale = 1 / np.sqrt(variance / 4 + l2)[:, None]  # 1 / 4: the most a sigmoid can bend
    shape = start.weight.shape
    scaled = x * scale.T

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[: -shape[1]].reshape(shape), flat[-shape[1] :]
        value, gradient = loss(scaled @ w + b / 0.5)
        penalty = l2 * scale**2 * w
        flat_gradient = np.append(scaled.T @ gradient + penalty, gradient.sum(axis=0) / 0.5)
        return value + np.vdot(penalty, w) / 2, flat_gradient

    first = np.append(start.weight / scale, start.bias * 0.5)
    options = {"maxiter": ITERATIONS, "gtol": 1e-6, "ftol": 1e-10}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return Linear(found[: -shape[1]].reshape(shape) * scale, found[-shape[1] :] / 0.5)


def balanced_weights(classes: np.ndarray, count: int) -> np.ndarray:
    """Sample weights that give every class that occurs the same total, adding up to 1.

    Args:
        classes: i64[n], class numbers; -1 is unknown and weighs nothing.
        count: number of classes.
    """
    totals = np.bincount(classes[classes >= 0], minlength=count)
    share = 1 / np.maximum(totals, 1) / max(np.sum(totals > 0), 1)
    return np.where(classes >= 0, share[classes], 0.0)


def binary_loss(sign: np.ndarray, weight: np.ndarray) -> LogitLoss:
    """The sum over targets of the weighted logistic loss.

    Args:
        sign: f64[n, A], +1 or -1.
        weight: f64[n, A].
    """

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * logits
        return float(np.vdot(weight, np.logaddexp(0, -margin))), -weight * sign * expit(-margin)

    return loss


def softmax_loss(classes: np.ndarray, weight: np.ndarray, count: int) -> LogitLoss:
    """The weighted cross-entropy of i64[n] class numbers, weights f64[n]."""
    target = np.eye(count)[classes] * weight[:, None]

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(logits, axis=1)
        return -float(np.vdot(target, log_p)), weight[:, None] * np.exp(log_p) - target

    return loss
