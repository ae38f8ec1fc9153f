"""Looking probes up in a gallery of unit vectors, a block at a time."""

from collections.abc import Iterable, Iterator

import numpy as np

BLOCK = 1024
"""Rows and columns of a block: 8 MiB of cosines."""


def blocks(
    probes: np.ndarray, gallery: np.ndarray, block: int = BLOCK
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Cosines f64 of all probes with all of the gallery: (rows, columns, block)."""
    for i in range(0, len(probes), block):
        rows = slice(i, min(i + block, len(probes)))
        left = np.asarray(probes[rows], np.float64)
        for j in range(0, len(gallery), block):
            columns = slice(j, min(j + block, len(gallery)))
            yield rows, columns, left @ np.asarray(gallery[columns], np.float64).T


def own_pairs(x: np.ndarray, block: int = BLOCK) -> Iterator[np.ndarray]:
    """Cosines f64[m] of every pair of rows of f64[N, D], each pair once, a block at a time."""
    for i in range(0, len(x), block):
        for j in range(i, len(x), block):
            cosine = x[i : i + block] @ x[j : j + block].T
            yield cosine[np.triu_indices(len(cosine), 1)] if i == j else cosine.ravel()


def highest(parts: Iterable[np.ndarray], count: int) -> np.ndarray:
    """The `count` highest of all values in falling order, f64, holding about twice as many."""
    kept, limit = np.zeros(0), -np.inf
    for part in parts:
        kept = np.append(kept, part[part > limit])
        if len(kept) > 2 * count:
            kept = np.partition(kept, len(kept) - count)[-count:]
            limit = kept.min()  # equal ones that come later change no order
    return np.sort(kept)[::-1][:count]


def best_mates(
    probes: np.ndarray, owner: np.ndarray, gallery: np.ndarray, members: np.ndarray
) -> np.ndarray:
    """f64[P]: the highest cosine of each probe with a gallery entry of its subject; -inf without.

    Args:
        probes: f64[P, D], unit vectors.
        owner: i64[P], subjects.
        gallery: f64[G, D], unit vectors.
        members: i64[G], subjects.
    """
    best = np.full(len(probes), -np.inf)
    for rows, columns, cosine in blocks(probes, gallery):
        mate = owner[rows][:, None] == members[columns][None]
        best[rows] = np.maximum(best[rows], np.where(mate, cosine, -np.inf).max(axis=1))
    return best


def ranks(
    probes: np.ndarray,
    owner: np.ndarray,
    gallery: np.ndarray,
    members: np.ndarray,
    mate: np.ndarray,
    at: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many of other subjects come before a probe's mate. Ties count against it.

    Args:
        probes, owner, gallery, members: as in `best_mates`.
        mate: f64[U], cosines of mates.
        at: i64[U], probe of each, rising; None: mate u is probe u's.

    Returns:
        i64[U], the number of gallery entries of other subjects that score `mate` or higher;
        i64[U], the number of the first of them, len(gallery) without;
        f64[P], the highest cosine of each probe with any entry of another subject.
    """
    at = np.arange(len(probes)) if at is None else at
    before, first = np.zeros(len(at), np.int64), np.full(len(at), len(gallery))
    highest = np.full(len(probes), -np.inf)
    for rows, columns, cosine in blocks(probes, gallery):
        other = owner[rows][:, None] != members[columns][None]
        cosine = np.where(other, cosine, -np.inf)
        highest[rows] = np.maximum(highest[rows], cosine.max(axis=1))
        low, high = np.searchsorted(at, (rows.start, rows.stop))
        for units in np.array_split(np.arange(low, high), -(-(high - low) // BLOCK) or 1):
            beats = cosine[at[units] - rows.start] >= mate[units][:, None]
            beats &= other[at[units] - rows.start]
            before[units] += beats.sum(axis=1)
            here = np.where(beats.any(axis=1), beats.argmax(axis=1) + columns.start, len(gallery))
            first[units] = np.minimum(first[units], here)
    return before, first, highest
