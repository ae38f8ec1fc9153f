"""Mask samplers keep their budget, and patches find their way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.contracts import Draw
from facejax.errors import UserError
from facejax.ops.masking import (
    Block,
    Cells,
    Random,
    patchify,
    removed_places,
    restore,
    unpatchify,
)


def draw(rows, seed=0):
    return Draw(jax.random.key(seed), jnp.arange(rows) if isinstance(rows, int) else rows)


@pytest.mark.parametrize(
    ("ratio", "grid", "removed"), [(0.75, (14, 14), 147), (0.6, (14, 14), 118), (0.5, (3, 5), 8)]
)
def test_random_removes_its_budget_and_lists_the_rest(ratio, grid, removed):
    drawn = Random(ratio)({}, grid, draw(9))
    count = grid[0] * grid[1]
    mask, keep = np.asarray(drawn.mask), np.asarray(drawn.keep)
    assert mask.dtype == np.uint8
    assert mask.shape == (9, count)
    assert (mask.sum(1) == removed).all()
    for row, places in zip(mask, keep):
        np.testing.assert_array_equal(places, np.flatnonzero(row == 0))


def test_replacing_instead_of_dropping_draws_the_same_mask():
    dropped, replaced = (Random(drop=drop)({}, (4, 4), draw(3)) for drop in (True, False))
    assert replaced.keep is None
    np.testing.assert_array_equal(dropped.mask, replaced.mask)


def test_every_patch_is_removed_equally_often_and_independently():
    mask = np.asarray(Random(0.75)({}, (4, 4), draw(4000)).mask, float)
    share = mask.mean(0)
    assert np.abs(share - 0.75).max() < 4 * np.sqrt(0.75 * 0.25 / 4000)
    correlation = np.corrcoef(mask.T)[~np.eye(16, dtype=bool)]
    # Drawing without replacement: each pair has correlation -1 / (N - 1).
    assert np.abs(correlation + 1 / 15).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize("sampler", [Random(), Cells(16, 0.6), Block()])
def test_a_row_depends_on_its_global_number_alone(sampler):
    def sample(rows):
        fields = {"image": jnp.zeros((len(rows), 64, 64, 3))}
        return np.asarray(jax.jit(sampler, static_argnums=1)(fields, (8, 8), draw(rows)).mask)

    whole = sample(jnp.arange(20, 28))
    np.testing.assert_array_equal(sample(jnp.array([25, 21])), whole[[5, 1]])
    assert len(np.unique(whole, axis=0)) == 8
    other = sampler({"image": jnp.zeros((8, 64, 64, 3))}, (8, 8), draw(8, seed=1)).mask
    assert (np.asarray(other) != whole).any()


def test_cells_are_removed_whole():
    """SimMIM at 224 pixels: 30 of 49 cells of 2 x 2 patches."""
    drawn = Cells()({"image": jnp.zeros((5, 224, 224, 3))}, (14, 14), draw(5))
    assert drawn.keep is None
    cells = np.asarray(drawn.mask).reshape(5, 7, 2, 7, 2)
    np.testing.assert_array_equal(cells.min((2, 4)), cells.max((2, 4)))
    assert (cells[:, :, 0, :, 0].sum((1, 2)) == 30).all()


def test_cells_that_do_not_tile_the_view_are_refused():
    with pytest.raises(UserError, match=r"mask\.cell.*multiple of 8"):
        Cells(cell=24)({"image": jnp.zeros((1, 64, 64, 3))}, (8, 8), draw(1))


def test_kept_tokens_return_to_their_places():
    tokens = np.random.default_rng(0).normal(size=(3, 16, 4)).astype(np.float32)
    mask_token = jnp.arange(4.0)
    drawn = Random(0.75)({}, (4, 4), draw(3))
    kept = jnp.take_along_axis(jnp.asarray(tokens), drawn.keep[..., None], 1)
    full = np.asarray(restore(kept, drawn.keep, mask_token, 16))
    mask = np.asarray(drawn.mask, bool)
    np.testing.assert_array_equal(full[~mask], tokens[~mask])
    np.testing.assert_array_equal(full[mask], np.tile(np.arange(4.0), (36, 1)))


def test_restore_sends_each_gradient_home():
    drawn = Random(0.5)({}, (2, 2), draw(2))
    weight = jnp.arange(1.0, 9.0).reshape(2, 4, 1)
    tokens, token = jnp.ones((2, 2, 1)), jnp.zeros(1)
    to_tokens, to_token = jax.grad(
        lambda t, m: jnp.sum(weight * restore(t, drawn.keep, m, 4)), argnums=(0, 1)
    )(tokens, token)
    np.testing.assert_array_equal(to_tokens, jnp.take_along_axis(weight, drawn.keep[..., None], 1))
    assert float(to_token[0]) == float(weight.sum() - to_tokens.sum())


def test_restore_keeps_the_tokens_dtype():
    keep = jnp.array([[0, 2]])
    full = restore(jnp.ones((1, 2, 3), jnp.bfloat16), keep, jnp.zeros(3, jnp.float32), 4)
    assert full.dtype == jnp.bfloat16


def test_patches_are_ordered_row_column_channel():
    images = jnp.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 3], images[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(unpatchify(patches, 2, (3, 2)), images)


# ---------------------------------------------------------------------------------- block masks


def reference_block(rng, rows, columns, ranges, aspect=0.3):
    """The procedure of BEiT and iBOT, one patch at a time; bool[rows, columns]."""
    low, high = ranges[rng.integers(len(ranges))]
    budget = rng.uniform(low, high) * rows * columns
    mask, least = np.zeros((rows, columns), bool), (min(rows, columns) // 3) ** 2
    while mask.sum() < budget:
        left_over, before = budget - mask.sum(), mask.sum()
        for _ in range(10):
            area = rng.uniform(*sorted((least, left_over)))
            ratio = np.exp(rng.uniform(np.log(aspect), -np.log(aspect)))
            h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if w < columns and h < rows:
                top, left = rng.integers(rows - h + 1), rng.integers(columns - w + 1)
                block = mask[top : top + h, left : left + w]
                if 0 < h * w - block.sum() <= left_over + 1e-3:
                    block[:] = True
                    break
        if mask.sum() == before:
            break
    return mask


@pytest.mark.parametrize(
    "ranges", [((75 / 196, 75 / 196),), ((120 / 196, 120 / 196),), ((0.0, 0.0), (0.1, 0.5))]
)
def test_block_masks_have_the_references_distribution(ranges):
    """Counts, places and neighbours of 4000 masks against as many of the reference."""
    many, rng = 4000, np.random.default_rng(0)
    sampler = Block(ranges)
    drawn = jax.jit(sampler, static_argnums=1)({}, (14, 14), draw(many))
    assert drawn.keep is None
    found = np.asarray(drawn.mask, float).reshape(many, 14, 14)
    want = np.array([reference_block(rng, 14, 14, ranges) for _ in range(many)], float)
    assert found.sum((1, 2)).max() <= sampler.most(196)

    def alike(a, b, sigmas=5.0):
        error = np.sqrt((a.var(0) + b.var(0)) / many) + 1e-9
        assert (np.abs(a.mean(0) - b.mean(0)) < sigmas * error).all()

    counts = [x.sum((1, 2)) for x in (found, want)]
    alike(*counts)
    alike(*(c**2 for c in counts))
    alike(found.reshape(many, -1), want.reshape(many, -1))
    # Edges between removed and kept patches tell few large blocks from many small ones.
    alike(*(np.abs(np.diff(x, axis=1)).sum((1, 2)) for x in (found, want)))
    alike(*(np.abs(np.diff(x, axis=2)).sum((1, 2)) for x in (found, want)))


def test_block_masks_of_a_small_grid_and_of_no_budget():
    sampler = Block(((0.5, 0.5),))
    counts = np.asarray(sampler({}, (4, 4), draw(64)).mask).sum(1)
    assert (counts > 0).all()
    assert counts.max() == sampler.most(16) == 8
    assert np.asarray(Block(((0.0, 0.0),))({}, (4, 4), draw(8)).mask).max() == 0


def test_removed_places_come_first_and_in_order():
    mask = jnp.array([[0, 1, 0, 3, 1], [0, 0, 0, 0, 1]], jnp.uint8)
    places, removed = removed_places(mask, 3)
    np.testing.assert_array_equal(places, [[1, 3, 4], [4, 0, 1]])
    np.testing.assert_array_equal(removed, [[True] * 3, [True, False, False]])
