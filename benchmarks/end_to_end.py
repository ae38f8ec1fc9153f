"""What reading, decoding and bookkeeping leave of a step's speed: the trainer's loop, end to end.

    python -m benchmarks.end_to_end --out=DIR [--data=FOLDER] [--objective=vit] [--variant=Ti]
        [--size=112] [--patch=16] [--batch=64] [--workers=2] [--dtype=float32] [--attention=xla]
        [--turns=7] [--seconds=5] [--faces=2048] [--scratch=DIR]

    loop    as `facejax.train` goes: batches read from ArrayRecord shards and decoded in `--workers`
            threads, handed to the device, the step, its numbers fetched one step late and written,
            the watchdog and the timer
    step    the same jitted step again and again on a batch that is in the device's memory

The objectives vit, mae and simclr are those of `benchmarks/step.py`. The shards are written by
`facejax.pack`, of `--faces` procedural faces or of the images of `--data` (a folder or a zip), and
kept in `--scratch`. The two take turns of `--seconds`, on one training state; a ratio is that of a
turn. Before a turn of the loop, batches that were read during the other's are thrown away, and one
step warms up. The targets are 0.97 on a CPU and 0.90 on an accelerator. Printed beside is the share
of the loop's time that passes until a batch is on its way to the device. Appends a row to
DIR/end_to_end.jsonl, which is not measured again on the same device.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import jax

from benchmarks import step as tasks
from benchmarks.turns import Rows, alternate, ratios, ready, spread, turns, verdict
from facejax import allocator, config, mesh, pack, processes, state
from facejax.books import Books
from facejax.data.reading import Reading
from facejax.metrics import Writer
from facejax.session import Session, prepare
from facejax.step import jitted
from facejax.train import read_batches
from facejax.watchdog import Watchdog

TARGETS = {"cpu": 0.97}
OTHERWISE = 0.90
ENDLESS = 10**6  # steps


def packed(args: argparse.Namespace) -> Path:
    """The folder of shards, written where it is not there yet."""
    name, options = "synthetic", {"n": args.faces, "identities": args.faces // 4, "size": args.size}
    if args.data:
        identity = "parent" if args.objective == "vit" else "none"
        name, options = "folder", {"path": args.data, "identity": identity}
    out = args.scratch / f"packed-{args.size}-{zlib.crc32(repr((name, options)).encode()):08x}"
    pack.pack(pack.make_plan(name, options, size=args.size), out, workers=os.cpu_count() or 1)
    return out


def values(args: argparse.Namespace, source: Path) -> dict[str, Any]:
    """The config of the run."""
    own = tasks.values(args, args.objective, args.batch)
    sources = ({"name": "arrayrecord", "path": str(source)},)
    data = own["data"] | {"workers": args.workers, "sources": sources}
    return own | {"steps": ENDLESS, "data": data}


class Loop:
    """Turns of the trainer's loop and of its step alone, on one state.

    Attributes:
        waits: of each turn of the loop, the share of the time that it waited for input.
    """

    def __init__(self, session: Session, dog: Watchdog, reading: Reading):
        self._session, self._dog = session, dog
        self._train = jitted(session.program, session.mesh)
        self._state = state.create(session.program, session.mesh)
        with contextlib.redirect_stderr(io.StringIO()):  # its lines of progress
            self._books = Books(session, Writer(session.workdir, 0), 0)
        self._batches = iter(read_batches(session, 0, reading))
        self._batch = self._given(next(self._batches).arrays)
        self._number = 0
        self.waits: list[float] = []
        self.alone = turns(self._step, session.run.global_batch)
        began = time.perf_counter()
        ready(self._step())
        self._each = time.perf_counter() - began

    def _given(self, arrays):
        return mesh.to_global(self._session.mesh, self._session.run.global_batch, arrays)

    def _step(self, batch=None):
        session = self._session
        self._state, metrics = self._train(
            self._state, batch or self._batch, session.frozen, session.constants
        )
        return metrics

    def _once(self) -> float:
        """One step of the loop; the seconds that it waited."""
        session, books = self._session, self._books
        self._number += 1
        began = time.perf_counter()
        with self._dog.phase("waiting for input"), books.timer.waiting():
            host = next(self._batches)
            batch = self._given(host.arrays)
        waited = time.perf_counter() - began
        metrics = self._step(batch)
        session.checkpoints.poll()
        books.enter(self._number, metrics, host)
        processes.preempted(self._number)
        if self._number % session.run.log_every == 0:
            books.log(self._number)
        return waited

    def turn(self, seconds: float) -> float:
        """Images per second of the loop."""
        run = self._session.run
        for _ in range(2 * run.data.workers):  # what was read ahead during another's turn
            next(self._batches)
        self._once()
        ready(self._state)
        steps, began = max(2, round(seconds / self._each)), time.perf_counter()
        waited = sum(self._once() for _ in range(steps))
        ready(self._state)
        spent = time.perf_counter() - began
        self.waits.append(waited / spent)
        return steps * run.global_batch / spent


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """A row: the loop and the step in turns."""
    run = config.resolve(values(args, packed(args)))
    with tempfile.TemporaryDirectory() as workdir:
        session, reading = prepare(run, Path(workdir)), Reading()
        with Watchdog(run.hang_seconds, session.workdir) as dog:
            loop = Loop(session, dog, reading)
            sides = {"loop": loop.turn, "step": loop.alone}
            rates = alternate(sides, args.turns, args.seconds)
        session.checkpoints.close()
    return {
        "images_per_s": rates,
        "ratio": ratios(rates["loop"], rates["step"]),
        "data_wait": loop.waits,
    }


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="", help="a folder or a zip of faces")
    parser.add_argument("--objective", default="vit", choices=("vit", "mae", "simclr"))
    tasks.add_model(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--faces", type=int, default=2048, help="procedural ones")
    scratch = Path(tempfile.gettempdir()) / "facejax-end-to-end"
    parser.add_argument("--scratch", type=Path, default=scratch, help="where shards are kept")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    allocator.settle()
    args = arguments(argv)
    rows = Rows(args.out / "end_to_end.jsonl")
    asked = {k: v for k, v in vars(args).items() if k not in ("out", "scratch")}
    row = rows.once(asked, lambda: measure(args))
    speed = {name: statistics.median(rate) for name, rate in row["images_per_s"].items()}
    target = TARGETS.get(jax.default_backend(), OTHERWISE)
    print(
        f"{args.objective:7s} loop {speed['loop']:9,.1f}/s  step {speed['step']:9,.1f}/s  "
        f"ratio {spread(row['ratio'], '.3f')}  {verdict(statistics.median(row['ratio']), target)}  "
        f"data wait {spread([100 * w for w in row['data_wait']], '.1f')} %"
    )


if __name__ == "__main__":
    main()
