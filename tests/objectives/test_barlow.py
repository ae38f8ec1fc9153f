"""Barlow Twins against its correlations in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import (
    SPEC,
    B,
    Case,
    assert_gradient,
    assert_value,
    moved,
    rewritten,
    take,
)
from numpy_heads import mlp

from facejax.objectives import barlow

CONFIG = barlow.Config.tiny()


def projections(given):
    return [mlp(given.params["projector"], given.feats[v].pooled, "batch") for v in "ab"]


def standardised(z):
    return (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)


def reference(z_a, z_b, redundancy):
    C = standardised(z_a).T @ standardised(z_b) / len(z_a)
    total = 0.0
    for i in range(len(C)):
        for j in range(len(C)):
            total += (1 - C[i, i]) ** 2 if i == j else redundancy * C[i, j] ** 2
    return total


def case_of(**options) -> Case:
    return moved(Case.of(barlow, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize("options", [{}, {"depth": 3, "redundancy": 0.5}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given = case.inputs()
    assert_value(case, given, reference(*projections(given), case.config.redundancy))


def test_gradient_is_that_of_the_loss():
    case = case_of(redundancy=0.2)
    assert_gradient(case, case.inputs(), rtol=1e-5)


def bare(**options):
    """One linear layer, so that features can be set: projection = features @ kernel."""
    case = Case.of(barlow, dataclasses.replace(CONFIG, depth=1, **options))
    params = {"fc_0": {"kernel": jnp.eye(8)}}
    return case, dataclasses.replace(case.inputs(), params={"projector": params})


def with_features(given, a, b):
    feats = {
        v: dataclasses.replace(given.feats[v], pooled=jnp.asarray(z, jnp.float32))
        for v, z in (("a", a), ("b", b))
    }
    return dataclasses.replace(given, feats=feats)


def test_identical_white_features_cost_nothing():
    case, given = bare(redundancy=1.0)
    # Columns of a Hadamard matrix but the first: mean 0, variance 1, uncorrelated.
    two = np.array([[1, 1], [1, -1]])
    white = np.kron(np.kron(two, two), two)[:, 1:]
    case = dataclasses.replace(case, config=dataclasses.replace(case.config, out=7))
    kernel = {"kernel": jnp.eye(8)[:, :7]}
    given = dataclasses.replace(given, params={"projector": {"fc_0": kernel}})
    value = jax.jit(case.value)
    padded = np.concatenate([white, np.zeros((8, 1))], 1)
    assert float(value(with_features(given, padded, padded))) < 1e-8
    # Shuffled images agree on nothing: all seven features lose their correlation or change it.
    shuffled = padded[[1, 2, 3, 0, 5, 6, 7, 4]]
    assert float(value(with_features(given, padded, shuffled))) > 1


def test_features_may_be_scaled_up_and_shifted():
    case, given = bare()
    a, b = (np.asarray(given.feats[v].pooled, np.float64) for v in "ab")
    value = jax.jit(case.value)
    want = value(with_features(given, a, b))
    scale, shift = np.linspace(1, 5, 8), np.linspace(-3, 3, 8)
    got = value(with_features(given, a * scale + shift, b * scale[::-1] - shift))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    turned = value(with_features(given, -a, b))
    assert turned > want + 1


def test_weights_are_shares_of_images():
    """A weight of 2 on an image is the image twice; zero weights switch the loss off."""
    case = case_of(redundancy=0.3)
    given = case.inputs()
    z = [x.astype(np.float64) for x in projections(given)]
    twice = [np.concatenate([x[:4], x[:4], x[4:]]) for x in z]
    weight = jnp.where(jnp.arange(B) < 4, 2.0, 1.0)

    @jax.jit
    def weighted(by):
        loss = rewritten(case, given, lambda p: dataclasses.replace(p, weight=by))
        return sum(t.weight * t.value() for t in loss.terms.values())

    want = reference(*twice, 0.3) * np.mean(weight)
    np.testing.assert_allclose(weighted(weight), want, rtol=1e-5)
    np.testing.assert_allclose(weighted(3 * jnp.ones(B)), 3 * reference(*z, 0.3), rtol=1e-5)
    assert weighted(jnp.zeros(B)) == 0


def test_views_and_rows_may_change_places():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    swapped = {"a": given.feats["b"], "b": given.feats["a"]}
    np.testing.assert_allclose(value(dataclasses.replace(given, feats=swapped)), want, rtol=1e-4)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, rtol=1e-4)
    broken = given.feats | {"a": take(given, order).feats["a"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.1


def test_the_views_are_those_of_byol():
    a, b = (p.view.aug for p in barlow.passes(barlow.Config(), SPEC).values())
    assert (a.blur_p, a.solarize_p, b.blur_p, b.solarize_p) == (1.0, 0.0, 0.1, 0.2)
