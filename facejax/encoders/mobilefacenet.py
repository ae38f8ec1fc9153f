"""MobileFaceNet (Chen et al. 2018, arXiv:1804.07573) as arcface_torch has it.

At 112 px, with W = `width` (128 in its "mbf", there called scale 2) and H = `hidden` (128):

    stem        conv 3x3 (stride 2) W, then a grouped conv 3x3 W with H / 2 groups
    down        bottleneck to W (hidden H), 2 W (2 H), 2 W (4 H), each with stride 2
    residuals   after each, bottlenecks at the same width (hidden H, 2 H, 2 H), x + f(x)
    head        conv 1x1 `head`, a depthwise convolution over the whole map (GDC), Linear, BN

Every convolution is followed by BN and PReLU, but for the last of a bottleneck and the GDC, which
have no PReLU. A bottleneck is conv 1x1, depthwise 3x3, conv 1x1. With more than one stem block
("mbf_large": width 256, blocks 2, 8, 12, 4) residuals take the place of the grouped convolution.
Everything starts Kaiming-normal (fan-out). The head is float32, as there.

Parameters: stem/{conv, norm, prelu}, stem_grouped or stem_00, ..., down1/{expand, depthwise,
project}/{conv, norm, prelu}, stage1_00, ..., separate, gdc/{grouped, norm}, fc, features, where
grouped convolutions are `grouped` instead of `conv`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Draw, Drawn, Features, Output, Params, Tower, TowerSpec
from facejax.convolutions import PReLU, RunningBatchNorm, check_size, conv, conv_flops, encode
from facejax.errors import UserError
from facejax.layers import Remat, dense, remat_policy

_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class Config:
    """Options of the encoder `mobilefacenet`.

    Attributes:
        blocks: residual blocks of the stem (1: a grouped convolution) and of the three stages.
        width: channels of the stem and the first stage; the others have twice as many.
        hidden: channels within the bottlenecks of the first stage.
        head: channels of the last map.
        embed: width of the embedding.
        size: side in pixels of the images, a multiple of 16; None: the run's data.size.
        dtype: compute dtype; parameters, statistics and the head are float32.
        remat: what the backward pass recomputes: nothing, all but convolutions, or bottlenecks.
    """

    blocks: tuple[int, int, int, int] = (1, 4, 6, 2)
    width: int = 128
    hidden: int = 128
    head: int = 512
    embed: int = 512
    size: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        check_size(self.size)
        if min(self.blocks) < 1:
            raise UserError("encoder.blocks", f"{self.blocks}", "give one or more of each")
        if self.hidden % 2 or self.width % (self.hidden // 2):
            what = f"{self.hidden} / 2 groups do not divide the width {self.width}"
            raise UserError("encoder.hidden", what, "choose an even number that does")

    @property
    def stages(self) -> tuple[tuple[int, int, int, int], ...]:
        """Channels, hidden channels of the way down and of the residuals, and residuals."""
        w, h = self.width, self.hidden
        widths, downs, insides = (w, 2 * w, 2 * w), (h, 2 * h, 4 * h), (h, 2 * h, 2 * h)
        return tuple(zip(widths, downs, insides, self.blocks[1:]))

    @classmethod
    def tiny(cls) -> "Config":
        """One residual of each stage, on images of 32 px."""
        return cls(blocks=(1, 1, 1, 1), width=8, hidden=8, head=16, embed=8, size=32)


def tower(cfg: Config) -> Tower:
    """Publishes the geometry; the one layer is the last map."""
    return Tower(cfg.head, cfg.embed, patch=0, prefix=0, size=cfg.size, depth=1)


def block_name(stage: str, index: int) -> str:
    """The parameter name of a residual of "stem", "stage1", "stage2" or "stage3"."""
    return f"{stage}_{index:02d}"


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
        outputs: "tokens" are the positions of the last map before the GDC, row by row, and the one
            of "layers"; "prefix" is empty.

    Returns:
        (features, stats): all float32.

    Raises:
        UserError: images of another size than the GDC was made for.
    """
    if mask is not None or context is not None or cond is not None:
        raise ValueError("mobilefacenet takes neither mask, context nor cond")
    return encode(_Net(cfg), cfg.size, params, stats, inputs["image"], train, outputs)


def flops(cfg: Config, size: int | None = None, keep: int | None = None) -> float:
    """Matrix-product and convolution FLOPs of one image's forward pass.

    Args:
        cfg: the options.
        size: side of the image in pixels; None: `cfg.size`.
        keep: there are no patches.
    """
    side = (size or cfg.size) // 2
    w, h = cfg.width, cfg.hidden
    total = conv_flops(side, 3, 3, w)
    if cfg.blocks[0] == 1:
        total += conv_flops(side, 3, w, w, h // 2)
    else:
        total += cfg.blocks[0] * _bottleneck_flops(side, side, w, h, w)
    for width, down, inside, residuals in cfg.stages:
        total += _bottleneck_flops(side, side // 2, w, down, width)
        side, w = side // 2, width
        total += residuals * _bottleneck_flops(side, side, w, inside, w)
    total += conv_flops(side, 1, w, cfg.head)
    return float(
        total + conv_flops(1, side, cfg.head, cfg.head, cfg.head) + 2 * cfg.head * cfg.embed
    )


def _bottleneck_flops(side: int, out: int, inputs: int, hidden: int, outputs: int) -> int:
    depthwise = conv_flops(out, 3, hidden, hidden, hidden)
    return conv_flops(side, 1, inputs, hidden) + depthwise + conv_flops(out, 1, hidden, outputs)


class _ConvNorm(nn.Module):
    """A convolution, BN and, if `active`, PReLU."""

    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    padding: int | None = None
    active: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        options = {"stride": self.stride, "groups": self.groups, "padding": self.padding}
        name = "conv" if self.groups == 1 else "grouped"  # has a placement rule of its own
        x = conv(self.width, self.kernel, _KAIMING, name=name, dtype=self.dtype, **options)(x)
        x = RunningBatchNorm(name="norm")(x, train)
        return PReLU(name="prelu")(x) if self.active else x


class _Bottleneck(nn.Module):
    width: int
    hidden: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h, dtype = self.hidden, self.dtype
        y = _ConvNorm(h, dtype=dtype, name="expand")(x, train)
        y = _ConvNorm(h, 3, self.stride, groups=h, dtype=dtype, name="depthwise")(y, train)
        y = _ConvNorm(self.width, active=False, dtype=dtype, name="project")(y, train)
        return y if self.stride > 1 else x + y


class _Net(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> dict[str, Any]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        bottleneck = _Bottleneck
        if cfg.remat != "none":
            policy = remat_policy(cfg.remat)
            bottleneck = nn.remat(_Bottleneck, policy=policy, static_argnums=(2,))

        def residuals(x, stage, count, hidden):
            for i in range(count):
                name = block_name(stage, i)
                x = bottleneck(x.shape[-1], hidden, 1, dtype, name=name)(x, train)
            return x

        x = _ConvNorm(cfg.width, 3, 2, dtype=dtype, name="stem")(image, train)
        if cfg.blocks[0] == 1:
            groups = cfg.hidden // 2
            grouped = _ConvNorm(cfg.width, 3, groups=groups, dtype=dtype, name="stem_grouped")
            x = grouped(x, train)
        else:
            x = residuals(x, "stem", cfg.blocks[0], cfg.hidden)
        for n, (width, down, inside, count) in enumerate(cfg.stages, 1):
            x = bottleneck(width, down, 2, dtype, name=f"down{n}")(x, train)
            x = residuals(x, f"stage{n}", count, inside)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = _ConvNorm(cfg.head, name="separate")(x, train)
        gdc = _ConvNorm(cfg.head, x.shape[1], groups=cfg.head, padding=0, active=False, name="gdc")
        y = gdc(x, train)[:, 0, 0]
        y = dense(cfg.embed, use_bias=False, kernel_init=_KAIMING, name="fc")(y)
        tokens = x.reshape(x.shape[0], -1, cfg.head)
        return {
            "pooled": RunningBatchNorm(name="features")(y, train),
            "prefix": tokens[:, :0],
            "tokens": tokens,
            "layers": (tokens,),
        }
