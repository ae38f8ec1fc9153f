"""Blocks that encoders and objective heads share, as Flax Linen modules.

Shapes: B rows, N tokens, D width. Parameters are float32; `dtype` is the compute dtype, None means
that of the input and the parameters. Normalisation and softmax run in float32 or wider whatever the
compute dtype. Linear layers start Xavier-uniform with zero bias, a fused qkv as one matrix, as in
MAE (He et al. 2022, arXiv:2111.06377).
"""

import itertools
import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from facejax.ops import fusing, rows

NORM_EPS = 1e-6


class _Dense(nn.Dense):
    def __call__(self, x: jax.Array) -> jax.Array:
        return rows.stay(super().__call__(rows.stay(x)))


dense = partial(_Dense, kernel_init=nn.initializers.xavier_uniform())
"""A Linear layer with the initialisation of this module; weights come to the rows of its input."""


def layer_norm(x: jax.Array, name: str, eps: float = NORM_EPS, affine: bool = True) -> jax.Array:
    """Layer normalisation over the last axis, inside a compact module.

    Returns:
        As `x`, in float32 or wider; the layer that follows casts.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    norm = nn.LayerNorm(
        eps, use_bias=affine, use_scale=affine, use_fast_variance=False, dtype=wide, name=name
    )
    return norm(x)


Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu6"]
"""Exact (erf) GELU, its tanh form, x sigmoid(1.702 x) as in CLIP, ReLU, ReLU cut at 6."""

ACTIVATIONS = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "relu6": nn.relu6,
}


class Mlp(nn.Module):
    """Linear, activation, Linear back to the width of the input: [B, N, D] -> [B, N, D].

    Attributes:
        hidden: width between the two layers.
        dtype: compute dtype.
        activation: between the two layers.
    """

    hidden: int
    dtype: Any = None
    activation: Activation = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = dense(self.hidden, dtype=self.dtype, name="fc1")(x)
        return dense(x.shape[-1], dtype=self.dtype, name="fc2")(ACTIVATIONS[self.activation](h))


Implementation = Literal["xla", "float32", "cudnn"]
"""How attention is computed, see `attend`."""


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    implementation: Implementation = "xla",
    allowed: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention.

    Args:
        q: [B, M, heads, C].
        k: [B, N, heads, C].
        v: [B, N, heads, C].
        implementation: "cudnn" is the fused kernel of `jax.nn.dot_product_attention`; it needs a
            GPU and bfloat16. `jax.nn` has an "xla" too, but its softmax cuts float64 to float32.
            "float32" is "xla" with both products in float32 or wider, too.
        allowed: bool[B or 1, 1, M or 1, N], which keys a query may see (one at least); None: all.

    Returns:
        [B, M, heads, C].
    """
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, mask=allowed, implementation="cudnn")
    wide = jnp.promote_types(q.dtype, jnp.float32)
    if implementation == "float32":
        q, k, v = (x.astype(wide) for x in (q, k, v))
    # Without it the backward pass of the scores would multiply in float32.
    bf16 = jax.lax.DotAlgorithmPreset.BF16_BF16_F32 if q.dtype == jnp.bfloat16 else None
    scores = jnp.einsum(
        "bqhc,bkhc->bhqk", q, k, precision=bf16, preferred_element_type=wide
    ) / math.sqrt(q.shape[-1])
    if allowed is not None:
        scores = jnp.where(allowed, scores, -jnp.inf)
    return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores).astype(v.dtype), v)


Rotation = tuple[jax.Array, jax.Array]
"""Cosines and sines f32[B or 1, N, C / 2] of the angles by which `rotate` turns pairs."""


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns channel c of every head with channel c + C / 2, in float32 or wider.

    Rotary positions (Su et al. 2021, arXiv:2104.09864): products of queries and keys turned by
    their positions depend on how far these are apart.

    Args:
        x: [B, N, heads, C].
        rotation: angle 0 leaves a token as it is.
    """
    cos, sin = (part[:, :, None] for part in rotation)
    wide, half = x.astype(jnp.promote_types(x.dtype, jnp.float32)), x.shape[-1] // 2
    a, b = wide[..., :half], wide[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with a fused qkv projection: [B, N, D] -> [B, N, D].

    Attributes:
        heads: number of heads; divides D.
        qkv_bias: whether queries, keys and values have a bias.
        implementation: see `attend`.
        dtype: compute dtype.
        key_bias: without, the biases of queries and values are parameters of their own, `q_bias`
            and `v_bias`.
    """

    heads: int
    qkv_bias: bool = True
    implementation: Implementation = "xla"
    dtype: Any = None
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rotation: Rotation | None = None,
        allowed: jax.Array | None = None,
    ) -> jax.Array:
        """Attends.

        Args:
            x: [B, N, D].
            rotation: of queries and keys, see `rotate`; None for none.
            allowed: see `attend`.
        """
        B, N, D = x.shape
        fused = self.qkv_bias and self.key_bias
        qkv = dense(3 * D, use_bias=fused, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(B, N, 3, self.heads, D // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qkv_bias and not self.key_bias:
            q, v = (y + self._bias(name, D).astype(y.dtype) for name, y in (("q", q), ("v", v)))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out = attend(q, k, v, self.implementation, allowed)
        return dense(D, dtype=self.dtype, name="proj")(out.reshape(B, N, D))

    def _bias(self, name: str, D: int) -> jax.Array:
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (D,))
        return bias.reshape(1, 1, self.heads, -1)


class CrossAttention(nn.Module):
    """As `Attention`, of tokens to others: [B, N, D], [B, M, C] -> [B, N, D]."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        B, N, D = x.shape
        q = dense(D, dtype=self.dtype, name="q")(x).reshape(B, N, self.heads, -1)
        kv = dense(2 * D, dtype=self.dtype, name="kv")(context)
        kv = kv.reshape(B, -1, 2, self.heads, D // self.heads)
        out = attend(q, kv[:, :, 0], kv[:, :, 1])
        return dense(D, dtype=self.dtype, name="proj")(out.reshape(B, N, D))


class Block(nn.Module):
    """A pre-norm transformer block: [B, N, D] -> [B, N, D].

        x = x + ls1 * attn(norm1(x));  x = x + ls2 * mlp(norm2(x))

    Between the two, where there is a context, x = x + cross(norm_cross(x), context).

    Attributes:
        width: D.
        heads: number of attention heads; divides `width`.
        mlp_ratio: hidden width of the MLP over `width`, rounded down to a whole number.
        qkv_bias: whether queries, keys and values have a bias.
        layer_scale: initial value of the per-channel scales ls1 and ls2, None for no scales
            (Touvron et al. 2021, arXiv:2103.17239).
        attention: see `attend`.
        dtype: compute dtype.
        activation: of the MLP.
        eps: of the norms.
        key_bias: see `Attention`.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_scale: float | None = None
    attention: Implementation = "xla"
    dtype: Any = None
    activation: Activation = "gelu"
    eps: float = NORM_EPS
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        branch_scale: jax.Array | None = None,
        rotation: Rotation | None = None,
        allowed: jax.Array | None = None,
        context: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the block.

        Args:
            x: [B, N, D].
            branch_scale: f32[B, 2], factors of the attention and of the MLP branch per row
                (stochastic depth: 0 or 1 / keep probability), or None for 1.
            rotation: of queries and keys, see `rotate`; None for none.
            allowed: see `attend`.
            context: [B, M, C], what cross-attention reads; None: there is none.
        """
        x = fusing.apart(x.astype(self.dtype or x.dtype))
        attn = Attention(
            self.heads, self.qkv_bias, self.attention, self.dtype, self.key_bias, name="attn"
        )
        branch = attn(layer_norm(x, "norm1", self.eps), rotation, allowed)
        x = self._add(x, branch, "ls1", branch_scale, 0)
        if context is not None:
            cross = CrossAttention(self.heads, self.dtype, name="cross")
            x = x + cross(layer_norm(x, "norm_cross", self.eps), context).astype(x.dtype)
        mlp = Mlp(int(self.width * self.mlp_ratio), self.dtype, self.activation, name="mlp")
        return self._add(x, mlp(layer_norm(x, "norm2", self.eps)), "ls2", branch_scale, 1)

    def _add(self, x, branch, name, branch_scale, index):
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            branch = branch * self.param(name, init, (self.width,))[None, None].astype(branch.dtype)
        if branch_scale is not None:
            branch = branch * branch_scale[:, index, None, None].astype(branch.dtype)
        return x + branch


class AttentionPool(nn.Module):
    """Pools tokens with one learned query: [B, N, D] -> [B, D].

        y = proj(attend(q(latent), kv(x)));  y + mlp(norm(y))

    The multi-head attention pooling of "Scaling Vision Transformers" (Zhai et al. 2022,
    arXiv:2106.04560).

    Attributes:
        heads: number of heads; divides D.
        mlp_ratio: as in `Block`.
        dtype: compute dtype.
        eps: of the norm.
        activation: of the MLP.
    """

    heads: int
    mlp_ratio: float = 4.0
    dtype: Any = None
    eps: float = NORM_EPS
    activation: Activation = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, N, D = x.shape
        latent = self.param("latent", nn.initializers.truncated_normal(D**-0.5), (1, D))
        q = dense(D, dtype=self.dtype, name="q")(latent).reshape(1, 1, self.heads, -1)
        kv = dense(2 * D, dtype=self.dtype, name="kv")(x).reshape(B, N, 2, self.heads, -1)
        q = jnp.broadcast_to(q, (B, *q.shape[1:]))
        y = attend(q, kv[:, :, 0], kv[:, :, 1])
        y = dense(D, dtype=self.dtype, name="proj")(y.reshape(B, D))
        mlp = Mlp(int(D * self.mlp_ratio), self.dtype, self.activation, name="mlp")
        return y + mlp(layer_norm(y, "norm", self.eps))


Remat = Literal["none", "dots", "full"]
"""What a backward pass recomputes: nothing, all but matrix products and convolutions, or blocks."""


def remat_policy(remat: Remat):
    """What `jax.checkpoint` may save under "full" or "dots"."""
    if remat == "full":
        return jax.checkpoint_policies.nothing_saveable
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint_policies.save_from_both_policies(dots, _convolutions_saveable)


def _convolutions_saveable(prim, *_, **__) -> bool:
    return prim.name == "conv_general_dilated"


class BatchNorm(nn.Module):
    """Normalises each channel over all leading axes with the statistics of this batch.

    Under jit the batch is the global one. There are no running statistics: this is for heads, which
    are only used in training.

    Attributes:
        affine: whether a scale and a bias follow.
        eps: added to the variance.
    """

    affine: bool = True
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(x.ndim - 1))
        centred = wide - wide.mean(axes, keepdims=True)
        y = centred * jax.lax.rsqrt((centred**2).mean(axes, keepdims=True) + self.eps)
        if not self.affine:
            return y
        D = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (D,))
        bias = self.param("bias", nn.initializers.zeros, (D,))
        channels = (1,) * len(axes) + (D,)
        return y * scale.reshape(channels) + bias.reshape(channels)


class MlpHead(nn.Module):
    """A projector or predictor: (Linear, norm, activation) repeated, and a Linear: [..., D].

    Attributes:
        widths: output width of each Linear layer.
        norm: after every Linear but the last; "batch" uses `BatchNorm` and Linears without bias.
        final_norm: whether the norm, without scale and bias, follows the last Linear too.
        final_bias: whether the last Linear has a bias, where no batch norm follows.
        activation: "relu" or "gelu" (exact).
        dtype: compute dtype.
    """

    widths: tuple[int, ...]
    norm: Literal["none", "layer", "batch"] = "none"
    final_norm: bool = False
    final_bias: bool = True
    activation: Literal["relu", "gelu"] = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        last = len(self.widths) - 1
        for i, width in enumerate(self.widths):
            normed = self.norm != "none" and (i < last or self.final_norm)
            bias = not (normed and self.norm == "batch") and (i < last or self.final_bias)
            x = dense(width, use_bias=bias, dtype=self.dtype, name=f"fc_{i}")(x)
            if normed and self.norm == "batch":
                x = BatchNorm(affine=i < last, name=f"norm_{i}")(x)
            elif normed:
                x = layer_norm(x, f"norm_{i}", eps=1e-5, affine=i < last)
            if i < last:
                x = act(x)
        return x

    @nn.nowrap
    def flops(self, width: int) -> float:
        """Forward FLOPs per row of an input of `width`."""
        widths = (width, *self.widths)
        return float(sum(2 * a * b for a, b in itertools.pairwise(widths)))


def unit_columns(kernel: jax.Array) -> jax.Array:
    """Scales the columns of [D, K] to unit length; a zero column stays zero."""
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    square = jnp.sum(wide**2, axis=0, keepdims=True)
    return wide * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


class Prototypes(nn.Module):
    """Scores of features against K prototypes: [..., D] -> [..., K], in float32 or wider.

    The prototypes are the columns of `kernel` and start as random directions. With `normed` their
    length has no effect and stays as it is but for decay (weight normalisation with its gain fixed
    to 1, Salimans & Kingma 2016, arXiv:1602.07868). Without, they are used as they are, for
    objectives that bring them back to unit length in `update` with `unit_columns`.

    Attributes:
        count: K.
        normed: whether the columns are normalised on the way.
    """

    count: int
    normed: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def init(key, shape):
            return unit_columns(jax.random.normal(key, shape))

        kernel = self.param("kernel", init, (x.shape[-1], self.count))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return x.astype(wide) @ (unit_columns(kernel) if self.normed else kernel).astype(wide)


def sincos_2d(width: int, grid: tuple[int, int]) -> np.ndarray:
    """The fixed two-dimensional sine-cosine positions of MAE.

    The first half of the channels encodes the column, the second half the row. Position t gives
    [sin(t w), cos(t w)] with w_k = 10000 ** (-k / (width / 4)), k < width / 4.

    Args:
        width: D, a multiple of 4.
        grid: rows and columns of patches.

    Returns:
        f32[rows * columns, width], patches in row-major order.

    >>> sincos_2d(4, (1, 2)).round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.8399999737739563, 0.5400000214576721, 0.0, 1.0]]
    """
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    omega = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    angles = [t[:, None] * omega[None] for t in (columns, rows)]
    parts = [f(a) for a in angles for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)
