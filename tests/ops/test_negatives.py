"""Hard negatives: never the own column, as often as their weights say, the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax import mesh
from facejax.config import MeshShape
from facejax.contracts import Draw
from facejax.ops import negatives, ring

B = 16
ROWS = jnp.arange(B, dtype=jnp.int32)
ALL = jnp.ones(B, bool)
drawn = jax.jit(negatives.draw)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(ring, "CHUNK", 5)


def unit(seed):
    x = np.random.default_rng(seed).normal(size=(B, 4))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


def test_no_row_draws_itself_however_alike_it_is():
    z = jnp.eye(B)
    for scale in (0.0, 1.0, 1e3, 1e6):
        for seed in range(20):
            found = drawn(scale * z, z, ALL, Draw(jax.random.key(seed), ROWS))
            assert (found != ROWS).all()
            assert ((found >= 0) & (found < B)).all()


def test_columns_are_drawn_as_often_as_their_weights_say():
    """One row and column of each of 16 are held to 4,000 draws."""
    q, k = 3 * unit(0), unit(1)
    there = ALL.at[5].set(False)
    keys = jax.random.split(jax.random.key(2), 4000)
    draw = jax.jit(jax.vmap(lambda key: negatives.draw(q, k, there, Draw(key, ROWS))))
    found = np.asarray(draw(keys))
    e = np.exp(np.float64(q) @ np.float64(k).T) * np.asarray(there)
    weight = (e / e.sum(1, keepdims=True) + 1e-4) * np.asarray(there)
    np.fill_diagonal(weight, 0)
    weight /= weight.sum(1, keepdims=True)
    for row in (0, 7, 15):
        often = np.bincount(found[:, row], minlength=B) / len(keys)
        assert often[5] == 0
        np.testing.assert_allclose(often, weight[row], atol=4 * np.sqrt(0.25 / len(keys)))


def test_what_is_nowhere_else_is_the_own_row():
    alone = jnp.zeros(B, bool).at[3].set(True)
    found = drawn(unit(0), unit(1), alone, Draw(jax.random.key(0), ROWS))
    assert found[3] == 3


def test_order_and_mesh_mean_nothing():
    q, k, there = 5 * unit(0), unit(1), ALL.at[2].set(False)
    key = jax.random.key(4)
    want = np.asarray(drawn(q, k, there, Draw(key, ROWS)))
    order = np.random.default_rng(0).permutation(B)
    other = drawn(q[order], k[order], there[order], Draw(key, ROWS[order]))
    np.testing.assert_array_equal(order[np.asarray(other)], want[order])
    grid = mesh.make(MeshShape(4, 2), jax.devices()[:8])
    spread = jax.device_put((q, k, there, ROWS), mesh.batch_sharding(grid))

    def draw(q, k, there, rows):
        return negatives.draw(q, k, there, Draw(key, rows))

    np.testing.assert_array_equal(jax.jit(mesh.within(grid, draw))(*spread), want)
