"""How unequally error rates fall on groups of people.

Sources, by the formulas of their public scripts: FDR (de Freitas Pereira & Marcel 2021,
arXiv:2011.02395), GARBE (Howard et al. 2022, arXiv:2203.05051), the inequity ratio of NIST's
reports [M].
"""

import numpy as np


def gini(rates: np.ndarray) -> float:
    """The Gini coefficient of n rates, times n / (n - 1): 0 is equal, 1 is all on one group."""
    n, mean = len(rates), float(np.mean(rates))
    if n < 2 or mean == 0:
        return 0.0
    spread = float(np.abs(np.subtract.outer(rates, rates)).sum())
    return n / (n - 1) * spread / (2 * n**2 * mean)


def garbe(fmr: np.ndarray, fnmr: np.ndarray, alpha: float = 0.5) -> float:
    """The weighted mean of both rates' Gini coefficients; 0 is fair."""
    return alpha * gini(fmr) + (1 - alpha) * gini(fnmr)


def fdr(fmr: np.ndarray, fnmr: np.ndarray, alpha: float = 0.5) -> float:
    """1 less the weighted mean of both rates' largest differences; 1 is fair."""
    return 1 - (alpha * float(np.ptp(fmr)) + (1 - alpha) * float(np.ptp(fnmr)))


def inequity(fmr: np.ndarray, fnmr: np.ndarray, alpha: float = 0.5) -> float:
    """The product of both rates' largest ratios to the powers alpha and 1 - alpha; 1 is fair.

    Rates of 0 give infinity; see `jeffreys`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [np.max(rates) / np.min(rates) for rates in (fmr, fnmr)]
    return float(ratios[0] ** alpha * ratios[1] ** (1 - alpha))


def jeffreys(errors: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Rates that are never 0: (errors + 1/2) / (trials + 1)."""
    return (errors + 0.5) / (trials + 1)
