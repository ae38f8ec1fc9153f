"""What Vision Transformers share: patches to tokens, positions, stochastic depth, running blocks.

Shapes: B rows, N patches, K of them computed, D width.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Draw, Drawn, Params
from facejax.layers import Remat, dense, remat_policy
from facejax.ops.masking import REMOVED, patchify


def block_name(index: int) -> str:
    """The parameter name of block `index`."""
    return f"blocks_{index:02d}"


def embed(
    params: Params,
    image: jax.Array,
    patch: int,
    positions: jax.Array,
    mask: Drawn | None,
    dtype: jnp.dtype,
) -> jax.Array:
    """Images to tokens [B, K, D]. Patches are gathered before they are projected.

    Args:
        params: `patch_embed`, and `mask_token` where `mask` replaces.
        image: f32[B, H, W, 3], sides multiples of the patch.
        patch: side of a patch.
        positions: f32[N, D].
        mask: as an encoder's `apply` takes it.
        dtype: compute dtype.
    """
    patches = patchify(image, patch)
    D = positions.shape[-1]
    positions = jnp.broadcast_to(positions[None], (*patches.shape[:2], D))
    if mask is not None and mask.keep is not None:
        patches = jnp.take_along_axis(patches, mask.keep[..., None], axis=1)
        positions = jnp.take_along_axis(positions, mask.keep[..., None], axis=1)
    x = dense(D, dtype=dtype).apply({"params": params["patch_embed"]}, patches)
    if mask is not None and mask.keep is None:
        removed = (mask.mask & REMOVED).astype(bool)[..., None]
        x = jnp.where(removed, params["mask_token"][None].astype(x.dtype), x)
    return x + positions.astype(x.dtype)


def resized(positions: jax.Array, own: tuple[int, int], grid: tuple[int, int]) -> jax.Array:
    """Learned positions f32[N, D] of the grid `own` for another: bicubic, antialiased, as timm."""
    if grid == own:
        return positions
    D = positions.shape[-1]
    plane = positions.reshape(*own, D)
    return jax.image.resize(plane, (*grid, D), "bicubic", antialias=True).reshape(-1, D)


def branch_scales(depth: int, drop_path: float, draw: Draw) -> jax.Array:
    """f32[depth, B, 2]: 0 where stochastic depth drops a branch of a row, else 1 / keep.

    The rate rises linearly from 0 at the first block to `drop_path` at the last.
    """

    def scales(index):
        keep = 1.0 - drop_path * index / max(depth - 1, 1)
        keys = draw.fold(block_name(index)).keys()
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
        return (uniform < keep) / jnp.float32(keep)

    return jnp.stack([scales(i) for i in range(depth)])


def run_blocks(
    block: nn.Module,
    params: Params,
    depth: int,
    x: jax.Array,
    scales: jax.Array | None,
    want_layers: bool,
    remat: Remat,
    scan: bool,
    allowed: jax.Array | None = None,
    context: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
    """Runs `blocks_00`, `blocks_01`, ... of `params`.

    Args:
        scales: as `branch_scales` makes them, or None.
        allowed, context: as a `Block` takes them.

    Returns:
        The residual stream after the last block and, if wanted, after each block.
    """

    def step(x, xs):
        block_params, scale = xs
        x = block.apply({"params": block_params}, x, scale, allowed, context)
        return x, x if want_layers else None

    if remat != "none":
        step = jax.checkpoint(step, policy=remat_policy(remat), prevent_cse=not scan)
    blocks = [params[block_name(i)] for i in range(depth)]
    if scan:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
        x, layers = jax.lax.scan(step, x, (stacked, scales))
    else:
        layers = []
        for i, block_params in enumerate(blocks):
            x, layer = step(x, (block_params, None if scales is None else scales[i]))
            layers.append(layer)
    return x, tuple(layers) if want_layers else None
