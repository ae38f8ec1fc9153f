"""Rows stay on their devices, whatever the weights do; values never change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from facejax import layers, mesh
from facejax.config import MeshShape
from facejax.ops import rows
from facejax.planning import hlo

GRID = mesh.make(MeshShape(2, 4), jax.devices())


def test_nothing_happens_without_a_mesh():
    x = jnp.ones((8, 3))
    assert rows.stay(x) is x


@pytest.mark.parametrize(("count", "split"), [(16, True), (8, True), (12, False), (1, False)])
def test_rows_that_divide_are_split_over_all_devices(count, split):
    x = jax.device_put(jnp.arange(3.0 * count).reshape(count, 3), mesh.replicated(GRID))
    y = jax.jit(mesh.within(GRID, rows.stay))(x)
    np.testing.assert_array_equal(y, x)
    assert y.sharding.is_equivalent_to(
        mesh.batch_sharding(GRID) if split else mesh.replicated(GRID), y.ndim
    )


def test_a_scanned_block_moves_weights_and_no_rows():
    """Left to itself XLA gathers the rows of the four devices that share the weights."""
    B, N, D, depth = 16, 5, 64, 3
    block = layers.Block(D, 2, 4.0)
    one = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros((1, N, D))))
    split = NamedSharding(GRID, PartitionSpec(None, None, "fsdp"))
    whole = mesh.replicated(GRID)
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(
            (depth, *p.shape), p.dtype, sharding=split if p.ndim == 2 else whole
        ),
        one,
    )
    x = jax.ShapeDtypeStruct((B, N, D), jnp.float32, sharding=mesh.batch_sharding(GRID))

    def loss(params, x):
        x, _ = jax.lax.scan(lambda x, p: (block.apply(p, x), None), x, params)
        return jnp.sum(x**2)

    compiled = jax.jit(mesh.within(GRID, jax.grad(loss))).lower(params, x).compile()
    module = hlo.parse(compiled.as_text())
    kinds = {c.kind for c in hlo.collectives(module)}
    assert "all-gather" in kinds
    assert not kinds & {"all-to-all", "collective-permute"}
    gathered = [
        array.text
        for instructions in module.computations.values()
        for i in instructions.values()
        if i.kind.startswith("all-gather")
        for array in i.arrays
    ]
    assert gathered
    assert not [text for text in gathered if f",{N}," in text]
