"""Blocks of any size answer as the whole matrix does, and DBSCAN as the textbook's."""

import numpy as np
import pytest

from facejax.cleaning import across, blocks, within


def vectors(n, seed, d=6, spread=0.5):
    """Unit vectors in a few loose clouds, so that every bar has vectors on both sides."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, d))[rng.integers(0, 5, n)] + spread * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def linked(near):
    """The first vector that chains connect to each, by walking."""
    first = np.full(len(near), -1)
    for start in range(len(near)):
        todo = [start] if first[start] < 0 else []
        while todo:
            i = todo.pop()
            if first[i] < 0:
                first[i] = start
                todo += np.flatnonzero(near[i]).tolist()
    return first


def dbscan(x, bar, points):
    """The largest cluster, from the definition."""
    near = x @ x.T > bar
    np.fill_diagonal(near, True)
    core = near.sum(1) >= points
    first = linked(near & core & core[:, None])
    clusters = [near[:, core & (first == c)].any(1) for c in np.unique(first[core])]
    if not clusters:
        return np.zeros(len(x), bool)
    return max(clusters, key=lambda m: (m.sum(), (x[m].astype(float) @ x[m].T).mean()))


def leading(x, group, bar):
    """One group after the other."""
    near, stays = x @ x.T > bar, np.ones(len(x), bool)
    for g in np.unique(group):
        stays[group == g] = not (near[group == g] & (stays & (group < g))).any()
    return stays


@pytest.mark.parametrize("block", [1, 3, 7, 64])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_answer_as_the_whole(block, seed, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", block)
    x, y = vectors(40, seed), vectors(25, seed + 100)
    rng = np.random.default_rng(seed)
    group = np.sort(rng.integers(0, 12, len(x)))
    for bar in (0.5, 0.8, 0.95):
        near = x @ x.T > bar
        np.fill_diagonal(near, True)
        np.testing.assert_array_equal(blocks.counts(x, bar), near.sum(1))
        np.testing.assert_array_equal(blocks.components(x, bar), linked(near))
        np.testing.assert_array_equal(blocks.leading(x, group, bar), leading(x, group, bar))
        each = np.arange(len(x))
        np.testing.assert_array_equal(within.without_copies(x, bar), leading(x, each, bar))
        across_both = x @ y.T > bar
        np.testing.assert_array_equal(blocks.near_any(x, y, bar), across_both.any(1))
        label = rng.integers(0, 4, len(y))
        pairs = {(i, label[j]) for i, j in zip(*np.nonzero(across_both))}
        found = blocks.touched(x, y, label, bar)
        assert len(found) == len(pairs)
        assert set(map(tuple, found.tolist())) == pairs
        for points in (2, 4, 9):
            kept = within.largest_cluster(x, bar, points)
            np.testing.assert_array_equal(kept, dbscan(x, bar, points))


def test_the_reference_is_put_to_the_test():
    """The bars above leave some and take some."""
    x = vectors(40, 0)
    sizes = [int(dbscan(x, bar, 4).sum()) for bar in (0.5, 0.8, 0.95)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert 0 < leading(x, np.arange(40), 0.8).sum() < 40


def test_a_group_that_spans_blocks_goes_as_a_whole_and_takes_no_other_with_it(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 3)
    axis = np.eye(4, dtype=np.float32)
    # Group 1 spans the first two blocks; only its last vector is near group 0.
    x = axis[[0, 1, 1, 0, 1]]
    np.testing.assert_array_equal(
        blocks.leading(x, np.array([0, 1, 1, 1, 2]), 0.5), [True, False, False, False, True]
    )
    # If it stays, what is near its first vectors goes.
    x = axis[[0, 1, 1, 2, 1]]
    np.testing.assert_array_equal(
        blocks.leading(x, np.array([0, 1, 1, 1, 2]), 0.5), [True, True, True, True, False]
    )


def test_chains_of_merged_identities_and_of_unsure_ones():
    angle = np.deg2rad([0, 20, 40, 90, 150, 200])
    centre = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    size = np.array([3, 5, 4, 9, 7, 8])
    # 0, 1 and 2 are a chain and become the largest, 1; 3 is 50 degrees from 2, so the smaller goes.
    same, unsure = np.cos(np.deg2rad(25)), np.cos(np.deg2rad(55))
    assert across.merged(centre, size, same, unsure).tolist() == [-1, -1, -1, 3, -1, 5]
    assert across.merged(centre, size, same, same).tolist() == [1, 1, 1, 3, 4, 5]
    assert across.merged(centre[:0], size[:0], same, unsure).tolist() == []
