"""ArcFace: the angle to the own class has to win by a margin.

Source: Deng et al. 2019, arXiv:1801.07698, eq. 3: z_y = scale cos(theta_y + margin), and scale
(cos(theta_y) - margin sin(margin)) where theta_y > pi - margin; see `_margin`.

With `gradient` = "straight_through" the margin changes the value alone, and d z_y / d cos(theta_y)
is the scale: arcface_torch computes its arc cosine outside of differentiation, and its published
figures were trained so. It has no line past pi - margin either, and here neither then.
"""

from dataclasses import dataclass
from typing import Literal

import jax
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
    """Options of `arcface`.

    Attributes:
        margin: added to the angle, in radians.
        gradient: of the margin, "exact" or "straight_through".
    """

    margin: float = 0.5
    gradient: Literal["exact", "straight_through"] = "exact"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    cosine = scored.cosine
    if cfg.gradient == "exact":
        moved = _margin.add_angle(cosine, cfg.margin)
    else:
        moved = cosine * jnp.cos(cfg.margin) - _margin.sine(cosine) * jnp.sin(cfg.margin)
        moved = cosine + jax.lax.stop_gradient(moved - cosine)
    return _margin.softmax(cfg, scored, cfg.scale * moved, cfg.scale, ctx)
