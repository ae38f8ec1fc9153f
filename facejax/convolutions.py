"""Blocks of convolutional encoders, as Flax Linen modules.

Shapes: B rows, H and W rows and columns of a feature map, C channels (last). Parameters are
float32; `dtype` is the compute dtype. Running statistics are in the collection "stats".
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Features, Output, Params
from facejax.errors import UserError
from facejax.layers import dense
from facejax.ops import rows


class _Conv(nn.Conv):
    def __call__(self, x: jax.Array) -> jax.Array:
        return rows.stay(super().__call__(rows.stay(x)))


def conv(
    width: int,
    kernel: int,
    init: nn.initializers.Initializer,
    *,
    name: str,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
    dtype: Any = None,
) -> nn.Conv:
    """A convolution without bias, [B, H, W, C] -> [B, H / stride, W / stride, width].

    Args:
        padding: zeros on each side; None is (kernel - 1) / 2.
    """
    return _Conv(
        width,
        (kernel, kernel),
        strides=stride,
        padding=(kernel - 1) // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=init,
        dtype=dtype,
        name=name,
    )


def conv_flops(side: int, kernel: int, inputs: int, outputs: int, groups: int = 1) -> int:
    """FLOPs of a convolution onto a map of `side` x `side`, a multiply-add counted as two.

    Products with the zeros around the map count too, as they do in published figures.
    """
    return 2 * side**2 * kernel**2 * (inputs // groups) * outputs


class RunningBatchNorm(nn.Module):
    """Batch normalisation of [..., C] with running statistics for evaluation, as torch has it.

    Under jit the batch is the global one. Statistics are taken in float32 or wider, whatever the
    dtype of the input, which the output has again. In training the batch is normalised by its mean
    and biased variance, and

        mean = momentum * mean + (1 - momentum) * batch mean

    and alike `var`, of the unbiased variance, n / (n - 1) times the biased one. What is .9 here is
    called .1 by torch.

    Attributes:
        affine: whether a trained scale is applied; the bias always is.
        eps: added to the variance.
        momentum: of the running statistics.
        start: the running variance before the first step.
    """

    affine: bool = True
    eps: float = 1e-5
    momentum: float = 0.9
    start: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        C = x.shape[-1]
        running = {
            "mean": self.variable("stats", "mean", jnp.zeros, (C,), jnp.float32),
            "var": self.variable("stats", "var", jnp.full, (C,), self.start, jnp.float32),
        }
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        channels = (1,) * (x.ndim - 1) + (C,)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            var = jnp.square(wide - mean.reshape(channels)).mean(axes)
            n = x.size // C
            for name, new in {"mean": mean, "var": var * (n / max(n - 1, 1))}.items():
                old = running[name].value
                running[name].value = self.momentum * old + (1 - self.momentum) * new
        else:
            mean, var = running["mean"].value, running["var"].value
        factor = jax.lax.rsqrt(var + self.eps)
        if self.affine:
            factor = factor * self.param("scale", nn.initializers.ones, (C,))
        y = (wide - mean.reshape(channels)) * factor.reshape(channels)
        bias = self.param("bias", nn.initializers.zeros, (C,))
        return (y + bias.reshape(channels)).astype(x.dtype)


class PReLU(nn.Module):
    """x where it is positive, else scale * x, with a scale per channel that starts at 1/4.

    Source: He et al. 2015, arXiv:1502.01852.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.constant(0.25), (x.shape[-1],))
        scale = scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return jnp.where(x > 0, x, scale * x)


class SqueezeExcite(nn.Module):
    """Scales the channels of [B, H, W, C] by sigmoid(fc2(relu(fc1(mean over the map)))).

    Source: Hu et al. 2018, arXiv:1709.01507, eqs. 2 to 4.

    Attributes:
        reduction: C over the hidden width.
        dtype: compute dtype.
    """

    reduction: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        C = x.shape[-1]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        pooled = x.mean((1, 2), dtype=wide)
        hidden = nn.relu(dense(C // self.reduction, dtype=self.dtype, name="fc1")(pooled))
        gate = nn.sigmoid(dense(C, dtype=self.dtype, name="fc2")(hidden).astype(wide))
        return x * gate[:, None, None].astype(x.dtype)


def check_size(size: int | None) -> None:
    """Refuses a side in pixels that four halvings don't divide.

    Raises:
        UserError: it is no multiple of 16.
    """
    if size is not None and size % 16:
        raise UserError(
            "encoder.size", f"images of {size} px", "give a multiple of 16, such as 112"
        )


def encode(
    net: nn.Module,
    size: int,
    params: Params,
    stats: Params,
    image: jax.Array,
    train: bool,
    outputs: tuple[Output, ...],
) -> tuple[Features, Params]:
    """What an encoder whose last layers know the size of the map makes of images.

    Args:
        net: (image, train) -> its outputs by name.
        size: side of the images in pixels.
        image: f32[B, size, size, 3].
        train: normalise by the statistics of the batch, and return the running ones moved on.

    Raises:
        UserError: images of another size.
    """
    if image.shape[1] != size:
        what = f"a view of {image.shape[1]} px, but the head of this encoder is made for {size}"
        raise UserError("encoder.size", what, "give all views this size, or use the encoder 'vit'")
    variables = {"params": params, "stats": stats}
    if train:
        found, changed = net.apply(variables, image, True, mutable=["stats"])
        stats = changed["stats"]
    else:
        found = net.apply(variables, image, False)
    return Features(**{name: found[name] for name in outputs}), stats
