"""CosFace: the cosine to the own class has to win by a margin.

Source: Wang et al. 2018, arXiv:1801.09414, eq. 4: z_y = scale (cos(theta_y) - margin); see
`_margin`. The margin is arcface_torch's for its large sets; the paper's is 0.35.
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
    """Options of `cosface`.

    Attributes:
        margin: taken from the cosine.
    """

    margin: float = 0.4

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    target = cfg.scale * (scored.cosine - cfg.margin)
    return _margin.softmax(cfg, scored, target, cfg.scale, ctx)
