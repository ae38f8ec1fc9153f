"""Maximum-weight bipartite matching on the device, by an auction.

N rows, M columns.
"""

import jax
import jax.numpy as jnp


def assign(weight: jax.Array, eps: float = 1e-3) -> jax.Array:
    """Matches rows with columns, each at most once, for the largest sum of weights.

    Bertsekas' auction (Math. Programming 53, 1992; Annals OR 14, 1988), all rows at once: every
    free row bids for the column of its best value (weight - price) as much as leaves it no better
    with the second best, plus `eps`; the highest bidder takes the column and its last owner is
    free again. A row whose best value is not above 0 gives up for good, so that a row or a column
    may stay alone. Prices start at 0 and only rise, which also serves N != M.

    The sum is within N * eps of the largest one, so it is the largest where the next best matching
    lies further below. Each round costs O(N M). Rows that outnumber the columns they want make the
    price climb in steps of `eps`, at most max(weight) / eps rounds per column.

    Args:
        weight: [N, M]; entries that are not above 0 (-inf, NaN) are never matched.
        eps: the smallest raise.

    Returns:
        i32[N], the column of each row, -1 for none. It has no gradient.
    """
    weight = jax.lax.stop_gradient(weight)
    N, M = weight.shape
    possible, columns = weight > 0, jnp.arange(M)

    def values(price):
        return jnp.where(possible, weight - price[None], -jnp.inf)

    def free(state):
        price, owner = state
        held = jnp.zeros(N, bool).at[owner].set(True, mode="drop")
        return ~held & (values(price).max(1) > 0)

    def round_of_bids(state):
        price, owner = state
        value = values(price)
        best = jnp.argmax(value, 1)
        wanted = columns[None] == best[:, None]
        second = jnp.max(jnp.where(wanted, -jnp.inf, value), 1, initial=0.0)
        bid = price[best] + value.max(1) - second + eps
        bids = jnp.where(wanted & free(state)[:, None], bid[:, None], -jnp.inf)
        sold, winner = bids.max(0) > -jnp.inf, jnp.argmax(bids, 0)
        return jnp.where(sold, bids.max(0), price), jnp.where(sold, winner, owner)

    start = jnp.zeros(M, weight.dtype), jnp.full(M, N)  # nobody's columns have owner N
    _, owner = jax.lax.while_loop(lambda state: free(state).any(), round_of_bids, start)
    return jnp.full(N, -1).at[owner].set(columns, mode="drop")


def assign_blocks(weight: jax.Array, block: jax.Array, eps: float = 1e-3) -> jax.Array:
    """As `assign`, where pairs may only match within blocks; in each the smaller side bids.

    So nobody outbids others for what is too few, which takes most of the rounds.

    Args:
        weight: [N, M].
        block: bool[N, M]; two rows share all of their columns or none.
        eps: the smallest raise.

    Returns:
        i32[N], the column of each row, -1 for none.
    """
    N, M = weight.shape
    rows = jnp.max(jnp.where(block, jnp.sum(block, 0)[None], 0), 1)  # in the block of a row
    few = (rows <= jnp.sum(block, 1))[:, None]
    by_rows = assign(jnp.where(block & few, weight, -jnp.inf), eps)
    by_columns = assign(jnp.where(block & ~few, weight, -jnp.inf).T, eps)
    place = jnp.where(by_columns < 0, N, by_columns)
    return jnp.maximum(by_rows, jnp.full(N, -1).at[place].set(jnp.arange(M), mode="drop"))
