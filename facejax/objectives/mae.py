"""Masked autoencoder: reconstruct the pixels of the patches that the encoder never saw.

Source: He et al. 2022, arXiv:2111.06377, and its reference code. With p the patch's normalised
pixels and p' the decoder's prediction, both of P = patch * patch * 3 values,

    loss = sum over removed patches of mean_P((p' - p)^2) / number of removed patches

The target is normalised per patch by its mean and its *unbiased* variance + 1e-6. The mask is drawn
per image; the encoder computes kept patches only. The decoder sees kept tokens after a linear map,
one learned token at every removed place, and its own fixed sin-cos positions (the class token's row
is zero).

Departures: `decoder_width` None scales the decoder with the encoder (half its width, in heads of
32), because the paper's fixed 512 is most of the cost of a small encoder; set 512 (and depth 8,
heads 16) for the paper's. Of the prefix tokens the decoder sees only the first, the class token.
"""

import dataclasses
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
    """Options of `mae`.

    Attributes:
        ratio: share of the patches that is removed.
        scale: area range of the random resized crop.
        crop_ratio: aspect range of the crop.
        flip: probability of a horizontal flip.
        norm_pixels: normalise the target per patch.
        decoder_depth: blocks of the decoder.
        decoder_width: its width; None is half the encoder's, rounded up to a multiple of 32.
        decoder_heads: its attention heads; None is one per 32 channels.
        dtype: compute type of the decoder; follows the run's.
        remat: what the decoder's backward pass recomputes; follows the run's.
    """

    ratio: float = 0.75
    scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    norm_pixels: bool = True
    decoder_depth: int = 8
    decoder_width: int | None = None
    decoder_heads: int | None = None
    dtype: str = "float32"
    remat: layers.Remat = "none"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(decoder_depth=1, decoder_width=32)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(spec.size, scale=cfg.scale, ratio=cfg.crop_ratio, flip=cfg.flip, **spec.aug)
    mask = masking.Random(ratio=cfg.ratio)
    return {"masked": Pass(View(aug=aug), mask, outputs=("prefix", "tokens", "view"))}


def _decoder(cfg: Config, spec: Spec) -> _masked.Decoder:
    tower = spec.towers["encoder"]
    width, heads = _masked.scaled(cfg.decoder_width, cfg.decoder_heads, tower)
    out = tower.patch**2 * 3
    return _masked.Decoder(width, cfg.decoder_depth, heads, out, cfg.dtype, cfg.remat)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    tower, grid, _ = _masked.geometry(spec)
    decoder = _decoder(cfg, spec)
    r_embed, r_token, r_decoder = jax.random.split(rng, 3)
    embed = layers.dense(decoder.width)
    tokens = jnp.zeros((1, 1 + grid[0] * grid[1], decoder.width))
    params = {
        "embed": embed.init(r_embed, jnp.zeros((1, 1, tower.width)))["params"],
        "mask_token": 0.02 * jax.random.normal(r_token, (1, 1, decoder.width)),
        "decoder": decoder.init(r_decoder, tokens)["params"],
    }
    return Vars(params=params)


def decode(cfg: Config, params: Params, features: Features, spec: Spec) -> jax.Array:
    """f32[B, N, patch * patch * 3]: the prediction for every patch, seen or not."""
    decoder = _decoder(cfg, spec)
    _, grid, P = _masked.geometry(spec)
    embed = layers.dense(decoder.width, dtype=cfg.dtype)
    prefix, tokens = (
        embed.apply({"params": params["embed"]}, x) for x in (features.prefix, features.tokens)
    )
    embedded = dataclasses.replace(features, prefix=prefix, tokens=tokens)
    x = _masked.filled(embedded, params["mask_token"][0, 0], grid[0] * grid[1])
    x = x + _masked.positions(decoder.width, grid, P).astype(x.dtype)
    return decoder.apply({"params": params["decoder"]}, x)[:, P:]


def target(cfg: Config, image: jax.Array, patch: int) -> jax.Array:
    """f32[B, N, patch * patch * 3]: the pixels to predict."""
    return _masked.pixels(image, patch, cfg.norm_pixels)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    features, tower = feats["masked"], ctx.spec.towers["encoder"]
    pred = decode(cfg, params, features, ctx.spec)
    error = jnp.mean((pred - target(cfg, features.view["image"], tower.patch)) ** 2, axis=-1)
    removed = (features.mask & masking.REMOVED).astype(jnp.float32)
    return Loss({"pixels": Term(jnp.sum(error * removed), jnp.sum(removed))})


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of the decoder (the encoder counts its own)."""
    decoder = _decoder(cfg, spec)
    tower, grid, P = _masked.geometry(spec)
    N = grid[0] * grid[1]
    embed = 2 * (int(N * (1 - cfg.ratio)) + P) * tower.width * decoder.width
    return embed + decoder.flops(N + P)


def preview(cfg: Config, params, feats, ctx: Ctx) -> dict[str, jax.Array]:
    """Columns of f32[B, S, S, 3] in the view's normalised units: what went in and what came out."""
    features = feats["masked"]
    pred = decode(cfg, params, features, ctx.spec)
    return _masked.pictures(ctx.spec, features, pred, cfg.norm_pixels)
