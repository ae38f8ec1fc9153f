import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax import mesh
from facejax.checksums import checksums
from facejax.config import MeshShape

ARRAYS = {
    "float32": np.linspace(-3, 5, 24, dtype=np.float32).reshape(2, 3, 4),
    "bfloat16": np.asarray(jnp.linspace(-3, 5, 24, dtype=jnp.bfloat16)),
    "int32": np.arange(-4, 20, dtype=np.int32),
    "uint8": np.arange(24, dtype=np.uint8),
    "bool": np.arange(24) % 3 == 0,
    "scalar": np.float32(0.1),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int32", "uint8", "scalar"])
def test_every_single_bit_counts(name):
    array = np.array(ARRAYS[name])
    before = checksums({"x": array})
    raw = array.reshape(-1).view(np.uint8)
    for byte in range(raw.size):
        for bit in (0, 3, 7):
            raw[byte] ^= 1 << bit
            assert checksums({"x": array}) != before
            raw[byte] ^= 1 << bit
    assert checksums({"x": array}) == before


def test_order_type_and_shape_count():
    x = ARRAYS["float32"]
    other = [x[::-1], x.reshape(3, 2, 4), x.view(np.int32), np.swapaxes(x, 0, 1)]
    assert len({checksums({"x": y})["x"] for y in (x, *other)}) == 5


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
def test_any_mesh_gives_the_same_sums(shape):
    tree = {"a": np.arange(64, dtype=np.float32).reshape(16, 4), "b": {"c": np.ones(8, np.int32)}}
    placed = jax.device_put(tree, mesh.batch_sharding(mesh.make(MeshShape(*shape))))
    assert checksums(placed) == checksums(tree)
    assert checksums(tree).keys() == {"a", "b/c"}


def test_all_types_have_a_sum():
    assert all(len(s) == 8 for s in checksums(ARRAYS).values())
