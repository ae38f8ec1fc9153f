"""Soft targets over prototypes that cannot collapse: balanced (Sinkhorn-Knopp) or centred.

Both keep a teacher from naming one prototype for all images. They work on the global batch, in fp32
or wider, and pass no gradient.

n rows, K prototypes.
"""

import jax
import jax.numpy as jnp


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def sinkhorn(
    scores: jax.Array,
    eps: float | jax.Array = 0.05,
    iterations: int = 3,
    counted: jax.Array | None = None,
) -> jax.Array:
    """Spreads n rows evenly over K prototypes (Sinkhorn-Knopp).

    From exp(scores / eps), alternately makes every prototype's mass equal and every row sum to 1,
    in the log domain, so that no eps and no score overflows.

    Source: Caron et al. 2020 (SwAV), arXiv:2006.09882, sec. 3.1 and its code.

    Args:
        scores: [n, K].
        eps: temperature; the smaller, the harder the targets.
        iterations: of both moves; the paper's 3.
        counted: bool[n] or None: rows that have mass. The others get a target too, but the masses
            are as if they were not there. A queue that is not yet full is one use of it.

    Returns:
        f32[n, K], rows that sum to 1; the K column sums of counted rows go to n / K.
    """
    log_q = _wide(jax.lax.stop_gradient(scores)) / eps
    for _ in range(iterations):
        massive = log_q if counted is None else jnp.where(counted[:, None], log_q, -jnp.inf)
        mass = jax.nn.logsumexp(massive, axis=0, keepdims=True)
        log_q = log_q - jnp.where(jnp.isfinite(mass), mass, 0.0)
        log_q = jax.nn.log_softmax(log_q, axis=1)
    return jnp.exp(log_q)


def centred(logits: jax.Array, centre: jax.Array, tau: float | jax.Array) -> jax.Array:
    """softmax((logits - centre) / tau): centred and sharpened.

    Source: Caron et al. 2021 (DINO), arXiv:2104.14294, sec. 3.1.

    Args:
        logits: [..., K].
        centre: f32[K], see `moved`.
        tau: temperature.

    Returns:
        f32[..., K], rows that sum to 1.
    """
    logits = _wide(jax.lax.stop_gradient(logits))
    return jax.nn.softmax((logits - centre.reshape((1,) * (logits.ndim - 1) + (-1,))) / tau)


def mean_logits(logits: jax.Array) -> jax.Array:
    """f32[K]: the mean of [..., K] over all leading axes, what `moved` takes."""
    return jnp.mean(_wide(jax.lax.stop_gradient(logits)), axis=tuple(range(logits.ndim - 1)))


def moved(centre: jax.Array, mean: jax.Array, momentum: float | jax.Array = 0.9) -> jax.Array:
    """The centre after a step: momentum * centre + (1 - momentum) * mean (DINO, eq. 4).

    Args:
        centre: f32[K].
        mean: f32[K], of the teacher's logits over the global batch, see `mean_logits`.
        momentum: of the average.
    """
    return momentum * centre + (1 - momentum) * mean


def cross_entropy(target: jax.Array, logits: jax.Array, tau: float | jax.Array) -> jax.Array:
    """-sum over K of target * log softmax(logits / tau).

    Args:
        target: [..., K], rows that sum to 1.
        logits: [..., K], the student's.
        tau: the student's temperature.

    Returns:
        f32[...], fp32 or wider.
    """
    return -jnp.sum(target * jax.nn.log_softmax(_wide(logits) / tau), axis=-1)


def entropy(target: jax.Array) -> jax.Array:
    """Of distributions [..., K], in nats: f32[...]; log K is uniform, 0 is one prototype."""
    return jnp.sum(jax.scipy.special.entr(target), axis=-1)
