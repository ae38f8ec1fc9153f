"""Batches that processes of their own read and decode.

Threads share Python's lock: what each image costs beside its decoder bounds them all. A process
holds a lock of its own. It opens the sources again, makes every P-th batch, and leaves the pictures
in memory that it shares with the process that trains; the rest comes through its standard output.
Which record stands where is what it is with threads.

`python -m facejax.data.workers` is such a process: it takes its job and then free slots from its
standard input, and ends when that does.
"""

import math
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from facejax.data.mixture import Mixture, open_sources
from facejax.data.order import NONE, make_order
from facejax.data.pipeline import BatchSpec, HostBatch, loader_of
from facejax.data.reading import Reading
from facejax.data.sampling import Sampler
from facejax.errors import TrainingFailed, UserError

SLOTS = 3
"""Batches of a process that may lie ready or be in use."""
NOTE = 64
"""Bytes before the first slot."""


@dataclass(frozen=True)
class Recipe:
    """What makes a batch of its number, as `pipeline.batches` and `order.make_order` take it."""

    sources: tuple[Mapping[str, Any], ...]
    wanted: BatchSpec
    seed: int
    sampler: Literal["shuffle", "sequential"] | Sampler = "shuffle"
    group: int = 1
    blocked: np.ndarray = field(default_factory=NONE.copy)


@dataclass(frozen=True)
class _Job:
    """Makes batches of these numbers; `memory` is an inherited file."""

    recipe: Recipe
    steps: range
    memory: int


def batches(
    recipe: Recipe,
    mixture: Mixture,
    *,
    start: int,
    steps: int,
    processes: int,
    reading: Reading | None = None,
) -> Iterator[HostBatch]:
    """Global batches start, start + 1, ..., steps - 1, as `pipeline.batches` gives them.

    Args:
        recipe: what each process needs to know.
        mixture: the recipe's sources, opened here.
        processes: how many; each has `SLOTS` batches lying ready at most.
        reading: learns what they are reading.

    Raises:
        TrainingFailed: from the iterator, as there, or if a process dies.
    """
    count = min(processes, steps - start)
    made: list[_Worker] = []
    try:
        for k in range(count):
            made.append(_Worker(recipe, mixture, k, range(start + k, steps, count)))
            if reading:
                reading.watch(made[-1].reading)
        for step in range(start, steps):
            for worker in made:
                worker.refill()
            yield made[(step - start) % count].next()
    finally:
        for worker in made:
            worker.close()


class _Worker:
    """A process, as the one that trains sees it."""

    def __init__(self, recipe: Recipe, mixture: Mixture, number: int, steps: range):
        self._where, self._mixture = f"data process {number}", mixture
        shared = Path("/dev/shm")
        with tempfile.TemporaryFile(dir=shared if shared.is_dir() else None) as file:
            self._slots = _Slots(recipe.wanted, file.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "facejax.data.workers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(file.fileno(),),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
            self._lent = 0
            self._send(_Job(recipe, steps, file.fileno()), *range(SLOTS))

    def _send(self, *values: Any) -> None:
        with suppress(
            BrokenPipeError
        ):  # it has ended, which is told when its next batch is missing
            for value in values:
                pickle.dump(value, self._process.stdin)
            self._process.stdin.flush()

    def next(self) -> HostBatch:
        """Waits for its next batch."""
        try:
            found = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            what = f"ended, status {self._process.wait()}"
            remedy = "see its words above; fewer config.data.processes need less memory"
            raise TrainingFailed(self._where, what, remedy) from error
        if not isinstance(found, HostBatch):
            kind, *words = found
            raise kind(*words)
        slot = found.arrays.pop("slot")
        whole, views = self._slots.open(slot)
        if self._lent < SLOTS - 2:  # one is ready or being made, and one is this
            self._lent += 1
            # JAX may compute on this very memory, and holds on to the array for as long.
            weakref.finalize(whole, self._free.put, slot).atexit = False
        else:
            views = {name: view.copy() for name, view in views.items()}
            self._send(slot)
        found.arrays.update(views)
        return found

    def refill(self) -> None:
        """Gives back the slots of batches that nobody uses any more."""
        while not self._free.empty():
            self._lent -= 1
            self._send(self._free.get())

    def reading(self) -> tuple[str, Any, int, float] | None:
        """The record that it is reading, see `Reading.watch`."""
        there, source, index, since = self._slots.note.tolist()
        if not there:
            return None
        entry = self._mixture.entries[int(source)]
        return entry.label, entry.source, int(index), since

    def close(self) -> None:
        with suppress(BrokenPipeError):  # it has ended, and never took what it was sent last
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class _Slots:
    """Shared memory: a note of what is being read, then the pictures of each slot."""

    def __init__(self, wanted: BatchSpec, file: int):
        shape = (len(wanted.rows), wanted.size, wanted.size)
        shapes = {"image": (*shape, 3), "generated": (*shape, 3), "regions": shape}
        self._shapes = {k: s for k, s in shapes.items() if k in ("image", *wanted.fields)}
        self._size = sum(math.prod(s) for s in self._shapes.values())
        if os.fstat(file).st_size == 0:
            os.truncate(file, NOTE + SLOTS * self._size)
        self._memory = mmap.mmap(file, NOTE + SLOTS * self._size)
        self.note = np.frombuffer(self._memory, np.float64, 4)

    def open(self, slot: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A slot, u8[bytes], and its arrays, which are views of it."""
        whole = np.frombuffer(self._memory, np.uint8, self._size, NOTE + slot * self._size)
        ends = np.cumsum([math.prod(s) for s in self._shapes.values()])[:-1]
        parts = zip(self._shapes.items(), np.split(whole, ends))
        return whole, {name: part.reshape(shape) for (name, shape), part in parts}


class _Noting(Reading):
    """Notes for another process."""

    def __init__(self, mixture: Mixture, note: np.ndarray):
        super().__init__()
        self._labels, self._note = mixture.labels, note

    def put(self, thread: int, label: str, source: Any, index: int) -> None:
        self._note[1:] = self._labels.index(label), index, time.monotonic()
        self._note[0] = 1

    def drop(self, thread: int) -> None:
        self._note[0] = 0


def work(take: BinaryIO, give: BinaryIO) -> None:
    """The life of a process: a job and free slots come in, batches go out."""
    job: _Job = pickle.load(take)
    slots = _Slots(job.recipe.wanted, job.memory)
    try:
        for batch in _made(job, slots, take):
            pickle.dump(batch, give, pickle.HIGHEST_PROTOCOL)
            give.flush()
    except UserError as error:
        pickle.dump((type(error), error.where, error.what, error.remedy), give)
        give.flush()


def _made(job: _Job, slots: _Slots, take: BinaryIO) -> Iterator[HostBatch]:
    recipe = job.recipe
    mixture = open_sources(recipe.sources)
    order = make_order(mixture, recipe.seed, recipe.sampler, recipe.group, recipe.blocked)
    load = loader_of(mixture, order, recipe.wanted, reading=_Noting(mixture, slots.note))
    for step in job.steps:
        try:
            slot = pickle.load(take)
        except EOFError:  # nobody wants more
            return
        _, views = slots.open(slot)
        batch = load(step, views["image"])
        for name, view in views.items():
            array = batch.arrays.pop(name)
            if name != "image":
                view[:] = array
        batch.arrays["slot"] = slot
        yield batch


def plain(sources: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Sources of a config as dicts, which can be handed to a process."""
    return tuple(_plain(source) for source in sources)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return value


def main() -> None:
    give = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed here is not a batch
    for notice in (signal.SIGINT, signal.SIGTERM):  # they are for the process that trains
        signal.signal(notice, signal.SIG_IGN)
    work(sys.stdin.buffer, give)


if __name__ == "__main__":
    main()
