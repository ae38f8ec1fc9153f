"""A MoCo-like objective: EMA teacher, its own EMA projector, a queue written by `update`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import (
    Aug,
    Ema,
    Loss,
    OwnEma,
    Pairs,
    Pass,
    Term,
    Vars,
    View,
)
from facejax.ops.similarity import info_nce, l2_normalize

SCOPE = "batch"


@dataclass(frozen=True)
class Config:
    size: int = 16
    out: int = 4
    momentum: float = 0.9
    tau: float = 0.2
    shuffle: bool = False

    @classmethod
    def tiny(cls):
        return cls()


def passes(cfg, spec):
    aug = Aug(spec.size, scale=(0.3, 1.0), flip=0.5, **spec.aug)
    return {
        "query": Pass(View(aug=aug, draw="q")),
        "key": Pass(View(aug=aug, draw="k"), weights=Ema(cfg.momentum)),
    }


def init(cfg, rng, spec):
    width = spec.towers["encoder"].embed
    return Vars(
        params={"projector": {"kernel": jax.random.normal(rng, (width, cfg.out))}},
        state={
            "queue": l2_normalize(jax.random.normal(rng, (cfg.size, cfg.out))),
            "pointer": jnp.int32(0),
        },
        ema={"key": OwnEma(("projector",), cfg.momentum)},
        pairs=cfg.out,
    )


def loss(cfg, params, ema, state, feats, batch, ctx):
    q = l2_normalize(feats["query"].pooled @ params["projector"]["kernel"])
    k = l2_normalize(feats["key"].pooled @ ema["key"]["projector"]["kernel"])
    B = q.shape[0]
    pairs = ctx.modify(
        Pairs(
            q=q,
            k=k[:, None],
            neg=state["queue"],
            tau=cfg.tau,
            owner=jnp.arange(B),
            neg_owner=jnp.full(cfg.size, -1),
            positive=jnp.ones((B, 1), bool),
            weight=jnp.ones(B),
            enqueue=k,
        )
    )
    return Loss({"nce": Term.mean(info_nce(pairs) * pairs.weight)}, stats=pairs.enqueue)


def update(cfg, params, state, stats, ctx):
    queue = jax.lax.dynamic_update_slice(state["queue"], stats, (state["pointer"], 0))
    pointer = (state["pointer"] + stats.shape[0]) % cfg.size
    return params, {"queue": queue, "pointer": pointer}
