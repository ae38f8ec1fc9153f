"""What benchmarks share: sides that take turns, spreads, rows that are measured once."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.environment import environment

Turn = Callable[[float], float]  # seconds -> images per second


def ready(value: Any) -> None:
    """Waits for arrays of JAX."""
    jax.block_until_ready(value)


def turns(once: Callable[[], Any], batch: int, wait: Callable[[Any], None] = ready) -> Turn:
    """A side, warmed up.

    Args:
        once: dispatches a batch.
        batch: images in it.
        wait: for what `once` returned last.
    """
    for _ in range(3):  # compiles, and fills caches
        wait(once())
    began = time.perf_counter()
    wait(once())
    each = time.perf_counter() - began

    def turn(seconds: float) -> float:
        steps, began, last = max(2, round(seconds / each)), time.perf_counter(), None
        for _ in range(steps):
            last = once()
        wait(last)
        return steps * batch / (time.perf_counter() - began)

    return turn


def alternate(sides: Mapping[str, Turn], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images per second of each side, turn by turn."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, turn in sides.items():
            found[name].append(turn(seconds))
    return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Of each turn."""
    return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, the least and the greatest."""
    low, middle, high = (f(values) for f in (min, statistics.median, max))
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def verdict(value: float, target: float, least: bool = True) -> str:
    """The target, and whether it is met."""
    met = value >= target if least else value <= target
    return f"target {'at least' if least else 'at most'} {target:g}: {'met' if met else 'missed'}"


class Rows:
    """The lines of a JSONL file, found by what was asked for and by the device that answered."""

    def __init__(self, path: Path):
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows = [json.loads(line) for line in lines]

    def once(
        self, asked: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The row that stands there, or else what `measure` finds, which is appended."""
        asked, device = json.loads(json.dumps(asked)), jax.devices()[0].device_kind
        for row in self._rows:
            if (row["asked"], row["device"]) == (asked, device):
                return row
        row = {"asked": asked, **environment(), **measure()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._rows.append(row)
        return row
