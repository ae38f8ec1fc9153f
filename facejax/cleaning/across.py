"""Across identities: one person under several names, and people of a test set."""

from collections.abc import Iterator

import numpy as np

BLOCK = 2048


def centres(x: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """f32[M, D]: the unit mean of each group of records; zero for an empty one."""
    means = np.zeros((len(groups), x.shape[1]), np.float32)
    for m, rows in enumerate(groups):
        if len(rows):
            means[m] = x[rows].mean(axis=0)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    return np.divide(means, length, out=means, where=length > 0)


def pairs_above(
    left: np.ndarray, right: np.ndarray, bar: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of `left`, rows of `right` and their cosine, of all above `bar`, a block at a time."""
    for i in range(0, len(left), BLOCK):
        for j in range(0, len(right), BLOCK):
            cosine = left[i : i + BLOCK] @ right[j : j + BLOCK].T
            a, b = np.nonzero(cosine > bar)
            yield a + i, b + j, cosine[a, b]


def merged(centre: np.ndarray, size: np.ndarray, same: float, unsure: float) -> np.ndarray:
    """Which identity each one becomes.

    From the largest to the smallest, an identity whose centre has a cosine above `same` with that
    of a larger one that stands becomes the nearest of those: never by way of a third, since a chain
    of look-alikes would make one person of many. Otherwise, if such a cosine is above `unsure`, it
    is dropped: whether it is another person can't be told.

    Args:
        centre: f32[M, D], unit vectors; zero for identities without pictures.
        size: i64[M], pictures of each.

    Returns:
        i64[M], -1 where dropped.

    Source: CAST, Zhu et al. 2021, arXiv:2103.04098; its thresholds .7 and .5 are from memory [M].
    """
    order = np.argsort(-size, kind="stable")  # the largest first
    rank = np.empty(len(size), np.int64)
    rank[order] = np.arange(len(size))
    larger: dict[int, list[tuple[float, int]]] = {}
    for a, b, cosine in pairs_above(centre, centre, unsure):
        for m, n, c in zip(a, b, cosine):
            if rank[m] < rank[n]:
                larger.setdefault(int(n), []).append((float(c), int(m)))
    out = np.arange(len(size))
    for n in order:
        standing = [(c, m) for c, m in larger.get(int(n), ()) if out[m] == m]
        if standing:
            cosine, nearest = max(standing)
            out[n] = nearest if cosine > same else -1
    return out


def near_any(x: np.ndarray, others: np.ndarray, bar: float) -> np.ndarray:
    """bool[n]: whether a row has a cosine above `bar` with any row of `others`."""
    found = np.zeros(len(x), bool)
    for a, _, _ in pairs_above(x, others, bar):
        found[a] = True
    return found
