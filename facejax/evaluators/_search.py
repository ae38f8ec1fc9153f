"""Looking probes up in a gallery of unit vectors, a block at a time."""

from collections.abc import Iterator

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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many of other subjects come before a probe's mate. Ties count against it.

    Args:
        probes, owner, gallery, members: as in `best_mates`.
        mate: f64[P], the mate's cosine.

    Returns:
        i64[P], the number of gallery entries of other subjects that score `mate` or higher;
        i64[P], the number of the first of them, len(gallery) without;
        f64[P], the highest cosine with any entry of another subject.
    """
    before, first = np.zeros(len(probes), np.int64), np.full(len(probes), len(gallery))
    highest = np.full(len(probes), -np.inf)
    for rows, columns, cosine in blocks(probes, gallery):
        other = owner[rows][:, None] != members[columns][None]
        cosine = np.where(other, cosine, -np.inf)
        beats = other & (cosine >= mate[rows][:, None])
        before[rows] += beats.sum(axis=1)
        here = np.where(beats.any(axis=1), beats.argmax(axis=1) + columns.start, len(gallery))
        first[rows] = np.minimum(first[rows], here)
        highest[rows] = np.maximum(highest[rows], cosine.max(axis=1))
    return before, first, highest
