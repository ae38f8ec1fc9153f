"""The Vision Transformer of arcface_torch, made for recognition.

Images of 112 px and patches of 9: the 12 x 12 patches of the first 108 rows and columns. No class
token; learned positions; pre-norm blocks with ReLU6, norm eps 1e-5, qkv without bias and attention
in float32 whatever the dtype. The neck is

    norm, flatten all tokens, Linear D, BN, Linear `embed`, BN    (both without bias, eps 2e-5)

so an embedding needs every token. Where tokens were dropped, the learned `holes` stand in the
flattened map (zeros without `drop_tokens`), as arcface_torch does for those it drops in training;
its ratios above 0 all act as .1, here each is what it says. Linears start Xavier-uniform like those
of the encoder `vit`, there truncated normal (.02).

Parameters, with D the width and p the patch side:

    patch_embed/{kernel [p*p*3, D], bias}, pos_embed [N, D]
    mask_token [1, D], holes/embedding [1, D]    where a pass replaces; with `drop_tokens`
    blocks_00/{norm1, attn/{qkv, proj}, norm2, mlp/{fc1, fc2}}, blocks_01, ...
    norm, neck/{fc1, norm1, fc2, norm2}    the latter norms with running statistics
"""

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Draw, Drawn, Features, Output, Params, Tower, TowerSpec
from facejax.convolutions import RunningBatchNorm
from facejax.encoders import _tokens
from facejax.encoders._tokens import block_name as block_name
from facejax.errors import UserError, nearest
from facejax.layers import Block, Remat, dense
from facejax.ops import masking

NORM_EPS, NECK_EPS = 1e-5, 2e-5


class Dims(NamedTuple):
    """The three numbers that make a size."""

    width: int
    depth: int
    heads: int


VARIANTS = {
    "T": Dims(256, 12, 8),
    "S": Dims(512, 12, 8),
    "B": Dims(512, 24, 8),
    "L": Dims(768, 24, 8),
    "H": Dims(1024, 48, 8),
}


@dataclass(frozen=True)
class Config:
    """Options of the encoder `face_vit`.

    Attributes:
        variant: size, a key of `VARIANTS`.
        width, depth, heads: override those of the variant.
        mlp_ratio: hidden width of the MLPs over the width.
        patch: side of a patch in pixels; what is left of the image at the right and the bottom is
            not seen.
        size: side in pixels of the images; None: the run's data.size.
        embed: width of the embedding.
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first.
        drop_tokens: share of the tokens that training leaves out, drawn for each image.
        dtype: compute dtype; parameters, statistics, attention and the neck are float32.
        scan: run the blocks as one `lax.scan`: faster to compile, same parameters.
        remat: what the backward pass recomputes: nothing, whole blocks, or all but matrix products.
        attention: "float32"; "xla" multiplies in the compute dtype; "cudnn" needs a GPU and
            bfloat16.
    """

    variant: str = "B"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float = 4.0
    patch: int = 9
    size: int | None = None
    embed: int = 512
    drop_path: float = 0.1
    drop_tokens: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan: bool = False
    remat: Remat = "none"
    attention: Literal["float32", "xla", "cudnn"] = "float32"

    def __post_init__(self):
        if self.variant not in VARIANTS:
            what, remedy = f"no variant '{self.variant}'", nearest(self.variant, VARIANTS)
            raise UserError("encoder.variant", what, remedy)
        width, _, heads = self.dims
        if width % heads:
            what = f"{heads} heads do not divide the width {width}"
            raise UserError("encoder.heads", what, "choose a divisor of the width")
        if self.size is not None and self.size < self.patch:
            what = f"{self.patch} px, more than the image side {self.size}"
            raise UserError("encoder.patch", what, "choose a smaller one")
        if not 0 <= self.drop_tokens < 1:
            what = f"{self.drop_tokens} is not a share below 1"
            raise UserError("encoder.drop_tokens", what, "give 0.1, or 0 for none")

    @property
    def dims(self) -> Dims:
        """Width, depth and heads with the overrides applied."""
        own = Dims(self.width, self.depth, self.heads)
        return Dims(*(b if a is None else a for a, b in zip(own, VARIANTS[self.variant])))

    @classmethod
    def tiny(cls) -> "Config":
        """A model of 16 patches that compiles in a second."""
        return cls(width=32, depth=2, heads=2, mlp_ratio=2.0, patch=4, size=16, embed=8)


def tower(cfg: Config) -> Tower:
    """Publishes the geometry; `cfg.size` is set."""
    width, depth, _ = cfg.dims
    return Tower(width, cfg.embed, cfg.patch, 0, cfg.size, depth)


def init(cfg: Config, rng: jax.Array, spec: TowerSpec) -> tuple[Params, Params]:
    """Draws the parameters; `cfg.size` is set. Each one's key depends on its name alone.

    Returns:
        (params, stats): nested dicts of f32 arrays; stats has the neck's running statistics.
    """
    width, depth, _ = cfg.dims
    normal = nn.initializers.normal(0.02)

    def key(name):
        return jax.random.fold_in(rng, zlib.crc32(name.encode()))

    def module(name, layer, *arguments):
        return layer.init(key(name), *arguments)

    rows, columns = tower(cfg).grid()
    patches, tokens = jnp.zeros((1, cfg.patch**2 * 3)), jnp.zeros((1, 1, width))
    neck = module("neck", _Neck(cfg), jnp.zeros((1, rows * columns, width)), False)
    params = {
        "patch_embed": module("patch_embed", dense(width), patches)["params"],
        "pos_embed": normal(key("pos_embed"), (rows * columns, width)),
        "norm": module("norm", _norm(cfg), tokens)["params"],
        "neck": neck["params"],
    }
    params |= {n: module(n, _block(cfg), tokens)["params"] for n in map(block_name, range(depth))}
    if spec.mask_token:
        params["mask_token"] = normal(key("mask_token"), (1, width))
    if cfg.drop_tokens:
        params["holes"] = {"embedding": normal(key("holes"), (1, width))}
    return params, {"neck": neck["stats"]}


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
        params, stats: as `init` makes them.
        inputs: "image" f32[B, S, S, 3] RGB, mean and std applied. For "pooled" its grid of patches
            is that of `cfg.size`; for other outputs positions are resized.
        mask: with `keep`, only the kept patches are projected and computed; without, the mask token
            stands in for the embeddings of the removed patches. Positions are of the full grid.
        context, cond: this family takes neither.
        draw: randomness of stochastic depth and of dropped tokens; None for none.
        train: whether there are these two, and whether the neck normalises by the statistics of the
            batch and returns the running ones moved on.
        outputs: which of "pooled", "prefix" (empty), "tokens" and "layers" to return. Where
            `drop_tokens` acts, "tokens" has the `holes` in place and "layers" what was computed.

    Returns:
        (features, stats): pooled is float32, the rest in the compute dtype; `keep` and `mask` are
        those of the argument.

    Raises:
        UserError: "pooled" of another grid than the neck was made for.
    """
    if context is not None or cond is not None:
        raise ValueError("face_vit takes neither context nor cond")
    image = inputs["image"]
    own, grid = tower(cfg).grid(), tower(cfg).grid(image.shape[1])
    N, depth, random = grid[0] * grid[1], cfg.dims.depth, train and draw is not None
    seen = image[:, : grid[0] * cfg.patch, : grid[1] * cfg.patch]
    left = mask
    if random and cfg.drop_tokens and mask is None:
        sampler = masking.Random(cfg.drop_tokens)
        left = sampler(inputs, grid, draw.fold("drop_tokens"))
    positions = _tokens.resized(params["pos_embed"], own, grid)
    x = _tokens.embed(params, seen, cfg.patch, positions, left, jnp.dtype(cfg.dtype))
    scales = _tokens.branch_scales(depth, cfg.drop_path, draw) if random and cfg.drop_path else None
    x, layers = _tokens.run_blocks(
        _block(cfg), params, depth, x, scales, "layers" in outputs, cfg.remat, cfg.scan
    )
    tokens = _norm(cfg).apply({"params": params["norm"]}, x)
    whole = tokens
    if left is not None and left.keep is not None:
        holes = params["holes"]["embedding"][0] if cfg.drop_tokens else jnp.zeros(x.shape[-1])
        whole = masking.restore(tokens, left.keep, holes, N)
        tokens = tokens if left is mask else whole
    pooled = None
    if "pooled" in outputs:
        if grid != own:
            what = f"a view of {image.shape[1]} px, but the neck is made for {cfg.size} px"
            remedy = "give all views this size, or use the encoder 'vit'"
            raise UserError("encoder.size", what, remedy)
        neck = {"params": params["neck"], "stats": stats["neck"]}
        if train:
            pooled, changed = _Neck(cfg).apply(neck, whole, True, mutable=["stats"])
            stats = {"neck": changed["stats"]}
        else:
            pooled = _Neck(cfg).apply(neck, whole, False)
    features = Features(
        pooled=pooled,
        prefix=tokens[:, :0].astype(cfg.dtype) if "prefix" in outputs else None,
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
        keep: number of patch tokens that are computed; None: all. What `drop_tokens` saves is not
            taken off.
    """
    D, depth, _ = cfg.dims
    rows, columns = tower(cfg).grid(size)
    N = rows * columns if keep is None else keep
    blocks = depth * (8 * N * D**2 + 4 * N**2 * D + 4 * N * D * int(D * cfg.mlp_ratio))
    neck = 2 * rows * columns * D**2 + 2 * D * cfg.embed
    return float(2 * N * cfg.patch**2 * 3 * D + blocks + neck)


def _block(cfg: Config) -> Block:
    width, _, heads = cfg.dims
    return Block(
        width,
        heads,
        cfg.mlp_ratio,
        qkv_bias=False,
        attention=cfg.attention,
        dtype=jnp.dtype(cfg.dtype),
        activation="relu6",
        eps=NORM_EPS,
    )


def _norm(cfg: Config) -> nn.LayerNorm:
    wide = jnp.promote_types(cfg.dtype, jnp.float32)
    return nn.LayerNorm(NORM_EPS, use_fast_variance=False, dtype=wide)


class _Neck(nn.Module):
    """Tokens f32[B, N, D] to the embedding f32[B, embed]."""

    cfg: Config

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        B, _, D = tokens.shape
        x = dense(D, use_bias=False, name="fc1")(tokens.reshape(B, -1))
        x = RunningBatchNorm(eps=NECK_EPS, name="norm1")(x, train)
        x = dense(self.cfg.embed, use_bias=False, name="fc2")(x)
        return RunningBatchNorm(eps=NECK_EPS, name="norm2")(x, train)
