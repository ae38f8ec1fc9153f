"""Ranks of what is looked for among everything else, and what chance would reach."""

import numpy as np

TIE = 1e-9
"""Cosines of float32 rows that are nearer than this are equal: rounding does not decide."""


def best_ranks(
    scores: np.ndarray, relevant: np.ndarray, removed: np.ndarray | None = None
) -> np.ndarray:
    """Rank i64[n], from 1, of each query's best relevant item; ties are broken against it.

    Args:
        scores: f64[n, m], of each query with each item.
        relevant: bool[n, m], one item or more of each query.
        removed: bool[n, m], items that take no part.
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    ahead = (scores >= best - TIE) & ~relevant
    if removed is not None:
        ahead &= ~removed
    return 1 + ahead.sum(axis=1)


def chance(relevant: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """The chance f64[n] that a random order has a relevant item among the first k.

    Args:
        relevant: i64[n], how many items are.
        items: i64[n], of how many, k or more or all of which are looked at.
    """
    missed = np.ones(len(relevant))
    for j in range(min(k, int(items.max(initial=0)))):
        missed *= np.maximum(items - relevant - j, 0) / np.maximum(items - j, 1)
    return 1 - missed
