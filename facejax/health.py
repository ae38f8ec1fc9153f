"""Whether the numbers of a run are sound: steps that are not finite, and spikes of the loss."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from facejax.errors import TrainingFailed

Id = tuple[str, int]
SHOWN = 8


def check_finite(step: int, metrics: Mapping[str, Any], ids: list[Id], most: int) -> None:
    """Stops a run whose loss or gradient was not finite for more than `most` steps in a row.

    Raises:
        TrainingFailed: naming the step, the objectives at fault and the batch.
    """
    if metrics["nonfinite"] <= most:
        return
    losses = {k.removeprefix("loss/"): v for k, v in metrics.items() if k.startswith("loss/")}
    guilty = [label for label, v in losses.items() if not np.isfinite(v)] or ["the gradient"]
    raise TrainingFailed(
        f"step {step}",
        f"not finite for {int(metrics['nonfinite'])} steps in a row, from {', '.join(guilty)} "
        f"(batch {short(ids)})",
        "lower the learning rate, set optimizer.clip, or look at these records",
    )


def short(ids: list[Id]) -> str:
    """The first ids of a batch, in words."""
    listed = ", ".join(f"{label}:{index}" for label, index in ids[:SHOWN])
    return f"{listed}, ..." if len(ids) > SHOWN else listed


class Spikes:
    """Finds losses far above those of the last steps.

    A loss is a spike if it lies above the median of the last `window` finite ones by more than
    `factor` times their median absolute deviation, and by more than a tenth of the median.

    Args:
        window: steps that are remembered; nothing is a spike before that many were seen.
        factor: 10 lets Gaussian noise through about once in 1e10 steps (6.7 deviations).
    """

    def __init__(self, window: int = 64, factor: float = 10.0):
        self._recent: deque[float] = deque(maxlen=window)
        self._factor = factor

    def find(self, loss: float) -> float | None:
        """Takes the next loss; the median it is measured against if it is a spike, else None."""
        if not np.isfinite(loss):
            return None
        median = None
        if len(self._recent) == self._recent.maxlen:
            middle = float(np.median(self._recent))
            spread = float(np.median(np.abs(np.array(self._recent) - middle)))
            if loss > middle + max(self._factor * spread, 0.1 * abs(middle)):
                median = middle
        self._recent.append(float(loss))
        return median
