"""A test modifier with a parameter and a state: scales the anchors and counts its calls."""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp

from facejax.contracts import Loss, Term, Vars


@dataclass(frozen=True)
class Config:
    penalty: float = 0.1
    off: bool = False

    @classmethod
    def tiny(cls):
        return cls()


def init(cfg, rng, spec, width):
    return Vars(params={"scale": jnp.full(width, 0.5)}, state={"calls": jnp.int32(0)})


def transform(cfg, params, state, pairs, ctx):
    if cfg.off:
        return pairs, Loss({})
    changed = dataclasses.replace(pairs, q=pairs.q * params["scale"][None])
    return changed, Loss({"penalty": Term.mean(jnp.square(params["scale"]), cfg.penalty)})


def update(cfg, params, state, stats, ctx):
    return params, {"calls": state["calls"] + 1}
