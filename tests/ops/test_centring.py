"""Sinkhorn-Knopp and centred softmax against their definitions in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.ops import centring

N, K = 12, 5


def scores(seed=0, n=N):
    """Cosines, as those of unit features and prototypes are."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, K))


def reference(s, eps, iterations):
    """SwAV's algorithm outside the log domain: prototypes to 1 / K, samples to 1 / n, times n."""
    q = np.exp(s / eps).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * len(q)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


sinkhorn = jax.jit(centring.sinkhorn, static_argnums=(1, 2))


@pytest.mark.parametrize(("eps", "iterations"), [(0.05, 3), (0.5, 1), (0.2, 10)])
def test_sinkhorn_is_its_algorithm(eps, iterations):
    want = reference(scores(), eps, iterations)
    with jax.enable_x64(True):
        got = sinkhorn(jnp.asarray(scores()), eps, iterations)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6)
    got = sinkhorn(jnp.asarray(scores(), jnp.float32), eps, iterations)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_sinkhorn_balances_prototypes_and_gives_every_row_one():
    q = np.asarray(sinkhorn(jnp.asarray(scores(), jnp.float32), 0.5, 10))
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(q.sum(0), N / K, rtol=1e-3)
    flat = sinkhorn(jnp.full((N, K), 0.3), 0.05, 3)
    np.testing.assert_allclose(flat, 1 / K, rtol=1e-6)


def test_sinkhorn_is_stable_where_the_plain_algorithm_overflows():
    extreme = jnp.asarray(scores() * 100, jnp.bfloat16)
    q = sinkhorn(extreme, 0.001, 3)
    assert q.dtype == jnp.float32
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)


def test_rows_that_do_not_count_change_nothing_and_rows_that_do_join():
    own, more = scores(), scores(1, 7)
    both = jnp.asarray(np.concatenate([own, more]), jnp.float32)
    counted = jnp.arange(N + 7) < N
    masked = jax.jit(lambda s, c: centring.sinkhorn(s, counted=c))
    np.testing.assert_allclose(masked(both, counted)[:N], reference(own, 0.05, 3), atol=1e-5)
    joined = masked(both, jnp.ones(N + 7, bool))
    np.testing.assert_allclose(joined, reference(np.asarray(both, np.float64), 0.05, 3), atol=1e-4)
    assert np.abs(joined[:N] - masked(both, counted)[:N]).max() > 0.01
    nobody = masked(both, jnp.zeros(N + 7, bool))
    np.testing.assert_allclose(nobody.sum(1), 1, rtol=1e-5)


def test_centred_softmax_is_its_formula_and_follows_a_shift_of_the_centre():
    g, c = scores(2) * 3, scores(3, 1)[0]
    want = np.exp((g - c) / 0.04)
    want /= want.sum(1, keepdims=True)
    got = jax.jit(centring.centred)(jnp.float32(g), jnp.float32(c), 0.04)
    np.testing.assert_allclose(got, want, atol=1e-5)
    shifted = centring.centred(jnp.float32(g + 2.5), jnp.float32(c + 2.5), 0.04)
    np.testing.assert_allclose(shifted, got, atol=1e-4)
    # Any number of leading axes.
    more = centring.centred(jnp.float32(g).reshape(3, 4, K), jnp.float32(c), 0.04)
    np.testing.assert_allclose(more.reshape(N, K), got, atol=1e-6)


def test_the_centre_is_an_average_of_means():
    g, c = jnp.float32(scores(2)).reshape(3, 4, K), jnp.float32(scores(3, 1)[0])
    mean = centring.mean_logits(g)
    np.testing.assert_allclose(mean, scores(2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(centring.moved(c, mean), 0.9 * c + 0.1 * mean, rtol=1e-6)
    np.testing.assert_array_equal(centring.moved(c, mean, 1.0), c)


def test_cross_entropy_and_entropy_are_their_formulas():
    p, s = reference(scores(), 0.3, 2), scores(4)
    e = np.exp(s / 0.1)
    want = -(p * np.log(e / e.sum(1, keepdims=True))).sum(1)
    np.testing.assert_allclose(
        centring.cross_entropy(jnp.float32(p), jnp.float32(s), 0.1), want, rtol=1e-5
    )
    np.testing.assert_allclose(centring.entropy(jnp.float32(p)), -(p * np.log(p)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(centring.entropy(jnp.eye(K)), 0, atol=1e-7)
    uniform = jnp.full((N, K), 1 / K)
    np.testing.assert_allclose(
        centring.cross_entropy(uniform, jnp.ones((N, K)), 0.1), np.log(K), rtol=1e-6
    )


def test_targets_pass_no_gradient():
    s, c = jnp.float32(scores()), jnp.zeros(K)

    def targets(s):
        balanced = centring.sinkhorn(s) ** 2
        return balanced.sum() + (centring.centred(s, c, 0.1) ** 2).sum()

    np.testing.assert_array_equal(jax.grad(targets)(s), 0)
    np.testing.assert_array_equal(jax.grad(lambda s: centring.mean_logits(s).sum())(s), 0)
