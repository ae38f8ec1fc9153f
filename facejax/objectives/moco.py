"""Momentum Contrast: a query finds its key, encoded by a slow copy, among the keys of a queue.

Source: He et al. 2020 (v1), arXiv:1911.05722, alg. 1, Chen et al. 2020 (v2), arXiv:2003.04297, and
facebookresearch/moco. With unit projections q of one view, k of the other by the momentum encoder,
and the keys n of the last steps,

    loss = mean_i -log( e^{q_i k_i / tau} / (e^{q_i k_i / tau} + sum_n e^{q_i n / tau}) )

The defaults are those of v2. For v1: depth 1, tau 0.07, jitter (.4, .4, .4, .4), jitter_p 1 and
blur (0, 0).

The reference code moves the key encoder before its forward pass; here that happens at the end of
the step before, which gives the same keys (a momentum that follows a schedule is read one step
earlier). In place of shuffled BatchNorm, BatchNorm is global: no device's statistics betray a pair.
With `keys` above 1 a query has several positives, for modifiers that choose among them; each is
averaged as in `info_nce`, and the first key view enters the queue.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Ema, Loss, OwnEma, Pairs, Pass, Spec, Term, Vars
from facejax.objectives import _measures, _views
from facejax.ops import queue, similarity
from facejax.schedule import Schedule

SCOPE = "batch"


@dataclass(frozen=True)
class Config(_views.Views):
    """Options of `moco`.

    Attributes:
        tau: temperature.
        momentum: of the key encoder and its projector.
        queue: number of keys in the queue; a multiple of the global batch.
        keys: key views per image.
        hidden: width of the projector's hidden layers.
        out: width of the projection.
        depth: linear layers of the projector.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    blur: tuple[float, float] = (0.5, 0.5)
    solarize: tuple[float, float] = (0.0, 0.0)
    tau: float = 0.2
    momentum: float | Schedule = 0.999
    queue: int = 65536
    keys: int = 1
    hidden: int = 2048
    out: int = 128
    depth: int = 2

    @classmethod
    def tiny(cls) -> "Config":
        return cls(queue=16, hidden=16, out=8)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    query, *keys = _views.several(cfg, spec, 1 + cfg.keys).values()
    teacher = Ema(cfg.momentum)
    return {
        "query": Pass(query),
        **{f"key_{i}": Pass(view, weights=teacher) for i, view in enumerate(keys)},
    }


def _projector(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden,) * (cfg.depth - 1) + (cfg.out,))


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    queue.check(cfg.queue, spec.global_batch)
    r_projector, r_queue = jax.random.split(rng)
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    return Vars(
        params={"projector": _projector(cfg).init(r_projector, features)["params"]},
        state={"queue": queue.create(r_queue, cfg.queue, cfg.out)},
        ema={"key": OwnEma(("projector",), cfg.momentum)},
        pairs=cfg.out,
    )


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    def project(owner, name):
        head = {"params": owner["projector"]}
        return similarity.l2_normalize(_projector(cfg).apply(head, feats[name].pooled))

    q = project(params, "query")
    k = jnp.stack([project(ema["key"], f"key_{i}") for i in range(cfg.keys)], axis=1)
    B = len(q)
    pairs = ctx.modify(
        Pairs(
            q=q,
            k=k,
            neg=state["queue"]["rows"],
            tau=cfg.tau,
            owner=jnp.arange(B),
            neg_owner=jnp.full(cfg.queue, -1),
            positive=jnp.ones((B, cfg.keys), bool),
            weight=jnp.ones(B),
            enqueue=k[:, 0],
        )
    )
    each = similarity.info_nce(pairs) * pairs.weight
    return Loss(
        {"info_nce": Term.mean(each)},
        stats=pairs.enqueue,
        metrics=_measures.compared(q, k[:, 0]),
    )


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return params, {"queue": queue.enqueue(state["queue"], stats)}


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image; the key heads have no backward pass and count a third."""
    head = _projector(cfg).flops(spec.towers["encoder"].embed)
    return head * (1 + cfg.keys / 3) + 2 * cfg.queue * cfg.out


def queued(cfg: Config, spec: Spec) -> tuple[int, int]:
    """Number and width of what each image's one anchor meets."""
    return cfg.queue, cfg.out
