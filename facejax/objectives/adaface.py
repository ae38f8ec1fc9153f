"""AdaFace: the margin follows the image's quality, read off the length of its embedding.

Source: Kim et al. 2022, arXiv:2204.00964, eqs. 11 to 14, and its authors' code. With a the length,
clipped to [0.001, 100], mu and sigma its running mean and deviation, none of it differentiated:

    q = clip( h (a - mu) / (sigma + 0.001), -1, 1 )
    z_y = scale (cos( clip(theta_y - margin q, eps, pi - eps) ) - margin - margin q)

q = -1 is ArcFace's margin, q = 0 that of CosFace. mu and sigma move by `rate` towards those of the
global batch (its authors' towards each device's) before they are used. All cosines are clipped to
1 - eps in size.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Loss, Spec, Vars
from facejax.objectives import _margin
from facejax.objectives._margin import fields as fields
from facejax.objectives._margin import flops as flops
from facejax.objectives._margin import passes as passes
from facejax.objectives._margin import rows as rows

SCOPE = "batch"
EPS = 1e-3


@dataclass(frozen=True)
class Config(_margin.Scaled):
    """Options of `adaface`.

    Attributes:
        margin: of both kinds, in radians and in cosine.
        spread: h, how many deviations are the whole range of quality, inverted.
        rate: of the running mean and deviation.
    """

    margin: float = 0.4
    spread: float = 0.333
    rate: float = 0.01

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    sparse = _margin.init(cfg, rng, spec).sparse
    return Vars(state={"mean": jnp.float32(20), "deviation": jnp.float32(100)}, sparse=sparse)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    length = jnp.clip(jax.lax.stop_gradient(scored.length), EPS, 100.0)
    state = _moved(cfg, state, length, scored.known)
    quality = (length - state["mean"]) / (state["deviation"] + EPS) * cfg.spread
    quality = jnp.clip(quality, -1.0, 1.0)

    cosine = jnp.clip(scored.cosine, EPS - 1, 1 - EPS)
    angle = jnp.clip(jnp.arccos(cosine) - cfg.margin * quality, EPS, jnp.pi - EPS)
    target = cfg.scale * (jnp.cos(angle) - cfg.margin - cfg.margin * quality)
    found = _margin.softmax(cfg, scored, target, cfg.scale, ctx, logits=_clipped)
    found.metrics["length"] = _margin.over(scored, scored.length)
    found.metrics["quality"] = _margin.over(scored, quality)
    return Loss(found.terms, state, found.metrics)


def _clipped(cosines: jax.Array, aux) -> jax.Array:
    return aux["scale"] * jnp.clip(cosines, EPS - 1, 1 - EPS)


def _moved(cfg: Config, state, length: jax.Array, known: jax.Array):
    """The running mean and deviation (of a sample, n - 1) after this batch."""
    count = jnp.sum(known, dtype=length.dtype)
    mean = jnp.sum(jnp.where(known, length, 0)) / jnp.maximum(count, 1)
    square = jnp.sum(jnp.where(known, jnp.square(length - mean), 0))
    deviation = jnp.sqrt(square / jnp.maximum(count - 1, 1))
    rate = jnp.where(count > 1, cfg.rate, 0.0)
    seen = {"mean": mean, "deviation": deviation}
    return {name: (1 - rate) * state[name] + rate * seen[name] for name in seen}


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return params, stats
