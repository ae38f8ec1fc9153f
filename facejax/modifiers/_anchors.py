"""What modifiers do with the anchors of pairs: repeat them, score them, let them compete.

A anchors, P positives of an anchor, M negatives, D width. All results are fp32 or wider.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from facejax.contracts import Pairs
from facejax.ops import similarity

PER_ANCHOR = ("q", "k", "owner", "positive", "weight", "allowed", "qp")


def each(pairs: Pairs, change: Callable[[jax.Array], jax.Array]) -> Pairs:
    """The pairs with `change` applied to all that has a row per anchor."""
    found = {name: getattr(pairs, name) for name in PER_ANCHOR}
    changed = {name: None if x is None else change(x) for name, x in found.items()}
    tau = change(pairs.tau) if jnp.ndim(pairs.tau) else pairs.tau
    return dataclasses.replace(pairs, tau=tau, **changed)


def repeat(pairs: Pairs, times: int) -> Pairs:
    """Each anchor `times` in a row, so that none leaves its device."""
    return each(pairs, lambda x: jnp.repeat(x, times, axis=0))


def wide(pairs: Pairs) -> Pairs:
    """The pairs with features in fp32 or wider."""

    def cast(x):
        return x if x is None else x.astype(jnp.promote_types(x.dtype, jnp.float32))

    features = {name: cast(getattr(pairs, name)) for name in ("q", "k", "neg", "qp")}
    return dataclasses.replace(pairs, **features)


def scorers(pairs: Pairs) -> jax.Array:
    """[A, P, D]: the queries that score the positives."""
    if pairs.qp is not None:
        return pairs.qp
    return jnp.broadcast_to(pairs.q[:, None], pairs.k.shape)


def products(a: jax.Array, b: jax.Array) -> jax.Array:
    """[A, M]: inner products of the rows of [A, D] and of [M, D]."""
    return jnp.matmul(a, b.T, precision=similarity.PRECISION)


def softmax(x: jax.Array, where: jax.Array) -> jax.Array:
    """Softmax of [A, n] along the last axis over what `where` holds; 0 elsewhere.

    A row without any is all 0, with finite gradients.
    """
    top = jnp.max(x, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
    shift = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    e = jnp.where(where, jnp.exp(jnp.where(where, x - shift, 0.0)), 0.0)
    return e / jnp.maximum(jnp.sum(e, axis=-1, keepdims=True), jnp.finfo(e.dtype).tiny)


def mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """[A]: the mean of [A, n] over what `where` holds; 0 where that is nothing."""
    count = jnp.sum(where, axis=-1)
    return jnp.sum(jnp.where(where, values, 0.0), axis=-1) / jnp.maximum(count, 1)
