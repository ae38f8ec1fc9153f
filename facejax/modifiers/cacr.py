"""CACR: positives compete to be attracted, the far ones first, and negatives to be repelled.

Source: Zheng et al. 2021, arXiv:2105.03746, and JegZheng/CACR-SSL. With d = |q - k|^2,

    L_CA = alpha sum_k pi+_k d_k,       pi+ = softmax_k(+t+ d_k)    over an anchor's positives
    L_CR = -beta sum_j pi-_j d_j,       pi- = softmax_j(-t- d_j)    over its negatives

`form` "distance" is this loss, in place of the base's: the mean over anchors, whatever factor the
base puts before its own. Distances are multiplied by the temperatures. The weights pi carry a
gradient, as in the paper's small-scale code; `detach` stops it. `intra_batch` adds the anchors of
the batch, with gradient, to the negatives, as the paper does beside a queue. `debias` subtracts the
share of false negatives by its definition, L_CR (d_j -> (E[d_j] - debias d_k) / (1 - debias)); the
code has the other sign before d_k. With `cost` "rbf" repulsion is beta log mean sum_j pi-_j
exp(-2 d_j).

`form` "weights" is the ImageNet form on MoCo v3: the base's own loss, each pair weighted by
pi+ = softmax(d / tau) without gradient, times the number of competitors, so that equal distances
give the base exactly. Where anchors have several positives (MoCo with `keys`), these compete; where
they have one, the anchors of an image within one call of `modify` do (MoCo v3 with `views`). The
reference code's loss is half of this for two views, where this is MoCo v3.

With one positive there is nothing to choose: pi+ is 1, and "weights" is the base. Every anchor is a
query; the paper takes each view in turn, MoCo only its query view.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Loss, Pairs, Spec, Term, Vars
from facejax.modifiers import _anchors
from facejax.ops import similarity

RBF = 2.0  # t of exp(-t d)


@dataclass(frozen=True)
class Config:
    """Options of `cacr`.

    Attributes:
        form: "distance" replaces the base's loss by attraction and repulsion, "weights" weighs it.
        alpha: weight of attraction.
        beta: weight of repulsion.
        t_positive: t+, of the positives' competition.
        t_negative: t-, of the negatives' (the paper's .9 on CIFAR-10, 2 elsewhere).
        cost: what repulsion sums up, "euclidean" or "rbf".
        debias: share of negatives that are of the anchor's own class (the code's .1); 0 for none;
            with the euclidean cost.
        intra_batch: whether the batch's anchors are negatives too.
        detach: stop the gradient through the weights.
    """

    form: Literal["distance", "weights"] = "distance"
    alpha: float = 1.0
    beta: float = 1.0
    t_positive: float = 1.0
    t_negative: float = 2.0
    cost: Literal["euclidean", "rbf"] = "euclidean"
    debias: float = 0.0
    intra_batch: bool = False
    detach: bool = False

    @classmethod
    def tiny(cls) -> "Config":
        return cls()


def init(cfg: Config, rng: jax.Array, spec: Spec, width: int) -> Vars:
    return Vars()


def transform(cfg: Config, params, state, pairs: Pairs, ctx: Ctx) -> tuple[Pairs, Loss]:
    if cfg.form == "weights":
        return weighed(pairs), Loss({})
    given = _anchors.wide(pairs)
    near = jnp.sum(jnp.square(_anchors.scorers(given) - given.k), axis=-1)
    pull = _share(cfg, cfg.t_positive * near, given.positive)
    attraction = jnp.sum(pull * jnp.where(given.positive, near, 0.0), axis=1)
    terms = {"attraction": Term.mean(given.weight * attraction, cfg.alpha)}
    if cfg.intra_batch:
        given = _with_anchors(given)
    if len(given.neg):
        terms["repulsion"] = _repulsion(cfg, given, near)
    return dataclasses.replace(pairs, weight=jnp.zeros_like(pairs.weight)), Loss(terms)


def _share(cfg: Config, scores: jax.Array, where: jax.Array) -> jax.Array:
    share = _anchors.softmax(scores, where)
    return jax.lax.stop_gradient(share) if cfg.detach else share


def _with_anchors(pairs: Pairs) -> Pairs:
    allowed = pairs.allowed
    if allowed is not None:
        everyone = jnp.ones((len(allowed), len(pairs.q)), bool)
        allowed = jnp.concatenate([allowed, everyone], axis=1)
    return dataclasses.replace(
        pairs,
        neg=jnp.concatenate([pairs.neg, pairs.q]),
        neg_owner=jnp.concatenate([pairs.neg_owner, pairs.owner]),
        allowed=allowed,
    )


def _repulsion(cfg: Config, pairs: Pairs, near: jax.Array) -> Term:
    met = similarity.meets(pairs)
    lengths = jnp.sum(pairs.q**2, axis=1)[:, None] + jnp.sum(pairs.neg**2, axis=1)[None]
    far = lengths - 2 * _anchors.products(pairs.q, pairs.neg)
    push = _share(cfg, -cfg.t_negative * far, met)
    if cfg.cost == "rbf":
        kernel = jnp.sum(push * jnp.where(met, jnp.exp(-RBF * far), 0.0), axis=1)
        total = jnp.sum(pairs.weight * kernel) / jnp.maximum(jnp.sum(pairs.weight), 1e-12)
        return Term(jnp.log(jnp.maximum(total, 1e-12)), jnp.float32(1), cfg.beta)
    distance = jnp.sum(push * jnp.where(met, far, 0.0), axis=1)
    own = _anchors.mean(near, pairs.positive)
    distance = (distance - cfg.debias * own) / (1 - cfg.debias)
    return Term.mean(-pairs.weight * distance, cfg.beta)


def weighed(pairs: Pairs) -> Pairs:
    """The pairs with the weights of "weights"; one anchor per positive where there are several."""
    A, P, D = pairs.k.shape
    given = _anchors.wide(pairs)
    tau = jnp.asarray(given.tau)
    far = jnp.sum(jnp.square(_anchors.scorers(given) - given.k), axis=-1)
    far = jax.lax.stop_gradient(far / (tau if tau.ndim else tau[None, None]))
    if P == 1:
        return dataclasses.replace(pairs, weight=pairs.weight * _among_images(far[:, 0], pairs))
    share = P * _anchors.softmax(far, given.positive)
    out = _anchors.repeat(pairs, P)
    return dataclasses.replace(
        out,
        k=pairs.k.reshape(A * P, 1, D),
        positive=pairs.positive.reshape(A * P, 1),
        weight=out.weight * share.ravel(),
        qp=None if pairs.qp is None else pairs.qp.reshape(A * P, 1, D),
    )


def _among_images(far: jax.Array, pairs: Pairs) -> jax.Array:
    """[A]: softmax over the anchors of the same image that have a positive, times their number."""
    A = len(far)
    _, group = jnp.unique(pairs.owner, return_inverse=True, size=A)
    there = pairs.positive[:, 0]
    top = jax.ops.segment_max(jnp.where(there, far, -jnp.inf), group, A)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    e = jnp.where(there, jnp.exp(jnp.where(there, far - top[group], 0.0)), 0.0)
    total, count = (jax.ops.segment_sum(x, group, A) for x in (e, there.astype(e.dtype)))
    return e * count[group] / jnp.where(total > 0, total, 1.0)[group]


def flops(cfg: Config, spec: Spec, width: int, negatives: int) -> float:
    """Forward FLOPs per image: its distances to the negatives."""
    met = negatives + spec.global_batch * cfg.intra_batch
    return 2.0 * met * width if cfg.form == "distance" else 0.0
