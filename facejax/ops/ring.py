"""Sums over all pairs of a row and a column that never hold more than a chunk of them.

32,768 rows and columns are 4 GiB of pairs. Here every device keeps its own rows and meets the
columns chunk by chunk. Where rows are spread over a mesh, the columns travel around a ring of all
its devices, and what is summed for them (their gradient) travels along until it is at home again.

A rows, M columns, C columns of a chunk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

Tree = Any  # of arrays whose axis 0 is that of the rows, or that of the columns
Visit = Callable[[Tree, Tree, jax.Array, Tree, Tree], tuple[Tree, Tree]]

CHUNK = 512  # columns at most


def sweep(
    visit: Visit, rows: Tree, columns: Tree, row_sums: Tree, column_sums: Tree = None
) -> tuple[Tree, Tree]:
    """Folds `visit` over chunks of columns until every row has met every column once.

    On a mesh whose devices share the rows evenly, a device is handed its own rows, and its share of
    the columns comes by. Otherwise one sweep takes all rows.

    Differentiating it would keep all pairs; its users write their derivative as another sweep.

    Args:
        visit: (rows, a chunk of columns, bool[C] which of these exist, row_sums, the chunk of
            column_sums) -> the new row_sums and column_sums. Chunks come in any order.
        rows: arrays of A rows.
        columns: arrays of M.
        row_sums: arrays of A, to start from.
        column_sums: arrays of M, to start from.

    Returns:
        The last row_sums and column_sums.
    """
    A, M = (jax.tree.leaves(tree)[0].shape[0] for tree in (rows, columns))
    mesh = jax.sharding.get_abstract_mesh()
    devices = mesh.size if mesh.size and A % mesh.size == 0 else 1
    share = max(-(-M // devices), 1)
    count = -(-share // CHUNK)
    padding = devices * count * -(-share // count) - M

    def pad(x):
        return jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))

    travelling = jax.tree.map(pad, (columns, jnp.ones(M, bool), column_sums))
    if devices == 1:
        row_sums, column_sums = _chunks(visit, count, rows, travelling, row_sums)
    else:
        spec = PartitionSpec(mesh.axis_names)
        around = partial(_around, visit, count, mesh.axis_names, devices)
        spread = jax.shard_map(around, in_specs=spec, out_specs=spec)
        row_sums, column_sums = spread(rows, travelling, row_sums)
    return row_sums, jax.tree.map(lambda x: x[:M], column_sums)


def _chunks(visit: Visit, count: int, rows: Tree, travelling: Tree, row_sums: Tree):
    def step(row_sums, part):
        columns, exist, column_sums = part
        return visit(rows, columns, exist, row_sums, column_sums)

    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), travelling)
    row_sums, column_sums = jax.lax.scan(step, row_sums, parts)
    return row_sums, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), column_sums)


def _around(visit: Visit, count: int, axes, devices: int, rows: Tree, travelling: Tree, row_sums):
    def send(tree):
        neighbours = [(i, (i + 1) % devices) for i in range(devices)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, neighbours), tree)

    def hop(_, carry):
        (columns, exist, column_sums), row_sums = carry
        arriving = send((columns, exist))  # needs nothing of the visit, so it can go on meanwhile
        row_sums, column_sums = _chunks(visit, count, rows, (columns, exist, column_sums), row_sums)
        return (*arriving, send(column_sums)), row_sums

    # After as many hops as there are devices everything is at home again.
    travelling, row_sums = jax.lax.fori_loop(0, devices, hop, (travelling, row_sums))
    return row_sums, travelling[2]
