"""A per-sample objective whose mean divides by a count that depends on the data, twice weighted."""

from dataclasses import dataclass

import jax.numpy as jnp

from facejax.contracts import Aug, Histogram, Loss, Pass, Term, Vars, View
from facejax.ops.masking import Random

SCOPE = "sample"


@dataclass(frozen=True)
class Config:
    threshold: float = 0.0
    poison: int = -1
    spike: int = -1

    @classmethod
    def tiny(cls):
        return cls()


def passes(cfg, spec):
    aug = Aug(spec.size, scale=(0.5, 1.0), **spec.aug)
    return {"masked": Pass(View(aug=aug), Random(0.5), outputs=("tokens", "view"))}


def init(cfg, rng, spec):
    return Vars(
        params={"kernel": jnp.ones((spec.towers["encoder"].width, 1))},
        state={"seen": jnp.float32(0)},
    )


def loss(cfg, params, ema, state, feats, batch, ctx):
    features = feats["masked"]
    bright = features.view["image"].mean((1, 2, 3)) > cfg.threshold
    value = jnp.square((features.tokens @ params["kernel"])[..., 0]).mean(1)
    # A planted fault: one step of the run is not finite.
    value = value * jnp.where(ctx.step == cfg.poison, jnp.nan, 1.0)
    value = value * jnp.where(ctx.step == cfg.spike, 100.0, 1.0)
    return Loss(
        {
            "bright": Term(jnp.sum(value * bright), jnp.sum(bright).astype(jnp.float32), 2.0),
            "all": Term.mean(value),
        },
        stats=jnp.sum(bright).astype(jnp.float32),
        metrics={"value": Histogram.of(value, low=0.0, high=4.0, bins=8)},
    )


def update(cfg, params, state, stats, ctx):
    return params, {"seen": state["seen"] + stats}
