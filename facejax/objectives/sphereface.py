"""SphereFace: the angle to the own class counts several times; embeddings keep their length.

Source: Liu et al. 2017, arXiv:1704.08063, eqs. 7 and 8, and its authors' code. With k such that
theta_y lies in [k pi / m, (k + 1) pi / m]:

    z_y = |x| (lambda cos(theta_y) + psi) / (1 + lambda),   psi = (-1)^k cos(m theta_y) - 2 k
    z_j = |x| cos(theta_j),   lambda = max(lowest, start / (1 + fall t)) at step t
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Loss
from facejax.errors import UserError
from facejax.objectives import _margin
from facejax.objectives._margin import fields as fields
from facejax.objectives._margin import flops as flops
from facejax.objectives._margin import init as init
from facejax.objectives._margin import passes as passes
from facejax.objectives._margin import rows as rows

SCOPE = "batch"


@dataclass(frozen=True)
class Config(_margin.Head):
    """Options of `sphereface`.

    Attributes:
        margin: how many times the own angle counts.
        lowest: lambda at the end.
        start: lambda at step 0.
        fall: how fast it falls, per step.
    """

    margin: int = 4
    lowest: float = 5.0
    start: float = 1000.0
    fall: float = 0.12

    def __post_init__(self):
        if self.margin < 1:
            raise UserError("margin", f"{self.margin} times", "give a whole number of at least 1")

    @classmethod
    def tiny(cls) -> "Config":
        return cls()


def psi(cosine: jax.Array, m: int) -> jax.Array:
    """(-1)^k cos(m theta) - 2 k, which falls from 1 to 1 - 2 m without a break."""
    before, multiple = jnp.ones_like(cosine), cosine
    for _ in range(m - 1):  # Chebyshev: cos((n + 1) t) = 2 cos(t) cos(n t) - cos((n - 1) t)
        before, multiple = multiple, 2 * cosine * multiple - before
    k = jnp.floor(m * jnp.arccos(jax.lax.stop_gradient(cosine)) / jnp.pi)
    k = jnp.minimum(k, m - 1)
    return jnp.where(k % 2 == 0, 1.0, -1.0) * multiple - 2 * k


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    weight = jnp.maximum(cfg.lowest, cfg.start / (1 + cfg.fall * ctx.step))
    mixed = (weight * scored.cosine + psi(scored.cosine, cfg.margin)) / (1 + weight)
    return _margin.softmax(cfg, scored, scored.length * mixed, scored.length, ctx)
