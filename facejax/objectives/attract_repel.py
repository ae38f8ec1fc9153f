"""Attract and repel: samples that a classifier gets right are drawn to their class's prototype.

Source: Woo et al. 2021 (LOGIN), arXiv:2106.08543, the preliminary code of the authors; the paper's
own form is unverified. With x a sample's logits (or its embedding), P_c the samples of class c that
are predicted correctly, N_c those of other classes, n+ and n- their numbers, and for every class
with n+ > 0

    a_c <- (n_c a_c + sum_{P_c} x - sum_{N_c} x) / (n_c + n+ + n-),    n_c <- n_c + n+ + n-
    attract = mean over correct samples of 1 - cos(a_c, x)

Prototypes move first and pass no gradient, so the repulsion acts through them alone. The class is a
field of class numbers, or each attribute is a label of two classes (a mean over them).

Departures: the paper fine-tunes a relation classifier, here a linear classifier of the embedding
with a cross-entropy of its own makes the objective complete; the official broadcast takes the
cosine over a wrong axis, here it is the features'; sums over all devices stand for sums of a
process; the mean over correct samples stands for their sum. The optional hinge between the two
directions of a relation is left out: a face has no direction. `repel` below 1 weighs the other
classes down (their samples and their n-): with many classes n- outgrows n+, and with the paper's 1
every prototype nears the negative mean of the batch.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Loss, Params, Pass, Spec, Term, Vars, View
from facejax.objectives import _labels
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"  # prototypes move by the sums of the whole batch before they attract


@dataclass(frozen=True)
class Config:
    """Options of `attract_repel`.

    Attributes:
        field: class numbers of the batch ("identity", "expression", ...), or "attributes".
        of: what has prototypes: "logits" (the state then has classes * classes numbers), or the
            embedding, "features".
        attract: weight of the attraction beside the cross-entropy.
        repel: weight of other classes in a prototype.
        scale: area range of the random resized crop.
        flip: probability of a horizontal flip.
    """

    field: str = "identity"
    of: Literal["logits", "features"] = "logits"
    attract: float = 1.0
    repel: float = 1.0
    scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5

    @classmethod
    def tiny(cls) -> "Config":
        return cls()


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.field,)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(spec.size, scale=cfg.scale, ratio=(3 / 4, 4 / 3), flip=cfg.flip, **spec.aug)
    return {"image": Pass(View(aug=aug))}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    L, C = _labels.shape(spec, cfg.field)
    D = spec.towers["encoder"].embed
    head = layers.dense(L * C).init(rng, jnp.zeros((1, D)))["params"]
    anchor = jnp.zeros((L, C, C if cfg.of == "logits" else D))
    return Vars(params={"head": head}, state={"anchor": anchor, "count": jnp.zeros((L, C))})


def prototypes(
    cfg: Config, state: Params, x: jax.Array, label: jax.Array, right: jax.Array
) -> Params:
    """The state after a batch; classes without a correct sample stay as they were.

    Args:
        state: anchor [L, C, D] and count [L, C].
        x: [B, L, D].
        label: i32[B, L].
        right: bool[B, L], predicted correctly.
    """

    def of_label(anchor, count, x, label, right):
        C = len(count)
        own = jax.ops.segment_sum(jnp.where(right[:, None], x, 0.0), label, C)
        n_own = jax.ops.segment_sum(right.astype(count.dtype), label, C)
        others, n_others = own.sum(0, keepdims=True) - own, n_own.sum() - n_own
        present, n = n_own > 0, count + n_own + cfg.repel * n_others
        mean = (count[:, None] * anchor + own - cfg.repel * others) / jnp.maximum(n, 1)[:, None]
        return jnp.where(present[:, None], mean, anchor), jnp.where(present, n, count)

    axes = (0, 0, 1, 1, 1)
    anchor, count = jax.vmap(of_label, axes)(state["anchor"], state["count"], x, label, right)
    return {"anchor": anchor, "count": count}


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    pooled = feats["image"].pooled
    pooled = pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))
    L, C = _labels.shape(ctx.spec, cfg.field)
    head = layers.dense(L * C).apply({"params": params["head"]}, pooled)
    logits = head.reshape(-1, L, C)
    label, known = _labels.read(batch, cfg.field)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)[..., 0]
    right = known & (jnp.argmax(logits, -1) == label)

    x = logits if cfg.of == "logits" else jnp.repeat(pooled[:, None], L, axis=1)
    new = jax.lax.stop_gradient(prototypes(cfg, state, x, label, right))
    own = jax.vmap(lambda anchor, own: anchor[own], (0, 1), 1)(new["anchor"], label)
    pull = 1 - jnp.sum(l2_normalize(own) * l2_normalize(x), -1)
    correct = jnp.sum(right)
    attract = jnp.sum(jnp.where(right, pull, 0.0)) / jnp.maximum(correct, 1)
    labelled = jnp.sum(known, dtype=jnp.float32)
    terms = {
        "cross_entropy": Term(-jnp.sum(jnp.where(known, log_p, 0.0)), labelled),
        "attract": Term(attract, jnp.float32(1), cfg.attract),
    }
    metrics = {"accuracy": Term(correct.astype(jnp.float32), labelled)}
    return Loss(terms, new, metrics)


def update(cfg: Config, params: Params, state: Params, stats: Params, ctx: Ctx):
    return params, stats


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of the classifier; prototypes are sums, not products."""
    L, C = _labels.shape(spec, cfg.field)
    return 2 * spec.towers["encoder"].embed * L * C
