"""The softmax over millions of class centres that lie over all devices, a chunk of it at a time.

The embeddings travel to the centres (one gather of [B, D]), never the centres; what comes back are
sums over classes, one number per image and device. The backward pass computes the cosines again,
so that no device holds more than a chunk of its B x R of them.

B images, D width, R rows of centres (all classes, or a sample of them), C classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from facejax.ops.similarity import l2_normalize

Logits = Callable[[jax.Array, Any], jax.Array]

CHUNK = 2**28  # bytes of fp32 cosines of one device at a time


def at_labels(
    x: jax.Array, centres: jax.Array, rows: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The cosine of each embedding and the centre of its class.

    Args:
        x: [B, D], unit.
        centres: [R, D], of any length.
        rows: i32[R], the classes of the centres, unique and ascending.
        labels: i32[B]; a class without a centre here gives 0.

    Returns:
        [B], and the centres to go on with: their gradient is then gathered in one array.
    """

    def own(axes, x, centres, rows, labels):
        x, labels = _gather(axes, x), _gather(axes, labels)
        place = jnp.minimum(jnp.searchsorted(rows, labels), len(rows) - 1)
        found, centres = _tap(centres, place)
        cosine = jnp.sum(x * l2_normalize(found), axis=1)
        return _add(axes, jnp.where(rows[place] == labels, cosine, 0.0)), centres

    return _spread(own, x, centres, rows, labels)


def log_others(
    x: jax.Array,
    centres: jax.Array,
    rows: jax.Array,
    labels: jax.Array,
    classes: int,
    logits: Logits,
    aux: Any,
    precision: str = "highest",
) -> tuple[jax.Array, jax.Array]:
    """The log of the sum of e^logit over the classes that an image does not belong to.

    Args:
        x: [B, D], unit.
        centres: [R, D], of any length.
        rows: i32[R], the classes of the centres, unique; those from `classes` on are padding.
        labels: i32[B].
        classes: C.
        logits: (cosines [B, c], `aux` as [B, 1] arrays) -> logits [B, c], element by element.
        aux: a pytree of [B] arrays.
        precision: of the product that makes the cosines.

    Returns:
        [B] with gradients towards `x`, `centres` and `aux`, and the greatest of these logits, [B],
        without one. Both are -inf where there is no such class.
    """

    def own(axes, x, centres, rows, labels, aux):
        x, labels, aux = (_gather(axes, tree) for tree in (x, labels, aux))
        of = {"rows": rows, "labels": labels}
        local, peak = _log_sums(logits, classes, precision, x, centres, aux, of)
        peak = _greatest(axes, jax.lax.stop_gradient(peak))
        total = _add(axes, jnp.exp(local - _finite(peak)))
        peak = _mine(axes, peak)
        log = jnp.log(jnp.where(total > 0, total, 1.0)) + _finite(peak)
        return jnp.where(total > 0, log, -jnp.inf), peak

    return _spread(own, x, centres, rows, labels, aux)


# -------------------------------------------------------------------------- across the devices


def _spread(function: Callable, *arrays):
    """`function(axes, *arrays)` on each device's share of the arrays; `axes` is () on one device.

    What it returns lies as the arrays do, axis 0 over all devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return function((), *arrays)
    spec = PartitionSpec(mesh.axis_names)
    own = partial(function, mesh.axis_names)
    return jax.shard_map(own, in_specs=spec, out_specs=spec)(*arrays)


def _gather(axes, tree):
    """All rows, on every device."""
    if not axes:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axes, tiled=True), tree)


def _add(axes, x):
    """The sum over the devices of x [B], of which each device gets its own rows."""
    return jax.lax.psum_scatter(x, axes, tiled=True) if axes else x


def _greatest(axes, x):
    return jax.lax.pmax(x, axes) if axes else x


def _mine(axes, x):
    """The device's own rows of x [B]."""
    if not axes:
        return x
    share = len(x) // jax.lax.axis_size(axes)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axes) * share, share)


# --------------------------------------------------------------------------------- on a device


def _finite(peak: jax.Array) -> jax.Array:
    """What to subtract before exponentials: -inf minus itself would be NaN."""
    return jnp.where(jnp.isneginf(peak), 0.0, peak)


@jax.custom_vjp
def _tap(centres: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The centres at `place`, and all of them; both gradients end up in one array."""
    return centres[place], centres


_tap.defvjp(
    lambda centres, place: (_tap(centres, place), place),
    lambda place, to: (to[1].at[place].add(to[0]), None),
)


def _chunks(x: jax.Array, rows: jax.Array, visit: Callable, carry: Any):
    """Folds `visit(carry, start, columns, i)` over chunks of columns, the last one overlapping.

    The first visit is outside of the loop, where `carry` may still be None.
    """
    most = max(CHUNK // (4 * len(x)), 1)
    count = -(-len(rows) // most)
    columns = -(-len(rows) // count)
    carry = visit(carry, 0, columns, 0)
    if count == 1:
        return carry

    def step(i, carry):
        return visit(carry, jnp.minimum(i * columns, len(rows) - columns), columns, i)

    return jax.lax.fori_loop(1, count, step, carry)


def _chunk(logits, classes, precision, of, start, columns, i):
    """(x, the chunk's centres, aux) -> logits [B, columns], -inf where the class does not count."""
    rows = jax.lax.dynamic_slice_in_dim(of["rows"], start, columns)
    new = start + jnp.arange(columns) >= i * columns
    counts = (new & (rows < classes))[None] & (rows[None] != of["labels"][:, None])

    def compute(x, centres, aux):
        unit = l2_normalize(centres).astype(x.dtype)
        cosines = jnp.einsum("bd,cd->bc", x, unit, precision=precision)
        return jnp.where(counts, logits(cosines, jax.tree.map(lambda a: a[:, None], aux)), -jnp.inf)

    return compute


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _log_sums(logits, classes, precision, x, centres, aux, of):
    """Over this device's classes: [B] log of the sum of e^logit, and [B] the greatest logit."""

    def visit(sums, start, columns, i):
        part = jax.lax.dynamic_slice_in_dim(centres, start, columns)
        found = _chunk(logits, classes, precision, of, start, columns, i)(x, part, aux)
        peak = jnp.max(found, 1)
        higher = peak if sums is None else jnp.maximum(sums[1], peak)
        shift = _finite(higher)
        total = jnp.sum(jnp.exp(found - shift[:, None]), 1)
        if sums is not None:
            total += sums[0] * jnp.exp(sums[1] - shift)
        return total, higher

    total, peak = _chunks(x, of["rows"], visit, None)
    return _finite(peak) + jnp.log(total), peak


def _log_sums_forward(logits, classes, precision, x, centres, aux, of):
    found = _log_sums(logits, classes, precision, x, centres, aux, of)
    return found, (x, centres, aux, of, found[0])


def _log_sums_backward(logits, classes, precision, kept, to):
    x, centres, aux, of, log = kept
    shift = _finite(log)

    def visit(sums, start, columns, i):
        part = jax.lax.dynamic_slice_in_dim(centres, start, columns)
        compute = _chunk(logits, classes, precision, of, start, columns, i)
        found, pull = jax.vjp(compute, x, part, aux)
        to_x, to_part, to_aux = pull(to[0][:, None] * jnp.exp(found - shift[:, None]))
        if sums is None:
            before = jnp.zeros_like(centres)
        else:
            before = sums[1]
            to_x, to_aux = jax.tree.map(jnp.add, (to_x, to_aux), (sums[0], sums[2]))
            to_part += jax.lax.dynamic_slice_in_dim(before, start, columns)
        to_centres = jax.lax.dynamic_update_slice_in_dim(before, to_part, start, 0)
        return to_x, to_centres, to_aux

    return *_chunks(x, of["rows"], visit, None), None


_log_sums.defvjp(_log_sums_forward, _log_sums_backward)
