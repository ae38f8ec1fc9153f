"""The softmax over identities without a margin: what all margin losses are at margin 0.

Source: Wang et al. 2017, arXiv:1704.06369 (NormFace), eq. 4: unit embeddings, unit centres, no
bias, a fixed scale. z_y = scale cos(theta_y); see `_margin`.
"""

from dataclasses import dataclass

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
    """Options of `softmax`."""

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    return _margin.softmax(cfg, scored, cfg.scale * scored.cosine, cfg.scale, ctx)
