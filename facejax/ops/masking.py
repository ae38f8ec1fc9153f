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
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from facejax.contracts import Draw, Drawn
from facejax.errors import UserError

REMOVED = 1  # bit 0 of a mask


def uniform(draw: Draw, count: int) -> jax.Array:
    """f32[B, count] in [0, 1), each row from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,), jnp.float32))(draw.keys())


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


@dataclass(frozen=True)
class Block:
    """Removes rectangular blocks that the mask token stands in for (BEiT, data2vec, iBOT).

    Until the budget is spent or ten attempts in a row have failed: an area, uniform between the
    least one and what is left of the budget; a log-uniform aspect; a uniform place; the block is
    removed if it lies inside, adds a patch and keeps within the budget. Often a few patches of the
    budget stay unspent. The least area is the square of a third of the grid's side, 16 of 14 x 14
    patches.

    Source: Bao et al. 2022, arXiv:2106.08254, alg. 1, and the code of BEiT and iBOT, whose
    distribution this is.

    Attributes:
        ranges: the budget, as a share of the patches, is uniform in one of these, drawn at equal
            odds for each image. BEiT's is 75 / 196, data2vec's 120 / 196, and iBOT's either 0 or
            0.1 to 0.5.
        aspect: least height over width of a block; the greatest is its inverse.
    """

    ranges: tuple[tuple[float, float], ...] = ((75 / 196, 75 / 196),)
    aspect: float = 0.3

    def most(self, count: int) -> int:
        """The largest number of patches, of `count`, that a mask may remove."""
        return int(count * max(high for _, high in self.ranges) + 1e-3)

    def __call__(self, fields: Mapping[str, jax.Array], grid: tuple[int, int], draw: Draw) -> Drawn:
        mask = jax.vmap(partial(self._one, grid))(draw.keys())
        return Drawn(jnp.where(mask, np.uint8(REMOVED), np.uint8(0)))

    def _one(self, grid: tuple[int, int], key: jax.Array) -> jax.Array:
        """bool[N] of one row."""
        rows, columns = grid
        key, which, where = jax.random.split(key, 3)
        low, high = jnp.asarray(self.ranges)[jax.random.randint(which, (), 0, len(self.ranges))]
        budget = rows * columns * (low + (high - low) * jax.random.uniform(where))
        whole = jnp.floor(budget + 1e-3).astype(jnp.int32)
        least = max((min(grid) // 3) ** 2, 1)
        row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None]

        def unspent(carry):
            _, mask, failed = carry
            return (jnp.sum(mask) < whole) & (failed < 10)

        def attempt(carry):
            key, mask, failed = carry
            key, own = jax.random.split(key)
            u = jax.random.uniform(own, (4,))
            spent = jnp.sum(mask)
            area = least + (budget - spent - least) * u[0]
            aspect = jnp.exp(math.log(self.aspect) * (1 - 2 * u[1]))
            height, width = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
            top = jnp.floor(u[2] * (rows - height + 1))
            left = jnp.floor(u[3] * (columns - width + 1))
            across = (column >= left) & (column < left + width)
            grown = mask | ((row >= top) & (row < top + height) & across)
            added = jnp.sum(grown) - spent
            fits = (height < rows) & (width < columns) & (added > 0) & (added <= whole - spent)
            return key, jnp.where(fits, grown, mask), jnp.where(fits, 0, failed + 1)

        start = key, jnp.zeros(grid, bool), jnp.int32(0)
        return jax.lax.while_loop(unspent, attempt, start)[1].ravel()


def removed_places(mask: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Where the removed patches are, for heads that compute nothing else.

    Args:
        mask: u8[B, N].
        most: no row removes more.

    Returns:
        i32[B, most], removed places in ascending order and then others; bool[B, most], which are
        removed.
    """
    removed, places = jax.lax.top_k((mask & REMOVED).astype(jnp.int32), most)
    return places, removed > 0


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
