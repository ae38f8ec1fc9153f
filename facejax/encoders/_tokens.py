"""What Vision Transformers share: patches to tokens, positions, stochastic depth, running blocks.

Shapes: B rows, N patches, K of them computed, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from facejax.contracts import Draw, Drawn, Params
from facejax.layers import Remat, Rotation, dense, remat_policy
from facejax.ops.masking import REMOVED, patchify


def block_name(index: int) -> str:
    """The parameter name of block `index`."""
    return f"blocks_{index:02d}"


def embed(
    params: Params,
    image: jax.Array,
    patch: int,
    positions: jax.Array | None,
    mask: Drawn | None,
    dtype: jnp.dtype,
) -> jax.Array:
    """Images to tokens [B, K, D]. Patches are gathered before they are projected.

    Args:
        params: `patch_embed`, and `mask_token` where `mask` replaces.
        image: f32[B, H, W, 3], sides multiples of the patch.
        patch: side of a patch.
        positions: f32[N, D]; None adds nothing.
        mask: as an encoder's `apply` takes it.
        dtype: compute dtype.
    """
    patches = kept(patchify(image, patch), mask)
    D = params["patch_embed"]["kernel"].shape[-1]
    layer = params["patch_embed"]
    x = dense(D, use_bias="bias" in layer, dtype=dtype).apply({"params": layer}, patches)
    if mask is not None and mask.keep is None:
        removed = (mask.mask & REMOVED).astype(bool)[..., None]
        x = jnp.where(removed, params["mask_token"][None].astype(x.dtype), x)
    if positions is None:
        return x
    return x + at_rows(positions, x.shape[0], mask).astype(x.dtype)


def kept(tokens: jax.Array, mask: Drawn | None) -> jax.Array:
    """The tokens [B, N, D] that a mask keeps: [B, K, D]; all of them where it drops none."""
    if mask is None or mask.keep is None:
        return tokens
    return jnp.take_along_axis(tokens, mask.keep[..., None], axis=1)


def at_rows(values: jax.Array, rows: int, mask: Drawn | None) -> jax.Array:
    """Values [N, D] of all patches for those that are computed in each row: [B, K, D]."""
    return kept(jnp.broadcast_to(values[None], (rows, *values.shape)), mask)


def resized(positions: jax.Array, own: tuple[int, int], grid: tuple[int, int]) -> jax.Array:
    """Learned positions f32[N, D] of the grid `own` for another: bicubic, antialiased, as timm."""
    if grid == own:
        return positions
    D = positions.shape[-1]
    plane = positions.reshape(*own, D)
    return jax.image.resize(plane, (*grid, D), "bicubic", antialias=True).reshape(-1, D)


ROPE_BASE = 100.0
"""Base of the periods of DINOv3's rotary positions."""


def rope_2d(channels: int, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The rotary positions of DINOv3 (Simeoni et al. 2025, arXiv:2508.10104).

    A patch lies at its centre, in [-1, 1] from edge to edge of the image, so that a finer grid sees
    the same positions more densely. With w_k = 100 ** (-k / (C / 4)), k < C / 4, the first C / 4
    angles are 2 pi w_k times the row and the others 2 pi w_k times the column. DINOv3 also shifts
    and rescales positions in training, which is not done here.

    Args:
        channels: C of one head, a multiple of 4.
        grid: rows and columns of patches.

    Returns:
        (cosines, sines) f64[rows * columns, C / 2], patches in row-major order; see `rotate`.
    """
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    omega = 2 * np.pi * ROPE_BASE ** (-np.arange(channels // 4) / (channels / 4))
    places = [2 * (t + 0.5) / n - 1 for t, n in zip((rows, columns), grid)]
    angles = np.concatenate([t[:, None] * omega[None] for t in places], axis=1)
    return np.cos(angles), np.sin(angles)


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
    rotation: Rotation | None = None,
    allowed: jax.Array | None = None,
    context: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
    """Runs `blocks_00`, `blocks_01`, ... of `params`.

    Args:
        scales: as `branch_scales` makes them, or None.
        rotation: of the queries and keys of every block.
        allowed, context: as a `Block` takes them.

    Returns:
        The residual stream after the last block and, if wanted, after each block.
    """

    def step(x, xs):
        block_params, scale = xs
        x = block.apply({"params": block_params}, x, scale, rotation, allowed, context)
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
