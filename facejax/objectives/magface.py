"""MagFace: longer embeddings, which better images get, have to win by more.

Source: Meng et al. 2021, arXiv:2103.06627, eq. 3 and its authors' code. With a the embedding's
length, clipped to [shortest, longest], the margin of ArcFace grows linearly with it,

    m(a) = least + (most - least) (a - shortest) / (longest - shortest),

it is applied where cos(theta_y) > 0, and weight_g times the mean of g(a) = a / longest^2 + 1 / a
draws lengths up. Gradients flow through the length.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from facejax.contracts import Ctx, Loss
from facejax.objectives import _margin
from facejax.objectives._margin import fields as fields
from facejax.objectives._margin import flops as flops
from facejax.objectives._margin import init as init
from facejax.objectives._margin import passes as passes
from facejax.objectives._margin import rows as rows

SCOPE = "batch"


@dataclass(frozen=True)
class Config(_margin.Scaled):
    """Options of `magface`.

    Attributes:
        least: margin of the shortest embeddings, in radians.
        most: margin of the longest.
        shortest: lengths below count as this.
        longest: lengths above count as this.
        weight_g: of the regulariser g.
    """

    least: float = 0.45
    most: float = 0.8
    shortest: float = 10.0
    longest: float = 110.0
    weight_g: float = 35.0

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0, shortest=1.0, longest=4.0)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    a = jnp.clip(scored.length, cfg.shortest, cfg.longest)
    share = (a - cfg.shortest) / (cfg.longest - cfg.shortest)
    margin = cfg.least + (cfg.most - cfg.least) * share
    cosine = scored.cosine
    moved = cosine * jnp.cos(margin) - _margin.sine(cosine) * jnp.sin(margin)
    target = cfg.scale * jnp.where(cosine > 0, moved, cosine)
    found = _margin.softmax(cfg, scored, target, cfg.scale, ctx)
    g = a / cfg.longest**2 + 1 / a
    found.terms["g"] = _margin.over(scored, g, cfg.weight_g)
    found.metrics["length"] = _margin.over(scored, scored.length)
    return found
