"""How unequal error rates of groups are: float64 NumPy over f64[G], one rate per group."""

import numpy as np


def jeffreys(errors: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Rates for ratios: errors / trials, or (errors + .5) / (trials + 1) for all if one is 0."""
    errors, trials = np.asarray(errors, np.float64), np.asarray(trials, np.float64)
    return errors / trials if errors.all() else (errors + 0.5) / (trials + 1)


def ratio(rates: np.ndarray) -> float:
    """Highest over lowest: the skewed error ratio (SER) of RFW, of error rates."""
    return float(np.max(rates) / np.min(rates))


def gini(rates: np.ndarray) -> float:
    """Gini's coefficient with its correction for few groups; 0 where all rates are 0."""
    rates = np.asarray(rates, np.float64)
    n, mean = len(rates), rates.mean()
    apart = np.abs(rates[:, None] - rates).sum()
    return float(n / (n - 1) * apart / (2 * n**2 * mean)) if mean else 0.0


def garbe(fmr: np.ndarray, fnmr: np.ndarray, alpha: float = 0.5) -> float:
    """Gini aggregation rate of biometric equitability (Howard et al. 2022); 0 is fair."""
    return alpha * gini(fmr) + (1 - alpha) * gini(fnmr)


def fdr(fmr: np.ndarray, fnmr: np.ndarray, alpha: float = 0.5) -> float:
    """Fairness discrepancy rate (de Freitas Pereira & Marcel 2020); 1 is fair."""
    return float(1 - alpha * np.ptp(fmr) - (1 - alpha) * np.ptp(fnmr))


def inequity(fmr: np.ndarray, fnmr: np.ndarray, alpha: float = 0.5) -> float:
    """Inequity rate: ratio(FMR)^alpha ratio(FNMR)^(1 - alpha); 1 is fair. The exponents are [M]."""
    return ratio(fmr) ** alpha * ratio(fnmr) ** (1 - alpha)
