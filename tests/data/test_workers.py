"""Processes give the batches that threads give, and say what went wrong in them."""

import gc
import os
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

from facejax.data import workers
from facejax.data.mixture import open_sources
from facejax.data.order import make_order
from facejax.data.pipeline import BatchSpec, batches
from facejax.data.reading import Reading
from facejax.errors import TrainingFailed

B, SIZE = 8, 16


def recipe(*sources, fields=()):
    wanted = BatchSpec(SIZE, B, np.array([0, 1, 2, 5, 7]), fields)
    return workers.Recipe(workers.plain(sources), wanted, seed=3)


def folder(path, count, broken=()):
    path.mkdir()
    for i in range(count):
        file = path / f"{i:02d}.png"
        Image.fromarray(np.full((20, 18, 3), 5 * i, np.uint8)).save(file)
        if i in broken:
            file.write_bytes(b"no image")
    return {"name": "folder", "path": str(path), "identity": "none"}


def test_processes_give_what_threads_give(tmp_path):
    synthetic = {"name": "synthetic", "n": 30, "identities": 6, "size": 20, "label": "made"}
    made = recipe(synthetic, folder(tmp_path / "faces", 12, (3, 8)), fields=("regions", "identity"))
    mixture = open_sources(made.sources)
    same = {"start": 2, "steps": 7}
    found = list(workers.batches(made, mixture, **same, processes=2))
    wanted = list(batches(mixture, make_order(mixture, 3), made.wanted, **same))
    assert [b.step for b in found] == [b.step for b in wanted] == [2, 3, 4, 5, 6]
    for a, b in zip(found, wanted):
        assert a.ids == b.ids
        assert a.arrays.keys() == b.arrays.keys()
        for name, values in a.arrays.items():
            assert values.dtype == b.arrays[name].dtype
            np.testing.assert_array_equal(values, b.arrays[name])
    bad, met = ({row for batch in side for row in batch.bad} for side in (found, wanted))
    assert bad == met
    assert {row[:3] for row in bad} == {("folder", 3, "03.png"), ("folder", 8, "08.png")}


def test_memory_is_given_back_once_jax_has_done_with_it(tmp_path):
    made = recipe(folder(tmp_path / "faces", 9))
    found = workers.batches(made, open_sources(made.sources), start=0, steps=99, processes=1)
    batch = next(found)
    (worker,) = found.gi_frame.f_locals["made"]
    placed, wanted = jax.device_put(batch.arrays["image"]), batch.arrays["image"].copy()
    del batch
    gc.collect()
    assert worker._free.empty()
    for _ in range(5):  # others are made meanwhile, in other memory
        next(found)
    np.testing.assert_array_equal(placed, wanted)
    del placed
    gc.collect()
    assert not worker._free.empty()
    found.close()


def test_a_process_that_cannot_go_on_says_why(tmp_path):
    made = recipe(folder(tmp_path / "faces", 3, (0, 1, 2)))
    with pytest.raises(TrainingFailed, match="3 broken records in a row"):
        list(workers.batches(made, open_sources(made.sources), start=0, steps=2, processes=1))


def test_a_process_that_dies_is_told(tmp_path):
    made = recipe(folder(tmp_path / "faces", 9))
    found = workers.batches(made, open_sources(made.sources), start=0, steps=99, processes=2)
    next(found)
    for process in found.gi_frame.f_locals["made"]:
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait()
        process._send(0)  # stays in the pipe's buffer, which closing it writes out
    with pytest.raises(TrainingFailed, match=r"data process \d: ended, status -9"):
        list(found)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_the_record_that_hangs_in_a_process_is_named(tmp_path):
    source, reading = folder(tmp_path / "faces", 3), Reading()
    for path in (tmp_path / "faces").iterdir():
        path.unlink()
        os.mkfifo(path)
    made = recipe(source)
    # Reading ends with an error once somebody writes nothing, but nobody does.
    worker = workers._Worker(made, open_sources(made.sources), 0, range(3))
    reading.watch(worker.reading)
    try:
        until = time.monotonic() + 60
        while not (told := reading.describe()) and time.monotonic() < until:
            time.sleep(0.05)
        assert ".png) for" in told
    finally:
        worker.close()
