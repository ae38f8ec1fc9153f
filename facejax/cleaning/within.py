"""Within an identity: the pictures of one person, and pictures that are nearly the same."""

import numpy as np


def largest_cluster(x: np.ndarray, near: float, points: int) -> np.ndarray:
    """Which pictures of an identity are in the largest cluster of DBSCAN.

    Two pictures are neighbours if their cosine is at least `near`. A picture with at least `points`
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
    cosine = x @ x.T
    neighbours = cosine >= near
    np.fill_diagonal(neighbours, True)
    core = neighbours.sum(axis=1) >= points
    label = connected(neighbours & core[:, None] & core[None], core)
    best, kept = (0, -np.inf), np.zeros(n, bool)
    for cluster in np.unique(label[core]):
        members = (neighbours & (core & (label == cluster))[None]).any(axis=1)
        rank = (int(members.sum()), float(cosine[np.ix_(members, members)].mean()))
        if rank > best:
            best, kept = rank, members
    return kept


def connected(links: np.ndarray, among: np.ndarray) -> np.ndarray:
    """i64[n]: the least number that links bool[n, n] connect each of `among` to; -1 elsewhere."""
    label = np.where(among, np.arange(len(among)), -1)
    while True:
        reached = np.where(links, label[None], len(among)).min(axis=1, initial=len(among))
        new = np.where(among, np.minimum(label, reached), -1)
        if (new == label).all():
            return label
        label = new


def without_copies(x: np.ndarray, same: float) -> np.ndarray:
    """Which pictures are not within a cosine of `same` of an earlier one that stays, bool[n]."""
    kept: list[int] = []
    out = np.zeros(len(x), bool)
    for i in range(len(x)):
        if not kept or (x[kept] @ x[i]).max() < same:
            kept.append(i)
            out[i] = True
    return out
