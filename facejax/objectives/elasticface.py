"""ElasticFace: every image draws its own margin, every time.

Source: Boutros et al. 2022, arXiv:2109.09416, eqs. 5 and 6: the margin of ArcFace ("arc") or of
CosFace ("cos") is drawn from N(margin, spread^2). With `plus` the drawn margins are handed out by
difficulty: the greatest to the image whose cosine to its class is the least. (Its authors' code
indexes by the sorting permutation where its inverse is meant; here it is the inverse.)
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
    """Options of `elasticface`.

    Attributes:
        kind: "arc" (the paper's margin is 0.5) or "cos" (0.35).
        margin: mean of the margins.
        spread: their standard deviation; the paper's are 0.05, and with `plus` 0.0175 ("arc") or
            0.02 ("cos").
        plus: whether the greatest margins go to the hardest images.
    """

    kind: Literal["arc", "cos"] = "arc"
    margin: float = 0.5
    spread: float = 0.05
    plus: bool = False

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0)


def margins(cfg: Config, cosine: jax.Array, ctx: Ctx) -> jax.Array:
    """f32[B], the margin of each image; free of gradients."""
    draw = jax.vmap(lambda key: jax.random.normal(key, (), cosine.dtype))(ctx.draw.keys())
    drawn = cfg.margin + cfg.spread * draw
    if not cfg.plus:
        return drawn
    easiest = jnp.argsort(-jax.lax.stop_gradient(cosine))
    return jnp.zeros_like(drawn).at[easiest].set(jnp.sort(drawn))


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    margin = margins(cfg, scored.cosine, ctx)
    if cfg.kind == "arc":
        moved = _margin.add_angle(scored.cosine, margin)
    else:
        moved = scored.cosine - margin
    return _margin.softmax(cfg, scored, cfg.scale * moved, cfg.scale, ctx)
