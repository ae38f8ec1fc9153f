"""The loss without negatives of `ops/similarity.py`, and its sign of collapse."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import B
from numpy_heads import unit

from facejax.ops.similarity import attraction, deviation

EXIST = np.random.default_rng(0).random((B, 3)) < 0.6
EXIST[1] = False


def pairs_of(qp=False):
    pairs = made_up.pairs(4, positives=3)
    own = made_up.maker("ordinary", 1)(B, 3, 4) if qp else None
    return dataclasses.replace(pairs, positive=jnp.asarray(EXIST), qp=own)


@pytest.mark.parametrize("qp", [False, True])
def test_attraction_is_minus_the_mean_product_with_what_is_positive(qp):
    pairs = pairs_of(qp)
    q, k = np.float64(pairs.q), np.float64(pairs.k)
    scorers = np.float64(pairs.qp) if qp else np.repeat(q[:, None], 3, 1)
    want = [
        -np.mean([scorers[a, p] @ k[a, p] for p in range(3) if EXIST[a, p]]) if any(EXIST[a]) else 0
        for a in range(B)
    ]
    with jax.enable_x64(True):
        got = jax.jit(attraction)(made_up.wide(dataclasses.replace(pairs, tau=jnp.float32(1))))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(attraction(pairs), want, rtol=1e-5, atol=1e-6)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (pairs.q, pairs.k))
    assert attraction(dataclasses.replace(pairs, q=half[0], k=half[1])).dtype == jnp.float32


def test_a_positive_that_does_not_exist_passes_no_gradient():
    pairs = pairs_of()
    grads = jax.grad(lambda k: attraction(dataclasses.replace(pairs, k=k)).sum())(pairs.k)
    np.testing.assert_array_equal(np.abs(grads).sum(-1) > 0, EXIST)


def test_deviation_tells_a_spread_from_a_collapse():
    z = unit(np.random.default_rng(0).normal(size=(4000, 16)))
    np.testing.assert_allclose(deviation(jnp.float32(z)), 1 / np.sqrt(16), rtol=0.02)
    np.testing.assert_allclose(deviation(jnp.float32(z)), z.std(0).mean(), rtol=1e-5)
    np.testing.assert_allclose(deviation(jnp.tile(jnp.float32(z[:1]), (50, 1))), 0, atol=1e-6)
