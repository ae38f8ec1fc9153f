"""SimSiam against its cosines in float64 NumPy; the stopped gradient, and what happens without."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import (
    BROAD,
    SPEC,
    B,
    Case,
    assert_value,
    counted_products,
    moved,
    take,
    wide,
)
from numpy_heads import mlp, unit
from support import assert_close, program_of, resolve

from facejax import state
from facejax.objectives import simsiam

CONFIG = simsiam.Config.tiny()


def projections(given):
    """(p, z) by view, unit vectors."""
    p, z = {}, {}
    for v in "ab":
        z[v] = mlp(given.params["projector"], given.feats[v].pooled, "batch", True)
        p[v] = unit(mlp(given.params["predictor"], z[v], "batch"))
        z[v] = unit(z[v])
    return p, z


def reference(given):
    p, z = projections(given)
    return -(np.mean((p["a"] * z["b"]).sum(1)) + np.mean((p["b"] * z["a"]).sum(1))) / 2


def case_of(**options) -> Case:
    return moved(Case.of(simsiam, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize("options", [{}, {"depth": 3}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given = case.inputs()
    assert_value(case, given, reference(given))


def test_gradient_takes_the_targets_for_constants():
    """Equal to that of the loss whose targets are handed in, which finite differences confirm."""
    case = case_of()

    def value(point, targets):
        total = 0.0
        for v, w in ("ab", "ba"):
            p = point["feats"][v]["pooled"]
            for name in ("projector", "predictor"):
                head = getattr(simsiam, f"_{name}")(case.config)
                p = head.apply({"params": point["params"][name]}, p)
            p = p / jnp.linalg.norm(p, axis=1, keepdims=True)
            total -= jnp.mean(jnp.sum(p * targets[w], 1)) / 2
        return total

    with jax.enable_x64(True):
        given = wide(case.inputs())
        point, got = case.trained(given), jax.jit(case.grads)(given)
        targets = {v: jnp.asarray(z) for v, z in projections(given)[1].items()}
        fixed = jax.jit(lambda point: value(point, targets))
        want = jax.jit(jax.grad(fixed))(point)
        assert_close(got, want, atol=1e-9)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(got))
        way = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), point)
        ahead = jax.tree.map(lambda x, d: x + 1e-6 * d, point, way)
        behind = jax.tree.map(lambda x, d: x - 1e-6 * d, point, way)
        slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (want, way))))
        np.testing.assert_allclose((fixed(ahead) - fixed(behind)) / 2e-6, slope, rtol=1e-5)


def test_views_and_rows_may_change_places():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    swapped = {"a": given.feats["b"], "b": given.feats["a"]}
    np.testing.assert_allclose(value(dataclasses.replace(given, feats=swapped)), want, atol=1e-6)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, atol=1e-6)
    broken = given.feats | {"a": take(given, order).feats["a"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.02


def test_a_collapse_shows():
    case = case_of()
    loss = jax.jit(case.loss)
    metrics = loss(case.inputs()).metrics
    z = projections(case.inputs())[1]["a"]
    np.testing.assert_allclose(metrics["std"].value(), z.std(0).mean(), rtol=1e-5)
    assert metrics["std"].value() > 0.5 / np.sqrt(CONFIG.out)
    assert loss(case.inputs("equal")).metrics["std"].value() < 1e-6


def test_the_minimum_is_minus_one():
    """Each view's projection is the other's, and the predictor copies: relu(x) - relu(-x)."""
    case = case_of()
    given = case.inputs()
    z = mlp(given.params["projector"], given.feats["a"].pooled, "batch", True)
    deviation, eye = np.sqrt(z.var(0) + 1e-5), np.eye(CONFIG.out)
    predictor = {
        "fc_0": {"kernel": np.concatenate([eye, -eye], 1)},
        "norm_0": {"scale": np.tile(deviation, 2), "bias": np.zeros(2 * CONFIG.out)},
        "fc_1": {"kernel": np.concatenate([eye, -eye]), "bias": np.zeros(CONFIG.out)},
    }
    wider = dataclasses.replace(CONFIG, bottleneck=2 * CONFIG.out)
    case = dataclasses.replace(case, config=wider)
    params = {**given.params, "predictor": jax.tree.map(jnp.float32, predictor)}
    feats = dict.fromkeys("ab", given.feats["a"])
    given = dataclasses.replace(given, params=params, feats=feats)
    np.testing.assert_allclose(jax.jit(case.value)(given), -1, atol=1e-5)


def test_the_learning_rate_of_the_predictor_stays():
    keys = {"lr": 0.1, "schedule": {"kind": "cosine"}, "weight_decay": 0.0, "momentum": 0.0}
    for constant, want in ((True, 0.1), (False, 0.05)):
        section = {"own": {"type": "simsiam", "hidden": 8, "out": 4, "constant_lr": constant}}
        run = resolve(section, optimizer={"name": "sgd", **keys})
        program = program_of(run)
        ones = jax.tree.map(lambda x: jnp.ones(x.shape), state.shapes(program).params)
        optimizer = program.optimizer
        moved, _ = optimizer.update(ones, optimizer.init(ones), ones, jnp.int32(5))
        own = moved["objective"]["own"]
        for leaf in jax.tree.leaves(own["predictor"]):
            np.testing.assert_allclose(leaf, -want, rtol=1e-5)
        for leaf in jax.tree.leaves((own["projector"], moved["encoder"])):
            np.testing.assert_allclose(leaf, -0.05, rtol=1e-5)


def test_the_two_views_are_two_draws_of_one_recipe():
    a, b = simsiam.passes(simsiam.Config(), SPEC).values()
    assert a.view.aug == b.view.aug
    assert a.view != b.view
    assert (a.view.aug.scale, a.view.aug.blur_p) == ((0.2, 1.0), 0.5)


def test_flops_are_those_of_the_products():
    config = simsiam.Config(hidden=512, out=512)
    counted = counted_products(Case.of(simsiam, config, BROAD))
    np.testing.assert_allclose(simsiam.flops(config, BROAD), counted, rtol=0.02)
