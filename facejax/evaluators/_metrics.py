"""Verification and retrieval metrics in float64 NumPy.

Scores are similarities: higher means more alike, and a pair is accepted where score > threshold.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

FEW_IMPOSTORS = 10

# The grid of the LFW protocol, on squared distances of unit vectors (0..4).
THRESHOLDS = np.arange(0, 4, 0.01)
VAL_THRESHOLDS = np.arange(0, 4, 0.001)


def unit(x: np.ndarray) -> np.ndarray:
    """L2-normalises the last axis, in float64; a zero vector stays zero."""
    x = np.asarray(x, np.float64)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)


def squared_distance(a: np.ndarray, b: np.ndarray, chunk: int = 4096) -> np.ndarray:
    """Squared L2 distance f64[n] of the rows of two f64[n, D]; of unit vectors it is 2 - 2 cos."""
    out = np.empty(len(a))
    for i in range(0, len(a), chunk):
        difference = a[i : i + chunk] - b[i : i + chunk]
        out[i : i + chunk] = np.einsum("nd,nd->n", difference, difference)
    return out


def lfw_threshold(distance: np.ndarray, same: np.ndarray) -> float:
    """The first of {0, .01, ..., 3.99} with the highest accuracy of "distance < it = same".

    Args:
        distance: f64[n], squared, of unit vectors.
        same: bool[n].
    """
    accepted = np.searchsorted(np.sort(distance[same]), THRESHOLDS)
    rejected = np.sum(~same) - np.searchsorted(np.sort(distance[~same]), THRESHOLDS)
    return float(THRESHOLDS[np.argmax(accepted + rejected)])


def val_threshold(distance: np.ndarray, same: np.ndarray, far: float) -> float:
    """The distance at which the false-accept rate is `far`, interpolated on a grid of .001.

    0 where not even the largest distance reaches `far`. Source: davidsandberg/facenet.
    """
    rate = np.searchsorted(np.sort(distance[~same]), VAL_THRESHOLDS) / max(np.sum(~same), 1)
    return float(np.interp(far, rate, VAL_THRESHOLDS)) if rate[-1] >= far else 0.0


def roc(score: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-accept rates f64[m] as the threshold falls, from (0, 0) to (1, 1).

    Equal scores are one point, so the curve doesn't depend on the order of ties. Needs both kinds.
    """
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    true = np.cumsum(same[order])[last_of_tie]
    false = np.cumsum(~same[order])[last_of_tie]
    return np.append(0, false) / false[-1], np.append(0, true) / true[-1]


def auc(score: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC: P(genuine > impostor) + P(equal) / 2."""
    false, true = roc(score, same)
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def eer(score: np.ndarray, same: np.ndarray) -> float:
    """The rate at which false accepts equal false rejects, on the straight lines of the ROC."""
    false, true = roc(score, same)
    gap = false - (1 - true)  # rises from -1 to 1
    i = int(np.argmax(gap >= 0))
    share = -gap[i - 1] / (gap[i] - gap[i - 1])
    return float(false[i - 1] + share * (false[i] - false[i - 1]))


def allowed_impostors(impostors: int, far: float) -> int:
    """floor(far * impostors): how many impostors a threshold for `far` may accept."""
    return int(np.floor(far * impostors + 1e-9))  # 0.29 * 100 is 28.999999999999996


def tar_at_far(score: np.ndarray, same: np.ndarray, far: float) -> tuple[float, float]:
    """True-accept rate at a false-accept rate of at most `far`, exact under any ties.

    The threshold is the k-th highest impostor score (from zero), k = floor(far * impostors), and
    a pair is accepted above it, so no more than k impostors are.

    Returns:
        the rate and the threshold (-inf for far = 1).
    """
    rates, thresholds = tar_at_fars(score, same, (far,))
    return float(rates[0]), float(thresholds[0])


def tar_at_fars(
    score: np.ndarray, same: np.ndarray, far: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """`tar_at_far` at several rates, with one sort: f64[m] rates and f64[m] thresholds."""
    impostors = np.append(np.sort(score[~same])[::-1], -np.inf)
    most = len(impostors) - 1
    thresholds = impostors[[min(allowed_impostors(most, f), most) for f in far]]
    genuine = np.sort(score[same])
    accepted = len(genuine) - np.searchsorted(genuine, thresholds, side="right")
    return accepted / len(genuine), thresholds


def tar_at_far_insightface(score: np.ndarray, same: np.ndarray, far: float) -> float:
    """True-accept rate at the point of the ROC whose false-accept rate is nearest to `far`.

    As in insightface's IJB tool, so numbers compare with published ones; it may exceed `far`. Of
    equally near points the one with the higher rates counts. The ROC keeps its collinear points,
    which the tool drops.
    """
    false, true = (rate[::-1] for rate in roc(score, same))
    impostors = np.sum(~same)
    gap = np.abs(np.rint(false * impostors) - far * impostors)  # counts, so that ties are exact
    return float(true[np.argmin(gap)])


def tar_metrics(
    score: np.ndarray,
    same: np.ndarray,
    far: Iterable[float],
    mode: Literal["exact", "insightface"] = "exact",
) -> dict[str, float]:
    """`tar@far=F` for each F that one impostor or more decides, and `impostors@far=F` where few do.

    Args:
        score: f64[n].
        same: bool[n].
        far: rates F.
        mode: "exact" is `tar_at_far`, "insightface" is `tar_at_far_insightface`.
    """
    found, impostors = {}, int(np.sum(~same))
    far = [rate for rate in far if allowed_impostors(impostors, rate)]
    if mode == "exact":
        tar = tar_at_fars(score, same, far)[0]
    else:
        tar = [tar_at_far_insightface(score, same, rate) for rate in far]
    for rate, value in zip(far, tar):
        if rate * impostors < FEW_IMPOSTORS:
            found[f"impostors@far={far_name(rate)}"] = float(rate * impostors)
        found[f"tar@far={far_name(rate)}"] = float(value)
    return found


def cosines(
    features: np.ndarray, pairs: np.ndarray, others: np.ndarray | None = None, chunk: int = 8192
) -> np.ndarray:
    """Products f64[P] of rows of f64[N, D], by pairs i64[P, 2] of their numbers.

    Args:
        others: f64[M, D] that the second numbers refer to; None: `features`.
        chunk: pairs at a time.
    """
    others = features if others is None else others
    out = np.empty(len(pairs))
    for i in range(0, len(pairs), chunk):
        left, right = pairs[i : i + chunk].T
        out[i : i + chunk] = np.einsum("nd,nd->n", features[left], others[right])
    return out


def to_bytes(x: np.ndarray) -> np.ndarray:
    """i8[n, D]: each vector in steps of 1 / 127 of its largest component; zero stays zero.

    FaceNet stores 128-D embeddings in 128 bytes (Schroff et al. 2015, sec. 5.3); its code isn't
    published, this is the plain one.
    """
    x = np.asarray(x, np.float64)
    largest = np.abs(x).max(axis=-1, keepdims=True)
    return np.rint(127 * x / np.where(largest > 0, largest, 1.0)).astype(np.int8)


def knn_votes(
    similarity: np.ndarray, labels: np.ndarray, classes: int, k: int, tau: float
) -> np.ndarray:
    """Votes f64[n, classes] of the k most similar rows, each weighing exp(similarity / tau).

    The highest similarity is subtracted first, which changes no ranking and can't overflow.

    Args:
        similarity: f64[n, m], -inf where a row must not vote.
        labels: i64[m], class numbers.
        classes: number of classes.
        k: neighbours, at most m.
        tau: temperature. Source: DINO (Caron et al., 2021), which uses .07.
    """
    near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    value = np.take_along_axis(similarity, near, axis=1)
    weight = np.exp((value - value.max(axis=1, keepdims=True)) / tau)
    cell = np.arange(len(near))[:, None] * classes + labels[near]
    votes = np.bincount(cell.ravel(), weight.ravel(), minlength=len(near) * classes)
    return votes.reshape(len(near), classes)


def far_name(far: float) -> str:
    """1e-3 -> "1e-3", 0.025 -> "2.5e-2", for metric names."""
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
