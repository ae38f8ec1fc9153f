"""Maps of embeddings: two dimensions in which near points stay near. Float64 NumPy."""

import numpy as np


def unit(embeddings: np.ndarray) -> np.ndarray:
    """f64[n, D] with rows of length 1, so that distances rank as cosines do."""
    x = np.asarray(embeddings, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def pca(embeddings: np.ndarray) -> np.ndarray:
    """f64[n, 2]: the two directions of largest variance of unit embeddings [n, D].

    The sign of each is chosen so that its largest coordinate is positive.
    """
    x = unit(embeddings)
    u, s, _ = np.linalg.svd(x - x.mean(0, keepdims=True), full_matrices=False)
    y = np.zeros((len(x), 2))
    y[:, : min(2, len(s))] = (u * s)[:, :2]
    largest = np.abs(y).argmax(0)
    return y * np.where(y[largest, [0, 1]] < 0, -1.0, 1.0)


def tsne(embeddings: np.ndarray, perplexity: float = 12.0, steps: int = 500) -> np.ndarray:
    """f64[n, 2]: t-SNE of unit embeddings [n, D], exact and deterministic (starts from PCA).

    Source: van der Maaten & Hinton, Visualizing Data using t-SNE, JMLR 2008: Gaussian neighbours
    of equal perplexity, Student-t map, gains, momentum 0.5 then 0.8. Departure: early exaggeration
    12 for 150 steps and a learning rate of n/12 (Belkina et al., 2019). O(n^2) per step.
    """
    x = unit(embeddings)
    p = _neighbours(x, min(perplexity, (len(x) - 1) / 3))
    y = pca(x)
    y = y / max(float(y[:, 0].std()), 1e-12) * 1e-2
    move, gains = np.zeros_like(y), np.ones_like(y)
    rate = max(len(x) / 12, 10.0)
    for step in range(steps):
        q = 1 / (1 + _squared(y))
        np.fill_diagonal(q, 0.0)
        pull = (12 if step < 150 else 1) * p - q / q.sum()
        force = pull * q
        gradient = 4 * (force.sum(1, keepdims=True) * y - force @ y)
        gains = np.where(gradient * move < 0, gains + 0.2, gains * 0.8).clip(0.01)
        move = (0.5 if step < 150 else 0.8) * move - rate * gains * gradient
        y = y + move
        y = y - y.mean(0, keepdims=True)
    return y


def _squared(x: np.ndarray) -> np.ndarray:
    """f64[n, n] of squared distances between rows [n, D]."""
    squares = (x * x).sum(1)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * x @ x.T, 0.0)


def _neighbours(x: np.ndarray, perplexity: float) -> np.ndarray:
    """f64[n, n], symmetric, sums to 1: each row's precision is found by bisection."""
    distances = _squared(x)
    np.fill_diagonal(distances, np.inf)
    distances = distances - distances.min(1, keepdims=True)
    low, high = np.full((len(x), 1), 1e-6), np.full((len(x), 1), 1e12)
    for _ in range(80):
        beta = np.sqrt(low * high)
        p = np.exp(-distances * beta)
        p /= p.sum(1, keepdims=True)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
    return (p + p.T) / (2 * len(x))


def nearest_agree(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows [n, D] whose most similar other row (by cosine) has the same label [n]."""
    x = unit(embeddings)
    similar = x @ x.T
    np.fill_diagonal(similar, -np.inf)
    return float(np.mean(labels[similar.argmax(1)] == labels))
