"""SimCLR against NT-Xent in float64 NumPy, one anchor at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, B, Case, assert_gradient, features, moved, take, wide

from benchmarks.loss_memory import largest_message
from facejax import mesh
from facejax.config import MeshShape
from facejax.contracts import Features, Tower
from facejax.objectives import simclr
from facejax.ops import similarity

CONFIG = simclr.Config.tiny()


def project(params, x, norm):
    """Linear, norm, ReLU, Linear, norm; the batch's own mean and variance."""
    p = jax.tree.map(np.float64, params["projector"])
    x, layers = np.float64(x), sorted(name for name in p if name.startswith("fc_"))
    for name in layers:
        x = x @ p[name]["kernel"] + p[name].get("bias", 0.0)
        last = name == layers[-1]
        if norm == "batch":
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            if not last:
                own = p[name.replace("fc", "norm")]
                x = x * own["scale"] + own["bias"]
        if not last:
            x = np.maximum(x, 0)
    return x


def nt_xent(z_a, z_b, tau):
    """Both directions, each a mean over its anchors, summed."""
    z_a, z_b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z_a, z_b))
    total = 0.0
    for own, other in ((z_a, z_b), (z_b, z_a)):
        for i in range(len(own)):
            positive = np.exp(own[i] @ other[i] / tau)
            negatives = [own[j] for j in range(len(own)) if j != i]
            negatives += [other[j] for j in range(len(own)) if j != i]
            assert len(negatives) == 2 * len(own) - 2
            others = sum(np.exp(own[i] @ z / tau) for z in negatives)
            total -= np.log(positive / (positive + others)) / len(own)
    return total


def case_of(**options) -> Case:
    return moved(Case.of(simclr, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize("options", [{}, {"norm": "none", "tau": 0.5}, {"depth": 3, "tau": 0.2}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given = case.inputs()
    z = [project(given.params, given.feats[v].pooled, case.config.norm) for v in ("a", "b")]
    want = nt_xent(*z, case.config.tau)
    with jax.enable_x64(True):
        got = jax.jit(case.value)(wide(given))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6)
    got = jax.jit(case.value)(given)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_loss_is_the_dense_reading_of_ops():
    case = case_of()
    given = case.inputs()

    @jax.jit
    def both(given):
        z = [
            simclr._projector(case.config).apply(
                {"params": given.params["projector"]}, given.feats[v].pooled
            )
            for v in ("a", "b")
        ]
        z_a, z_b = map(similarity.l2_normalize, z)
        return case.value(given), similarity.nt_xent(z_a, z_b, case.config.tau)

    got, want = both(given)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_gradient_is_that_of_the_loss(norm):
    case = case_of(norm=norm)
    assert_gradient(case, case.inputs(), rtol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("kind", ["equal", "zero"])
def test_where_all_are_equal_the_loss_is_that_of_guessing(kind, norm):
    """log(2B - 1) per direction; zero features neither divide by zero nor send back a NaN."""
    case = case_of(norm=norm)
    given = case.inputs(kind)
    given = dataclasses.replace(given, feats=dict.fromkeys(("a", "b"), given.feats["a"]))
    value, grads = jax.jit(lambda g: (case.value(g), case.grads(g)))(given)
    np.testing.assert_allclose(value, 2 * np.log(2 * B - 1), rtol=1e-5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_views_and_rows_may_change_places():
    case = case_of()
    value = jax.jit(case.value)
    given = case.inputs()
    want = value(given)
    swapped = dataclasses.replace(given, feats={"a": given.feats["b"], "b": given.feats["a"]})
    np.testing.assert_allclose(value(swapped), want, rtol=1e-6)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, rtol=1e-6)
    # A permutation of one view alone breaks the pairs.
    broken = {"a": given.feats["a"], "b": take(given, order).feats["b"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.1


def test_the_two_views_are_two_draws_of_one_recipe():
    a, b = simclr.passes(CONFIG, SPEC).values()
    assert a.view.aug == b.view.aug
    assert a.view != b.view
    aug = simclr.passes(simclr.Config(strength=0.5, blur=0.1, gray=0.3), SPEC)["a"].view.aug
    assert aug.jitter == (0.4, 0.4, 0.4, 0.1)
    assert (aug.blur_p, aug.gray_p, aug.size) == (0.1, 0.3, SPEC.size)


def test_metrics_are_the_similarities():
    case = case_of()
    given = case.inputs()
    metrics = jax.jit(case.loss)(given).metrics
    z = [project(given.params, given.feats[v].pooled, "batch") for v in ("a", "b")]
    z_a, z_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in z)
    positive = (z_a * z_b).sum(1)
    np.testing.assert_allclose(metrics["alignment"].value(), positive.mean(), atol=1e-5)
    negative = (z_a @ z_a.T)[~np.eye(B, dtype=bool)]
    for name, values in (("positive", positive), ("negative", negative)):
        want, _ = np.histogram(values, 64, (-1, 1))
        found = np.asarray(metrics[name].counts)
        assert found.sum() == len(values)
        # A value on the edge of a bin may fall on either side.
        assert np.abs(np.cumsum(found) - np.cumsum(want)).max() <= 1


def test_modifiers_rewrite_pairs_of_the_width_that_was_offered():
    case = case_of()
    given = case.inputs()
    seen = []

    def modify(pairs):
        seen.append(pairs)
        return dataclasses.replace(pairs, weight=pairs.weight.at[:B].set(0.0))

    ctx = dataclasses.replace(case.ctx(given.draw), modify=modify)
    arguments = (given.params, given.ema, given.state, given.feats, given.batch)
    halved = jax.jit(lambda: simclr.loss(case.config, *arguments, ctx))()
    assert seen[0].q.shape == (2 * B, case.vars.pairs)
    assert seen[0].neg.shape == (2 * B, case.vars.pairs)
    z = [project(given.params, given.feats[v].pooled, "batch") for v in ("a", "b")]
    assert 0 < float(halved.terms["nt_xent"].value()) < nt_xent(*z, case.config.tau)


def test_no_device_is_sent_all_features():
    """At B = 32,768 on eight devices: the ring's largest message is a device's share of z."""
    rows, grid = 32_768, mesh.make(MeshShape(2, 4))
    case = Case.of(simclr, CONFIG)

    def shaped(tree, sharding):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    pooled = jax.ShapeDtypeStruct((rows, SPEC.towers["encoder"].embed), jnp.float32)
    given = shaped(dict.fromkeys(("a", "b"), pooled), mesh.batch_sharding(grid))

    def value(params, given):
        feats = {name: Features(pooled=x) for name, x in given.items()}
        found = simclr.loss(CONFIG, params, {}, {}, feats, {}, case.ctx(None))
        return found.terms["nt_xent"].value(), found.metrics

    step = mesh.within(grid, jax.value_and_grad(value, (0, 1), has_aux=True))
    program = jax.jit(step).lower(shaped(case.vars.params, mesh.replicated(grid)), given).compile()
    assert largest_message(program) == 2 * rows * CONFIG.out // 8


def test_flops_are_those_that_xla_counts():
    tower = Tower(512, 512, 16, 1, size=224, depth=12)
    spec = dataclasses.replace(SPEC, global_batch=B, towers={"encoder": tower})
    config = simclr.Config(hidden=512)
    params = jax.eval_shape(lambda: simclr.init(config, jax.random.key(0), spec).params)
    case = Case(simclr, config, None, spec)
    feats = {name: jax.eval_shape(lambda p=p: features(p, spec)) for name, p in case.passes.items()}

    def loss(params, feats):
        return simclr.loss(config, params, {}, {}, feats, {}, case.ctx(None)).terms

    counted = jax.jit(loss).lower(params, feats).cost_analysis()["flops"] / B
    np.testing.assert_allclose(simclr.flops(config, spec), counted, rtol=0.02)
