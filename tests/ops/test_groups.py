"""Rows of grouped arrays: sampled, taken and changed where they lie."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax import mesh, optim
from facejax.config import MeshShape
from facejax.contracts import Sparse
from facejax.errors import UserError
from facejax.ops import groups
from facejax.planning import hlo

C, G, B, D = 45, 8, 16, 4
SHAPES = [(8, 1), (2, 4), (1, 8), (2, 1), (1, 4)]


def grid(shape):
    return mesh.make(MeshShape(*shape), jax.devices()[: shape[0] * shape[1]])


def on(shape, function, *arrays):
    """`function` of arrays that lie over all devices of a mesh."""
    devices = grid(shape)
    split = mesh.batch_sharding(devices)
    return jax.jit(mesh.within(devices, function))(*(jax.device_put(a, split) for a in arrays))


def test_sizes_always_hold_the_classes_of_a_batch():
    assert groups.sizes(1000, 8, 0.1, 64) == (125, 64)
    assert groups.sizes(1000, 8, 0.1, 4) == (125, 12)
    assert groups.sizes(1000, 8, 0.1, 4096) == (125, 125)
    assert groups.sizes(1001, 8, 1.0, 4) == (126, 126)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_sample_is_unique_ascending_and_holds_the_labels(data):
    labels = data.draw(st.lists(st.integers(-1, C - 1), min_size=3, max_size=3))
    rate = data.draw(st.sampled_from([0.2, 0.6]))
    rows = np.asarray(sampled(jnp.array(labels, jnp.int32), rate, data.draw(st.integers(0, 9))))
    n, S = groups.sizes(C, G, rate, 3)
    assert len(rows) == G * S
    assert (np.diff(rows) > 0).all()
    assert (np.bincount(rows // n, minlength=G) == S).all()
    assert {x for x in labels if x >= 0} <= set(rows.tolist())


@functools.partial(jax.jit, static_argnums=1)
def sampled(labels, rate, seed):
    return groups.sample(labels, C, G, rate, jax.random.key(seed))


def test_other_rows_are_drawn_alike_and_padding_comes_last():
    labels = jnp.array([-1, -1, -1], jnp.int32)
    count = np.zeros(48)
    for seed in range(300):
        count[np.asarray(sampled(labels, 0.5, seed))] += 1
    # Groups of 6 of which 3 are sampled; the last holds three classes and as many of padding.
    assert abs(count[:42] / 300 - 0.5).max() < 0.15
    assert (count[42:] == [300, 300, 300, 0, 0, 0]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_is_the_same_on_any_mesh(shape):
    labels = jnp.array([0, 44, 7, 7] * 4, jnp.int32)

    def draw(labels):
        return groups.sample(labels[:3], C, G, 0.1, jax.random.key(3))

    rows = on(shape, draw, labels)
    np.testing.assert_array_equal(rows, jax.jit(draw)(labels))
    if shape[0] * shape[1] > 1:
        assert rows.sharding.is_equivalent_to(mesh.batch_sharding(grid(shape)), 1)


@pytest.mark.parametrize("velocity", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_taken_and_changed_as_on_one_device(shape, rate, velocity):
    rng = np.random.default_rng(0)
    n, S = groups.sizes(C, G, rate, 2)
    value = jnp.asarray(rng.normal(size=(G * n, D)), jnp.float32)
    moving = jnp.asarray(rng.normal(size=(G * n, D)), velocity)
    grad = rng.normal(size=(G * S, D)).astype(np.float32)
    grad[3] = np.nan
    rows = groups.sample(jnp.array([8, 40]), C, G, rate, jax.random.key(0))
    sparse = Sparse(None, 0.5, 0.1, 2.0, groups=G, velocity=velocity)

    def change(value, moving, grad, rows, many=G):
        now = sparse if many == G else Sparse(None, 0.5, 0.1, 2.0, velocity=velocity)
        lr, ok = jnp.float32(0.25), jnp.bool_(True)
        taken = groups.take(value, rows, many)
        return taken, *optim.sparse_update(now, value, moving, grad, rows, lr, ok)

    want = jax.jit(functools.partial(change, many=1))(value, moving, grad, rows)
    got = on(shape, change, value, moving, grad, rows)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.float32(a), np.float32(b))
    assert got[2].dtype == velocity
    np.testing.assert_array_equal(got[1][rows[3]], value[rows[3]])


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_nothing_travels(rate):
    n, S = groups.sizes(C, G, rate, 2)
    devices = grid((2, 4))
    split = mesh.batch_sharding(devices)

    def shape(rows, *width, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((rows, *width), dtype, sharding=split)

    def change(value, velocity, grad, rows):
        sparse = Sparse(None, groups=G)
        taken = groups.take(value, rows, G)
        ok = jnp.bool_(True)
        return optim.sparse_update(sparse, value, velocity, grad + taken, rows, jnp.float32(1), ok)

    arguments = (shape(G * n, D), shape(G * n, D), shape(G * S, D), shape(G * S, dtype=jnp.int32))
    text = jax.jit(mesh.within(devices, change)).lower(*arguments).compile().as_text()
    assert not hlo.collectives(hlo.parse(text))


def test_devices_that_do_not_divide_the_groups_are_told():
    labels = jnp.zeros(8, jnp.int32)
    with pytest.raises(UserError, match="multiple of 8") as caught:
        on((8, 1), lambda x: groups.sample(x, 400, 12, 0.5, jax.random.key(0)), labels)
    assert caught.value.where == "groups"
