"""Contrastive losses against float64 NumPy loops and finite differences.

`test_streamed_losses.py` holds the streamed ones to the dense ones.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.contracts import Pairs
from facejax.ops import ring
from facejax.ops.similarity import (
    clip_softmax,
    info_nce,
    interleave,
    l2_normalize,
    nt_xent,
    sigmoid_loss,
    sup_con,
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that these few negatives are several chunks."""
    monkeypatch.setattr(ring, "CHUNK", 3)


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
}
# The same ones once more, with all negatives of other owners allowed: these are streamed.
CASES |= {f"{name}, streamed": dataclasses.replace(p, allowed=None) for name, p in CASES.items()}


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
@pytest.mark.parametrize("bounded", [True, False])
def test_info_nce_has_the_slope_of_finite_differences(field, bounded):
    pairs = arrays_of(make_pairs(5, qp=True, bounded=bounded))
    with jax.enable_x64(True):
        pairs = as_arrays(pairs, jnp.float64)

        def f(value):
            return jnp.sum(info_nce(dataclasses.replace(pairs, **{field: value})))

        x = getattr(pairs, field)
        direction = jnp.asarray(np.random.default_rng(0).normal(size=x.shape))
        np.testing.assert_allclose(*slopes(f, x, direction), rtol=1e-6)


@pytest.mark.parametrize("lost", ["negatives", "positive", "both"])
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("bounded", [True, False])
def test_anchors_without_company_cost_nothing_and_break_nothing(lost, dead, bounded):
    pairs = as_arrays(arrays_of(make_pairs(6, tau=0.05, bounded=bounded)), jnp.float32)
    if lost != "positive" and bounded:
        pairs = dataclasses.replace(pairs, allowed=pairs.allowed.at[0].set(False))
    elif lost != "positive":
        pairs = dataclasses.replace(pairs, neg_owner=jnp.zeros_like(pairs.neg_owner))
    if lost != "negatives":
        pairs = dataclasses.replace(pairs, positive=pairs.positive.at[0].set(False))

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


@pytest.mark.parametrize("bounded", [True, False])
def test_large_logits_stay_finite(bounded):
    pairs = as_arrays(arrays_of(make_pairs(8, bounded=bounded)), jnp.float32)
    pairs = dataclasses.replace(pairs, tau=jnp.float32(1e-4))
    loss, gradient = jax.value_and_grad(
        lambda q: jnp.sum(info_nce(dataclasses.replace(pairs, q=q)))
    )(pairs.q)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("bounded", [True, False])
def test_half_precision_features_are_compared_in_fp32(bounded):
    pairs = as_arrays(arrays_of(make_pairs(9, bounded=bounded)), jnp.bfloat16)
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
    z, other = np.asarray(interleave(a, b)), np.asarray(interleave(b, a))
    image = np.repeat(np.arange(6, dtype=np.int32), 2)
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


# ------------------------------------------------------------------------- SupCon, CLIP, SigLIP


def sup_con_reference(z, owner, tau):
    losses = np.zeros(len(z))
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        kin = [j for j in others if owner[j] == owner[i]]
        total = np.log(sum(np.exp(z[i] @ z[j] / tau) for j in others))
        if kin:
            losses[i] = np.mean([total - z[i] @ z[j] / tau for j in kin])
    return losses


def clip_reference(x, y, scale):
    s = scale * x @ y.T
    log_p = [s - np.log(np.exp(s).sum(axis, keepdims=True)) for axis in (0, 1)]
    return -(np.diag(log_p[0]) + np.diag(log_p[1])) / 2


def sigmoid_reference(x, y, scale, bias):
    signs = 2 * np.eye(len(x)) - 1
    return np.log1p(np.exp(-signs * (scale * x @ y.T + bias))).sum(1)


OWNER = np.array([0, 1, 0, 2, 1, 0])

ROWWISE = {
    "sup_con": (lambda x, y: sup_con(x, OWNER, 0.2), lambda x, y: sup_con_reference(x, OWNER, 0.2)),
    "clip": (lambda x, y: clip_softmax(x, y, 14.0), lambda x, y: clip_reference(x, y, 14.0)),
    "sigmoid": (
        lambda x, y: sigmoid_loss(x, y, 10.0, -10.0),
        lambda x, y: sigmoid_reference(x, y, 10.0, -10.0),
    ),
}


@pytest.mark.parametrize("name", ROWWISE)
def test_losses_of_rows_are_their_definition(name):
    loss, reference = ROWWISE[name]
    x, y = two_views()
    want = reference(x, y)
    with jax.enable_x64(True):
        got = jax.jit(loss)(jnp.asarray(x), jnp.asarray(y))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6)
    got = jax.jit(loss)(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


SLOPES = {
    "sup_con": (lambda z: sup_con(z, OWNER, 0.2), ("z",)),
    "clip": (clip_softmax, ("x", "y", "scale")),
    "sigmoid": (sigmoid_loss, ("x", "y", "scale", "bias")),
}


@pytest.mark.parametrize(("name", "at"), [(n, a) for n in SLOPES for a in range(len(SLOPES[n][1]))])
def test_losses_of_rows_have_the_slope_of_finite_differences(name, at):
    loss, arguments = SLOPES[name]
    with jax.enable_x64(True):
        given = [jnp.asarray(v) for v in (*two_views(), 14.0, -10.0)][: len(arguments)]

        def f(value):
            return jnp.sum(jnp.square(loss(*given[:at], value, *given[at + 1 :])))

        direction = jnp.asarray(np.random.default_rng(1).normal(size=given[at].shape))
        np.testing.assert_allclose(*slopes(f, given[at], direction), rtol=1e-6)


def test_a_pair_per_class_makes_sup_con_nt_xent():
    a, b = two_views()
    z = jnp.asarray(interleave(a, b), jnp.float32)
    got = 2 * jnp.mean(sup_con(z, np.repeat(np.arange(6), 2), 0.1))
    np.testing.assert_allclose(got, nt_xent_reference(a, b, 0.1), rtol=1e-5)


def test_clip_does_not_care_which_side_is_which_and_guesses_at_the_log_of_the_batch():
    x, y = (jnp.asarray(v, jnp.float32) for v in two_views())
    loss = jax.jit(lambda x, y: clip_softmax(x, y, 14.0))
    want = loss(x, y)
    np.testing.assert_allclose(loss(y, x), want, rtol=1e-5)
    order = jnp.array([3, 1, 5, 0, 4, 2])
    np.testing.assert_allclose(loss(x[order], y[order]), want[order], rtol=1e-5)
    np.testing.assert_allclose(loss(x, 0 * y), np.log(6), rtol=1e-6)


def test_sigmoid_loss_at_its_start():
    """B = 1,024, all cosines 0, scale 10, bias -10; 10.046 by hand."""
    loss = jax.jit(lambda x, y: sigmoid_loss(x, y, 10.0, -10.0))
    x, y = (jnp.tile(jnp.eye(4)[i], (1024, 1)) for i in (0, 1))
    want = np.log1p(np.exp(10.0)) + 1023 * np.log1p(np.exp(-10.0))
    np.testing.assert_allclose(loss(x, y), want, rtol=1e-5)
    np.testing.assert_allclose(want, 10.046, atol=1e-3)


def test_sigmoid_loss_ignores_the_order_of_pairs():
    x, y = (jnp.asarray(v, jnp.float32) for v in two_views())
    loss, order = (
        jax.jit(lambda x, y: sigmoid_loss(x, y, 10.0, -10.0)),
        jnp.array([3, 1, 5, 0, 4, 2]),
    )
    np.testing.assert_allclose(loss(x[order], y[order]), loss(x, y)[order], rtol=1e-5)


@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("rows", [1, 6])
def test_zero_and_lonely_rows_break_nothing(name, rows):
    owner = np.arange(rows)  # of which none has a positive
    loss = ROWWISE[name][0] if name != "sup_con" else lambda x, y: sup_con(x, owner, 0.2)
    zeros = jnp.zeros((rows, 5))

    def cost(x, y):
        losses = loss(l2_normalize(x), l2_normalize(y))
        return jnp.sum(losses), losses

    gradients, losses = jax.jit(jax.grad(cost, (0, 1), has_aux=True))(zeros, zeros)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(g).all() for g in gradients)
    if name == "sup_con":
        np.testing.assert_array_equal(losses, 0)


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
