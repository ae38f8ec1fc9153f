"""Vec2Face's feature MAE: a face's identity vector, spread out into tokens, masked and rebuilt.

Source: Wu et al. 2024, arXiv:2409.02979, and HaiyuWu/Vec2Face. An identity vector f, not
normalised, becomes e = Linear(f) and `tokens` tokens T_n = w_n e + b_n (one scalar Linear for all
channels). At each step a rate r is drawn from a normal distribution cut to [0.5, 1]; of each face's
tokens, ceil(tokens r) are replaced by e, and ceil(tokens / 2) of these are left out of the encoder.
The encoder sees e and the rest; the decoder gets the encoder's first output at every masked place.
With y what it makes of them,

    loss = mean over faces, 1 + tokens and channels of (y - sg [e; T])^2

Vectors come from the batch field `field`, or from a frozen encoder `path`. No encoder is trained:
where there is no other objective, freeze it by a rule, or weight decay will shrink it.

Not built: the image decoder that turns the tokens into a face, with its pixel, LPIPS, SSIM,
identity and adversarial losses. Without them nothing anchors T, whose target is T itself, detached:
`target_std` going to zero would be a collapse. Departures: no dropout (0.1).
"""

import dataclasses
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Frozen, Loss, Params, Pass, Spec, Term, Vars, View
from facejax.objectives import _masked
from facejax.ops import masking

SCOPE = "sample"


@dataclass(frozen=True)
class Config:
    """Options of `fmae`.

    Attributes:
        field: batch field that holds the vectors.
        path: a run or an export whose encoder gives them instead.
        dim: their width.
        tokens: number of tokens that a vector becomes.
        rate: mean of the normal distribution of the masking rate.
        rate_std: its deviation.
        rate_range: where it is cut off; the least rate is also the share that the encoder skips.
        width: of the tokens.
        depth: blocks of the encoder.
        heads: its attention heads.
        decoder_depth: blocks of the decoder.
        decoder_heads: its attention heads.
        dtype: compute type; follows the run's.
    """

    field: str = "feature"
    path: str = ""
    dim: int = 512
    tokens: int = 49
    rate: float = 0.75
    rate_std: float = 0.25
    rate_range: tuple[float, float] = (0.5, 1.0)
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_depth: int = 8
    decoder_heads: int = 16
    dtype: str = "float32"

    @classmethod
    def tiny(cls) -> "Config":
        sizes = {"width": 16, "depth": 1, "heads": 2, "decoder_depth": 1, "decoder_heads": 2}
        return cls(dim=8, tokens=9, rate_range=(0.4, 0.8), **sizes)

    @property
    def kept(self) -> int:
        """Tokens that the encoder sees beside the first."""
        return self.tokens - math.ceil(self.tokens * self.rate_range[0])


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    if not cfg.path:
        return {"identity": Pass(cached=cfg.field)}
    return {"identity": Pass(View(aug=Aug(spec.size, **spec.aug)), weights=Frozen(cfg.path))}


def _stacks(cfg: Config) -> tuple[_masked.Decoder, _masked.Decoder]:
    encoder = _masked.Decoder(cfg.width, cfg.depth, cfg.heads, 0, cfg.dtype)
    decoder = dataclasses.replace(encoder, depth=cfg.decoder_depth, heads=cfg.decoder_heads)
    return encoder, decoder


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    keys = iter(jax.random.split(rng, 7))
    token = jnp.zeros((1, 1, cfg.width))
    places = (1 + cfg.tokens, cfg.width)
    encoder, decoder = _stacks(cfg)
    params = {
        "expand": layers.dense(cfg.width).init(next(keys), jnp.zeros((1, cfg.dim)))["params"],
        "spread": layers.dense(cfg.tokens).init(next(keys), jnp.zeros((1, 1)))["params"],
        "pos_embed": 0.02 * jax.random.normal(next(keys), places),
        "embed_norm": {"scale": jnp.ones(cfg.width), "bias": jnp.zeros(cfg.width)},
        "encoder": encoder.init(next(keys), token)["params"],
        "decoder_embed": layers.dense(cfg.width).init(next(keys), token)["params"],
        "decoder_pos_embed": 0.02 * jax.random.normal(next(keys), places),
        "decoder": decoder.init(next(keys), token)["params"],
    }
    return Vars(params=params)


def expanded(cfg: Config, params: Params, vectors: jax.Array) -> jax.Array:
    """f32[B, 1 + tokens, width]: e and the tokens of the vectors [B, dim]."""
    e = layers.dense(cfg.width).apply({"params": params["expand"]}, vectors)
    tokens = layers.dense(cfg.tokens).apply({"params": params["spread"]}, e[..., None])
    return jnp.concatenate([e[:, None], jnp.swapaxes(tokens, 1, 2)], axis=1)


def drawn(cfg: Config, ctx: Ctx) -> tuple[jax.Array, jax.Array]:
    """i32[B, kept], tokens that the encoder sees, and bool[B, tokens], those that are masked."""
    low, high = ((edge - cfg.rate) / cfg.rate_std for edge in cfg.rate_range)
    # One rate for the whole batch, in every micro-batch the same.
    key = ctx.draw.fold("rate").key
    standard = jax.random.truncated_normal(key, low, high, (), jnp.float32)
    rate = jnp.clip(cfg.rate + cfg.rate_std * standard, *cfg.rate_range)
    score = masking.uniform(ctx.draw.fold("tokens"), cfg.tokens)
    rank = jnp.argsort(jnp.argsort(score, axis=1), axis=1)
    return masking.lowest(-score, cfg.kept), rank < jnp.ceil(cfg.tokens * rate)


def rebuilt(
    cfg: Config, params: Params, sequence: jax.Array, keep: jax.Array, masked: jax.Array
) -> jax.Array:
    """f32[B, 1 + tokens, width]: what encoder and decoder make of the masked sequence."""
    encoder, decoder = _stacks(cfg)
    first = sequence[:, :1]
    x = jnp.concatenate([first, jnp.where(masked[..., None], first, sequence[:, 1:])], axis=1)
    x = _normed(x + params["pos_embed"][None], params["embed_norm"])
    seen = jnp.pad(keep + 1, ((0, 0), (1, 0)))
    x = encoder.apply({"params": params["encoder"]}, jnp.take_along_axis(x, seen[..., None], 1))

    embed = layers.dense(cfg.width, dtype=cfg.dtype)
    x = embed.apply({"params": params["decoder_embed"]}, x)
    first, rest = x[:, :1], masking.restore(x[:, 1:], keep, jnp.zeros(cfg.width), cfg.tokens)
    x = jnp.concatenate([first, jnp.where(masked[..., None], first, rest)], axis=1)
    x = x + params["decoder_pos_embed"][None].astype(x.dtype)
    return decoder.apply({"params": params["decoder"]}, x)


def _normed(x: jax.Array, p: Params) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + layers.NORM_EPS)
    return normed * p["scale"][None, None] + p["bias"][None, None]


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    sequence = expanded(cfg, params, _masked.wide(feats["identity"].pooled))
    target = jax.lax.stop_gradient(sequence)
    error = jnp.mean((rebuilt(cfg, params, sequence, *drawn(cfg, ctx)) - target) ** 2, (1, 2))
    known = jnp.ones(len(error), bool) if cfg.path else batch[f"has_{cfg.field}"]
    count = jnp.sum(known).astype(jnp.float32)
    spread = jnp.std(target, axis=1).mean(-1)
    return Loss(
        {"tokens": Term(jnp.sum(jnp.where(known, error, 0.0)), count)},
        metrics={"target_std": Term(jnp.sum(jnp.where(known, spread, 0.0)), count)},
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image."""
    encoder, decoder = _stacks(cfg)
    seen, whole = 1 + cfg.kept, 1 + cfg.tokens
    linear = 2.0 * cfg.width * (cfg.dim + cfg.tokens + seen * cfg.width)
    return linear + encoder.flops(seen) + decoder.flops(whole)
