"""SwAV: predict, from one crop, the prototypes to which another crop of the image was assigned.

Source: Caron et al. 2020, arXiv:2006.09882, eqs. 2 to 5, and facebookresearch/swav. With unit
projections z of all crops and prototypes W of unit length, s = z W, the codes of a global crop i
are balanced over the whole batch, q_i = sinkhorn(s_i / eps), and

    loss = mean over i in {2 global crops} and v != i of CE(softmax(s_v / tau), q_i)

The prototypes come back to unit length after each step; they are `frozen` at first, in the paper
for 313 steps. BatchNorm of the projector sees all crops together, as in the reference code. With a
`queue`, the projections of earlier steps join the batch when codes are made: small batches need it.

Departures: the queue is filled from the first step on and not from `queue_start` on; it is used
from there, and never before it is full. Of rewritten `Pairs` the loss reads the weights alone:
codes are those of whole views, so that neither anchors nor positives can be exchanged.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.config import Rule
from facejax.contracts import Ctx, Histogram, Loss, Pairs, Pass, Spec, Term, Vars
from facejax.errors import UserError
from facejax.objectives import _views
from facejax.ops import centring, similarity
from facejax.ops import queue as queues

SCOPE = "batch"
GLOBALS = ("global_0", "global_1")


@dataclass(frozen=True)
class Config(_views.Crops):
    """Options of `swav`.

    Attributes:
        tau: temperature of predictions.
        eps: temperature of codes.
        iterations: of Sinkhorn-Knopp.
        prototypes: their number.
        hidden: width of the projector's hidden layer.
        out: width of the projection.
        frozen: steps (below 1: share of the run) during which the prototypes stay as they are.
        queue: earlier projections per global crop, a multiple of the global batch; 0: none.
        queue_start: steps (below 1: share of the run) before the queue is used.
    """

    scale: tuple[float, float] = (0.14, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)
    local_crops: int = 6
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    blur: tuple[float, float, float] = (0.5, 0.5, 0.5)
    solarize: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tau: float = 0.1
    eps: float = 0.05
    iterations: int = 3
    prototypes: int = 3000
    hidden: int = 2048
    out: int = 128
    frozen: float = 313.0
    queue: int = 0
    queue_start: float = 0.0

    @classmethod
    def tiny(cls) -> "Config":
        return cls(local_crops=1, prototypes=16, hidden=16, out=8, frozen=0.0, queue=8)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return {name: Pass(view) for name, view in _views.crops(cfg, spec).items()}


def _projector(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden, cfg.out), norm="batch")


def _prototypes(cfg: Config) -> layers.Prototypes:
    return layers.Prototypes(cfg.prototypes, normed=False)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    r_projector, r_prototypes, *r_queues = jax.random.split(rng, 4)
    features, z = jnp.zeros((2, spec.towers["encoder"].embed)), jnp.zeros((2, cfg.out))
    state = {}
    if cfg.queue:
        queues.check(cfg.queue, spec.global_batch)
        state = {n: queues.create(r, cfg.queue, cfg.out) for n, r in zip(GLOBALS, r_queues)}
    return Vars(
        params={
            "projector": _projector(cfg).init(r_projector, features)["params"],
            "prototypes": _prototypes(cfg).init(r_prototypes, z)["params"],
        },
        state=state,
        pairs=cfg.out,
    )


def optim(cfg: Config) -> tuple[Rule, ...]:
    return (Rule("prototypes/", frozen_until=cfg.frozen),)


def codes(cfg: Config, scores: jax.Array, earlier: jax.Array | None, live: jax.Array) -> jax.Array:
    """f32[B, K]: the codes of one view, with the scores f32[M, K] of its queue once it is live."""
    if earlier is None:
        return centring.sinkhorn(scores, cfg.eps, cfg.iterations)
    counted = jnp.concatenate([jnp.ones(len(scores), bool), jnp.full(len(earlier), live)])
    every = jnp.concatenate([scores, earlier])
    return centring.sinkhorn(every, cfg.eps, cfg.iterations, counted)[: len(scores)]


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    def score(z):
        return _prototypes(cfg).apply({"params": params["prototypes"]}, z)

    x = jnp.stack([f.pooled for f in feats.values()])
    z = similarity.l2_normalize(_projector(cfg).apply({"params": params["projector"]}, x))
    s = score(z)
    V, B, _ = z.shape
    start = cfg.queue_start * ctx.spec.steps if cfg.queue_start < 1 else cfg.queue_start
    live = (ctx.step >= start) & (ctx.step * B >= cfg.queue)
    q = [
        codes(cfg, s[i], score(state[name]["rows"]) if cfg.queue else None, live)
        for i, name in enumerate(GLOBALS)
    ]
    pairs = ctx.modify(
        Pairs(
            q=similarity.interleave(*z),
            k=jnp.repeat(jnp.stack([z[0], z[1]], axis=1), V, axis=0),
            neg=jnp.zeros((0, cfg.out)),
            tau=1.0,
            owner=jnp.repeat(jnp.arange(B), V),
            neg_owner=jnp.zeros(0, jnp.int32),
            # A global crop is no positive of itself.
            positive=jnp.tile(jnp.arange(V), B)[:, None] != jnp.arange(2)[None],
            weight=jnp.ones(V * B),
        )
    )
    if pairs.weight.shape != (V * B,):
        what = "takes only modifiers that weigh its crops, not those that add anchors"
        raise UserError("config.objective", f"swav {what}", "drop the others")
    # A crop is held to the sum of its targets: the codes of the global crops other than itself.
    target = jnp.stack([q[1], q[0], *[q[0] + q[1]] * (V - 2)])
    each = centring.cross_entropy(target, s, cfg.tau).T.ravel() * pairs.weight
    return Loss(
        {"swapped": Term(jnp.sum(each), jnp.float32(2 * (V - 1) * B))},
        stats={name: z[i] for i, name in enumerate(GLOBALS)} if cfg.queue else {},
        metrics={
            "positive": Histogram.of(jnp.sum(z[0] * z[1], axis=-1)),
            "std": Term.mean(similarity.deviation(z[0])),
            "entropy": Term.mean(centring.entropy(q[0])),
            "usage": Term.mean(centring.entropy(q[0].mean(0))),
        },
    )


def update(cfg: Config, params, state, stats, ctx: Ctx):
    unit = layers.unit_columns(params["prototypes"]["kernel"])
    state = {name: queues.enqueue(state[name], rows) for name, rows in stats.items()}
    return {**params, "prototypes": {"kernel": unit}}, state


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: projection and scores of every crop, and the queue's scores."""
    V, scores = 2 + cfg.local_crops, 2 * cfg.out * cfg.prototypes
    queued = 2 * cfg.queue / spec.global_batch * scores
    return V * (_projector(cfg).flops(spec.towers["encoder"].embed) + scores) + queued
