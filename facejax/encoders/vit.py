"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), as MAE trains it.

Pre-norm blocks, fused qkv, exact GELU, norm eps 1e-6, fixed sine-cosine positions by default. Class
token and registers (Darcet et al. 2024, arXiv:2309.16588) carry no position. The final norm runs
over all tokens, and pooling comes after it. With positions "rope" it is the ViT of DINOv3 (Simeoni
et al. 2025, arXiv:2508.10104) but for that one's gated MLPs: rotary positions, keys without bias,
norm eps 1e-5.

Parameters, with D the width and p the patch side:

    patch_embed/{kernel [p*p*3, D], bias}    pixels of a patch in (row, column, channel) order
    cls_token [1, D], registers [R, D], mask_token [1, D], pos_embed [N, D]    where configured
    blocks_00/{norm1, attn/{qkv, proj}, ls1, norm2, mlp/{fc1, fc2}, ls2}, blocks_01, ...
    blocks_00/attn/{q_bias, v_bias}    instead of qkv/bias, with positions "rope"
    pre_norm, norm, attn_pool/{latent, q, kv, proj, norm, mlp/{fc1, fc2}}, neck
"""

import zlib
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, get_args, get_origin

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Draw, Drawn, Features, Output, Params, Tower, TowerSpec
from facejax.encoders import _tokens
from facejax.encoders._tokens import block_name as block_name
from facejax.errors import UserError, nearest
from facejax.layers import (
    NORM_EPS,
    AttentionPool,
    Block,
    Remat,
    Rotation,
    dense,
    sincos_2d,
)


class Dims(NamedTuple):
    """The four numbers that make a size of ViT."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float


VARIANTS = {
    "Ti": Dims(192, 12, 3, 4.0),
    "S": Dims(384, 12, 6, 4.0),
    "B": Dims(768, 12, 12, 4.0),
    "L": Dims(1024, 24, 16, 4.0),
    "H": Dims(1280, 32, 16, 4.0),
    "g": Dims(1408, 40, 16, 48 / 11),
}


ROPE_EPS = 1e-5
"""Of the norms of DINOv3."""


@dataclass(frozen=True)
class Config:
    """Options of the encoder `vit`.

    Attributes:
        variant: size, a key of `VARIANTS`.
        width, depth, heads, mlp_ratio: override those of the variant.
        patch: side of a patch in pixels; divides `size`.
        size: side in pixels of the images that the positions are for; None: the run's data.size.
        pool: "class" (class token), "mean" (of the patch tokens) or "attention".
        class_token: None: only where `pool` needs it.
        positions: "sincos" is fixed and recomputed for other input sizes, "learned" is resized,
            "rope" rotates queries and keys in every block.
        registers: number of register tokens.
        layer_scale: initial LayerScale, None for none.
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first.
        qkv_bias: whether queries, keys and values have a bias; keys have none with "rope".
        norm_eps: of all norms; None: 1e-6, with "rope" 1e-5.
        activation: of the MLPs; "quick_gelu" is that of CLIP's first models, "gelu_tanh" SigLIP's.
        pre_norm: a norm before the blocks, as in CLIP.
        patch_bias: whether the projection of patches has a bias; CLIP's has none.
        neck: what turns the pooled features into the embedding.
        embed: width of the neck's output; 0 with neck "none".
        dtype: compute dtype; parameters are float32.
        scan: run the blocks as one `lax.scan`: faster to compile, same parameters.
        remat: what the backward pass recomputes: nothing, whole blocks, or all but matrix products.
        attention: "cudnn" needs a GPU and bfloat16.
    """

    variant: str = "B"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float | None = None
    patch: int = 16
    size: int | None = None
    pool: Literal["class", "mean", "attention"] = "class"
    class_token: bool | None = None
    positions: Literal["sincos", "learned", "rope"] = "sincos"
    registers: int = 0
    layer_scale: float | None = None
    drop_path: float = 0.0
    qkv_bias: bool = True
    norm_eps: float | None = None
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    pre_norm: bool = False
    patch_bias: bool = True
    neck: Literal["none", "linear"] = "none"
    embed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan: bool = False
    remat: Remat = "none"
    attention: Literal["xla", "cudnn"] = "xla"

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if get_origin(f.type) is Literal and value not in get_args(f.type):
                remedy = nearest(str(value), get_args(f.type))
                raise UserError(f"encoder.{f.name}", f"no such choice '{value}'", remedy)
        if self.variant not in VARIANTS:
            what, remedy = f"no variant '{self.variant}'", nearest(self.variant, VARIANTS)
            raise UserError("encoder.variant", what, remedy)
        width, _, heads, _ = self.dims
        if width % heads:
            what = f"{heads} heads do not divide the width {width}"
            raise UserError("encoder.heads", what, "choose a divisor of the width")
        if width % 4 and self.positions == "sincos":
            what = f"sine-cosine positions need a multiple of 4, not {width}"
            raise UserError("encoder.width", what, "change it or use positions 'learned'")
        if width // heads % 4 and self.positions == "rope":
            what = f"rotary positions need a multiple of 4 per head, not {width // heads}"
            raise UserError("encoder.heads", what, "change it or use positions 'learned'")
        if self.size is not None and self.size % self.patch:
            what = f"{self.patch} does not divide the image side {self.size}"
            raise UserError("encoder.patch", what, "choose a divisor of the image side")
        if self.pool == "class" and self.class_token is False:
            what = "pool 'class' needs the class token"
            raise UserError("encoder.class_token", what, "use pool 'mean' or 'attention'")
        if (self.neck == "linear") != (self.embed > 0):
            what = f"neck '{self.neck}' does not go with embed {self.embed}"
            raise UserError("encoder.embed", what, "a linear neck needs a width, no neck needs 0")

    @property
    def dims(self) -> Dims:
        """Width, depth, heads and MLP ratio with the overrides applied."""
        own = Dims(self.width, self.depth, self.heads, self.mlp_ratio)
        return Dims(*(b if a is None else a for a, b in zip(own, VARIANTS[self.variant])))

    @property
    def eps(self) -> float:
        """Of all norms."""
        default = ROPE_EPS if self.positions == "rope" else NORM_EPS
        return default if self.norm_eps is None else self.norm_eps

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token."""
        return self.pool == "class" if self.class_token is None else self.class_token

    @property
    def prefix(self) -> int:
        """Number of tokens before the patch tokens."""
        return self.has_class_token + self.registers

    @classmethod
    def tiny(cls) -> "Config":
        """A model of 16 patches that compiles in a second."""
        return cls(width=32, depth=2, heads=2, mlp_ratio=2.0, patch=4, size=16)


def tower(cfg: Config) -> Tower:
    """Publishes the geometry; `cfg.size` is set."""
    width, depth, _, _ = cfg.dims
    return Tower(width, cfg.embed or width, cfg.patch, cfg.prefix, cfg.size, depth)


def init(cfg: Config, rng: jax.Array, spec: TowerSpec) -> tuple[Params, Params]:
    """Draws the parameters; `cfg.size` is set.

    Each parameter's key depends on its name alone, so options add parameters without changing the
    others.

    Returns:
        (params, stats): nested dicts of f32 arrays; stats is empty.
    """
    width, depth, _, _ = cfg.dims
    normal = nn.initializers.normal(0.02)

    def key(name):
        return jax.random.fold_in(rng, zlib.crc32(name.encode()))

    def module(name, layer, shape):
        return layer.init(key(name), jnp.zeros(shape))["params"]

    patches = cfg.patch**2 * 3
    rows, columns = tower(cfg).grid()
    project = dense(width, use_bias=cfg.patch_bias)
    params = {"patch_embed": module("patch_embed", project, (1, patches))}
    if cfg.pre_norm:
        params["pre_norm"] = module("pre_norm", _norm(cfg), (1, width))
    tokens = {
        "cls_token": int(cfg.has_class_token),
        "registers": cfg.registers,
        "mask_token": int(spec.mask_token),
        "pos_embed": rows * columns if cfg.positions == "learned" else 0,
    }
    params |= {n: normal(key(n), (count, width)) for n, count in tokens.items() if count}
    params |= {n: module(n, _block(cfg), (1, 1, width)) for n in map(block_name, range(depth))}
    params["norm"] = module("norm", _norm(cfg), (1, width))
    if cfg.pool == "attention":
        params["attn_pool"] = module("attn_pool", _attention_pool(cfg), (1, 1, width))
    if cfg.neck == "linear":
        params["neck"] = module("neck", dense(cfg.embed), (1, width))
    return params, {}


def apply(
    cfg: Config,
    params: Params,
    stats: Params,
    inputs: dict[str, jax.Array],
    *,
    mask: Drawn | None = None,
    context: None = None,
    cond: None = None,
    draw: Draw | None = None,
    train: bool = False,
    outputs: tuple[Output, ...] = ("pooled",),
) -> tuple[Features, Params]:
    """Encodes images.

    Args:
        cfg: the options.
        params: as `init` makes them.
        stats: empty; returned as it came.
        inputs: "image" f32[B, S, S, 3] RGB, mean and std applied, S any multiple of the patch.
        mask: with `keep`, only the kept patches are projected and computed; without, the mask token
            stands in for the embeddings of the removed patches. Positions are of the full grid.
        context, cond: this family takes neither.
        draw: randomness of stochastic depth; None for none.
        train: stochastic depth is off unless this is true.
        outputs: which of "pooled", "prefix", "tokens" and "layers" to return.

    Returns:
        (features, stats): pooled is float32, the rest in the compute dtype; `keep` and `mask` are
        those of the argument.
    """
    if context is not None or cond is not None:
        raise ValueError("vit takes neither context nor cond")
    image = inputs["image"]
    x = _embed(cfg, params, image, mask)
    if cfg.pre_norm:
        x = _norm(cfg).apply({"params": params["pre_norm"]}, x)
    depth, scales = cfg.dims.depth, None
    rotation = _rotation(cfg, image, mask) if cfg.positions == "rope" else None
    if train and draw is not None and cfg.drop_path:
        scales = _tokens.branch_scales(depth, cfg.drop_path, draw)
    wanted = "layers" in outputs
    x, layers = _tokens.run_blocks(
        _block(cfg), params, depth, x, scales, wanted, cfg.remat, cfg.scan, rotation
    )
    normed = _norm(cfg).apply({"params": params["norm"]}, x)
    prefix, tokens = normed[:, : cfg.prefix], normed[:, cfg.prefix :]
    features = Features(
        pooled=_pool(cfg, params, prefix, tokens) if "pooled" in outputs else None,
        prefix=prefix.astype(cfg.dtype) if "prefix" in outputs else None,
        tokens=tokens.astype(cfg.dtype) if "tokens" in outputs else None,
        layers=layers,
        keep=mask.keep if mask is not None else None,
        mask=mask.mask if mask is not None else None,
    )
    return features, stats


def flops(cfg: Config, size: int | None = None, keep: int | None = None) -> float:
    """Matrix-product FLOPs of one image's forward pass, a multiply-add counted as two.

    Args:
        cfg: the options.
        size: side of the image in pixels; None: `cfg.size`.
        keep: number of patch tokens that are computed; None: all.
    """
    D, depth, _, ratio = cfg.dims
    hidden = int(D * ratio)
    rows, columns = tower(cfg).grid(size)
    n = rows * columns if keep is None else keep
    N = n + cfg.prefix
    total = 2 * n * cfg.patch**2 * 3 * D
    total += depth * (8 * N * D**2 + 4 * N**2 * D + 4 * N * D * hidden)
    if cfg.pool == "attention":
        total += 4 * D**2 + 4 * n * D**2 + 4 * n * D + 4 * D * hidden
    return float(total + 2 * D * cfg.embed)


def _block(cfg: Config) -> Block:
    width, _, heads, ratio = cfg.dims
    return Block(
        width,
        heads,
        ratio,
        cfg.qkv_bias,
        cfg.layer_scale,
        cfg.attention,
        jnp.dtype(cfg.dtype),
        cfg.activation,
        eps=cfg.eps,
        key_bias=cfg.positions != "rope",
    )


def _norm(cfg: Config) -> nn.LayerNorm:
    return nn.LayerNorm(cfg.eps, use_fast_variance=False, dtype=jnp.float32)


def _attention_pool(cfg: Config) -> AttentionPool:
    _, _, heads, ratio = cfg.dims
    return AttentionPool(heads, ratio, jnp.dtype(cfg.dtype), cfg.eps, cfg.activation)


def _grid(cfg: Config, image: jax.Array) -> tuple[int, int]:
    return image.shape[1] // cfg.patch, image.shape[2] // cfg.patch


def _embed(cfg: Config, params: Params, image: jax.Array, mask: Drawn | None) -> jax.Array:
    """Images to tokens [B, P + n, D]."""
    grid, positions = _grid(cfg, image), None
    if cfg.positions == "sincos":
        positions = jnp.asarray(sincos_2d(cfg.dims.width, grid))
    elif cfg.positions == "learned":
        positions = _tokens.resized(params["pos_embed"], tower(cfg).grid(), grid)
    x = _tokens.embed(params, image, cfg.patch, positions, mask, jnp.dtype(cfg.dtype))
    prefix = [params[name] for name in ("cls_token", "registers") if name in params]
    prefix = [jnp.broadcast_to(t[None], (x.shape[0], *t.shape)).astype(x.dtype) for t in prefix]
    return jnp.concatenate([*prefix, x], axis=1)


def _rotation(cfg: Config, image: jax.Array, mask: Drawn | None) -> Rotation:
    """The rotation of all tokens; those before the patches stay as they are."""
    width, _, heads, _ = cfg.dims
    parts = _tokens.rope_2d(width // heads, _grid(cfg, image))
    cos, sin = (_tokens.at_rows(jnp.asarray(p), image.shape[0], mask) for p in parts)
    widths = ((0, 0), (cfg.prefix, 0), (0, 0))
    return jnp.pad(cos, widths, constant_values=1.0), jnp.pad(sin, widths)


def _pool(cfg: Config, params: Params, prefix: jax.Array, tokens: jax.Array) -> jax.Array:
    """Normed tokens to the embedding, f32[B, embed]. Registers and class token don't join in."""
    if cfg.pool == "class":
        pooled = prefix[:, 0]
    elif cfg.pool == "mean":
        pooled = tokens.mean(axis=1)
    else:
        pooled = _attention_pool(cfg).apply({"params": params["attn_pool"]}, tokens)
    pooled = pooled.astype(jnp.float32)
    if cfg.neck == "linear":
        pooled = dense(cfg.embed).apply({"params": params["neck"]}, pooled)
    return pooled
