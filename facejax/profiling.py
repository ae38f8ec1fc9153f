"""Traces of a few steps of a run, for a profiler's viewer."""

from pathlib import Path

import jax

from facejax.config import Run
from facejax.errors import UserError


def check(run: Run) -> None:
    """Whether the run, whose number of steps is known by now, makes the steps to be traced.

    Raises:
        UserError: it ends before.
    """
    if run.profile and int(run.profile.split(":")[1]) > run.steps:
        what = f"'{run.profile}' goes past the last step, {run.steps}"
        raise UserError("config.profile", what, "name earlier steps")


class Profile:
    """Writes a trace of the steps "first:last", both of them included, to a folder.

    As a context manager it ends the trace of a run that stops in between, so that it can be read.
    A run that is resumed at `first` or later writes none.

    Args:
        span: as in the config; "" traces nothing.
        folder: `plugins/profile/<time>/` is made in it.
    """

    def __init__(self, span: str, folder: Path):
        self._first, self._last = map(int, span.split(":")) if span else (0, 0)
        self._folder, self._running = folder, False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    def bounds(self, step: int) -> bool:
        """Whether the trace begins or ends after `step`."""
        return step == self._first - 1 or (self._running and step == self._last)

    def turn(self) -> None:
        """Begins or ends the trace; the step before has ended."""
        if self._running:
            self._stop()
        else:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
