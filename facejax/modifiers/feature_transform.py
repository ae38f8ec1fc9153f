"""Feature transformation: harder positives by extrapolation, more negatives by interpolation.

Source: Zhu et al. 2021, arXiv:2108.02982, and its reference code. With unit q, k, queue n and a
permutation n' of it,

    l ~ 1 + Beta(2, 2):      q^ = l q + (1 - l) k,    k^ = l k + (1 - l) q,    S' = <q^, k^>
    l' ~ Beta(1.6, 1.6):     n^ = l' n + (1 - l') n',   scored by q itself

so that S' = S + 2 l (1 - l) (1 - S) <= S, and pairs that agree stay. Both numbers are drawn once
per step. Nothing is normalised again, and the untouched keys enter the queue. The base's loss,
scale and learning rate stay. The gradient reaches q through both q^ and k^; it stops at k where the
base stops it (MoCo).

Written for queues, whose negatives are nobody's; others that a base with a queue has stay as they
are. Under a base without a queue an interpolated negative belongs to two images, and an anchor of
either is kept from it; the similarities are dense then.

The scores of the positives and their variance over the batch, and mean and variance of the negative
scores of an anchor, are logged as the loss sees them, of up to 256 anchors; the report draws them
over time and over runs. `off` logs them and changes nothing, to look at a base alone. The reference
code draws the numbers of `per_dimension` per element; here each dimension has one.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Draw, Loss, Pairs, Spec, Term, Vars
from facejax.modifiers import _anchors
from facejax.ops import similarity

SOME = 256  # anchors whose negative scores are logged


@dataclass(frozen=True)
class Config:
    """Options of `feature_transform`.

    Attributes:
        positive: alpha of 1 + Beta(alpha, alpha), which extrapolates positives; 0 leaves them.
        negative: alpha of Beta(alpha, alpha), which interpolates negatives; 0 leaves them.
        per_dimension: draw a number for each dimension.
        normalize: bring transformed features back to unit length.
        start: steps before it sets in; below 1, a share of the run.
        off: change nothing, only log the scores.
    """

    positive: float = 2.0
    negative: float = 1.6
    per_dimension: bool = False
    normalize: bool = False
    start: float = 0.0
    off: bool = False

    @classmethod
    def tiny(cls) -> "Config":
        return cls()


def init(cfg: Config, rng: jax.Array, spec: Spec, width: int) -> Vars:
    return Vars()


def transform(cfg: Config, params, state, pairs: Pairs, ctx: Ctx) -> tuple[Pairs, Loss]:
    if not cfg.off:
        if cfg.positive:
            share = 1 + _share(cfg, cfg.positive, pairs, ctx.draw.fold("positive"))
            pairs = extrapolated(cfg, pairs, jnp.where(_begun(cfg, ctx), share, 1.0))
        if cfg.negative and len(pairs.neg):
            draw = ctx.draw.fold("negative")
            share = jnp.where(_begun(cfg, ctx), _share(cfg, cfg.negative, pairs, draw), 1.0)
            order = jax.random.permutation(draw.fold("order").key, len(pairs.neg))
            pairs = interpolated(cfg, pairs, share, order)
    return pairs, Loss({}, metrics=scores(pairs))


def _begun(cfg: Config, ctx: Ctx) -> jax.Array:
    return ctx.step >= (cfg.start * ctx.spec.steps if cfg.start < 1 else cfg.start)


def _share(cfg: Config, alpha: float, pairs: Pairs, draw: Draw) -> jax.Array:
    """f32[1] or f32[D] in [0, 1]."""
    size = pairs.q.shape[1] if cfg.per_dimension else 1
    return jax.random.beta(draw.key, alpha, alpha, (size,))


def extrapolated(cfg: Config, pairs: Pairs, share: jax.Array) -> Pairs:
    """Moves each anchor and its positives apart; `share` [1] or [D] is l, and 1 changes nothing."""
    pairs, share = _anchors.wide(pairs), share[None, None]
    q, k = _anchors.scorers(pairs), pairs.k
    moved = share * q + (1 - share) * k, share * k + (1 - share) * q
    qp, k = map(similarity.l2_normalize, moved) if cfg.normalize else moved
    return dataclasses.replace(pairs, qp=qp, k=k)


def interpolated(cfg: Config, pairs: Pairs, share: jax.Array, order: jax.Array) -> Pairs:
    """Mixes each negative with another one.

    Args:
        share: [1] or [D], l': of the negative itself; 1 changes nothing.
        order: i32[M], the permutation.
    """
    pairs = _anchors.wide(pairs)
    neg, other = pairs.neg, pairs.neg_owner[order]
    mixed = share[None] * neg + (1 - share[None]) * neg[order]
    mixed = similarity.l2_normalize(mixed) if cfg.normalize else mixed
    if pairs.enqueue is not None:
        nobodys = (pairs.neg_owner < 0) & (other < 0)
        return dataclasses.replace(pairs, neg=jnp.where(nobodys[:, None], mixed, neg))
    may = (pairs.owner[:, None] != other[None]) | jnp.all(share == 1)
    return dataclasses.replace(
        pairs, neg=mixed, allowed=may if pairs.allowed is None else may & pairs.allowed
    )


def scores(pairs: Pairs) -> dict[str, Term]:
    """Means and variances of the scores, and the means of their exponentials over tau."""
    some = _anchors.wide(_anchors.each(pairs, lambda x: x[:SOME]))
    tau = jnp.asarray(some.tau)
    tau = tau if tau.ndim else tau[None, None]
    positive = jnp.sum(_anchors.scorers(some) * some.k, axis=-1)
    there = some.positive.ravel()[None]
    spread = jnp.broadcast_to(tau, positive.shape).ravel()[None]
    found = {"positive": _moments(positive.ravel()[None], spread, there)}
    if len(pairs.neg):
        negative = _anchors.products(some.q, some.neg)
        found["negative"] = _moments(negative, tau, similarity.meets(some))
    return {f"{kind}_{name}": t for kind, terms in found.items() for name, t in terms.items()}


def _moments(values: jax.Array, tau: jax.Array, where: jax.Array) -> dict[str, Term]:
    """Of each row of [A, n] over what `where` holds; averaged over the rows."""
    average = _anchors.mean(values, where)
    variance = _anchors.mean(jnp.square(values - average[:, None]), where)
    exponential = _anchors.mean(jnp.exp(values / tau), where)
    return {
        "mean": Term.mean(average),
        "var": Term.mean(variance),
        "exp": Term.mean(exponential),
    }
