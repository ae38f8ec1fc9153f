"""Mask samplers, and the moves between images, patches and kept tokens.

A sampler is a config-like value that is called as `sampler(fields, grid, draw) -> Drawn`: the
view's arrays by field name, the rows and columns of patches, and the mask's own randomness. Every
sampler scores the patches and removes those of the highest score. The number it removes is static,
so shapes are, and only the score differs from sampler to sampler.

B rows, N patches (row by row), K kept patches, D width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Draw, Drawn
from facejax.errors import UserError

REMOVED = 1  # bit 0 of a mask


def uniform(draw: Draw, count: int) -> jax.Array:
    """f32[B, count] in [0, 1), each row from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(draw.keys())


def lowest(score: jax.Array, count: int) -> jax.Array:
    """The places i32[B, count] of the lowest scores of [B, N], ascending by place."""
    _, places = jax.lax.top_k(-score, count)
    return jnp.sort(places, 1)


def removed_but(keep: jax.Array, count: int) -> jax.Array:
    """u8[B, count] that marks as removed every place not in `keep` i32[B, K]."""
    start = jnp.full(count, REMOVED, jnp.uint8)
    return jax.vmap(lambda row: start.at[row].set(0))(keep)


@dataclass(frozen=True)
class Random:
    """Removes patches uniformly at random and keeps exactly int(N (1 - ratio)) (MAE).

    Attributes:
        ratio: share of the patches that is removed.
        drop: the encoder skips what was removed; otherwise the mask token stands in for it.
    """

    ratio: float = 0.75
    drop: bool = True

    def __call__(self, fields: Mapping[str, jax.Array], grid: tuple[int, int], draw: Draw) -> Drawn:
        count = grid[0] * grid[1]
        keep = lowest(uniform(draw, count), int(count * (1 - self.ratio)))
        return Drawn(removed_but(keep, count), keep if self.drop else None)


@dataclass(frozen=True)
class Cells:
    """Removes square cells, larger than patches, that the mask token stands in for (SimMIM).

    ceil(ratio * cells) cells are removed.

    Attributes:
        cell: side of a cell, in pixels of the view.
        ratio: share of the cells that is removed.
    """

    cell: int = 32
    ratio: float = 0.6

    def __call__(self, fields: Mapping[str, jax.Array], grid: tuple[int, int], draw: Draw) -> Drawn:
        """Raises UserError unless cells tile the view and patches tile the cells."""
        size = fields["image"].shape[1]
        patch, side = size // grid[0], size // self.cell
        if size % self.cell or self.cell % patch:
            raise UserError(
                "mask.cell",
                f"cells of {self.cell} px do not fit a view of {size} px with {patch} px patches",
                f"choose a multiple of {patch} that divides {size}",
            )
        count = side * side
        keep = lowest(uniform(draw, count), count - math.ceil(self.ratio * count))
        cells = removed_but(keep, count).reshape(-1, side, side)
        patches = cells.repeat(self.cell // patch, 1).repeat(self.cell // patch, 2)
        return Drawn(patches.reshape(len(patches), -1))


def restore(tokens: jax.Array, keep: jax.Array, mask_token: jax.Array, count: int) -> jax.Array:
    """Puts kept tokens back to their places and the mask token everywhere else.

    Args:
        tokens: [B, K, D].
        keep: i32[B, K], their places, ascending.
        mask_token: [D].
        count: N.

    Returns:
        [B, N, D], of the dtype of `tokens`.
    """
    blank = jnp.broadcast_to(mask_token.astype(tokens.dtype)[None], (count, tokens.shape[-1]))

    def one(row, places):
        return blank.at[places].set(row, indices_are_sorted=True, unique_indices=True)

    return jax.vmap(one)(tokens, keep)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, N, patch * patch * C], in the order row in patch, column, channel."""
    B, H, W, C = images.shape
    x = images.reshape(B, H // patch, patch, W // patch, patch, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, patch * patch * C)


def unpatchify(patches: jax.Array, patch: int, grid: tuple[int, int]) -> jax.Array:
    """The inverse of `patchify` for a grid of (rows, columns)."""
    rows, columns = grid
    x = patches.reshape(len(patches), rows, columns, patch, patch, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(patches), rows * patch, columns * patch, -1)
