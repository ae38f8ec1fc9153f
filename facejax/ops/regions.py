"""Masks that follow the parts of a face, drawn from a region map that has moved with the crop.

Samplers as in `masking`: they score the patches and remove those of the highest score, so all of
them remove exactly the same number. They read the view's `regions` u8[B, S, S] in the LaPa scheme.
A face without a map is all background, and its mask is uniformly random.

Patches belong to ordered groups: brows, eyes, nose, mouth, boundary of the face (where skin meets
hair or background), hair, skin, background. A patch touches a group if any of its pixels does, and
it counts for the first group that it touches.

Source: FSFM (Wang et al. 2025, CVPR) and its code; MARLIN (Cai et al. 2023, CVPR) and its code.

B rows, N patches (row by row).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from facejax.contracts import Draw, Drawn
from facejax.ops.masking import Random, lowest, removed_but, uniform

COVERED = 2  # bit 1 of a mask

GROUPS = ("brows", "eyes", "nose", "mouth", "boundary", "hair", "skin", "background")
"""Of patches, in the order in which they claim them."""

COVERABLE = 6
"""The first so many groups may be covered as a whole: all but skin and background."""

CLASSES = 11  # of the LaPa scheme


def present(regions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """u16[B, N]: bit c is set where a pixel of the patch is of region c.

    Args:
        regions: u8[B, H, W] in the LaPa scheme.
        grid: rows and columns of patches, which divide H and W.
    """
    B, H, W = regions.shape
    rows, columns = grid
    bits = jnp.left_shift(jnp.uint16(1), regions.astype(jnp.uint16))
    bits = bits.reshape(B, rows, H // rows, columns, W // columns)
    return jax.lax.reduce(bits, np.uint16(0), jax.lax.bitwise_or, (2, 4)).reshape(B, -1)


def touches(bits: jax.Array) -> jax.Array:
    """bool[B, N, 8]: which `GROUPS` each patch touches; `bits` is what `present` gives."""

    def any_of(*regions: int) -> jax.Array:
        return (bits & np.uint16(sum(1 << c for c in regions))) != 0

    brows, eyes, nose, mouth = any_of(2, 3), any_of(4, 5), any_of(6), any_of(7, 8, 9)
    hair, skin, background = any_of(10), any_of(1), any_of(0)
    boundary = skin & (hair | background)
    return jnp.stack([brows, eyes, nose, mouth, boundary, hair, skin, background], axis=-1)


@dataclass(frozen=True)
class Regions:
    """FSFM's masks: one region covered as a whole, the others in equal shares.

    With both (CRFR-P), every patch that touches the covered region is removed. Of the patches of
    each other group, the same share is removed, rounded to a whole patch, such that the sum comes
    near the budget. Random patches outside the covered region make the sum exact. If the region
    fills the budget alone, a random part of it is removed. Only `cover` is CRFR-R, only
    `proportional` FRP. Neither of these is in the released code: they are reconstructed from the
    paper's description of CRFR-P.

    Departure: the covered region is drawn for `region_group` consecutive rows of the global batch,
    where the reference draws it for each process's batch (256 images); so it does not depend on the
    number of devices. The group may be absent from a face, which is then masked as by FRP.

    Attributes:
        ratio: share of the patches that is removed; exactly int(N (1 - ratio)) are kept.
        cover: remove one of the first six `GROUPS` as a whole; its patches carry the bit `COVERED`.
        proportional: remove the same share of each group.
        region_group: consecutive global rows that cover the same group.
        drop: the encoder skips what was removed; otherwise the mask token stands in for it.
    """

    ratio: float = 0.75
    cover: bool = True
    proportional: bool = True
    region_group: int = 256
    drop: bool = True

    fields: ClassVar = ("regions",)

    def __call__(self, fields: Mapping[str, jax.Array], grid: tuple[int, int], draw: Draw) -> Drawn:
        count = grid[0] * grid[1]
        kept = int(count * (1 - self.ratio))
        touched = touches(present(fields["regions"], grid))
        covered = jnp.zeros(touched.shape[:2], bool)
        if self.cover:
            keys = draw.fold("region").groups(self.region_group)
            group = jax.vmap(lambda key: jax.random.randint(key, (), 0, COVERABLE))(keys)
            covered = jnp.take_along_axis(touched, group[:, None, None], axis=2)[..., 0]
        score = 2.0 * covered + uniform(draw.fold("fill"), count)
        if self.proportional:
            rank = uniform(draw.fold("rank"), count)
            score = score + _equal_shares(touched, covered, count - kept, rank)
        keep = lowest(score, kept)
        mask = removed_but(keep, count)
        mask = jnp.where(covered & (mask != 0), mask | np.uint8(COVERED), mask)
        return Drawn(mask, keep if self.drop else None)


def _equal_shares(
    touched: jax.Array, covered: jax.Array, budget: int, rank: jax.Array
) -> jax.Array:
    """bool[B, N]: the same share of each group's uncovered patches, the lowest in `rank` first."""
    N, G = touched.shape[1:]
    group = jnp.where(covered, G, jnp.argmax(touched, axis=-1))
    sizes = jnp.sum(group[..., None] == jnp.arange(G + 1)[None, None], axis=1)
    free = N - sizes[:, G:]
    share = (budget - sizes[:, G:]) / jnp.maximum(free, 1)
    quota = jnp.round(share * sizes).at[:, G].set(0)
    starts = jnp.cumsum(sizes, axis=1) - sizes

    def chosen(group, rank, quota, starts):
        order = jnp.lexsort((rank, group))
        place = jnp.zeros(N, jnp.int32).at[order].set(jnp.arange(N, dtype=jnp.int32))
        return place - starts[group] < quota[group]

    return jax.vmap(chosen)(group, rank, quota, starts)


@dataclass(frozen=True)
class Fasking:
    """MARLIN's face-guided mask on one image (Fasking-I): the parts of the face go first.

    Regions are revealed one by one until enough patches are visible: background, skin, then the
    right and left eye with their brows, nose, mouth and hair in random order. A patch is visible
    once a revealed region touches it. Random visible patches are removed again to reach the exact
    number. In MARLIN the order is drawn per video; here, per image.

    Attributes:
        ratio: share of the patches that is removed; exactly int(N (1 - ratio)) are kept.
        opposite: reveal the parts first, then skin and background (the reference's fasking_opp).
        drop: the encoder skips what was removed; otherwise the mask token stands in for it.
    """

    ratio: float = 0.75
    opposite: bool = False
    drop: bool = True

    fields: ClassVar = ("regions",)

    def __call__(self, fields: Mapping[str, jax.Array], grid: tuple[int, int], draw: Draw) -> Drawn:
        count = grid[0] * grid[1]
        kept = int(count * (1 - self.ratio))
        bits = present(fields["regions"], grid)
        order = jnp.argsort(uniform(draw.fold("order"), len(_PARTS)), axis=1)
        turn = jnp.min(jnp.where(_has(bits), self._turns(order)[:, None], _LAST), axis=-1)
        per_turn = jnp.sum(turn[..., None] == jnp.arange(_LAST)[None, None], axis=1)
        before = jnp.take_along_axis(jnp.cumsum(per_turn, axis=1) - per_turn, turn, axis=1)
        # A region is revealed if those before it left too few patches visible.
        hidden = before >= count * (1 - self.ratio) - 1e-6
        keep = lowest(hidden + uniform(draw.fold("fill"), count), kept)
        return Drawn(removed_but(keep, count), keep if self.drop else None)

    def _turns(self, order: jax.Array) -> jax.Array:
        """i32[B, CLASSES]: when each region is revealed; `order` i32[B, 5] is that of the parts."""
        ends = (15, 16) if self.opposite else (1, 0)
        first = 0 if self.opposite else 2
        turns = jnp.zeros((len(order), CLASSES), jnp.int32)
        turns = turns.at[:, 1].set(ends[0]).at[:, 0].set(ends[1])
        for part, regions in enumerate(_PARTS):
            for i, region in enumerate(regions):
                turns = turns.at[:, region].set(first + 3 * order[:, part] + i)
        return turns


_PARTS = ((2, 4), (3, 5), (6,), (7, 8, 9), (10,))
_LAST = 17


def _has(bits: jax.Array) -> jax.Array:
    """bool[B, N, CLASSES] of u16[B, N]."""
    return (bits[..., None] >> np.arange(CLASSES, dtype=np.uint16)[None, None]) & 1 != 0


Kind = Literal["random", "frp", "crfr-r", "crfr-p", "fasking-i"]


def sampler(kind: Kind, ratio: float, region_group: int) -> Random | Regions | Fasking:
    """The mask that a config string names; its patches are dropped."""
    return {
        "random": Random(ratio),
        "frp": Regions(ratio, cover=False),
        "crfr-r": Regions(ratio, proportional=False, region_group=region_group),
        "crfr-p": Regions(ratio, region_group=region_group),
        "fasking-i": Fasking(ratio),
    }[kind]
