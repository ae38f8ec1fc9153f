"""Never silence: says what a run waits for, and ends it when the wait is hopeless."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from facejax.errors import TrainingFailed

PATIENCE = {"compiling": 6, "evaluating": 6}
"""Multiples of the limit for what may rightly take long."""


class Watchdog:
    """A thread that looks after the main one.

    After a tenth of the limit in one phase it says so, in one line; past the limit it writes the
    stacks of all threads to stderr and to `<folder>/stacks-<process>.txt` and ends the process with
    the status of `TrainingFailed`: a hung collective blocks outside Python, where no exception
    could reach it.

    Args:
        limit: seconds in one phase; 0 watches nothing.
        folder: where stacks are written.
        process: number of this process.
        explain: phase -> what it waits for, in words.
        end: called with the status; never returns.
        stream: where lines go.
    """

    def __init__(
        self,
        limit: float,
        folder: Path,
        process: int = 0,
        explain: Callable[[str], str] = lambda phase: "",
        end: Callable[[int], None] = os._exit,
        stream: TextIO | None = None,
    ):
        self._limit, self._folder, self._process = limit, folder, process
        self._explain, self._end, self._stream = explain, end, stream or sys.stderr
        self._phase, self._since, self._warned = "running a step", time.monotonic(), False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the main thread does within the block; the time counts anew after it too."""
        outer = self._phase
        self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, name: str) -> None:
        self._phase, self._since, self._warned = name, time.monotonic(), False

    def _watch(self) -> None:
        while not self._done.wait(min(self._limit / 40, 5.0)):
            phase, waited = self._phase, time.monotonic() - self._since
            limit = self._limit * PATIENCE.get(phase, 1)
            if waited > limit:
                self._give_up(phase, waited)
                return
            if waited > limit / 10 and not self._warned:
                self._warned = True
                self._say(f"warning: {self._sentence(phase, waited)}")

    def _sentence(self, phase: str, waited: float) -> str:
        details = self._explain(phase)
        sentence = f"process {self._process}: {phase} for {waited:.0f} s"
        return f"{sentence}; {details}" if details else sentence

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _give_up(self, phase: str, waited: float) -> None:
        path = self._folder / f"stacks-{self._process}.txt"
        # A full or lost disk may be the very cause: then stderr must do.
        with contextlib.suppress(OSError), path.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(self._stream, all_threads=True)
        remedy = (
            f"see {path}, then run the same command to resume (config.hang_seconds is the limit)"
        )
        self._say(f"error: {self._sentence(phase, waited)}; {remedy}")
        self._end(TrainingFailed.status)
