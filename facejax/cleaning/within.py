"""Within an identity: the pictures of one person, and pictures that are nearly the same."""

import numpy as np

from facejax.cleaning import blocks


def largest_cluster(x: np.ndarray, near: float, points: int) -> np.ndarray:
    """Which pictures of an identity are in the largest cluster of DBSCAN.

    Two pictures are neighbours if their cosine is above `near`. A picture with at least `points`
    neighbours, itself among them, is a core; connected cores are a cluster, and so is whoever is a
    core's neighbour. Of equally large clusters the one with the higher mean cosine wins. Without a
    core nothing stays, but an identity with fewer than `points` pictures says nothing and stays.

    Args:
        x: f32[n, D], unit vectors.

    Returns:
        bool[n].

    Source: Ester et al. 1996 (DBSCAN); its use is CAST's, Zhu et al. 2021, arXiv:2103.04098.
    """
    n = len(x)
    if n < points:
        return np.ones(n, bool)
    is_core = blocks.counts(x, near) >= points
    core, other = np.flatnonzero(is_core), np.flatnonzero(~is_core)
    if not len(core):
        return is_core
    cluster = core[blocks.components(x[core], near)]
    edge = blocks.touched(x[other], x[core], cluster, near)
    members = np.concatenate([core, other[edge[:, 0]]])
    of = np.concatenate([cluster, edge[:, 1]])
    size = np.bincount(of)

    def closeness(name: int) -> float:
        return float(np.square(x[members[of == name]].mean(axis=0, dtype=np.float64)).sum())

    best = max(np.flatnonzero(size == size.max()), key=closeness)
    kept = np.zeros(n, bool)
    kept[members[of == best]] = True
    return kept


def without_copies(x: np.ndarray, same: float) -> np.ndarray:
    """Which pictures have no cosine above `same` with an earlier one that stays, bool[n]."""
    return blocks.leading(x, same)[0] == np.arange(len(x))
