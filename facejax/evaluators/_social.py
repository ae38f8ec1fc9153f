"""How texts judge groups of pictures: effects, rankings and associations, in float64 NumPy.

Sources, by their published definitions: Skew@k and NDKL (Geyik et al. 2019, arXiv:1905.01989), the
effect size of WEAT (Caliskan et al. 2017, arXiv:1608.07187), here of one text against two groups of
pictures.
"""

import numpy as np


def effects(delta: np.ndarray, level: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean delta of the highest level less that of the lowest, f64[draws, C, K].

    Where every unit shows both levels, this is the mean of the units' own differences. NaN where a
    draw lacks a level.

    Args:
        delta: f64[n, K].
        level: i64[n, C], of each contrast; -1 takes no part.
        weights: f64[draws, n].
    """

    def means(which: np.ndarray) -> np.ndarray:
        w = weights[:, which]
        with np.errstate(invalid="ignore"):
            return w @ delta[which] / w.sum(axis=1, keepdims=True)

    top = level.max(axis=0)
    found = [means(own == t) - means(own == 0) for own, t in zip(level.T, top)]
    return np.stack(found, axis=1)


def spread(
    delta: np.ndarray, level: np.ndarray, unit: np.ndarray, pairs: int, seed: int
) -> np.ndarray:
    """Mean |difference| of pairs of pictures of one unit at different levels, f64[K].

    Args:
        delta: f64[n, K].
        level: i64[n].
        unit: i64[n].
        pairs: drawn at random where there are more.
        seed: of the draw.
    """
    order = np.lexsort((level, unit))
    delta, unit, level = delta[order], unit[order], level[order]
    left, right = [], []
    for gap in range(1, int(np.bincount(unit).max())):
        own = np.flatnonzero((unit[gap:] == unit[:-gap]) & (level[gap:] != level[:-gap]))
        left.append(own)
        right.append(own + gap)
    i, j = np.concatenate(left), np.concatenate(right)
    drawn = np.random.default_rng(seed).permutation(len(i))[:pairs]
    return np.abs(delta[i[drawn]] - delta[j[drawn]]).mean(axis=0)


def skew(ranked: np.ndarray, k: int, groups: int) -> np.ndarray:
    """Skew@k of each group, f64[groups]: log of its share among the first k over 1 / groups.

    -inf where the first k hold none of it; MaxSkew is the largest.

    Args:
        ranked: i64[n], the group of each picture, best first.
        k: how many count.
        groups: how many there are; equal shares are desired.
    """
    share = np.bincount(ranked[:k], minlength=groups) / min(k, len(ranked))
    with np.errstate(divide="ignore"):
        return np.log(share * groups)


def ndkl(ranked: np.ndarray, groups: int) -> float:
    """How far a ranking's beginnings are from equal shares: 0 is fair.

    sum_i KL(D_i | uniform) / log2(i + 1), over sum_i 1 / log2(i + 1), with D_i the shares among the
    first i. Arguments as in `skew`.
    """
    place = np.arange(1, len(ranked) + 1)
    shares = np.cumsum(np.eye(groups)[ranked], axis=0) / place[:, None]
    logs = np.log(np.where(shares > 0, shares * groups, 1.0))
    discount = 1 / np.log2(place + 1)
    return float(np.sum((shares * logs).sum(axis=1) * discount) / discount.sum())


def weat(a: np.ndarray, b: np.ndarray, permutations: int, seed: int) -> tuple:
    """Effect sizes and p-values f64[K] of values f64[m, K] and f64[n, K] of two groups.

    The effect is the difference of the means over the deviation (n - 1) of all [M]. p is two-sided
    [D]: the share of random regroupings, this one among them, that differ at least as much.
    """
    both = np.concatenate([a, b])
    gap, deviation = a.mean(axis=0) - b.mean(axis=0), both.std(axis=0, ddof=1)
    rng, first = np.random.default_rng(seed), np.arange(len(both)) < len(a)
    signs = np.stack([rng.permutation(first) for _ in range(permutations)])
    weight = np.where(signs, 1 / len(a), -1 / len(b))
    as_far = np.sum(np.abs(weight @ both) >= np.abs(gap) - 1e-12, axis=0)
    size = np.where(deviation > 0, gap / np.where(deviation > 0, deviation, 1), 0.0)
    return size, (as_far + 1) / (permutations + 1)
