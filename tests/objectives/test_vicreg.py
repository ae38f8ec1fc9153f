"""VICReg against its three parts in float64 NumPy."""

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
    take,
)
from numpy_heads import mlp

from facejax.objectives import vicreg

CONFIG = vicreg.Config.tiny()


def reference(given, cfg):
    x, y = (mlp(given.params["expander"], given.feats[v].pooled, "batch") for v in "ab")
    total = cfg.invariance * np.mean((x - y) ** 2)
    for z in (x, y):
        D = z.shape[1]
        cov = np.cov(z, rowvar=False)
        deviations = np.sqrt(z.var(0, ddof=1) + 1e-4)
        total += cfg.variance * np.mean(np.maximum(0, 1 - deviations)) / 2
        total += (
            cfg.covariance * sum(cov[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / D
        )
    return total


def case_of(**options) -> Case:
    return moved(Case.of(vicreg, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize(
    "options", [{}, {"depth": 3, "invariance": 2.0, "variance": 40.0, "covariance": 9.0}]
)
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given = case.inputs()
    assert_value(case, given, reference(given, case.config))


def test_all_three_parts_are_at_work():
    terms = jax.jit(case_of().loss)(case_of().inputs()).terms
    assert {name: float(t.weight) for name, t in terms.items()} == {
        "invariance": 25,
        "variance": 25,
        "covariance": 1,
    }
    assert all(float(t.value()) > 0.01 for t in terms.values())


def test_gradient_is_that_of_the_loss():
    case = case_of()
    assert_gradient(case, case.inputs(), rtol=1e-5)


def bare():
    """One linear layer, so that features can be set."""
    case = Case.of(vicreg, dataclasses.replace(CONFIG, depth=1))
    params = {"fc_0": {"kernel": jnp.eye(8)}}
    return case, dataclasses.replace(case.inputs(), params={"expander": params})


def test_equal_constants_cost_their_missing_variance():
    """25 (0.5 * 0.99 + 0.5 * 0.99): the root of 1e-4 is what is left of a deviation."""
    case, given = bare()
    flat = dataclasses.replace(given.feats["a"], pooled=jnp.ones((B, 8)))
    given = dataclasses.replace(given, feats=dict.fromkeys("ab", flat))
    np.testing.assert_allclose(jax.jit(case.value)(given), 24.75, rtol=1e-6)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(case.grads)(given)))


def test_a_common_shift_means_nothing():
    case, given = bare()
    value = jax.jit(case.value)
    want = value(given)

    def shifted(by_a, by_b):
        feats = {
            v: dataclasses.replace(given.feats[v], pooled=given.feats[v].pooled + by)
            for v, by in (("a", by_a), ("b", by_b))
        }
        return value(dataclasses.replace(given, feats=feats))

    np.testing.assert_allclose(shifted(3.0, 3.0), want, rtol=1e-5)
    assert shifted(3.0, 0.0) > want + 10


def test_views_and_rows_may_change_places():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    swapped = {"a": given.feats["b"], "b": given.feats["a"]}
    np.testing.assert_allclose(value(dataclasses.replace(given, feats=swapped)), want, rtol=1e-5)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, rtol=1e-5)
    broken = given.feats | {"a": take(given, order).feats["a"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.1


def test_the_views_are_those_of_byol():
    a, b = (p.view.aug for p in vicreg.passes(vicreg.Config(), SPEC).values())
    assert (a.blur_p, a.solarize_p, b.blur_p, b.solarize_p) == (1.0, 0.0, 0.1, 0.2)
