"""Contrastive pairs: what a base builds, modifiers rewrite and a similarity reduces.

A anchors, P positives of an anchor, M negatives, D width.
"""

from dataclasses import dataclass

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """Contrastive pairs as a base builds them and modifiers rewrite them.

    Attributes:
        q: [A, D] anchors.
        k: [A, P, D] positives of each anchor.
        neg: [M, D] negatives that all anchors share.
        tau: temperature, scalar or [A, 1].
        owner: i32[A], whose anchor it is: the image's row of the batch.
        neg_owner: i32[M], whose negative it is, -1 for nobody's. An anchor meets the negatives of
            other owners only.
        positive: bool[A, P], which positives exist.
        weight: [A], of each anchor's loss.
        allowed: bool[A, M] or None: a further bound on who meets whom. With it the similarities
            are dense, A x M on one device; without it they never are.
        qp: [A, P, D] or None: the queries that score the positives, where they differ from q.
        enqueue: [E, D] or None: what a queue takes.
    """

    q: jax.Array
    k: jax.Array
    neg: jax.Array
    tau: jax.Array | float
    owner: jax.Array
    neg_owner: jax.Array
    positive: jax.Array
    weight: jax.Array
    allowed: jax.Array | None = None
    qp: jax.Array | None = None
    enqueue: jax.Array | None = None
