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


def leading(x, bar):
    """One vector after the other."""
    near, nearest, standing = x @ x.T, [], []
    for i in range(len(x)):
        close = [j for j in standing if near[i, j] > bar]
        nearest.append(max(close, key=lambda j: near[i, j]) if close else i)
        standing += [] if close else [i]
    return np.array(nearest)


@pytest.mark.parametrize("block", [1, 3, 7, 64])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_answer_as_the_whole(block, seed, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", block)
    x, y = vectors(40, seed), vectors(25, seed + 100)
    rng = np.random.default_rng(seed)
    for bar in (0.5, 0.8, 0.95):
        near = x @ x.T > bar
        np.fill_diagonal(near, True)
        np.testing.assert_array_equal(blocks.counts(x, bar), near.sum(1))
        np.testing.assert_array_equal(blocks.components(x, bar), linked(near))
        nearest, cosine = blocks.leading(x, bar)
        np.testing.assert_array_equal(nearest, leading(x, bar))
        np.testing.assert_allclose(cosine, (x * x[nearest]).sum(1), atol=1e-6)
        stands = nearest == np.arange(len(x))
        np.testing.assert_array_equal(within.without_copies(x, bar), stands)
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
    assert 1 < len(np.unique(leading(x, 0.8))) < 40


def test_identities_become_the_nearest_that_stands_never_by_way_of_a_third():
    angle = np.deg2rad([0, 19, 40, 90, 150, 200, 60])
    centre = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    size = np.array([5, 3, 4, 9, 7, 8, 2])
    same, near = np.cos(np.deg2rad(25)), np.cos(np.deg2rad(45))
    # 1 is 19 degrees from 0, 2 is 40 degrees from it: too near to tell. 2 being
    # out, 6 is 30 degrees from 3, which is too near as well.
    assert across.merged(centre, size, same, near).tolist() == [0, 0, -1, 3, 4, 5, -1]
    # With nothing unsure 2 stands, and 6 becomes it.
    assert across.merged(centre, size, same, same).tolist() == [0, 0, 2, 3, 4, 5, 2]
    assert across.merged(centre[:0], size[:0], same, near).tolist() == []
