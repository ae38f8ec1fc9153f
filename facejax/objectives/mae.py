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

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax import layers
from facejax.contracts import Aug, Ctx, Features, Loss, Params, Pass, Spec, Term, Vars, View
from facejax.ops import masking

SCOPE = "sample"
PREVIEW = ("input", "seen", "reconstruction")


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


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Decoder(nn.Module):
    """[B, 1 + N, D] of kept and mask tokens, positions added -> [B, 1 + N, patch * patch * 3]."""

    width: int
    depth: int
    heads: int
    out: int
    dtype: str
    remat: layers.Remat

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = layers.Block
        if self.remat != "none":
            block = nn.remat(block, policy=layers.remat_policy(self.remat))
        for i in range(self.depth):
            x = block(self.width, self.heads, dtype=self.dtype, name=f"blocks_{i:02d}")(x)
        x = layers.layer_norm(x, "norm")
        return _wide(layers.dense(self.out, dtype=self.dtype, name="pred")(x))


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(spec.size, scale=cfg.scale, ratio=cfg.crop_ratio, flip=cfg.flip, **spec.aug)
    mask = masking.Random(ratio=cfg.ratio)
    return {"masked": Pass(View(aug=aug), mask, outputs=("prefix", "tokens", "view"))}


def _decoder(cfg: Config, spec: Spec) -> Decoder:
    tower = spec.towers["encoder"]
    width = cfg.decoder_width or -(-tower.width // 64) * 32
    heads = cfg.decoder_heads or max(width // 32, 1)
    return Decoder(width, cfg.decoder_depth, heads, tower.patch**2 * 3, cfg.dtype, cfg.remat)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    tower, decoder = spec.towers["encoder"], _decoder(cfg, spec)
    r_embed, r_token, r_decoder = jax.random.split(rng, 3)
    embed = layers.dense(decoder.width)
    rows, columns = tower.grid(spec.size)
    tokens = jnp.zeros((1, 1 + rows * columns, decoder.width))
    params = {
        "embed": embed.init(r_embed, jnp.zeros((1, 1, tower.width)))["params"],
        "mask_token": 0.02 * jax.random.normal(r_token, (1, 1, decoder.width)),
        "decoder": decoder.init(r_decoder, tokens)["params"],
    }
    return Vars(params=params)


def decode(cfg: Config, params: Params, features: Features, spec: Spec) -> jax.Array:
    """f32[B, N, patch * patch * 3]: the prediction for every patch, seen or not."""
    decoder, tower = _decoder(cfg, spec), spec.towers["encoder"]
    grid = tower.grid(spec.size)
    N = grid[0] * grid[1]
    embed = layers.dense(decoder.width, dtype=cfg.dtype)
    x = embed.apply({"params": params["embed"]}, features.tokens)
    x = masking.restore(x, features.keep, params["mask_token"][0, 0], N)
    x = x + layers.sincos_2d(decoder.width, grid)[None].astype(x.dtype)
    P = min(tower.prefix, 1)
    if P:
        prefix = embed.apply({"params": params["embed"]}, features.prefix[:, :1])
        x = jnp.concatenate([prefix.astype(x.dtype), x], axis=1)
    return decoder.apply({"params": params["decoder"]}, x)[:, P:]


def target(cfg: Config, image: jax.Array, patch: int) -> jax.Array:
    """f32[B, N, patch * patch * 3]: the pixels to predict."""
    x = masking.patchify(_wide(image), patch)
    if not cfg.norm_pixels:
        return x
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    features, tower = feats["masked"], ctx.spec.towers["encoder"]
    pred = decode(cfg, params, features, ctx.spec)
    error = jnp.mean((pred - target(cfg, features.view["image"], tower.patch)) ** 2, axis=-1)
    removed = (features.mask & masking.REMOVED).astype(jnp.float32)
    return Loss({"pixels": Term(jnp.sum(error * removed), jnp.sum(removed))})


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of the decoder (the encoder counts its own)."""
    d, tower = _decoder(cfg, spec), spec.towers["encoder"]
    rows, columns = tower.grid(spec.size)
    N, kept = rows * columns, int(rows * columns * (1 - cfg.ratio))
    P = min(tower.prefix, 1)
    block = 24 * (N + P) * d.width**2 + 4 * (N + P) ** 2 * d.width
    return d.depth * block + 2 * (kept + P) * tower.width * d.width + 2 * (N + P) * d.width * d.out


def preview(cfg: Config, params, feats, ctx: Ctx) -> dict[str, jax.Array]:
    """Columns of f32[B, S, S, 3] in the view's normalised units: what went in and what came out.

    Normalised targets are shown with the patch's own mean and deviation put back, as in the paper.
    """
    features, tower = feats["masked"], ctx.spec.towers["encoder"]
    image = features.view["image"]
    grid = tower.grid(ctx.spec.size)
    pixels = masking.patchify(image, tower.patch)
    pred = decode(cfg, params, features, ctx.spec)
    if cfg.norm_pixels:
        deviation = jnp.sqrt(pixels.var(-1, ddof=1, keepdims=True) + 1e-6)
        pred = pred * deviation + pixels.mean(-1, keepdims=True)
    removed = (features.mask & masking.REMOVED).astype(bool)[..., None]
    shown = {
        "input": pixels,
        "seen": jnp.where(removed, 0.0, pixels),
        "reconstruction": jnp.where(removed, pred, pixels),
    }
    return {name: masking.unpatchify(x, tower.patch, grid) for name, x in shown.items()}
