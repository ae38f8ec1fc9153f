"""CurricularFace: ArcFace in which hard classes count little at first and much in the end.

Source: Huang et al. 2020, arXiv:2004.00288, eqs. 6 to 9. The target is ArcFace's; another class j
is hard where cos(theta_j) > cos(theta_y + margin), and its logit is then

    z_j = scale cos(theta_j) (t + cos(theta_j))

t starts at 0 and moves by `rate` towards the mean of cos(theta_y), after each step (its authors'
code moves it before it is used). It passes no gradient.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Loss, Spec, Term, Vars
from facejax.objectives import _margin
from facejax.objectives._margin import fields as fields
from facejax.objectives._margin import flops as flops
from facejax.objectives._margin import passes as passes
from facejax.objectives._margin import rows as rows

SCOPE = "batch"


@dataclass(frozen=True)
class Config(_margin.Scaled):
    """Options of `curricularface`.

    Attributes:
        margin: added to the angle, in radians.
        rate: of the running mean t.
    """

    margin: float = 0.5
    rate: float = 0.01

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    return Vars(state={"t": jnp.float32(0)}, sparse=_margin.init(cfg, rng, spec).sparse)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    moved = _margin.add_angle(scored.cosine, cfg.margin)
    bar = scored.cosine * jnp.cos(cfg.margin) - _margin.sine(scored.cosine) * jnp.sin(cfg.margin)
    aux = {
        "bar": jax.lax.stop_gradient(bar),
        "t": jnp.broadcast_to(state["t"].astype(moved.dtype), moved.shape),
    }
    found = _margin.softmax(cfg, scored, cfg.scale * moved, cfg.scale, ctx, _hardened, aux)
    cosine = _margin.over(scored, scored.cosine)
    found.metrics["t"] = Term.mean(state["t"][None])
    return Loss(found.terms, {"cosine": cosine.value(), "some": cosine.count > 0}, found.metrics)


def _hardened(cosines: jax.Array, aux) -> jax.Array:
    hard = cosines > aux["bar"]
    return aux["scale"] * cosines * jnp.where(hard, aux["t"] + cosines, 1.0)


def update(cfg: Config, params, state, stats, ctx: Ctx):
    rate = jnp.where(stats["some"], cfg.rate, 0.0)
    return params, {"t": (1 - rate) * state["t"] + rate * stats["cosine"]}
