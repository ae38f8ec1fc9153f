"""What a run's time and memory went into: step times, the wait for data, goodput, peak memory."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

GIB = 2**30


class StepTimer:
    """Measures the training loop between two log lines.

    Dispatch is asynchronous, and the loop fetches the metrics of step n after dispatching n+1. A
    step ends when its metrics are there, so the loop's pace is the devices' pace.

    Args:
        images_per_step: images of the global batch.
        n_devices: how many devices share them.
        clock: seconds.

    Attributes:
        worked: seconds of all steps so far, without those in which devices idled for want of data.
    """

    def __init__(
        self,
        images_per_step: int,
        n_devices: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._images, self._devices, self._clock = images_per_step, n_devices, clock
        self._seconds: list[float] = []
        self._wait, self._last = 0.0, clock()
        self._watch = ThreadPoolExecutor(1, "step timer")
        self._busy: Future[float] | None = None
        self.worked = 0.0

    def dispatched(self, result: Any) -> None:
        """Notes when the devices will be done with a step, of which `result` is an output."""
        self._busy = self._watch.submit(_when_done, result, self._clock)

    @contextmanager
    def waiting(self):
        """Times the wait for the next batch, from when the devices have nothing to do."""
        start = self._clock()
        yield
        end = self._clock()
        if self._busy is not None:
            start = max(start, self._busy.result()) if self._busy.done() else end
        self._wait += end - start

    @contextmanager
    def paused(self):
        """Leaves out what is not a step: compilation, evaluation, a blocking checkpoint."""
        start = self._clock()
        yield
        self._last += self._clock() - start

    def tick(self) -> None:
        """Ends a step."""
        now = self._clock()
        self._seconds.append(now - self._last)
        self._last = now

    def read(self) -> dict[str, float]:
        """Returns the interval's numbers and begins the next; {} if no step ended.

        `images_per_s` and `images_per_s_per_device`, `step_ms` (mean) with `step_ms_p50` and
        `step_ms_p95`, and `data_wait` (share of the time).
        """
        if not self._seconds:
            return {}
        total, steps = sum(self._seconds), len(self._seconds)
        p50, p95 = (1e3 * np.percentile(self._seconds, [50, 95])).tolist()
        wait, rate = min(self._wait, total), self._images * steps / total
        self._seconds, self._wait = [], 0.0
        self.worked += total - wait
        return {
            "images_per_s": rate,
            "images_per_s_per_device": rate / self._devices,
            "data_wait": wait / total,
            "step_ms": 1e3 * total / steps,
            "step_ms_p50": p50,
            "step_ms_p95": p95,
        }


def _when_done(result: Any, clock: Callable[[], float]) -> float:
    # A failed step is told where its metrics are fetched.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.block_until_ready(result)
    return clock()


class Goodput:
    """The share of a run's wall time that went into steps that count.

    The wall time is counted from the first start of the run, over all its restarts. What is not
    goodput: starting, compilation, the wait for data (as `StepTimer` measures it), evaluation, the
    part of a checkpoint that blocks, the time between a kill and the restart, and steps that were
    lost by a kill and made again. A pause before a finished run is extended counts as lost, too.

    It survives a restart because each line of metrics.jsonl holds `goodput` and `wall_s`, whose
    product is the time in steps up to that line. Lines past the checkpoint are cut on resuming, and
    with them the time of the steps that they told of.

    Args:
        began: the first start of the run, in seconds since the epoch.
        rows: the lines of metrics.jsonl up to the step at which this process starts.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        began: float,
        rows: Iterable[Mapping[str, Any]] = (),
        clock: Callable[[], float] = time.time,
    ):
        self._began, self._clock, self._before = began, clock, 0.0
        for row in rows:
            if row.get("goodput") is not None:
                self._before = row["goodput"] * row["wall_s"]

    def read(self, worked: float) -> dict[str, float]:
        """`goodput` and `wall_s`, with `worked` seconds of steps in this process."""
        wall = self._clock() - self._began
        return {"goodput": (self._before + worked) / wall, "wall_s": wall}


def peak_memory() -> dict[str, float]:
    """The most memory held so far, in GiB (2^30 bytes).

    `host_peak_gib` is the resident set of this process, which on CPU holds the arrays, too.
    `device_peak_gib` is what the fullest device of this process has allocated; absent where the
    backend does not count (CPU).
    """
    kilo = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo
    counted = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in counted if "peak_bytes_in_use" in stats]
    found = {"device_peak_gib": max(peaks) / GIB} if peaks else {}
    return found | {"host_peak_gib": host / GIB}
