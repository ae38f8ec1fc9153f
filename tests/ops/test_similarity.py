"""Contrastive losses against float64 NumPy loops and finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.contracts import Pairs
from facejax.ops.similarity import attraction, deviation, info_nce, l2_normalize, nt_xent


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_pairs(seed=0, A=5, P=3, M=7, D=4, qp=False, tau=0.2, bounded=True):
    rng = np.random.default_rng(seed)
    return Pairs(
        q=unit(rng, A, D),
        k=unit(rng, A, P, D),
        neg=unit(rng, M, D),
        tau=tau,
        owner=np.arange(A, dtype=np.int32),
        neg_owner=np.arange(M, dtype=np.int32) - 2,
        allowed=rng.random((A, M)) < 0.7 if bounded else None,
        positive=rng.random((A, P)) < 0.7,
        weight=np.ones(A),
        qp=unit(rng, A, P, D) if qp else None,
    )


def reference(p: Pairs) -> np.ndarray:
    """The definition, one anchor and one positive at a time."""
    tau = np.broadcast_to(np.asarray(p.tau, np.float64), (len(p.q), 1))[:, 0]
    losses = []
    for a, q in enumerate(np.asarray(p.q, np.float64)):
        negatives = sum(
            np.exp(q @ n / tau[a])
            for m, n in enumerate(np.asarray(p.neg))
            if p.owner[a] != p.neg_owner[m] and (p.allowed is None or p.allowed[a, m])
        )
        each = []
        for i, (k, exists) in enumerate(zip(np.asarray(p.k[a]), p.positive[a])):
            if exists:
                positive = np.exp((q if p.qp is None else np.asarray(p.qp[a, i])) @ k / tau[a])
                each.append(-np.log(positive / (positive + negatives)))
        losses.append(np.mean(each) if each else 0.0)
    return np.array(losses)


jitted = jax.jit(info_nce)

CASES = {
    "several positives": make_pairs(),
    "own queries": make_pairs(1, qp=True),
    "one positive": make_pairs(2, P=1),
    "temperature per anchor": make_pairs(3, tau=np.linspace(0.05, 1, 5)[:, None]),
    "no negatives": make_pairs(4, M=0),
    "all that others own": make_pairs(5, bounded=False),
}


def as_arrays(pairs, dtype):
    def convert(x):
        return jnp.asarray(x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)

    return jax.tree.map(convert, pairs)


def arrays_of(pairs):
    """`tau` as an array too, so that every leaf has a dtype."""
    return dataclasses.replace(pairs, tau=np.asarray(pairs.tau, np.float64))


@pytest.mark.parametrize("name", CASES)
def test_info_nce_is_its_definition(name):
    pairs = arrays_of(CASES[name])
    want = reference(pairs)
    with jax.enable_x64(True):
        got = jitted(as_arrays(pairs, jnp.float64))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-12)
    got = jitted(as_arrays(pairs, jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def slopes(f, x, direction, step=1e-6):
    """The slope of `f` at `x` along `direction`: by differentiation and by finite differences."""
    f = jax.jit(f)
    along = jax.jit(lambda x, d: jnp.vdot(jax.grad(f)(x), d))(x, direction)
    return along, (f(x + step * direction) - f(x - step * direction)) / (2 * step)


@pytest.mark.parametrize("field", ["q", "k", "neg", "tau", "qp"])
def test_info_nce_has_the_slope_of_finite_differences(field):
    pairs = arrays_of(make_pairs(5, qp=True))
    with jax.enable_x64(True):
        pairs = as_arrays(pairs, jnp.float64)

        def f(value):
            return jnp.sum(info_nce(dataclasses.replace(pairs, **{field: value})))

        x = getattr(pairs, field)
        direction = jnp.asarray(np.random.default_rng(0).normal(size=x.shape))
        np.testing.assert_allclose(*slopes(f, x, direction), rtol=1e-6)


@pytest.mark.parametrize("lost", ["allowed", "positive", "both"])
@pytest.mark.parametrize("dead", [False, True])
def test_anchors_without_company_cost_nothing_and_break_nothing(lost, dead):
    pairs = as_arrays(arrays_of(make_pairs(6, tau=0.05)), jnp.float32)
    for name in ("allowed", "positive") if lost == "both" else (lost,):
        pairs = dataclasses.replace(pairs, **{name: getattr(pairs, name).at[0].set(False)})

    features = [0 * x if dead else x for x in (pairs.q, pairs.k, pairs.neg)]

    @jax.jit
    def cost(features, tau):
        q, k, neg = map(l2_normalize, features)
        losses = info_nce(dataclasses.replace(pairs, q=q, k=k, neg=neg, tau=tau))
        return jnp.sum(losses), losses

    (gradients, to_tau), losses = jax.grad(cost, (0, 1), has_aux=True)(features, pairs.tau)
    assert np.isfinite(to_tau)
    assert losses[0] == 0
    assert np.isfinite(losses).all()
    assert all(np.isfinite(g).all() for g in gradients)
    assert (gradients[0][0] == 0).all()


def test_masked_out_entries_have_no_influence():
    pairs = as_arrays(arrays_of(make_pairs(7)), jnp.float32)
    pairs = dataclasses.replace(pairs, allowed=pairs.allowed.at[:, 2].set(False))
    loss, gradient = jax.value_and_grad(
        lambda neg: jnp.sum(info_nce(dataclasses.replace(pairs, neg=neg)))
    )(pairs.neg)
    assert (gradient[2] == 0).all()
    moved = info_nce(dataclasses.replace(pairs, neg=pairs.neg.at[2].set(100.0)))
    np.testing.assert_allclose(jnp.sum(moved), loss, rtol=1e-6)


def test_large_logits_stay_finite():
    pairs = dataclasses.replace(
        as_arrays(arrays_of(make_pairs(8)), jnp.float32), tau=jnp.float32(1e-4)
    )
    loss, gradient = jax.value_and_grad(
        lambda q: jnp.sum(info_nce(dataclasses.replace(pairs, q=q)))
    )(pairs.q)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_half_precision_features_are_compared_in_fp32():
    pairs = as_arrays(arrays_of(make_pairs(9)), jnp.bfloat16)
    got = jitted(pairs)
    assert got.dtype == jnp.float32
    wide = as_arrays(pairs, jnp.float32)
    np.testing.assert_allclose(got, reference(wide), rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------- SimCLR


def two_views(B=6, D=5, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng, B, D), unit(rng, B, D)


def nt_xent_reference(a, b, tau):
    z = np.concatenate([a, b])
    B = len(a)
    total = 0.0
    for i in range(2 * B):
        others = [j for j in range(2 * B) if j != i]
        logits = np.array([z[i] @ z[j] for j in others]) / tau
        partner = others.index((i + B) % (2 * B))
        total += np.log(np.exp(logits).sum()) - logits[partner]
    return total / B


def test_nt_xent_is_its_definition():
    a, b = two_views()
    want = nt_xent_reference(a, b, 0.1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(nt_xent(jnp.asarray(a), jnp.asarray(b), 0.1), want, rtol=1e-6)
    got = nt_xent(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), 0.1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_nt_xent_has_the_slope_of_finite_differences():
    a, b = two_views()
    with jax.enable_x64(True):
        direction = jnp.asarray(np.random.default_rng(1).normal(size=a.shape))

        def f(x):
            return nt_xent(x, jnp.asarray(b), 0.1)

        np.testing.assert_allclose(*slopes(f, jnp.asarray(a), direction), rtol=1e-6)


def test_equal_features_cost_the_log_of_the_candidates():
    z = jnp.tile(jnp.array([[0.6, 0.8]]), (4, 1))
    np.testing.assert_allclose(nt_xent(z, z, 0.1), 2 * np.log(7), rtol=1e-6)


def test_nt_xent_ignores_the_order_of_samples_and_views():
    a, b = (jnp.asarray(x, jnp.float32) for x in two_views())
    order = jnp.array([3, 1, 5, 0, 4, 2])
    want = nt_xent(a, b, 0.1)
    np.testing.assert_allclose(nt_xent(a[order], b[order], 0.1), want, rtol=1e-6)
    np.testing.assert_allclose(nt_xent(b, a, 0.1), want, rtol=1e-6)
    assert abs(nt_xent(a[order], b, 0.1) - want) > 0.1


def test_info_nce_over_both_views_is_nt_xent():
    a, b = two_views()
    z, other = np.concatenate([a, b]), np.concatenate([b, a])
    image = np.tile(np.arange(6, dtype=np.int32), 2)
    pairs = Pairs(
        q=z,
        k=other[:, None],
        neg=z,
        tau=np.asarray(0.1),
        owner=image,
        neg_owner=image,
        positive=np.ones((12, 1), bool),
        weight=np.ones(12),
    )
    got = 2 * jnp.mean(info_nce(as_arrays(pairs, jnp.float32)))
    np.testing.assert_allclose(got, nt_xent_reference(a, b, 0.1), rtol=1e-5)


# ---------------------------------------------------------------------------- normalising


def test_unit_vectors_and_their_slope():
    x = np.random.default_rng(0).normal(size=(3, 4))
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            l2_normalize(jnp.asarray(x)), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-12
        )
        weight, direction = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4)))

        def f(v):
            return jnp.sum(weight * l2_normalize(v))

        np.testing.assert_allclose(*slopes(f, jnp.asarray(x), direction), rtol=1e-6)


def test_zero_vectors_stay_zero_with_a_finite_gradient():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    y, back = jax.vjp(l2_normalize, x)
    np.testing.assert_allclose(y, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    (gradient,) = back(jnp.ones_like(y))
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all()


def test_normalising_half_precision_gives_fp32():
    x = jnp.array([[3.0, 4.0]], jnp.bfloat16)
    assert l2_normalize(x).dtype == jnp.float32
    np.testing.assert_allclose(l2_normalize(x.T, axis=0), [[0.6], [0.8]], rtol=1e-6)


@pytest.mark.parametrize("qp", [False, True])
def test_attraction_is_minus_the_mean_product_with_what_is_positive(qp):
    pairs = arrays_of(make_pairs(6, M=0, qp=qp))
    pairs.positive[1] = False
    want = []
    for a, q in enumerate(pairs.q):
        scorers = pairs.qp[a] if qp else [q] * 3
        found = [s @ k for s, k, on in zip(scorers, pairs.k[a], pairs.positive[a]) if on]
        want.append(-np.mean(found) if found else 0.0)
    with jax.enable_x64(True):
        got = jax.jit(attraction)(as_arrays(pairs, jnp.float64))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(attraction(as_arrays(pairs, jnp.float32)), want, atol=1e-6)


def test_a_positive_that_does_not_exist_passes_no_gradient():
    pairs = as_arrays(arrays_of(make_pairs(6, M=0)), jnp.float32)
    grads = jax.grad(lambda k: attraction(dataclasses.replace(pairs, k=k)).sum())(pairs.k)
    np.testing.assert_array_equal(np.abs(grads).sum(-1) > 0, pairs.positive)


def test_deviation_tells_a_spread_from_a_collapse():
    z = unit(np.random.default_rng(0), 4000, 16)
    np.testing.assert_allclose(deviation(jnp.float32(z)), 1 / np.sqrt(16), rtol=0.02)
    np.testing.assert_allclose(deviation(jnp.float32(z)), z.std(0).mean(), rtol=1e-5)
    np.testing.assert_allclose(deviation(jnp.tile(jnp.float32(z[:1]), (50, 1))), 0, atol=1e-6)
