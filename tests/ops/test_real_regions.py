"""Masks of regions on real faces, each held to the parsing map that its picture came with."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.contracts import Draw
from facejax.data.align import to_lapa
from facejax.data.decode import decode
from facejax.data.sources import folder
from facejax.ops.masking import REMOVED
from facejax.ops.regions import COVERED, Regions

pytestmark = [pytest.mark.slow, pytest.mark.real_faces]

BUDGET, N = 147, 196
GROUPS = [{2, 3}, {4, 5}, {6}, {7, 8, 9}, "boundary", {10}, {1}, {0}]


def touched(patches: np.ndarray) -> np.ndarray:
    """bool[N, 8]: the groups that patches u8[N, pixels] touch."""
    has = np.stack([(patches == region).any(1) for region in range(11)], 1)
    boundary = has[:, 1] & (has[:, 0] | has[:, 10])
    return np.stack([boundary if g == "boundary" else has[:, list(g)].any(1) for g in GROUPS], 1)


@pytest.fixture(scope="module")
def regions(real_faces) -> np.ndarray:
    """u8[805, 224, 224]: every parsing map of the CelebAMask-HQ set, as training sees it."""
    cfg = folder.Config(
        path=str(real_faces / "celebamask256_dev.zip"),
        images="images/*.jpg",
        regions="masks/{stem}.png",
        region_labels="celebamask",
    )
    source = folder.open(cfg)
    records = [decode(r, 224, fields=("regions",)) for r in source.read(range(len(source)))]
    return np.stack([record["regions"] for record in records])


@pytest.fixture(scope="module")
def masks(regions) -> np.ndarray:
    """u8[805, N]."""
    sampler = jax.jit(Regions(region_group=32), static_argnums=1)
    draw = Draw(jax.random.key(0), jnp.arange(len(regions)))
    return np.asarray(sampler({"regions": jnp.asarray(regions)}, (14, 14), draw).mask)


def test_left_is_the_subjects_left(regions):
    """On average the left eye and brow lie to the right in the picture, and brows above eyes."""

    def centre(region, axis):
        return np.mean(
            [np.nonzero(r == region)[axis].mean() for r in regions if (r == region).any()]
        )

    for right, left in ((2, 3), (4, 5)):
        assert centre(right, 1) + 30 < centre(left, 1)
    for brow, eye in ((2, 4), (3, 5)):
        assert centre(brow, 0) + 8 < centre(eye, 0)
    assert centre(5, 0) < centre(6, 0) < centre(7, 0) < centre(9, 0)
    np.testing.assert_array_equal(to_lapa(np.array([4, 5, 6, 7]), "celebamask"), [5, 4, 3, 2])


def test_every_face_loses_exactly_three_quarters(masks):
    assert ((masks & REMOVED).sum(1) == BUDGET).all()


def test_the_covered_region_is_hidden_and_the_others_lose_equal_shares(regions, masks):
    """Each mask is held to its own map: which group was covered, and what of the others remains."""
    seen, far, counted = Counter(), 0, 0
    for start in range(0, len(masks), 32):
        block = range(start, min(start + 32, len(masks)))
        touch = {
            i: touched(regions[i].reshape(14, 16, 14, 16).swapaxes(1, 2).reshape(N, -1))
            for i in block
        }
        covered = {i: masks[i] & COVERED != 0 for i in block}
        fits = [
            g
            for g in range(6)
            if all(
                (covered[i] == touch[i][:, g]).all()
                or (touch[i][:, g].sum() > BUDGET and (covered[i] <= touch[i][:, g]).all())
                for i in block
            )
        ]
        assert len(fits) == 1
        seen[fits[0]] += 1
        for i in block:
            hidden = covered[i].sum()
            assert (masks[i][covered[i]] & REMOVED != 0).all()
            group = np.where(covered[i], 8, touch[i].argmax(1))
            share = (BUDGET - hidden) / (N - hidden)
            sizes, removed = (
                np.bincount(group[where], minlength=9)[:8]
                for where in (np.ones(N, bool), masks[i] & REMOVED != 0)
            )
            quota = np.round(np.float32(share) * sizes) if hidden < BUDGET else 0 * sizes
            off = removed - quota
            repair = BUDGET - hidden - quota.sum()
            # What makes the sum exact goes one way only; without it, shares are rounded ones.
            assert off.sum() == repair
            assert (off * np.sign(repair) >= 0).all()
            assert abs(repair) <= 4
            far += (np.abs(removed - share * sizes) > 1).sum()
            counted += 8
    assert set(seen) == set(range(6))
    assert far / counted < 0.05
