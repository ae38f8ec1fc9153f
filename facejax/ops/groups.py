"""Arrays of millions of rows, in logical groups: which rows a step samples, where these lie.

An array [G n, ...] has G groups of n successive rows and lies over all devices of the mesh, so many
groups on each. What is drawn in a group depends on the group alone: results are the same on any
number of devices that divides G. Nothing here moves rows between devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from facejax.errors import UserError


def apart(function: Callable, groups: int, split: tuple, shared: tuple = ()):
    """`function(first, *split, *shared)` on each device's own share of the groups.

    Args:
        function: `first` is i32[], the number of the share's first group; `split` are its shares.
        groups: G.
        split: arrays whose axis 0 is a multiple of G.
        shared: arrays that every device sees whole.

    Returns:
        What `function` returns, arrays that lie as `split` does.

    Raises:
        UserError: the devices do not divide the groups.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return function(jnp.int32(0), *split, *shared)
    if groups % mesh.size:
        what = f"{groups} groups of classes cannot be shared by {mesh.size} devices"
        raise UserError("groups", what, f"set it to a multiple of {mesh.size}")

    def share(*arrays):
        first = jax.lax.axis_index(mesh.axis_names) * (groups // mesh.size)
        return function(first, *arrays)

    spec = PartitionSpec(mesh.axis_names)
    specs = (spec,) * len(split) + (PartitionSpec(),) * len(shared)
    return jax.shard_map(share, in_specs=specs, out_specs=spec)(*split, *shared)


def sizes(classes: int, groups: int, rate: float, batch: int) -> tuple[int, int]:
    """Rows of a group, n, and how many of them a step samples, S.

    S = min(n, max(floor(rate n), min(batch, n))): the classes of a batch always find room.
    """
    n = -(-classes // groups)
    return n, min(n, max(int(rate * n), min(batch, n)))


def sample(labels: jax.Array, classes: int, groups: int, rate: float, key: jax.Array) -> jax.Array:
    """Draws rows of each group: those of the batch's classes, the others uniformly at random.

    Args:
        labels: i32[B], class numbers; negative ones stand for no class.
        classes: C; rows from C on are padding, which comes last.
        groups: G.
        rate: share of a group's rows.
        key: a PRNG key of the step.

    Returns:
        i32[G S], unique and ascending. Where S is n these are all rows.

    Source: An et al. 2022, arXiv:2203.15565 (Partial FC), with a static number of rows.
    """
    n, S = sizes(classes, groups, rate, len(labels))
    if n == S:
        return jnp.arange(groups * n, dtype=jnp.int32)

    def draw(first, groups, labels):
        def of_group(group):
            start = group * n
            score = jax.random.uniform(jax.random.fold_in(key, group), (n,))
            own = jnp.where((labels >= start) & (labels < start + n), labels - start, n)
            score = score.at[own].set(2.0, mode="drop")
            score = jnp.where(start + jnp.arange(n) < classes, score, -1.0)
            return start + jnp.sort(jax.lax.top_k(score, S)[1])

        return jax.lax.map(of_group, groups).reshape(-1)

    return apart(draw, groups, (jnp.arange(groups, dtype=jnp.int32),), (labels,))


def take(value: jax.Array, rows: jax.Array, groups: int) -> jax.Array:
    """The rows [R, D] of an array [G n, D]; those past its end read as zero.

    With more than one group the rows are as `sample` returns them, so that each lies on the device
    of its group, and as many rows as the array has are the array.
    """
    if groups == 1:
        return value.at[rows].get(mode="fill", fill_value=0)
    if len(rows) == len(value):
        return value
    n = len(value) // groups

    def own(first, value, rows):
        return value.at[rows - first * n].get(mode="fill", fill_value=0)

    return apart(own, groups, (value, rows))
