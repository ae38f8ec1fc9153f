"""Across identities: one person under several names."""

from collections.abc import Sequence

import numpy as np

from facejax.cleaning import blocks
from facejax.cleaning.stored import Vectors


def centres(x: Vectors | np.ndarray, groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of each group of records, f32[M, D], the unit mean, and f32[M], its mean cosine to that.

    Both are zero for an empty group.
    """
    means = np.zeros((len(groups), x.shape[1]), np.float32)
    for m, rows in enumerate(groups):
        if len(rows):
            means[m] = x[rows].mean(axis=0)
    length = np.linalg.norm(means, axis=1)
    centre = np.divide(means, length[:, None], out=means, where=length[:, None] > 0)
    return centre, length


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
    nearest, cosine = blocks.leading(centre[order], unsure)
    out = np.empty(len(order), np.int64)
    stands = nearest == np.arange(len(order))
    out[order] = np.where(stands | (cosine > same), order[nearest], -1)
    return out
