"""SimMIM: predict the raw pixels of masked cells from their mask tokens, with one linear layer.

Source: Xie et al. 2022, arXiv:2111.09886, and microsoft/SimMIM. Square cells, larger than patches,
are masked; the mask token stands in for their patches, so the encoder computes all of them. With x
the view's pixels and x' the linear prediction of each patch from its token,

    loss = sum over masked pixels and channels of |x' - x| / number of them

Departures: the mask is drawn per image with a key of its own; the head is a Linear per patch, which
is the reference's 1 x 1 convolution and pixel shuffle but for the order of its outputs. Shared
relative position biases are the encoder's matter; `vit` has none.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Features, Loss, Params, Pass, Spec, Term, Vars, View
from facejax.objectives import _masked
from facejax.ops import masking

SCOPE = "sample"
PREVIEW = _masked.PREVIEW


@dataclass(frozen=True)
class Config:
    """Options of `simmim`.

    Attributes:
        cell: side of a cell in pixels; a multiple of the patch that divides the image's side.
        ratio: share of the cells that is masked, rounded up to a whole cell.
        scale: area range of the random resized crop.
        crop_ratio: aspect range of the crop.
        flip: probability of a horizontal flip.
        dtype: compute type of the head; follows the run's.
    """

    cell: int = 32
    ratio: float = 0.6
    scale: tuple[float, float] = (0.67, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    dtype: str = "float32"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(cell=8)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(spec.size, scale=cfg.scale, ratio=cfg.crop_ratio, flip=cfg.flip, **spec.aug)
    mask = masking.Cells(cfg.cell, cfg.ratio)
    return {"masked": Pass(View(aug=aug), mask, outputs=("tokens", "view"))}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    tower = spec.towers["encoder"]
    head = layers.dense(tower.patch**2 * 3).init(rng, jnp.zeros((1, tower.width)))
    return Vars(params={"head": head["params"]})


def decode(cfg: Config, params: Params, features: Features, spec: Spec) -> jax.Array:
    """f32[B, N, patch * patch * 3]: the prediction for every patch."""
    head = layers.dense(spec.towers["encoder"].patch ** 2 * 3, dtype=cfg.dtype)
    return _masked.wide(head.apply({"params": params["head"]}, features.tokens))


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    features, tower = feats["masked"], ctx.spec.towers["encoder"]
    pixels = _masked.pixels(features.view["image"], tower.patch, normalise=False)
    error = jnp.mean(jnp.abs(decode(cfg, params, features, ctx.spec) - pixels), axis=-1)
    removed = (features.mask & masking.REMOVED).astype(jnp.float32)
    return Loss({"pixels": Term(jnp.sum(error * removed), jnp.sum(removed))})


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of the head."""
    tower, grid, _ = _masked.geometry(spec)
    return 2.0 * grid[0] * grid[1] * tower.width * tower.patch**2 * 3


def preview(cfg: Config, params, feats, ctx: Ctx) -> dict[str, jax.Array]:
    """Columns of f32[B, S, S, 3] in the view's normalised units: what went in and what came out."""
    pred = decode(cfg, params, feats["masked"], ctx.spec)
    return _masked.pictures(ctx.spec, feats["masked"], pred, normalised=False)
