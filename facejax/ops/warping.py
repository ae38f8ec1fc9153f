"""Smooth deformations of images and feature maps. B maps of H x W pixels, C channels.

A flow [B, H, W, 2] says, in pixels down and to the right, where each pixel of the result is read:
warped(y, x) = map(y + flow_y, x + flow_x), between pixels bilinearly, 0 outside of the map.
"""

import jax
import jax.numpy as jnp


def warp(x: jax.Array, flow: jax.Array, reach: int) -> jax.Array:
    """Warps maps without a gather: shifted copies, each weighted by how near the flow is to it.

    Exact for flows of at most `reach` pixels along each axis; farther ones read 0. There are
    (2 reach + 1)^2 shifts, one after the other, and neither pass keeps more than one of them.

    Args:
        x: [B, H, W, C].
        flow: [B, H, W, 2].
        reach: in pixels.

    Returns:
        As `x`.
    """
    side = 2 * reach + 1
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

    @jax.checkpoint
    def weighted(padded, flow, number):
        corner = jnp.stack([number // side, number % side])
        start = (0, corner[0], corner[1], 0)
        near = jnp.abs(flow - (corner - reach).astype(flow.dtype)[None, None, None])
        weight = jnp.prod(jnp.maximum(1 - near, 0), axis=-1, keepdims=True)
        return weight.astype(x.dtype) * jax.lax.dynamic_slice(padded, start, x.shape)

    def add(total, number):
        return total + weighted(padded, flow, number), None

    return jax.lax.scan(add, jnp.zeros_like(x), jnp.arange(side * side))[0]


def roughness(flow: jax.Array) -> jax.Array:
    """[B], the mean squared difference of neighbouring displacements, averaged over both axes."""
    down, right = flow[:, 1:] - flow[:, :-1], flow[:, :, 1:] - flow[:, :, :-1]
    return (jnp.mean(down**2, (1, 2, 3)) + jnp.mean(right**2, (1, 2, 3))) / 2


def folded(flow: jax.Array) -> jax.Array:
    """bool[B, H - 1, W - 1], where the flow turns the map over: det(I + its gradient) <= 0."""
    down = (flow[:, 1:] - flow[:, :-1])[:, :, :-1]
    right = (flow[:, :, 1:] - flow[:, :, :-1])[:, :-1]
    det = (1 + down[..., 0]) * (1 + right[..., 1]) - down[..., 1] * right[..., 0]
    return det <= 0


def local_correlation(a: jax.Array, b: jax.Array, window: int) -> jax.Array:
    """The squared correlation of two maps in the window around each pixel, in [0, 1).

    cov^2 / (var var + 1e-5) with sums over those pixels of the window that lie within the map, as
    in VoxelMorph (Balakrishnan et al. 2019, arXiv:1809.05231), but without its zeros outside.

    Args:
        a: f32[B, H, W].
        b: f32[B, H, W].
        window: side in pixels, odd.

    Returns:
        f32[B, H, W]; 0 where a window is flat.
    """

    def band(n):
        at = jnp.arange(n)
        return (jnp.abs(at[:, None] - at[None]) <= window // 2).astype(a.dtype)

    rows, columns = band(a.shape[1]), band(a.shape[2])

    def total(x):
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum("ij,bjk,lk->bil", rows, x, columns, precision=exact)

    count = total(jnp.ones((1, *a.shape[1:]), a.dtype))
    mean_a, mean_b = total(a) / count, total(b) / count
    cov = total(a * b) - count * mean_a * mean_b
    # Sums of squares less their mean can fall below 0 by rounding.
    var_a = jnp.maximum(total(a**2) - count * mean_a**2, 0)
    var_b = jnp.maximum(total(b**2) - count * mean_b**2, 0)
    return cov**2 / (var_a * var_b + 1e-5)
