import numpy as np
import pytest
from scipy.optimize import approx_fprime

from facejax.evaluators import _logistic


def data(seed=0, n=40, d=5, targets=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * [1, 10, 0.1, 1, 3]
    return rng, x, np.where(rng.random((n, targets)) < 0.4, 1.0, -1.0)


def test_the_losses_have_the_gradients_they_claim():
    rng, _, sign = data()
    logits = rng.normal(size=sign.shape)
    classes = rng.integers(0, 3, len(sign))
    for loss in (
        _logistic.binary_loss(sign, rng.random(sign.shape)),
        _logistic.softmax_loss(classes, rng.random(len(sign)), 3),
    ):
        numeric = approx_fprime(logits.ravel(), lambda z, f=loss: f(z.reshape(logits.shape))[0])
        np.testing.assert_allclose(loss(logits)[1].ravel(), numeric, atol=1e-6)


def test_fit_is_at_the_minimum_whatever_the_axes():
    _, x, sign = data()
    axes = _logistic.Axes.of(x)
    z, standard = axes.apply(x), (x - x.mean(axis=0)) / x.std(axis=0)
    weight = np.full(sign.shape, 1 / len(x))
    start = _logistic.Linear(np.zeros((5, 3)), np.zeros(3))
    loss = _logistic.binary_loss(sign, weight)
    found = _logistic.fit(z, axes.variance, loss, 0.1, start)
    # Back on the standardised features the gradient of the textbook loss vanishes.
    w = axes.rotation @ found.weight
    _, gradient = loss(standard @ w + found.bias)
    np.testing.assert_allclose(standard.T @ gradient + 0.1 * w, 0, atol=1e-4)
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-4)


def test_constant_and_repeated_features_do_no_harm():
    _, x, sign = data()
    x = np.concatenate([x, x[:, :1], np.full((len(x), 1), 7.0)], axis=1)
    axes = _logistic.Axes.of(x)
    start = _logistic.Linear(np.zeros((7, 3)), np.zeros(3))
    loss = _logistic.binary_loss(sign, np.ones(sign.shape))
    fitted = _logistic.fit(axes.apply(x), axes.variance, loss, 0.1, start)
    assert np.isfinite(fitted(axes.apply(x))).all()


def test_balanced_weights_give_every_class_that_occurs_the_same_total():
    classes = np.array([0, 0, 0, 2, -1])
    weights = _logistic.balanced_weights(classes, 3)
    np.testing.assert_allclose(weights, [1 / 6, 1 / 6, 1 / 6, 1 / 2, 0])
    assert weights.sum() == pytest.approx(1)
