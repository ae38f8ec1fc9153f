"""The auction against scipy's Hungarian algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from facejax.ops.matching import assign, assign_blocks

compiled = jax.jit(assign, static_argnames="eps")


def best(weight):
    """Columns of the rows, -1 for none; weights that are not above 0 are worth nothing."""
    worth = np.where(weight > 0, weight, 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    match = np.full(len(weight), -1)
    match[rows] = np.where(worth[rows, columns] > 0, columns, -1)
    return match


def total(weight, match):
    rows = np.flatnonzero(match >= 0)
    return weight[rows, match[rows]].sum()


def assert_matching(weight, match, eps=1e-3):
    taken = match[match >= 0]
    assert len(np.unique(taken)) == len(taken)
    assert (weight[match >= 0, taken] > 0).all()
    most = total(weight, best(weight))
    assert most - len(weight) * eps - 1e-5 <= total(weight, match) <= most + 1e-5


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)])
def test_sum_is_the_largest(shape):
    rng = np.random.default_rng(0)
    for kind in range(4):
        for _ in range(8):
            weight = rng.uniform(0, 1, shape)
            weight = [weight, weight * 2 - 1, np.round(weight, 1), weight * 0.01 + 0.98][kind]
            weight[rng.uniform(size=shape) < 0.2] = -np.inf
            weight = weight.astype(np.float32)
            assert_matching(weight, np.asarray(compiled(weight)))


def test_matching_is_that_of_scipy_where_it_is_the_only_best():
    """In float64 with a raise far below the gap to the second best."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        for _ in range(20):
            weight = rng.uniform(-0.2, 1, (7, 7))
            found = np.asarray(compiled(weight, eps=1e-7))
            np.testing.assert_array_equal(found, best(weight))


def test_identity_is_matched_with_itself_and_a_permutation_is_undone():
    z = np.random.default_rng(2).normal(size=(12, 16)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_array_equal(compiled(np.eye(12, dtype=np.float32)), np.arange(12))
    noisy = z + 0.1 * np.random.default_rng(3).normal(size=z.shape).astype(np.float32)
    order = np.random.default_rng(4).permutation(12)
    np.testing.assert_array_equal(compiled(z @ noisy.T), np.arange(12))
    np.testing.assert_array_equal(compiled(z @ noisy[order].T), np.argsort(order))


@pytest.mark.parametrize(
    ("weight", "matched"),
    [
        (np.zeros((3, 4)), 0),
        (np.full((3, 4), -np.inf), 0),
        (np.full((3, 4), np.nan), 0),
        (np.full((3, 4), -0.5), 0),
        (np.ones((3, 4)), 3),
        (np.ones((4, 3)), 3),
        (np.full((8, 2), 1.0), 2),
    ],
)
def test_degenerate_weights_end(weight, matched):
    match = np.asarray(compiled(weight.astype(np.float32)))
    assert (match >= 0).sum() == matched
    assert match.dtype == np.int32


def test_within_blocks_of_any_shape_the_sum_is_the_largest():
    rng = np.random.default_rng(6)
    for _ in range(10):
        rows, columns = rng.integers(0, 4, 12), rng.integers(0, 4, 15)
        block = rows[:, None] == columns[None]
        weight = rng.uniform(0.9, 1, block.shape).astype(np.float32)
        match = np.asarray(jax.jit(assign_blocks)(weight, block))
        assert_matching(np.where(block, weight, -np.inf), match)
        assert match.dtype == np.int32


def test_gradients_pass_by():
    def value(weight):
        return jnp.sum(jnp.where(assign(weight)[:, None] >= 0, weight, 0.0))

    weight = jnp.asarray(np.random.default_rng(5).uniform(size=(4, 4)), jnp.float32)
    np.testing.assert_array_equal(jax.jit(jax.grad(value))(weight), np.ones((4, 4)))
