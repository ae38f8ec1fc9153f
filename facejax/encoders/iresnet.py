"""The "improved" ResNet of ArcFace (Deng et al. 2019, arXiv:1801.07698) as arcface_torch has it.

With depth 18, 34, 50, 100 or 200 in the published sense, at 112 px:

    stem        conv 3x3 (stride 1) 64, BN, PReLU
    four stages of 64, 128, 256, 512 channels, stride 2 in the first block of each
    block       x + BN(conv2(PReLU(BN(conv1(BN(x)))))), conv2 carries the stride
                where it strides, x goes through a 1x1 convolution and BN
    neck        BN, flatten (channel-major), Linear in float32, BN with its scale fixed at 1

Convolutions start N(0, 0.1^2), the Linear uniform in +-1/sqrt(fan-in) with zero bias. Running
variances start at what such a convolution makes of unit inputs: torch starts them at 1, with which
an untrained encoder of 50 layers overflows in evaluation. The dropout of the paper's neck is 0 in
arcface_torch and isn't here. `se` adds squeeze-and-excitation after the last BN of each branch, as
in the paper's SE variants; its place and reduction of 16 are from other public code [M].

Parameters: stem_conv, stem_norm, stem_prelu, stage1_00/{norm1, conv1, norm2, prelu, conv2, norm3,
se/{fc1, fc2}, shortcut_conv, shortcut_norm}, stage1_01, ..., norm, fc, features.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Draw, Drawn, Features, Output, Params, Tower, TowerSpec
from facejax.convolutions import (
    PReLU,
    RunningBatchNorm,
    SqueezeExcite,
    check_size,
    conv,
    conv_flops,
    encode,
)
from facejax.errors import UserError, nearest
from facejax.layers import Remat, dense, remat_policy

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}

_STD = 0.1
_CONV = nn.initializers.normal(_STD)
_FC = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclass(frozen=True)
class Config:
    """Options of the encoder `iresnet`.

    Attributes:
        depth: 18, 34, 50, 100 or 200.
        blocks: blocks of each stage; overrides those of the depth.
        widths: channels of each stage; the stem has those of the first.
        se: whether each block has squeeze-and-excitation.
        embed: width of the embedding.
        size: side in pixels of the images, a multiple of 16; None: the run's data.size.
        dtype: compute dtype; parameters, statistics and the neck's Linear are float32.
        remat: what the backward pass recomputes: nothing, all but convolutions, or whole blocks.
    """

    depth: int = 50
    blocks: tuple[int, int, int, int] | None = None
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    se: bool = False
    embed: int = 512
    size: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        if self.blocks is None and self.depth not in BLOCKS:
            remedy = nearest(str(self.depth), map(str, BLOCKS))
            raise UserError("encoder.depth", f"no depth {self.depth}", remedy)
        check_size(self.size)

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Channels and number of blocks of each stage."""
        return tuple(zip(self.widths, self.blocks or BLOCKS[self.depth]))

    @classmethod
    def tiny(cls) -> "Config":
        """Five blocks, on images of 32 px."""
        return cls(blocks=(1, 1, 1, 2), widths=(8, 8, 16, 16), embed=8, size=32)


def tower(cfg: Config) -> Tower:
    """Publishes the geometry; `layers` are the maps after each block of the last stage."""
    width, depth = cfg.stages[-1]
    return Tower(width, cfg.embed, patch=0, prefix=0, size=cfg.size, depth=depth)


def block_name(stage: int, index: int) -> str:
    """The parameter name of a block; stages count from 1, blocks from 0."""
    return f"stage{stage}_{index:02d}"


def init(cfg: Config, rng: jax.Array, spec: TowerSpec) -> tuple[Params, Params]:
    """Draws the parameters; `cfg.size` is set.

    Returns:
        (params, stats): nested dicts of f32 arrays; stats has the running statistics.
    """
    variables = _Net(cfg).init(rng, jnp.zeros((1, cfg.size, cfg.size, 3)), False)
    return variables["params"], variables["stats"]


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
        inputs: "image" f32[B, size, size, 3] RGB, mean and std applied.
        mask, context, cond: this family takes none.
        draw: nothing here is random.
        train: normalise by the statistics of the batch, and return the running ones moved on.
        outputs: "tokens" are the positions of the last map after its BN, row by row; "layers" the
            maps after each block of the last stage; "prefix" is empty.

    Returns:
        (features, stats): pooled is float32, the rest in the compute dtype.

    Raises:
        UserError: images of another size than the Linear of the neck was made for.
    """
    if mask is not None or context is not None or cond is not None:
        raise ValueError("iresnet takes neither mask, context nor cond")
    return encode(_Net(cfg), cfg.size, params, stats, inputs["image"], train, outputs)


def flops(cfg: Config, size: int | None = None, keep: int | None = None) -> float:
    """Matrix-product and convolution FLOPs of one image's forward pass.

    Args:
        cfg: the options.
        size: side of the image in pixels; None: `cfg.size`.
        keep: there are no patches.
    """
    side = size or cfg.size
    inputs = cfg.widths[0]
    total = conv_flops(side, 3, 3, inputs)
    for width, blocks in cfg.stages:
        total += conv_flops(side, 3, inputs, width)
        side //= 2
        total += conv_flops(side, 1, inputs, width)
        total += (2 * blocks - 1) * conv_flops(side, 3, width, width)
        total += blocks * 4 * width * (width // 16) if cfg.se else 0
        inputs = width
    return float(total + 2 * side**2 * inputs * cfg.embed)


def _conv(width: int, kernel: int, name: str, dtype: Any, stride: int = 1) -> nn.Conv:
    return conv(width, kernel, _CONV, name=name, stride=stride, dtype=dtype)


def _norm_of(kernel: int, inputs: int, name: str) -> RunningBatchNorm:
    """The BN behind a convolution."""
    return RunningBatchNorm(start=_STD**2 * kernel**2 * inputs, name=name)


class _Block(nn.Module):
    width: int
    stride: int
    se: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inputs = x.shape[-1]
        y = RunningBatchNorm(name="norm1")(x, train)
        y = _conv(self.width, 3, "conv1", self.dtype)(y)
        y = _norm_of(3, inputs, "norm2")(y, train)
        y = PReLU(name="prelu")(y)
        y = _conv(self.width, 3, "conv2", self.dtype, self.stride)(y)
        y = _norm_of(3, self.width, "norm3")(y, train)
        if self.se:
            y = SqueezeExcite(dtype=self.dtype, name="se")(y)
        if self.stride > 1:
            x = _conv(self.width, 1, "shortcut_conv", self.dtype, self.stride)(x)
            x = _norm_of(1, inputs, "shortcut_norm")(x, train)
        return x + y


class _Net(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> dict[str, Any]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        block = _Block
        if cfg.remat != "none":
            block = nn.remat(_Block, policy=remat_policy(cfg.remat), static_argnums=(2,))
        x = _conv(cfg.widths[0], 3, "stem_conv", dtype)(image)
        x = _norm_of(3, 3, "stem_norm")(x, train)
        x = PReLU(name="stem_prelu")(x)
        for stage, (width, blocks) in enumerate(cfg.stages, 1):
            layers = []
            for i in range(blocks):
                stride = 2 if i == 0 else 1
                x = block(width, stride, cfg.se, dtype, name=block_name(stage, i))(x, train)
                layers.append(x)
        x = RunningBatchNorm(name="norm")(x, train)
        flat = x.astype(jnp.promote_types(x.dtype, jnp.float32)).transpose(0, 3, 1, 2)
        y = dense(cfg.embed, kernel_init=_FC, name="fc")(flat.reshape(flat.shape[0], -1))
        pooled = RunningBatchNorm(affine=False, name="features")(y, train)
        tokens = _positions(x)
        return {
            "pooled": pooled,
            "prefix": tokens[:, :0],
            "tokens": tokens,
            "layers": tuple(map(_positions, layers)),
        }


def _positions(x: jax.Array) -> jax.Array:
    """A map [B, H, W, C] as [B, H * W, C], row by row."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
