"""Masks of face regions against the reference's procedure, written one patch at a time in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.contracts import Draw
from facejax.data.sources import synthetic
from facejax.ops.masking import REMOVED
from facejax.ops.regions import (
    COVERABLE,
    COVERED,
    GROUPS,
    Fasking,
    Regions,
    present,
    touches,
)

GRID, N, BUDGET = (14, 14), 196, 147
CLASSES_OF = {
    "brows": {2, 3},
    "eyes": {4, 5},
    "nose": {6},
    "mouth": {7, 8, 9},
    "hair": {10},
    "skin": {1},
    "background": {0},
}


def groups_of(regions: np.ndarray) -> list[list[set[str]]]:
    """For each image and patch, the groups that it touches."""
    out = []
    for face in regions:
        size = face.shape[0] // 14
        patches = []
        for n in range(N):
            r, c = (size * i for i in divmod(n, 14))
            seen = set(np.unique(face[r : r + size, c : c + size]).tolist())
            found = {name for name, classes in CLASSES_OF.items() if seen & classes}
            if "skin" in found and found & {"hair", "background"}:
                found.add("boundary")
            patches.append(found)
        out.append(patches)
    return out


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """u8[24, 112, 112]: procedural faces, one of all background, one of all skin, one of hair."""
    cfg = synthetic.Config(n=21, identities=7, size=112)
    regions = synthetic.render(cfg, range(cfg.n))["regions"]
    flat = [np.full((1, 112, 112), k, np.uint8) for k in (0, 1, 10)]
    return np.concatenate([regions, *flat])


def draw(rows=24, seed=0) -> Draw:
    rows = jnp.arange(rows) if isinstance(rows, int) else rows
    return Draw(jax.random.key(seed), rows)


@jax.jit
def _sample(regions, seed):
    fields = {"regions": regions}
    given = Draw(jax.random.key(seed), jnp.arange(len(regions)))
    return {name: sampler(fields, GRID, given) for name, sampler in SAMPLERS.items()}


SAMPLERS = {
    "frp": Regions(cover=False),
    "crfr-r": Regions(proportional=False, region_group=8),
    "crfr-p": Regions(region_group=8),
    "fasking-i": Fasking(),
    "opposite": Fasking(opposite=True),
}


@pytest.fixture(scope="module")
def drawn(faces):
    """name -> Drawn, over 20 seeds: u8[20, 24, N]."""
    many = [_sample(faces, seed) for seed in range(20)]
    return {name: np.stack([np.asarray(one[name].mask) for one in many]) for name in SAMPLERS} | {
        "keep": np.asarray(many[0]["crfr-p"].keep)
    }


def test_patches_touch_what_their_pixels_are(faces):
    found = np.asarray(touches(present(jnp.asarray(faces), GRID)))
    for face, patches in zip(found, groups_of(faces)):
        for touched, want in zip(face, patches):
            assert {GROUPS[g] for g in np.flatnonzero(touched)} == want


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_mask_removes_exactly_its_budget(drawn, name):
    assert ((drawn[name] & REMOVED).sum(-1) == BUDGET).all()


def test_kept_places_are_listed(drawn):
    for mask, keep in zip(drawn["crfr-p"][0], drawn["keep"]):
        np.testing.assert_array_equal(keep, np.flatnonzero(mask == 0))


@pytest.mark.parametrize("name", ["crfr-r", "crfr-p"])
def test_one_region_is_covered_whole_and_shared_by_its_group_of_rows(faces, drawn, name):
    touched = groups_of(faces)
    seen = set()
    for masks in drawn[name]:
        for start in range(0, 24, 8):
            fits = set(GROUPS[:COVERABLE])
            for i in range(start, start + 8):
                covered = masks[i] & COVERED != 0
                assert (masks[i][covered] & REMOVED == REMOVED).all()
                same = set()
                for group in fits:
                    want = np.array([group in patch for patch in touched[i]])
                    if (covered == want).all() or (want.sum() > BUDGET and (covered <= want).all()):
                        same.add(group)
                fits &= same
            assert len(fits) == 1
            seen |= fits
    assert seen == set(GROUPS[:COVERABLE])


@pytest.mark.parametrize("name", ["frp", "crfr-p"])
def test_every_other_region_loses_the_same_share_within_a_patch(faces, drawn, name):
    """Before the sum is made exact; so at most as many more or less as that takes."""
    for masks in drawn[name]:
        for mask, patches in zip(masks, groups_of(faces)):
            covered = mask & COVERED != 0
            if covered.sum() >= BUDGET:
                continue
            share = (BUDGET - covered.sum()) / (N - covered.sum())
            of = [next(g for g in GROUPS if g in patch) for patch in patches]
            sizes = {g: sum(o == g and not c for o, c in zip(of, covered)) for g in GROUPS}
            removed = {g: sum(o == g and m == REMOVED for o, m in zip(of, mask)) for g in GROUPS}
            quota = {g: round(np.float32(share) * sizes[g]) for g in GROUPS}
            repair = BUDGET - covered.sum() - sum(quota.values())
            off = np.array([removed[g] - quota[g] for g in GROUPS])
            assert off.sum() == repair
            assert (off * np.sign(repair) >= 0).all()
            assert abs(repair) <= len(GROUPS) / 2


def test_a_region_larger_than_the_budget_is_removed_in_part(faces, drawn):
    """The face of hair alone: nothing but hair can be covered, and it is more than the budget."""
    masks = drawn["crfr-p"][:, 23]
    whole = (masks & COVERED != 0).sum(-1)
    assert set(whole) == {0, BUDGET}
    for mask in masks[whole == BUDGET]:
        np.testing.assert_array_equal(mask & COVERED != 0, mask & REMOVED != 0)
    assert len(np.unique(masks, axis=0)) == len(masks)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_face_without_a_map_is_masked_at_random(name):
    """All background: every patch is removed equally often, and none is covered."""
    many = jnp.zeros((1500, 28, 28), jnp.uint8)
    mask = np.asarray(SAMPLERS[name]({"regions": many}, GRID, draw(1500)).mask)
    assert mask.max() == REMOVED
    share = mask.mean(0)
    assert np.abs(share - 0.75).max() < 4.5 * np.sqrt(0.75 * 0.25 / 1500)


def test_uniform_within_a_group(faces):
    """Each patch of a group is chosen equally often by FRP."""
    one = jnp.broadcast_to(jnp.asarray(faces[0])[None], (1500, 112, 112))
    mask = np.asarray(SAMPLERS["frp"]({"regions": one}, GRID, draw(1500)).mask)
    of = np.array([next(g for g in GROUPS if g in p) for p in groups_of(faces[:1])[0]])
    for group in set(of):
        share = mask[:, of == group].mean(0)
        assert np.abs(share - share.mean()).max() < 4.5 * np.sqrt(0.25 / 1500), group


def test_fasking_reveals_background_and_skin_first(faces, drawn):
    for masks in drawn["fasking-i"]:
        for mask, patches in zip(masks, groups_of(faces)):
            visible = np.array(["background" in patch for patch in patches])
            if visible.mean() < 0.25:
                visible |= np.array(["skin" in patch for patch in patches])
            if visible.mean() >= 0.25:
                assert visible[mask == 0].all()


@pytest.mark.parametrize("opposite", [False, True])
def test_fasking_then_reveals_parts_in_random_order(opposite):
    """Bands of patch rows: background and skin have one each, every part two or, the nose, four."""
    bands = np.array([0, 1, 2, 4, 3, 5, 6, 6, 6, 6, 7, 8, 10, 10], np.uint8)
    face = jnp.broadcast_to(jnp.asarray(bands)[None, :, None], (1500, 14, 14))
    mask = np.asarray(Fasking(opposite=opposite)({"regions": face}, GRID, draw(1500)).mask)
    shown = (mask == 0).reshape(1500, 14, 14).any(2)
    # 49 patches are three and a half rows: the ends and one part, or parts until four rows.
    parts = {frozenset({2, 3}): 0, frozenset({4, 5}): 0, frozenset({6, 7, 8, 9}): 0}
    parts |= {frozenset({10, 11}): 0, frozenset({12, 13}): 0}
    for rows in shown:
        revealed = frozenset(np.flatnonzero(rows).tolist())
        found = [part for part in parts if revealed & part]
        for part in found:
            parts[part] += 1
        ends = revealed - frozenset.union(*parts)
        assert ends == (frozenset() if opposite else {0, 1})
        assert len(found) in ((1, 2) if opposite else (1,))
        assert revealed - ends == frozenset.union(*found)
    counts = np.array(list(parts.values()))
    if not opposite:
        assert np.abs(counts / 1500 - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 1500)
    assert (counts > 200).all()


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_row_depends_on_its_global_number_alone(faces, name):
    sampler = SAMPLERS[name]

    @jax.jit
    def sample(rows):
        return sampler({"regions": jnp.asarray(faces)[rows]}, GRID, draw(rows)).mask

    whole, order = np.asarray(sample(jnp.arange(24))), np.arange(24)[::-1]
    np.testing.assert_array_equal(sample(order), whole[order])


def test_covering_follows_256_global_rows_by_default():
    """Rows m::2, as a micro-batch has them, cover what the whole batch does."""
    bands = jnp.array([2, 4, 6, 7, 10, *[0] * 9], jnp.uint8)

    @jax.jit
    def covered(rows):
        face = jnp.broadcast_to(bands[None, :, None], (len(rows), 14, 14))
        return Regions()({"regions": face}, GRID, draw(rows)).mask & COVERED

    whole = np.asarray(covered(jnp.arange(1024)))
    groups = whole.reshape(4, 256, N)
    assert (groups == groups[:, :1]).all()
    assert len(np.unique(groups[:, 0], axis=0)) > 1
    np.testing.assert_array_equal(covered(jnp.arange(1, 1024, 2)), whole[1::2])


def test_replacing_instead_of_dropping_draws_the_same_mask(faces):
    for sampler in (Regions(), Fasking()):
        replaced = dataclasses.replace(sampler, drop=False)
        a, b = (s({"regions": jnp.asarray(faces)}, GRID, draw()) for s in (sampler, replaced))
        assert b.keep is None
        np.testing.assert_array_equal(a.mask, b.mask)
