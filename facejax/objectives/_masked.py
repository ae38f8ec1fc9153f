"""What objectives share that rebuild masked images: decoders, pixel targets, pictures.

B rows, N patches, K kept ones, P prefix tokens that a decoder sees, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from facejax import layers
from facejax.contracts import Aug, Features, Spec, Tower, View
from facejax.ops import masking


def wide(x: jax.Array) -> jax.Array:
    """In float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Decoder(nn.Module):
    """Transformer blocks, a norm and a Linear: [B, M, width] -> [B, M, out].

    Attributes:
        width: of the input and of the blocks.
        depth: number of blocks.
        heads: of the attention.
        out: width of the output, in float32 or wider; 0 leaves the Linear out.
        dtype: compute type.
        remat: what the backward pass recomputes.
    """

    width: int
    depth: int
    heads: int
    out: int
    dtype: str
    remat: layers.Remat = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = layers.Block
        if self.remat != "none":
            block = nn.remat(block, policy=layers.remat_policy(self.remat))
        for i in range(self.depth):
            x = block(self.width, self.heads, dtype=self.dtype, name=f"blocks_{i:02d}")(x)
        x = layers.layer_norm(x, "norm")
        if self.out:
            x = layers.dense(self.out, dtype=self.dtype, name="pred")(x)
        return wide(x)

    @nn.nowrap
    def flops(self, tokens: int) -> float:
        """Forward FLOPs for a sequence of so many tokens."""
        block = 24 * tokens * self.width**2 + 4 * tokens**2 * self.width
        return float(self.depth * block + 2 * tokens * self.width * self.out)


def scaled(width: int | None, heads: int | None, tower: Tower) -> tuple[int, int]:
    """Width and heads; None follows the encoder: half its width, in heads of 32 channels."""
    width = width or -(-tower.width // 64) * 32
    return width, heads or max(width // 32, 1)


def geometry(spec: Spec) -> tuple[Tower, tuple[int, int], int]:
    """The encoder's tower, the grid of patches of a training image, and P: 1 or 0."""
    tower = spec.towers["encoder"]
    return tower, tower.grid(spec.size), min(tower.prefix, 1)


def view(spec: Spec, scale: tuple[float, float], flip: float) -> View:
    """The whole image, or a random crop of 3:4 to 4:3 where `scale` says so; perhaps mirrored."""
    ratio = (1.0, 1.0) if scale == (1.0, 1.0) else (3 / 4, 4 / 3)
    return View(aug=Aug(spec.size, scale=scale, ratio=ratio, flip=flip, **spec.aug))


def filled(features: Features, mask_token: jax.Array, count: int) -> jax.Array:
    """[B, P + N, D]: class token, kept tokens at their places, `mask_token` [D] at all others."""
    tokens = features.tokens
    if features.keep is not None:
        tokens = masking.restore(tokens, features.keep, mask_token, count)
    return jnp.concatenate([features.prefix[:, :1], tokens], axis=1)


def positions(width: int, grid: tuple[int, int], prefix: int) -> np.ndarray:
    """f32[1, P + N, width]: the fixed positions of MAE, zero for the class token."""
    return np.pad(layers.sincos_2d(width, grid), ((prefix, 0), (0, 0)))[None]


def pixels(image: jax.Array, patch: int, normalise: bool) -> jax.Array:
    """f32[B, N, patch * patch * 3]: the pixels to predict.

    Args:
        image: [B, S, S, 3].
        patch: side of a patch.
        normalise: each patch by its mean and its *unbiased* variance + 1e-6 (MAE).
    """
    x = masking.patchify(wide(image), patch)
    if not normalise:
        return x
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)


PREVIEW = ("input", "seen", "reconstruction")


def pictures(
    spec: Spec, features: Features, pred: jax.Array, normalised: bool
) -> dict[str, jax.Array]:
    """The columns `PREVIEW`, f32[B, S, S, 3] in the view's normalised units.

    Removed patches are grey under "seen" and predicted under "reconstruction"; predictions of
    normalised targets get the patch's own mean and deviation back, as in MAE's figures.
    """
    tower, grid, _ = geometry(spec)
    image = masking.patchify(features.view["image"], tower.patch)
    if normalised:
        deviation = jnp.sqrt(image.var(-1, ddof=1, keepdims=True) + 1e-6)
        pred = pred * deviation + image.mean(-1, keepdims=True)
    removed = (features.mask & masking.REMOVED).astype(bool)[..., None]
    seen, rebuilt = (jnp.where(removed, x, image) for x in (0.0, pred))
    columns = zip(PREVIEW, (image, seen, rebuilt))
    return {name: masking.unpatchify(x, tower.patch, grid) for name, x in columns}
