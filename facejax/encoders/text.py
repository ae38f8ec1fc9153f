"""A text transformer, the text tower of image-text models.

Pre-norm blocks over token and position embeddings. With mask "causal" and pool "end" it is CLIP's
(Radford et al. 2021, arXiv:2103.00020), with mask "none", pool "last" and a linear neck SigLIP's
(Zhai et al. 2023, arXiv:2303.15343), with mask "padding" and pool "first" it reads as BERT does.
One with `context` may be shown image tokens, through cross-attention in each block, and shares all
else between both modes (BLIP, Li et al. 2022, arXiv:2201.12086, with FLIP's one tower for both).

Parameters, with V tokens, L positions and D the width:

    embedding [V, D], pos_embed [L, D]
    blocks_00/{norm1, attn/{qkv, proj}, norm_cross, cross/{q, kv, proj}, norm2, mlp/{fc1, fc2}}, ...
    norm, neck
"""

import math
import zlib
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Draw, Features, Output, Params, Tower, TowerSpec
from facejax.encoders import _tokens
from facejax.encoders._tokens import block_name
from facejax.errors import UserError
from facejax.layers import Activation, Block, Remat, dense


@dataclass(frozen=True)
class Config:
    """Options of the encoder `text`.

    Attributes:
        width: of the tokens.
        depth: number of blocks.
        heads: attention heads of a block.
        mlp_ratio: hidden width of the MLPs over `width`.
        vocab: number of tokens, at least the tokenizer's.
        length: positions; None: the run's data.text.length.
        mask: what a token sees: those before it, all but padding, or all.
        pool: which token is the text's: its end, the first, or the last position of all.
        activation: of the MLPs.
        eps: of the norms.
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first.
        neck: what turns the pooled features into the embedding.
        embed: width of the neck's output; 0 with neck "none".
        context: width of the image tokens that cross-attention reads; 0: no cross-attention.
        end: id of the end token; None: the tokenizer's (without one, the last of `vocab`).
        pad: id of padding; None: the tokenizer's (without one, the end token).
        dtype: compute dtype; parameters are float32.
        scan: run the blocks as one `lax.scan`: faster to compile, same parameters.
        remat: what the backward pass recomputes: nothing, whole blocks, or all but matrix products.
        attention: "cudnn" needs a GPU and bfloat16.
    """

    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_ratio: float = 4.0
    vocab: int = 49408
    length: int | None = None
    mask: Literal["causal", "padding", "none"] = "causal"
    pool: Literal["end", "first", "last"] = "end"
    activation: Activation = "gelu"
    eps: float = 1e-5
    drop_path: float = 0.0
    neck: Literal["none", "linear"] = "none"
    embed: int = 0
    context: int = 0
    end: int | None = None
    pad: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan: bool = False
    remat: Remat = "none"
    attention: Literal["xla", "cudnn"] = "xla"

    def __post_init__(self):
        if self.width % self.heads:
            what = f"{self.heads} heads do not divide the width {self.width}"
            raise UserError("encoder_text.heads", what, "choose a divisor of the width")
        if (self.neck == "linear") != (self.embed > 0):
            what = f"neck '{self.neck}' does not go with embed {self.embed}"
            raise UserError("encoder_text.embed", what, "a linear neck needs a width, none needs 0")

    @property
    def end_id(self) -> int:
        """Id of the end token."""
        return self.vocab - 1 if self.end is None else self.end

    @property
    def pad_id(self) -> int:
        """Id of padding."""
        return self.end_id if self.pad is None else self.pad

    @classmethod
    def tiny(cls) -> "Config":
        """A model that compiles in a second."""
        return cls(width=32, depth=2, heads=2, mlp_ratio=2.0, vocab=32, length=6, end=1, pad=0)


def tower(cfg: Config) -> Tower:
    """Publishes the geometry: no patches, no pixels."""
    return Tower(cfg.width, cfg.embed or cfg.width, 0, 0, 0, cfg.depth, cfg.context)


def init(cfg: Config, rng: jax.Array, spec: TowerSpec) -> tuple[Params, Params]:
    """Draws the parameters, each by its name alone; `cfg.length` is set.

    Returns:
        (params, stats): nested dicts of f32 arrays; stats is empty.
    """

    def key(name):
        return jax.random.fold_in(rng, zlib.crc32(name.encode()))

    def module(name, layer, *shapes):
        given = [jnp.zeros(shape) for shape in shapes]
        extra = {"context": given[1]} if len(given) > 1 else {}
        return layer.init(key(name), given[0], **extra)["params"]

    shapes = [(1, 1, cfg.width)] + [(1, 1, cfg.context)] * bool(cfg.context)
    params = {
        "embedding": nn.initializers.normal(0.02)(key("embedding"), (cfg.vocab, cfg.width)),
        "pos_embed": nn.initializers.normal(0.01)(key("pos_embed"), (cfg.length, cfg.width)),
    }
    params |= {n: module(n, _block(cfg), *shapes) for n in map(block_name, range(cfg.depth))}
    params["norm"] = module("norm", _norm(cfg), (1, cfg.width))
    if cfg.neck == "linear":
        params["neck"] = module("neck", dense(cfg.embed), (1, cfg.width))
    return params, {}


def apply(
    cfg: Config,
    params: Params,
    stats: Params,
    inputs: dict[str, jax.Array],
    *,
    mask: None = None,
    context: jax.Array | None = None,
    cond: None = None,
    draw: Draw | None = None,
    train: bool = False,
    outputs: tuple[Output, ...] = ("pooled",),
) -> tuple[Features, Params]:
    """Encodes texts.

    Args:
        cfg: the options.
        params: as `init` makes them.
        stats: empty; returned as it came.
        inputs: "text" i32[..., L] with L at most `cfg.length`; leading axes are kept.
        mask, cond: this family takes neither.
        context: [..., M, C] image tokens for cross-attention, or None to leave it out.
        draw: randomness of stochastic depth, a row for each of the first axis; None for none.
        train: stochastic depth is off unless this is true.
        outputs: which of "pooled", "prefix", "tokens" and "layers" to return.

    Returns:
        (features, stats): pooled f32[..., embed]; tokens and layers [..., L, D]; no prefix.
    """
    ids = inputs["text"]
    leading, L = ids.shape[:-1], ids.shape[-1]
    ids = ids.reshape(-1, L)
    if context is not None:
        context = context.reshape(-1, *context.shape[-2:])
    dtype = jnp.dtype(cfg.dtype)
    x = params["embedding"][ids].astype(dtype) + params["pos_embed"][None, :L].astype(dtype)
    scales = None
    if train and draw is not None and cfg.drop_path:
        own = _per_text(draw, math.prod(leading[1:]))
        scales = _tokens.branch_scales(cfg.depth, cfg.drop_path, own)
    x, layers = _tokens.run_blocks(
        _block(cfg),
        params,
        cfg.depth,
        x,
        scales,
        "layers" in outputs,
        cfg.remat,
        cfg.scan,
        allowed=_allowed(cfg, ids),
        context=context,
    )
    tokens = _norm(cfg).apply({"params": params["norm"]}, x)

    def shaped(y):
        return y.reshape(*leading, *y.shape[1:])

    features = Features(
        pooled=shaped(_pool(cfg, params, ids, tokens)) if "pooled" in outputs else None,
        prefix=shaped(tokens[:, :0]).astype(dtype) if "prefix" in outputs else None,
        tokens=shaped(tokens).astype(dtype) if "tokens" in outputs else None,
        layers=None if layers is None else tuple(map(shaped, layers)),
    )
    return features, stats


def flops(cfg: Config, size: int | None = None, keep: int | None = None) -> float:
    """Matrix-product FLOPs of one text without context; `size` and `keep` have no meaning here."""
    D, L = cfg.width, cfg.length
    block = 8 * L * D**2 + 4 * L**2 * D + 4 * L * D * int(D * cfg.mlp_ratio)
    return float(cfg.depth * block + 2 * D * cfg.embed)


def _block(cfg: Config) -> Block:
    return Block(
        cfg.width,
        cfg.heads,
        cfg.mlp_ratio,
        attention=cfg.attention,
        dtype=jnp.dtype(cfg.dtype),
        activation=cfg.activation,
        eps=cfg.eps,
    )


def _norm(cfg: Config) -> nn.LayerNorm:
    return nn.LayerNorm(cfg.eps, use_fast_variance=False, dtype=jnp.float32)


def _per_text(draw: Draw, texts: int) -> Draw:
    """A stream for each of a row's `texts` texts."""
    rows = draw.rows[:, None] * texts + jnp.arange(texts, dtype=draw.rows.dtype)[None]
    return Draw(draw.key, rows.reshape(-1))


def _end(cfg: Config, ids: jax.Array) -> jax.Array:
    """i32[B]: the position of the first end token; the last one of a text without."""
    at = jnp.argmax(ids == cfg.end_id, axis=1)
    return jnp.where((ids == cfg.end_id).any(axis=1), at, ids.shape[1] - 1)


def _allowed(cfg: Config, ids: jax.Array) -> jax.Array | None:
    """bool[B or 1, 1, L or 1, L]: which tokens each may see."""
    at = jnp.arange(ids.shape[1])
    if cfg.mask == "causal":
        return (at[:, None] >= at[None])[None, None]
    if cfg.mask == "padding":
        real = (ids != cfg.pad_id) | (at[None] <= _end(cfg, ids)[:, None])
        return real[:, None, None]
    return None


def _pool(cfg: Config, params: Params, ids: jax.Array, tokens: jax.Array) -> jax.Array:
    """Normed tokens to the embedding, f32[B, embed]."""
    if cfg.pool == "end":
        pooled = jnp.take_along_axis(tokens, _end(cfg, ids)[:, None, None], axis=1)[:, 0]
    else:
        pooled = tokens[:, 0 if cfg.pool == "first" else -1]
    pooled = pooled.astype(jnp.float32)
    if cfg.neck == "linear":
        pooled = dense(cfg.embed).apply({"params": params["neck"]}, pooled)
    return pooled
