"""Contrastive similarities, at least in fp32 whatever the dtype of the features.

But for `nt_xent`, and where `Pairs.allowed` bounds who meets whom, no loss holds the similarities
of all pairs: `logits.py` streams them.

A anchors, P positives of an anchor, M shared negatives, D width.

A base builds `Pairs`, lets modifiers rewrite them, and takes the mean of `weight` times the loss of
each anchor: `info_nce`, or `attraction` where there are no negatives. Without negatives `neg` is
[0, D] and `tau` is 1. q and k are what the base compares: unit vectors, but under Barlow Twins and
VICReg. Modifiers may change A, P and M; one that brings its own loss in place of the base's sets
`weight` to zero.
"""

import jax
import jax.numpy as jnp

from facejax.contracts import Pairs
from facejax.ops import logits
from facejax.ops.logits import PRECISION


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def l2_normalize(x: jax.Array, eps: float = 1e-6, axis: int = -1) -> jax.Array:
    """Scales `x` to unit length along `axis`.

    Vectors no longer than `eps` become zero and pass no gradient, so that a dead feature neither
    divides by zero nor sends back a gradient of 1 / eps.

    Returns:
        Of the shape of `x`, fp32 or wider.
    """
    x = _wide(x)
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    alive = square > eps * eps
    return jnp.where(alive, x * jax.lax.rsqrt(jnp.where(alive, square, 1.0)), 0.0)


def interleave(*views: jax.Array) -> jax.Array:
    """[V B, D] of V views [B, D]: all views of row 0, then those of row 1, and so on.

    Where rows are spread over devices none leaves its own; concatenating would move nearly all.
    """
    return jnp.stack(views, 1).reshape(-1, *views[0].shape[1:])


def meets(pairs: Pairs) -> jax.Array:
    """bool[A, M]: which negatives an anchor meets, by owner and by `allowed`."""
    others = pairs.owner[:, None] != pairs.neg_owner[None]
    return others if pairs.allowed is None else others & pairs.allowed


def info_nce(pairs: Pairs) -> jax.Array:
    """The InfoNCE loss of each anchor; the caller takes the mean with `pairs.weight`.

    For anchor a and its positive p

        l_ap = -log( e^{s_ap} / (e^{s_ap} + sum over met m of e^{s_am}) ),    s = <q, k> / tau

    and the anchor's loss is the mean of l_ap over its positives: the other positives stand in no
    denominator (so does Hydra; SupCon keeps them in). With one positive this is the usual
    cross-entropy. Positives are scored by `qp` where it is given. Features are used as they are,
    normalised or not.

    Returns:
        f32[A] (wider if the features are); 0 for an anchor without a positive or without a
        negative that it may meet, with finite gradients.
    """
    q, tau = _wide(pairs.q), jnp.asarray(pairs.tau)
    tau = tau if tau.ndim else tau[None, None]
    scorer = q[:, None] if pairs.qp is None else _wide(pairs.qp)
    positive = jnp.sum(scorer * _wide(pairs.k), -1) / tau

    # -inf where an anchor meets no negative: the loss is then 0, and no gradient passes the masks.
    if pairs.allowed is None:
        log_total = logits.log_totals(q / tau, pairs.neg, pairs.owner, pairs.neg_owner).rows
    else:
        negative = logits.product(q, _wide(pairs.neg)) / tau
        log_total = jax.nn.logsumexp(jnp.where(meets(pairs), negative, -jnp.inf), 1)

    losses = jnp.where(pairs.positive, jax.nn.softplus(log_total[:, None] - positive), 0.0)
    return jnp.sum(losses, 1) / jnp.maximum(jnp.sum(pairs.positive, 1), 1)


def nt_xent(z_a: jax.Array, z_b: jax.Array, tau: float) -> jax.Array:
    """SimCLR's loss over two views, written densely: the reading that faster forms are held to.

    Anchor i of a view sees the 2B - 1 other rows of both views, its positive being row i of the
    other view. The two directions are each averaged over B and then *summed*, as in
    google-research/simclr; the textbook mean over 2B anchors is half of it.

    Args:
        z_a: [B, D], rows of unit length.
        z_b: [B, D], the other view of the same images.
        tau: temperature.

    Returns:
        A scalar, fp32 or wider.
    """
    z_a, z_b = _wide(z_a), _wide(z_b)
    itself = jnp.eye(len(z_a), dtype=bool)

    def direction(anchor, other):
        across = jnp.matmul(anchor, other.T, precision=PRECISION) / tau
        within = jnp.matmul(anchor, anchor.T, precision=PRECISION) / tau
        logits = jnp.concatenate([across, jnp.where(itself, -jnp.inf, within)], 1)
        return jnp.mean(jax.nn.logsumexp(logits, 1) - jnp.diagonal(across))

    return direction(z_a, z_b) + direction(z_b, z_a)


def attraction(pairs: Pairs) -> jax.Array:
    """Minus the mean inner product of each anchor with its positives: the loss without negatives.

    For unit vectors -cos, in [-1, 1]. Positives are scored by `qp` where it is given; `tau` and
    `neg` have no part. The caller takes the mean with `pairs.weight`, as with `info_nce`.

    Returns:
        f32[A] (wider if the features are); 0 for an anchor without a positive.
    """
    scorer = _wide(pairs.q)[:, None] if pairs.qp is None else _wide(pairs.qp)
    products = jnp.where(pairs.positive, jnp.sum(scorer * _wide(pairs.k), -1), 0.0)
    return -jnp.sum(products, 1) / jnp.maximum(jnp.sum(pairs.positive, 1), 1)


def deviation(z: jax.Array) -> jax.Array:
    """The standard deviation over rows of unit vectors [B, D], mean over D: a sign of collapse.

    Near 1 / sqrt(D) for vectors spread over the sphere, 0 where all are the same.
    """
    return jnp.mean(jnp.std(jax.lax.stop_gradient(_wide(z)), axis=0))


def sup_con(z: jax.Array, owner: jax.Array, tau: float) -> jax.Array:
    """The supervised contrastive loss of each row (Khosla et al. 2020, arXiv:2004.11362, eq. 2).

    The positives of a row are all other rows of its owner, and each of them is held against *all*
    other rows, positives included:

        l_i = log sum_{a != i} e^{s_ia} - mean_{p in P(i)} s_ip,     s = <z, z'> / tau

    Args:
        z: [A, D], rows of unit length.
        owner: i32[A], the class of each row.
        tau: temperature.

    Returns:
        f32[A] (wider if the features are); 0 for a row without a positive.
    """
    z, row = _wide(z), jnp.arange(len(z))
    found = logits.log_totals(z / tau, z, row, row, owner, owner)
    mean = found.kin / jnp.maximum(found.count, 1)
    return jnp.where(found.count > 0, found.rows - mean, 0.0)


def clip_softmax(
    x: jax.Array, y: jax.Array, scale: jax.Array | float, there: jax.Array | None = None
) -> jax.Array:
    """CLIP's loss of each pair (Radford et al. 2021, arXiv:2103.00020, figure 3).

    With s_ij = scale <x_i, y_j>, half the cross-entropy of row i and half that of column i:

        l_i = -1/2 log softmax_j(s_ij)_i - 1/2 log softmax_j(s_ji)_i

    Args:
        x: [B, D], rows of unit length.
        y: [B, D], row i belongs to row i of `x`.
        scale: scalar, the inverse of the temperature.
        there: bool[B], the pairs that exist; None: all.

    Returns:
        f32[B] or wider, 0 where there is no pair; the caller takes the mean of the others.
    """
    x, y, row = _wide(x) * scale, _wide(y), _owners(len(x), there)
    positive = jnp.sum(x * y, -1)
    others = logits.log_totals(x, y, row, row, both=True)
    each = jax.nn.softplus(others.rows - positive) + jax.nn.softplus(others.columns - positive)
    return _where(there, each / 2)


def _owners(rows: int, there: jax.Array | None) -> jax.Array:
    row = jnp.arange(rows)
    return row if there is None else jnp.where(there, row, logits.ABSENT)


def _where(there: jax.Array | None, each: jax.Array) -> jax.Array:
    return each if there is None else jnp.where(there, each, 0.0)


def sigmoid_loss(
    x: jax.Array,
    y: jax.Array,
    scale: jax.Array | float,
    bias: jax.Array | float,
    there: jax.Array | None = None,
) -> jax.Array:
    """SigLIP's loss of each row, a sum over its columns (Zhai et al. 2023, arXiv:2303.15343).

        l_i = -sum_j log sigmoid(z_ij (scale <x_i, y_j> + bias)),     z_ij = 1 if i = j else -1

    Args:
        x: [B, D], rows of unit length.
        y: [B, D], row i belongs to row i of `x`.
        scale: scalar; starts at 10.
        bias: scalar; starts at -10.
        there: bool[B], the pairs that exist; None: all.

    Returns:
        f32[B] or wider, 0 where there is no pair; the caller takes the mean of the others.
    """
    x, y, row = _wide(x) * scale, _wide(y), _owners(len(x), there)
    positive = jnp.sum(x * y, -1) + bias
    others = logits.softplus_sums(x, y, row, row, jnp.broadcast_to(bias, len(x)))
    return _where(there, others + jax.nn.softplus(-positive))
