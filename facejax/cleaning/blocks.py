"""Questions about the cosines of many unit vectors f32[n, D], answered a block at a time.

"Near" means a cosine above `bar`. Time grows with n squared, memory only with n.
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array, csgraph

BLOCK = 2048


def pairs(n: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of the rows and columns of an n by n matrix, those on and above its diagonal."""
    for i in range(0, n, BLOCK):
        for j in range(i, n, BLOCK):
            yield slice(i, min(i + BLOCK, n)), slice(j, min(j + BLOCK, n))


def counts(x: np.ndarray, bar: float) -> np.ndarray:
    """i64[n]: how many vectors are near each one, itself among them."""
    out = np.zeros(len(x), np.int64)
    for i, j in pairs(len(x)):
        near = x[i] @ x[j].T > bar
        if i == j:
            np.fill_diagonal(near, True)
        else:
            out[j] += near.sum(axis=0)
        out[i] += near.sum(axis=1)
    return out


def components(x: np.ndarray, bar: float) -> np.ndarray:
    """i64[n]: the first of all vectors that chains of near ones connect to each."""
    n = len(x)
    label = np.arange(n)
    for i, j in pairs(n):
        near = x[i] @ x[j].T > bar
        near &= label[i][:, None] != label[j][None]
        a, b = np.nonzero(near)
        if len(a):
            links = label[i][a], label[j][b]
            graph = coo_array((np.ones(len(a), bool), links), shape=(n, n))
            label = csgraph.connected_components(graph, directed=False)[1][label].astype(np.int64)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return first[inverse]


def touched(x: np.ndarray, y: np.ndarray, label: np.ndarray, bar: float) -> np.ndarray:
    """i64[k, 2]: each row of `x` with each label i64[m] of the rows of `y` [m, D] near it, once."""
    found = [np.zeros((0, 2), np.int64)]
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            a, b = np.nonzero(x[i : i + BLOCK] @ y[j : j + BLOCK].T > bar)
            found.append(np.unique(np.stack([a + i, label[b + j]], axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0)


def leading(x: np.ndarray, group: np.ndarray, bar: float) -> np.ndarray:
    """bool[n]: what stays if a group near an earlier one that stays goes, as a whole.

    Args:
        group: i64[n], ascending; groups are near if any two of their vectors are.
    """
    n, stays = len(x), np.ones(len(x), bool)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        first = np.searchsorted(group, group[start])  # of a group that an earlier block began
        hit = np.zeros(rows.stop - start, bool)
        for j in range(0, first, BLOCK):
            before = slice(j, min(j + BLOCK, first))
            hit |= near_any(x[rows], x[before][stays[before]], bar)
        near = x[rows] @ x[rows].T > bar
        ends = [*(np.flatnonzero(np.diff(group[rows])) + 1), len(hit)]
        for a, b in zip([0, *ends], ends):
            goes = hit[a:b].any() or (near[a:b, :a] & stays[start : start + a]).any()
            if a:
                stays[start + a : start + b] = not goes
                continue
            stays[first : start + b] = stays[first] and not goes
            if stays[first]:
                hit[b:] |= near_any(x[start + b : rows.stop], x[first:start], bar)
    return stays


def near_any(x: np.ndarray, others: np.ndarray, bar: float) -> np.ndarray:
    """bool[n]: whether any of the vectors `others` [m, D] is near."""
    found = np.zeros(len(x), bool)
    for j in range(0, len(others), BLOCK):
        block = others[j : j + BLOCK]
        for i in range(0, len(x), BLOCK):
            found[i : i + BLOCK] |= (x[i : i + BLOCK] @ block.T > bar).any(axis=1)
    return found
