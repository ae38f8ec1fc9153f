"""Regresses a frozen encoder's features, or features that the batch brings along."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.config import Rule
from facejax.contracts import Aug, Frozen, Loss, Pass, Term, Vars, View

SCOPE = "batch"


@dataclass(frozen=True)
class Config:
    path: str = ""
    cached: str = ""
    frozen_until: float = 0.0

    @classmethod
    def tiny(cls):
        return cls()


def passes(cfg, spec):
    view = View(aug=Aug(spec.size, **spec.aug))
    out = {"student": Pass(view)}
    if cfg.cached:
        out["teacher"] = Pass(cached=cfg.cached)
    elif cfg.path:
        out["teacher"] = Pass(view, weights=Frozen(cfg.path))
    return out


def init(cfg, rng, spec):
    width = spec.towers["encoder"].embed
    return Vars(params={"head": {"kernel": jax.random.normal(rng, (width, width))}})


def optim(cfg):
    if not cfg.frozen_until:
        return ()
    return (Rule("head/kernel", frozen_until=cfg.frozen_until),)


def loss(cfg, params, ema, state, feats, batch, ctx):
    out = feats["student"].pooled @ params["head"]["kernel"]
    target = feats["teacher"].pooled if "teacher" in feats else jnp.zeros_like(out)
    return Loss({"mse": Term.mean(jnp.square(out - target))})
