"""Draws for each row of a batch a column that it does not belong to, the more alike the likelier.

B rows and columns, D width.
"""

import jax
import jax.numpy as jnp

from facejax.contracts import Draw
from facejax.ops import logits
from facejax.ops.ring import sweep

FLOOR = 1e-4  # what the softmax is raised by


def draw(q: jax.Array, k: jax.Array, there: jax.Array, keys: Draw) -> jax.Array:
    """Hard negatives: column j of row i, as often as softmax_j(q_i k_j) + 1e-4, but not its own.

    The draw is the largest of log weight + Gumbel noise, whose key is made of the global numbers of
    the row and of the column, so it is the same on any mesh and in any order of rows. No array of
    all pairs is held; see `ring.py`.

    Source: Li et al. 2022, arXiv:2201.12086 (BLIP), models/blip_pretrain.py, whose batch is that of
    one device.

    Args:
        q: [B, D], divided by the temperature.
        k: [B, D].
        there: bool[B], rows that have a column and columns that exist.
        keys: of the draw, and the global numbers of the rows.

    Returns:
        i32[B], the place of a column; the row's own where there is no row or no other column.
    """
    q, k = jax.lax.stop_gradient((q, k))
    wide = jnp.result_type(q, k, jnp.float32)
    q, k, B = q.astype(wide), k.astype(wide), len(q)
    place = jnp.arange(B, dtype=jnp.int32)
    # Rows own nothing here, so that the softmax is over all columns that exist.
    owner, k_owner = (jnp.where(there, x, logits.ABSENT) for x in (jnp.full(B, -1), place))
    total = logits.log_totals(q, k, owner, k_owner).rows
    key = jax.random.key_data(keys.keys())
    rows = {"x": q, "total": total, "key": key, "place": place, "there": there}
    columns = {"x": k, "number": keys.rows, "place": place, "there": there}

    def visit(rows, columns, exist, best, _):
        s = logits.product(rows["x"], columns["x"]) - rows["total"][:, None]
        score = jnp.log(jnp.exp(s) + FLOOR) + _noise(rows["key"], columns["number"]).astype(wide)
        other = rows["place"][:, None] != columns["place"][None]
        other &= rows["there"][:, None] & (exist & columns["there"])[None]
        score = jnp.where(other, score, -jnp.inf)
        at = jnp.argmax(score, axis=1)
        highest = jnp.max(score, axis=1)
        better = highest > best["score"]
        return {
            "score": jnp.where(better, highest, best["score"]),
            "place": jnp.where(better, columns["place"][at], best["place"]),
        }, None

    best = {"score": jnp.full(B, -jnp.inf, wide), "place": place}
    return sweep(visit, rows, columns, best)[0]["place"]


def _noise(keys: jax.Array, numbers: jax.Array) -> jax.Array:
    """f32[A, M] of the standard Gumbel distribution, of raw keys u32[A, ...] and numbers i32[M]."""

    def one(key, number):
        own = jax.random.fold_in(jax.random.wrap_key_data(key), number)
        return jax.random.gumbel(own, (), jnp.float32)

    return jax.vmap(lambda key: jax.vmap(lambda number: one(key, number))(numbers))(keys)
