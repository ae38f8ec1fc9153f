"""Sweeps over rows and columns: every pair once, on any mesh, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax import mesh
from facejax.config import MeshShape
from facejax.ops import ring

SHAPES = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (2, 4)}


def grid(devices):
    return mesh.make(MeshShape(*SHAPES[devices]), jax.devices()[:devices])


def visit(rows, columns, exist, row_sums, column_sums):
    """Adds r + 10 c of each pair to both, and counts the pairs."""
    assert len(columns["c"]) == len(exist) <= ring.CHUNK
    each = jnp.where(exist, rows["r"][:, None] + 10 * columns["c"][None], 0)
    row_sums = (row_sums[0] + each.sum(1), row_sums[1] + exist.sum())
    return row_sums, {"sum": column_sums["sum"] + each.sum(0), "rows": column_sums["rows"] + 1}


def swept(r, c):
    A, M = len(r), len(c)
    counts = {"sum": jnp.arange(M), "rows": jnp.zeros((M, 2), int)}
    start = (jnp.arange(A), jnp.zeros(A, int))
    return ring.sweep(visit, {"r": r}, {"c": c}, start, counts)


def assert_every_pair_once(A, M, devices, hops):
    r, c = np.arange(A) ** 2, np.arange(M) ** 2 + 1
    built = grid(devices)
    on = jax.device_put((r, c), mesh.replicated(built))
    (sums, met), columns = jax.jit(mesh.within(built, swept))(*on)
    pairs = r[:, None] + 10 * c[None]
    np.testing.assert_array_equal(sums, np.arange(A) + pairs.sum(1))
    np.testing.assert_array_equal(met, M)
    np.testing.assert_array_equal(columns["sum"], np.arange(M) + pairs.sum(0))
    np.testing.assert_array_equal(columns["rows"], np.full((M, 2), hops))
    return sums, columns


@pytest.mark.parametrize(
    ("A", "M", "devices"),
    [(8, 16, 1), (8, 16, 2), (8, 16, 8), (16, 13, 8), (8, 3, 8), (8, 0, 8), (5, 8, 8), (1, 1, 1)],
)
@pytest.mark.parametrize("chunk", [512, 3])
def test_every_row_meets_every_column_once(A, M, devices, chunk, monkeypatch):
    monkeypatch.setattr(ring, "CHUNK", chunk)
    used = devices if A % devices == 0 else 1
    sums, columns = assert_every_pair_once(A, M, devices, hops=used)
    if used > 1:
        rows = mesh.batch_sharding(grid(devices))
        assert sums.sharding.is_equivalent_to(rows, 1)
        assert {s.data.shape for s in sums.addressable_shards} == {(A // devices,)}
        if M and M % devices == 0:
            assert columns["rows"].sharding.is_equivalent_to(rows, 2)


@given(
    share=st.integers(1, 3),
    M=st.integers(0, 20),
    devices=st.sampled_from([1, 2, 4, 8]),
    chunk=st.integers(1, 8),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_sizes_and_chunks_do_not_matter(share, M, devices, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "CHUNK", chunk)
        assert_every_pair_once(share * devices, M, devices, hops=devices)


def test_without_a_mesh_one_sweep_takes_all_rows():
    def seen(rows, columns, exist, row_sums, column_sums):
        return row_sums + len(rows), column_sums

    def sweep(zeros):
        return ring.sweep(seen, zeros, zeros, zeros)

    built, zeros = grid(8), jnp.zeros(16, int)
    sums, nothing = jax.jit(sweep)(zeros)
    assert (sums == 16).all()
    assert nothing is None
    spread, _ = jax.jit(mesh.within(built, sweep))(jax.device_put(zeros, mesh.replicated(built)))
    assert (spread == 2 * 8).all()


def test_columns_travel_and_are_never_gathered():
    built = grid(8)
    row = jax.ShapeDtypeStruct((64,), jnp.int32, sharding=mesh.batch_sharding(built))
    program = jax.jit(mesh.within(built, swept)).lower(row, row).compile().as_text()
    assert "collective-permute(" in program
    assert not any(word in program for word in ("all-gather(", "all-to-all(", "all-reduce("))
