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


def leading(x: np.ndarray, bar: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each vector, the nearest of the earlier ones that stand, if near: then it does not stand.

    Returns:
        i64[n] its number, or the vector's own if it stands; f32[n] the cosine, 1 if it stands.
    """
    n = len(x)
    nearest, cosine = np.arange(n), np.ones(n, np.float32)
    stands = np.ones(n, bool)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        each = np.arange(rows.stop - start)
        best, whose = np.full(len(each), bar, np.float32), start + each
        for j in range(0, start, BLOCK):
            found = np.where(stands[j : j + BLOCK], x[rows] @ x[j : j + BLOCK].T, -np.inf)
            first = found.argmax(axis=1)
            closer = found[each, first] > best
            best = np.where(closer, found[each, first], best)
            whose = np.where(closer, j + first, whose)
        within = x[rows] @ x[rows].T
        for k in each:
            found = np.where(stands[start : start + k], within[k, :k], -np.inf)
            if k and found.max() > best[k]:
                best[k], whose[k] = found.max(), start + found.argmax()
            if whose[k] != start + k:
                stands[start + k] = False
                nearest[start + k], cosine[start + k] = whose[k], best[k]
    return nearest, cosine


def near_any(x: np.ndarray, others: np.ndarray, bar: float) -> np.ndarray:
    """bool[n]: whether any of the vectors `others` [m, D] is near."""
    found = np.zeros(len(x), bool)
    for j in range(0, len(others), BLOCK):
        block = others[j : j + BLOCK]
        for i in range(0, len(x), BLOCK):
            found[i : i + BLOCK] |= (x[i : i + BLOCK] @ block.T > bar).any(axis=1)
    return found
