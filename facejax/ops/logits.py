"""Sums over the logits <q, k> of all rows and columns, streamed forward and backward.

The backward passes compute the logits again, as FlashAttention does (Dao et al. 2022,
arXiv:2205.14135), so that neither holds more than a chunk of them; see `ring.py`.

A rows, M columns, D width.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from facejax.ops.ring import sweep

ABSENT = -(2**31)
"""The owner of a row or a column that meets nobody."""

PRECISION = jax.lax.Precision.HIGHEST  # tensor cores would round the products to 10 bits or fewer


class Totals(NamedTuple):
    """What `log_totals` returns; the others are None unless asked for.

    Attributes:
        rows: f32[A], of each row the log of the sum of e^logit over the columns that it meets;
            -inf where it meets none.
        columns: f32[M], of each column the same over rows.
        kin: f32[A], the sum of the logits of the columns of its group that a row meets.
        count: f32[A], the number of these.
    """

    rows: jax.Array
    columns: jax.Array | None = None
    kin: jax.Array | None = None
    count: jax.Array | None = None


def log_totals(
    q: jax.Array,
    k: jax.Array,
    owner: jax.Array,
    k_owner: jax.Array,
    group: jax.Array | None = None,
    k_group: jax.Array | None = None,
    both: bool = False,
) -> Totals:
    """Sums over the logits of rows and columns that meet, which are those of different owners.

    What is owned by `ABSENT` meets nobody.

    With groups it is what SupCon needs: rows that own themselves, and classes for groups.

    Args:
        q: [A, D], divided by the temperature.
        k: [M, D].
        owner: i32[A].
        k_owner: i32[M].
        group: i32[A] or None.
        k_group: i32[M] or None.
        both: whether to total the columns as well.

    Returns:
        `Totals`, fp32 or wider, with gradients towards `q` and `k`.
    """
    wide = jnp.result_type(q, k, jnp.float32)
    whose, k_whose = {"owner": owner, "group": group}, {"owner": k_owner, "group": k_group}
    return _log_totals(both, q.astype(wide), k.astype(wide), whose, k_whose)


def softplus_sums(
    q: jax.Array, k: jax.Array, owner: jax.Array, k_owner: jax.Array, bias: jax.Array
) -> jax.Array:
    """The sum over all columns of other owners of softplus(<q, k> + bias); 0 of what is `ABSENT`.

    Args:
        q: [A, D].
        k: [M, D].
        owner: i32[A].
        k_owner: i32[M].
        bias: [A].

    Returns:
        f32[A] or wider, with gradients towards `q`, `k` and `bias`.
    """
    wide = jnp.result_type(q, k, jnp.float32)
    q, k, bias = (x.astype(wide) for x in (q, k, bias))
    return _softplus_sums(q, k, bias, {"owner": owner}, {"owner": k_owner})


def mean_column(q: jax.Array, k: jax.Array, there: jax.Array) -> jax.Array:
    """The mean of the columns that are there, by the softmax of each row over them; no gradient.

    Args:
        q: [A, D], divided by the temperature.
        k: [M, D].
        there: bool[M], at least one.

    Returns:
        f32[A, D] or wider.
    """
    q, k = jax.lax.stop_gradient((q, k))
    wide = jnp.result_type(q, k, jnp.float32)
    q, k = q.astype(wide), k.astype(wide)

    def visit(rows, columns, exist, sums, _):
        s = jnp.where((columns["there"] & exist)[None], product(rows, columns["x"]), -jnp.inf)
        peak, total = _absorb(sums["log"], s, 1)
        shift = _shift(peak)
        more = jnp.einsum(
            "am,md->ad", jnp.exp(s - shift[:, None]), columns["x"], precision=PRECISION
        )
        before = jnp.exp(sums["log"][0] - shift)[:, None]
        return {"log": (peak, total), "sum": sums["sum"] * before + more}, None

    start = {"log": _nothing(q), "sum": jnp.zeros_like(q)}
    sums, _ = sweep(visit, q, {"x": k, "there": there}, start)
    return sums["sum"] / sums["log"][1][:, None]


def product(q: jax.Array, k: jax.Array) -> jax.Array:
    """f32[A, M]: all logits at once."""
    return jnp.einsum("ad,md->am", q, k, precision=PRECISION)


def _same(of: str, rows, columns) -> jax.Array:
    return rows[of][:, None] == columns[of][None]


def _meet(rows, columns, exist: jax.Array) -> jax.Array:
    there = [side["owner"] != ABSENT for side in (rows, columns)]
    return ~_same("owner", rows, columns) & there[0][:, None] & (there[1] & exist)[None]


def _pull(weigh, rows, columns) -> tuple[jax.Array, jax.Array]:
    """Gradients of `x` of the rows and of the columns.

    Args:
        weigh: (logits, rows, columns, exist) -> the gradient of the logits.
    """

    def visit(rows, columns, exist, to_q, to_k):
        q, k = rows["x"], columns["x"]
        weight = weigh(product(q, k), rows, columns, exist)
        to_q += jnp.einsum("am,md->ad", weight, k, precision=PRECISION)
        to_k += jnp.einsum("am,ad->md", weight, q, precision=PRECISION)
        return to_q, to_k

    return sweep(visit, rows, columns, jnp.zeros_like(rows["x"]), jnp.zeros_like(columns["x"]))


# -------------------------------------------------------------------------------- exponentials


def _shift(peak: jax.Array) -> jax.Array:
    """What to subtract before exponentials: -inf minus itself would be NaN."""
    return jnp.where(jnp.isneginf(peak), 0.0, peak)


def _nothing(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maximum, and the sum of e^(logit - maximum), of no logits, for each row of `x`."""
    return jnp.full(len(x), -jnp.inf, x.dtype), jnp.zeros(len(x), x.dtype)


def _absorb(sums: tuple[jax.Array, jax.Array], logits: jax.Array, axis: int):
    """The maximum and the sum of what they were of and of `logits` along `axis`."""
    peak, total = sums
    higher = jnp.maximum(peak, jnp.max(logits, axis))
    shift = _shift(higher)
    more = jnp.sum(jnp.exp(logits - jnp.expand_dims(shift, axis)), axis)
    return higher, total * jnp.exp(peak - shift) + more


def _log(sums: tuple[jax.Array, jax.Array]) -> jax.Array:
    peak, total = sums
    return peak + jnp.log(total)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_totals(both: bool, q, k, whose, k_whose) -> Totals:
    grouped = whose["group"] is not None

    def visit(rows, columns, exist, sums, column_sums):
        logits, meet = product(rows["x"], columns["x"]), _meet(rows, columns, exist)
        masked = jnp.where(meet, logits, -jnp.inf)
        new = {"log": _absorb(sums["log"], masked, 1)}
        if grouped:
            kin = meet & _same("group", rows, columns)
            new["kin"] = sums["kin"] + jnp.sum(jnp.where(kin, logits, 0.0), 1)
            new["count"] = sums["count"] + jnp.sum(kin, 1, dtype=q.dtype)
        return new, _absorb(column_sums, masked, 0) if both else None

    start = {"log": _nothing(q)}
    if grouped:
        start |= dict.fromkeys(("kin", "count"), jnp.zeros(len(q), q.dtype))
    rows, columns = {"x": q, **whose}, {"x": k, **k_whose}
    sums, column_sums = sweep(visit, rows, columns, start, _nothing(k) if both else None)
    of_columns = _log(column_sums) if both else None
    return Totals(_log(sums["log"]), of_columns, sums.get("kin"), sums.get("count"))


def _log_totals_forward(both, q, k, whose, k_whose):
    totals = _log_totals(both, q, k, whose, k_whose)
    return totals, (q, k, whose, k_whose, totals.rows, totals.columns)


def _log_totals_backward(both, kept, to: Totals):
    q, k, whose, k_whose, of_rows, of_columns = kept

    def weigh(logits, rows, columns, exist):
        meet = _meet(rows, columns, exist)
        weight = rows["to"] * jnp.exp(logits - _shift(rows["log"]))
        if both:
            weight += columns["to"].T * jnp.exp(logits - _shift(columns["log"]).T)
        if to.kin is not None:
            weight += jnp.where(_same("group", rows, columns), rows["to_kin"], 0.0)
        return jnp.where(meet, weight, 0.0)

    def upright(x):
        return None if x is None else x[:, None]

    rows = {"log": upright(of_rows), "to": upright(to.rows), "to_kin": upright(to.kin)}
    columns = {"log": upright(of_columns), "to": upright(to.columns)}
    to_q, to_k = _pull(weigh, {"x": q, **whose, **rows}, {"x": k, **k_whose, **columns})
    return to_q, to_k, None, None


_log_totals.defvjp(_log_totals_forward, _log_totals_backward)


# ------------------------------------------------------------------------------------ sigmoids


@jax.custom_vjp
def _softplus_sums(q, k, bias, whose, k_whose) -> jax.Array:
    return _softplus_forward(q, k, bias, whose, k_whose)[0]


def _softplus_forward(q, k, bias, whose, k_whose):
    def visit(rows, columns, exist, sums, _):
        logits = product(rows["x"], columns["x"]) + rows["bias"][:, None]
        meet = _meet(rows, columns, exist)
        each = (jax.nn.softplus(logits), jax.nn.sigmoid(logits))
        return tuple(s + jnp.sum(jnp.where(meet, e, 0.0), 1) for s, e in zip(sums, each)), None

    start = (jnp.zeros_like(bias), jnp.zeros_like(bias))
    rows = {"x": q, "bias": bias, **whose}
    (total, slope), _ = sweep(visit, rows, {"x": k, **k_whose}, start)
    return total, (q, k, bias, whose, k_whose, slope)


def _softplus_backward(kept, to):
    q, k, bias, whose, k_whose, slope = kept

    def weigh(logits, rows, columns, exist):
        weight = rows["to"][:, None] * jax.nn.sigmoid(logits + rows["bias"][:, None])
        return jnp.where(_meet(rows, columns, exist), weight, 0.0)

    rows = {"x": q, "bias": bias, "to": to, **whose}
    to_q, to_k = _pull(weigh, rows, {"x": k, **k_whose})
    return to_q, to_k, to * slope, None, None


_softplus_sums.defvjp(_softplus_forward, _softplus_backward)
