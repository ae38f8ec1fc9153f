"""Hydra: any two classes may be a positive pair, in the subspace that a gate opens for the two.

Source: Wu et al. 2024, arXiv:2410.18200 (also called SimLAP), and erow/hydra. An anchor z_i of
class y_i is paired with the class y'_i of a random image of the batch. A gate of the two classes
scales the dimensions of anchor and keys before they are compared:

    g_i  = sigmoid(MLP((E[y_i] + E[y'_i]) / 2)),     l_ij = cos(g_i z_i, g_i k_j) / tau
    L_dis = mean over i and keys j of class y'_i of -log( e^{l_ij} / (e^{l_ij} + sum_m e^{l_im}) )

where m runs over the keys of neither class: the other positives stand in no denominator. The whole
is (base + beta L_dis) / (1 + beta) + gamma H, with H the mean entropy of the gates of single
classes, in nats per dimension. L_dis is a mean over pairs, whatever factor the base puts before its
own loss (MoCo v3: 4 tau); beta weighs the two.

Keys are the positives of all anchors, so a queue is not needed. Of the keys of an anchor's own
image only its own positive counts, because under SimCLR the other one is the anchor itself. Images
without a class take no part. A table of many classes is as large as a classifier's; it is trained
densely. Where the paper ends projectors with LayerNorm, because BatchNorm keeps gates from closing,
that is an option of the base. Its Gumbel and stochastic gates and pairs drawn by WordNet distance
are left out, and so is the reference code's learned temperature.

"effective_rank" is the participation ratio of the anchors' covariance, tr(C)^2 / |C|^2.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax import layers
from facejax.contracts import Ctx, Draw, Loss, Pairs, Spec, Term, Vars
from facejax.errors import UserError
from facejax.modifiers import _anchors
from facejax.ops.similarity import PRECISION

FIELDS = ("identity",)


@dataclass(frozen=True)
class Config:
    """Options of `hydra`.

    Attributes:
        beta: weight of the class pairs beside the base's loss.
        gamma: weight of the gates' entropy (the paper tried 1, .1, .01).
        tau: temperature of the gated similarities; None is the base's.
        pairing: the second class: "arbitrary" (that of a random image), "distinct" (the same, but
            anchors that draw their own class sit out) or "identical" (the anchor's own).
        product: multiply the gates of the two classes, in place of the gate of their mean.
        embed: width of a class's embedding.
        hidden: width of the gate's hidden layer.
    """

    beta: float = 1.0
    gamma: float = 0.0
    tau: float | None = None
    pairing: Literal["arbitrary", "distinct", "identical"] = "arbitrary"
    product: bool = False
    embed: int = 512
    hidden: int = 1024

    @classmethod
    def tiny(cls) -> "Config":
        return cls(gamma=0.1, embed=8, hidden=16)


class Gate(nn.Module):
    """Embeddings of classes [A, embed] -> logits of the open dimensions [A, width]."""

    hidden: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.BatchNorm(name="norm_0")(nn.relu(x))
        x = nn.relu(layers.dense(self.hidden, use_bias=False, name="fc_0")(x))
        return layers.dense(self.width, name="fc_1")(layers.BatchNorm(name="norm_1")(x))


def init(cfg: Config, rng: jax.Array, spec: Spec, width: int) -> Vars:
    classes = spec.classes.get("identity", 0)
    if not classes:
        remedy = "give a source with identities, such as a folder with identity='parent'"
        raise UserError("config.data.sources", "hydra needs classes", remedy)
    r_table, r_gate = jax.random.split(rng)
    table = jax.random.normal(r_table, (classes, cfg.embed))
    gate = Gate(cfg.hidden, width).init(r_gate, table[:2])["params"]
    return Vars(params={"classes": table, "gate": gate})


def gates(cfg: Config, params, first: jax.Array, second: jax.Array, width: int) -> jax.Array:
    """[A, width] in (0, 1): how far each dimension is open to a pair of classes i32[A]."""

    def opened(embedding):
        logits = Gate(cfg.hidden, width).apply({"params": params["gate"]}, embedding)
        return jax.nn.sigmoid(logits)

    a, b = params["classes"][first], params["classes"][second]
    return opened(a) * opened(b) if cfg.product else opened((a + b) / 2)


def partners(draw: Draw, labels: jax.Array) -> jax.Array:
    """i32[B]: the labels in a random order, which goes with the global rows of the batch."""
    start, end = (
        jnp.argsort(jax.vmap(jax.random.uniform)(draw.fold(name).keys())) for name in "ab"
    )
    return jnp.zeros_like(labels).at[start].set(labels[end])


def gated(z: jax.Array, keys: jax.Array, g: jax.Array) -> jax.Array:
    """cos(g_i z_i, g_i k_j) f32[A, n] without an array of A x n x D; 0 where a vector is dead."""

    def inverse(square):
        alive = square > 1e-12
        return jnp.where(alive, jax.lax.rsqrt(jnp.where(alive, square, 1.0)), 0.0)

    square = jnp.square(g)
    inner = _anchors.products(square * z, keys)
    own = jnp.sum(square * jnp.square(z), axis=1)[:, None]
    others = _anchors.products(square, jnp.square(keys))
    return inner * inverse(own) * inverse(others)


def transform(cfg: Config, params, state, pairs: Pairs, ctx: Ctx) -> tuple[Pairs, Loss]:
    given, labels = _anchors.wide(pairs), ctx.batch["identity"]
    A, P, D = given.k.shape
    second = labels if cfg.pairing == "identical" else partners(ctx.draw, labels)
    y, other = labels[given.owner], second[given.owner]
    known = (y >= 0) & (other >= 0)
    if cfg.pairing == "distinct":
        known &= y != other

    g = gates(cfg, params, jnp.maximum(y, 0), jnp.maximum(other, 0), D)
    keys, of = given.k.reshape(A * P, D), jnp.repeat(jnp.arange(A), P)
    tau = jnp.asarray(given.tau if cfg.tau is None else cfg.tau)
    similarity = gated(given.q, keys, g) / (tau if tau.ndim else tau[None, None])

    own = jnp.arange(A)[:, None] == of[None]
    may = own | (given.owner[:, None] != given.owner[of][None])
    may &= given.positive.ravel()[None] & known[:, None]
    key_class = y[of][None]
    positive = may & (key_class == other[:, None])
    negative = may & (key_class >= 0) & (key_class != y[:, None]) & (key_class != other[:, None])
    # -inf where there is no negative: the loss is then 0, and no gradient passes the masks.
    rest = jnp.where(negative, similarity, -jnp.inf)
    rest = jax.nn.logsumexp(rest, axis=1, keepdims=True)
    each = jnp.where(positive, jax.nn.softplus(rest - similarity), 0.0)
    count = jnp.sum(positive).astype(jnp.float32)

    single = gates(dataclasses.replace(cfg, product=False), params, *[jnp.maximum(y, 0)] * 2, D)
    entropy = jnp.mean(_entropy(single), axis=1)
    labelled = (y >= 0).astype(jnp.float32)
    terms = {
        "class_pairs": Term(
            jnp.sum(given.weight[:, None] * each), count, cfg.beta / (1 + cfg.beta)
        ),
        "entropy": Term(jnp.sum(entropy * labelled), jnp.sum(labelled), cfg.gamma),
    }
    metrics = {
        "open": Term(jnp.sum(jnp.mean(single, axis=1) * labelled), jnp.sum(labelled)),
        "effective_rank": Term.mean(effective_rank(given.q)),
    }
    return dataclasses.replace(pairs, weight=pairs.weight / (1 + cfg.beta)), Loss(
        terms, metrics=metrics
    )


def _entropy(p: jax.Array) -> jax.Array:
    """Of Bernoulli variables, in nats; 0 at 0 and 1."""
    p = jnp.clip(p, 1e-6, 1 - 1e-6)
    return -p * jnp.log(p) - (1 - p) * jnp.log1p(-p)


def effective_rank(z: jax.Array) -> jax.Array:
    """Of [A, D]: between 1 and D, the number of dimensions that share the variance."""
    centred = z - z.mean(0)[None]
    covariance = jnp.matmul(centred.T, centred, precision=PRECISION)
    return jnp.trace(covariance) ** 2 / jnp.maximum(jnp.sum(covariance**2), 1e-12)
