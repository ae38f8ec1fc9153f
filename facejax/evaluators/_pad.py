"""Error rates of presentation-attack detection, over weighted units (float64 NumPy).

ISO/IEC 30107-3 [M]: APCER of an attack type is the share of its presentations that are accepted as
live, APCER the largest of them; BPCER is the share of live presentations that are rejected; ACER is
the mean of the two. HTER is (FAR + FRR) / 2 with the FAR over all attacks together, so that it
hides an attack that is rare and always accepted. Scores are higher for live, label live = 1, and a
presentation is accepted where score > threshold.

Statistics take weights f64[draws, units] and give f64[draws], for the bootstrap; NaN where a draw
holds none of what a rate is of.
"""

import numpy as np


def apcer_of_each(accepted: np.ndarray, kind: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """APCER of each attack type, f64[draws, K], in the order of `np.unique(kind[kind > 0])`.

    Args:
        accepted: bool[units].
        kind: i64[units], 0 for live, else the attack's number.
        weights: f64[draws, units].
    """
    of_kind = kind[:, None] == np.unique(kind[kind > 0])
    with np.errstate(invalid="ignore"):
        return weights @ (of_kind & accepted[:, None]) / (weights @ of_kind.astype(np.float64))


def apcer(accepted: np.ndarray, kind: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The largest APCER of a type that the draw holds, f64[draws]."""
    each = apcer_of_each(accepted, kind, weights)
    largest = np.where(np.isnan(each), -np.inf, each).max(axis=1)
    return np.where(np.isneginf(largest), np.nan, largest)


def bpcer(accepted: np.ndarray, kind: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of live presentations that are rejected, f64[draws]."""
    return _share(~accepted, kind == 0, weights)


def far(accepted: np.ndarray, kind: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of all attacks that are accepted, f64[draws]."""
    return _share(accepted, kind > 0, weights)


def acer(accepted: np.ndarray, kind: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(APCER + BPCER) / 2, f64[draws]."""
    return (apcer(accepted, kind, weights) + bpcer(accepted, kind, weights)) / 2


def hter(accepted: np.ndarray, kind: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(FAR + FRR) / 2, f64[draws]."""
    return (far(accepted, kind, weights) + bpcer(accepted, kind, weights)) / 2


def auc(score: np.ndarray, kind: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """P(live > attack) + P(equal) / 2 of weighted units, f64[draws]."""
    order = np.argsort(score, kind="stable")
    score, live, weights = score[order], kind[order] == 0, weights[:, order]
    attacks = np.where(live, 0.0, weights)
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(attacks, axis=1)], axis=1)
    wins = below[:, np.searchsorted(score, score)] / 2
    wins += below[:, np.searchsorted(score, score, side="right")] / 2
    own = np.where(live, weights, 0.0)
    with np.errstate(invalid="ignore"):
        return (own * wins).sum(axis=1) / (own.sum(axis=1) * attacks.sum(axis=1))


def eer_threshold(score: np.ndarray, kind: np.ndarray) -> float:
    """The threshold at which FAR and FRR are nearest; of equal ones that with the lowest HTER.

    Candidates lie midway between neighbouring scores [D], so that a separable set is cut in the
    middle of its gap. Needs both kinds.
    """
    levels = np.unique(score)
    cuts = np.concatenate([levels[:1] - 1, (levels[1:] + levels[:-1]) / 2, levels[-1:] + 1])
    attacks, live = np.sort(score[kind > 0]), np.sort(score[kind == 0])
    accepted = 1 - np.searchsorted(attacks, cuts, side="right") / len(attacks)
    rejected = np.searchsorted(live, cuts, side="right") / len(live)
    return float(cuts[np.lexsort((accepted + rejected, np.abs(accepted - rejected)))[0]])


def _share(event: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return weights @ (event & among).astype(np.float64) / (weights @ among.astype(np.float64))
