import threading
import time

import pytest

from facejax.data.reading import Reading
from facejax.watchdog import PATIENCE, Watchdog


class Ended:
    """Stands in for the end of the process."""

    def __init__(self):
        self.status, self.at = None, threading.Event()

    def __call__(self, status):
        self.status = status
        self.at.set()


def watch(tmp_path, limit, explain=lambda phase: ""):
    stream, ended = (tmp_path / "stderr").open("w+"), Ended()
    return Watchdog(limit, tmp_path, 3, explain, ended, stream), stream, ended


def said(stream) -> str:
    stream.seek(0)
    return stream.read()


def test_a_hang_is_reported_then_ended_with_all_stacks(tmp_path):
    dog, stream, ended = watch(tmp_path, 0.5, lambda phase: f"why {phase}")
    with dog, dog.phase("waiting for input"):
        assert ended.at.wait(10)
    assert ended.status == 3
    first, *_, last = said(stream).strip().splitlines()
    assert first.startswith("warning: process 3: waiting for input for 0 s; why waiting for input")
    assert last.startswith("error: process 3: waiting for input for")
    assert "why waiting for input" in last
    stacks = (tmp_path / "stacks-3.txt").read_text()
    assert "test_a_hang_is_reported" in stacks
    assert "watchdog.py" in stacks
    assert "test_a_hang_is_reported" in said(stream)


def test_progress_is_no_hang(tmp_path):
    dog, stream, ended = watch(tmp_path, 2.0)
    with dog:
        for _ in range(6):
            with dog.phase("waiting for input"):
                time.sleep(0.4)
    assert not ended.at.is_set()
    assert "error" not in said(stream)
    assert not list(tmp_path.glob("stacks*"))


def test_a_wait_is_warned_of_once(tmp_path):
    dog, stream, _ = watch(tmp_path, 8.0)
    with dog, dog.phase("saving"):
        time.sleep(1.5)
    assert said(stream).count("warning") == 1


def test_compilation_may_take_longer(tmp_path):
    dog, _, ended = watch(tmp_path, 0.2)
    with dog, dog.phase("compiling"):
        time.sleep(0.5)
        assert not ended.at.is_set()
        assert ended.at.wait(0.2 * PATIENCE["compiling"] + 5)


def test_no_limit_watches_nothing(tmp_path):
    dog, _, _ = watch(tmp_path, 0)
    before = threading.active_count()
    with dog:
        assert threading.active_count() == before


class Slow:
    """A source that stops at record 7 until it is let go."""

    def __init__(self):
        self.there, self.go = threading.Event(), threading.Event()

    def name(self, index):
        return f"picture {index}"

    def read(self, indices):
        found = []
        for index in indices:
            if index == 7:
                self.there.set()
                assert self.go.wait(10)
            found.append(index)
        return found


def test_the_record_that_hangs_is_named():
    reading, source = Reading(), Slow()
    assert reading.describe() == ""

    def read():
        with reading.of("faces", source, [5, 7, 9]) as indices:
            assert source.read(indices) == [5, 7, 9]

    thread = threading.Thread(target=read)
    thread.start()
    assert source.there.wait(10)
    found = reading.describe()
    source.go.set()
    thread.join()
    assert found.startswith("source 'faces' has been reading record 7 (picture 7) for")
    assert reading.describe() == ""


def test_a_source_that_fails_leaves_nothing_behind():
    reading = Reading()
    with pytest.raises(StopIteration), reading.of("faces", Slow(), []) as indices:
        next(iter(indices))
    assert reading.describe() == ""
