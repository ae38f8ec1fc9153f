"""Where a run's time and memory went, on clocks that move when told."""

import threading

import jax
import pytest

from facejax import speed
from facejax.metrics import Writer, read_jsonl
from facejax.speed import Goodput, StepTimer, peak_memory


class Clock:
    """A clock that moves only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_timer_counts_steps_waits_and_leaves_pauses_out():
    clock = Clock()
    timer = StepTimer(32, n_devices=2, clock=clock)
    with timer.paused():
        clock.now += 100
    for seconds in (1.0, 1.0, 2.0):
        with timer.waiting():
            clock.now += 0.25
        clock.now += seconds - 0.25
        timer.tick()
    assert timer.worked == 0.0  # until it is read
    assert timer.read() == pytest.approx(
        {
            "images_per_s": 3 * 32 / 4,
            "images_per_s_per_device": 3 * 32 / 8,
            "data_wait": 0.75 / 4,
            "step_ms": 4000 / 3,
            "step_ms_p50": 1000.0,
            "step_ms_p95": 1900.0,
        }
    )
    assert timer.read() == {}
    assert timer.worked == 3.25


class Step:
    """The output of a step that ends when it is told to."""

    def __init__(self):
        self._ended = threading.Event()

    def block_until_ready(self):
        self._ended.wait()
        return self

    def end(self, timer):
        self._ended.set()
        timer._busy.result()


def test_a_wait_beside_a_busy_device_is_none():
    """A wait of 10 s, in which the step before it ends after 0 s, after 4 s or not at all."""
    clock = Clock()
    timer = StepTimer(1, clock=clock)
    for ends, idle in ((0, 1.0), (4, 0.6), (None, 0.0)):
        step = Step()
        timer.dispatched({"loss": step})
        if ends == 0:
            step.end(timer)
        with timer.waiting():
            clock.now += 4
            if ends == 4:
                step.end(timer)
            clock.now += 6
        timer.tick()
        assert timer.read()["data_wait"] == pytest.approx(idle)
        step.end(timer)


def test_a_step_that_failed_is_told_elsewhere():
    class Failed:
        def block_until_ready(self):
            raise jax.errors.JaxRuntimeError("lost")

    clock = Clock()
    timer = StepTimer(1, clock=clock)
    timer.dispatched(Failed())
    with timer.waiting():
        clock.now += 1


def test_goodput_is_what_went_into_steps_that_count(tmp_path):
    """A run is killed 60 s after its start, 20 s after its checkpoint, and started again at 100."""
    clock, writer = Clock(), Writer(tmp_path, 0)
    clock.now = 1000.0
    before = Goodput(1000.0, clock=clock)
    for step, now, worked in ((10, 1040.0, 30.0), (20, 1060.0, 48.0)):
        clock.now = now
        writer.scalars(step, before.read(worked))
    writer.scalars(10, {"eval/lfw/auc": 0.5})
    writer.close()
    Writer(tmp_path, 10).close()
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert rows[0] == {"step": 10, "goodput": 0.75, "wall_s": 40.0}
    after = Goodput(1000.0, rows, clock)
    clock.now = 1125.0
    assert after.read(20.0) == {"goodput": pytest.approx((30 + 20) / 125), "wall_s": 125.0}


def test_memory_is_the_process_s_and_the_fullest_device_s_where_it_counts(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.memory_stats = lambda: {"peak_bytes_in_use": peak}

    found = peak_memory()
    assert set(found) == {"host_peak_gib"}
    assert 0.05 < found["host_peak_gib"] < 1000
    monkeypatch.setattr(speed.jax, "local_devices", lambda: [Device(2**30), Device(3 * 2**30)])
    assert peak_memory()["device_peak_gib"] == 3.0
