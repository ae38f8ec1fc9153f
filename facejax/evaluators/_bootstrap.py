"""Bootstrap over people: 95 % intervals of a statistic and of the difference of two.

People are drawn with replacement. A unit that shows one person (a sample, a genuine pair) weighs as
often as that person was drawn; one that shows two (an impostor pair) weighs the product. Resampling
pairs or images instead would treat the many images of one person as independent.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

Items = Mapping[str, np.ndarray]
# (items, weights f64[draws, units]) -> f64[draws]
Statistic = Callable[[Items, np.ndarray], np.ndarray]
Interval = tuple[float, float, float]

_DRAWS_AT_ONCE = 64


def interval(
    items: Items, subjects: np.ndarray, statistic: Statistic, n: int = 1000, seed: int = 0
) -> Interval:
    """Returns (value, low, high) of a statistic; see `paired_interval` for the arguments."""
    value = float(statistic(items, np.ones((1, len(subjects))))[0])
    draws = [statistic(items, w) for w in _weights(subjects, n, seed)]
    return value, *_percentiles(draws)


def paired_interval(
    items_a: Items,
    items_b: Items,
    subjects: np.ndarray,
    statistic: Statistic,
    n: int = 1000,
    seed: int = 0,
) -> Interval:
    """Returns (difference, low, high) of statistic(a) - statistic(b), both under the same draws.

    Args:
        items_a: arrays whose first axis is the units.
        items_b: the same units, judged otherwise.
        subjects: person of each unit, [units] or [units, 2]; a row of two equal ones is one person.
        statistic: (items, weights f64[draws, units]) -> f64[draws]; NaN where a draw has no value.
        n: draws.
        seed: of the draws.
    """
    ones = np.ones((1, len(subjects)))
    difference = float(statistic(items_a, ones)[0] - statistic(items_b, ones)[0])
    draws = [statistic(items_a, w) - statistic(items_b, w) for w in _weights(subjects, n, seed)]
    return difference, *_percentiles(draws)


def subset(items: Items, which: np.ndarray) -> dict[str, np.ndarray]:
    """The units that bool[units] names."""
    return {name: values[which] for name, values in items.items()}


def scores(
    items: Items, statistics: Mapping[str, Statistic], n: int, seed: int
) -> dict[str, float]:
    """Values of statistics by name, with `<name>_low` and `<name>_high` unless n is 0.

    Args:
        items: of units that count; `subjects` is the person of each.
        statistics: by name.
        n, seed: draws, see `paired_interval`.
    """
    ones = np.ones((1, len(items["subjects"])))
    values = {name: float(statistic(items, ones)[0]) for name, statistic in statistics.items()}
    return values | bounds(items, statistics, n, seed)


def bounds(
    items: Items, statistics: Mapping[str, Statistic], n: int, seed: int
) -> dict[str, float]:
    """As `scores`, without the values."""
    found = {}
    for name, statistic in statistics.items() if n else ():
        _, low, high = interval(items, items["subjects"], statistic, n, seed)
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def differences(
    a: Items, b: Items, statistics: Mapping[str, Statistic], n: int, seed: int
) -> dict[str, Interval]:
    """Statistics of `a` minus those of `b` over the units that are `valid` in both.

    Args:
        a, b: of the same units, with `valid` bool[units] and a's `subjects`.
        statistics: by name.
        n, seed: draws, see `paired_interval`.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    both = a["valid"] & b["valid"]
    sides, subjects = (subset(a, both), subset(b, both)), a["subjects"][both]
    return {
        name: paired_interval(*sides, subjects, statistic, n, seed)
        for name, statistic in statistics.items()
    }


def weighted_mean(name: str) -> Statistic:
    """The statistic "mean of items[name] over the units where it is not NaN"."""

    def statistic(items: Items, weights: np.ndarray) -> np.ndarray:
        values = items[name].astype(np.float64)
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):  # a draw may hold no unit at all: NaN
            return weights @ np.where(known, values, 0.0) / (weights @ known.astype(np.float64))

    return statistic


def _weights(subjects: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    columns = subjects.reshape(len(subjects), -1)
    people, index = np.unique(columns, return_inverse=True)
    index = index.reshape(columns.shape)
    one_person = (index == index[:, :1]).all(axis=1)
    rng = np.random.default_rng(seed)
    for start in range(0, n, _DRAWS_AT_ONCE):
        drawn = np.stack(
            [
                np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))
                for _ in range(min(_DRAWS_AT_ONCE, n - start))
            ]
        )
        first = drawn[:, index[:, 0]]
        yield np.where(one_person, first, first * drawn[:, index[:, -1]]).astype(np.float64)


def _percentiles(draws: list[np.ndarray]) -> tuple[float, float]:
    low, high = np.nanpercentile(np.concatenate(draws), [2.5, 97.5])
    return float(low), float(high)
