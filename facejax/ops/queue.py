"""A ring buffer of feature vectors, such as MoCo's negatives: a dict that lives in a state.

K rows, D width, E rows that enter at a time.
"""

import jax
import jax.numpy as jnp

from facejax.errors import UserError
from facejax.ops.similarity import l2_normalize

Queue = dict[str, jax.Array]
"""{"rows": f32[K, D], "pointer": i32[]}, the pointer being the row that is written next."""


def create(key: jax.Array, size: int, width: int) -> Queue:
    """A full queue of random unit vectors, as MoCo starts."""
    rows = l2_normalize(jax.random.normal(key, (size, width)))
    return {"rows": rows, "pointer": jnp.int32(0)}


def check(size: int, entering: int) -> None:
    """Raises a UserError unless a queue of `size` rows takes `entering` rows at a time.

    Objectives call it in `init` with the global batch, so that a size that cannot work is refused
    before anything is compiled.
    """
    if size % entering or not size:
        raise UserError(
            "queue",
            f"{size} rows are no multiple of the {entering} that enter at each step",
            f"set it to a multiple of {entering}",
        )


def enqueue(queue: Queue, rows: jax.Array) -> Queue:
    """The queue with its oldest rows overwritten by `rows` [E, D]; E divides K.

    Written once per step, after the loss has read the queue: call it in `update`.

    Raises:
        UserError: while tracing, where E does not divide K.
    """
    size, entering = len(queue["rows"]), len(rows)
    check(size, entering)
    rows = rows.astype(queue["rows"].dtype)
    written = jax.lax.dynamic_update_slice_in_dim(queue["rows"], rows, queue["pointer"], 0)
    return {"rows": written, "pointer": (queue["pointer"] + entering) % size}
