"""The only file that touches Orbax: saving, restoring on any mesh, digests.

Every checkpoint carries a checksum per array, taken on the devices while it is written and put into
its folder as the last file, `checksums.json`. What is read is held to them: storage that loses or
changes a single bit is noticed. Arrays are not compressed: zstd takes a second of CPU for each
gigabyte of weights, from the training, to make it 8 % smaller.

    python -m facejax.checkpoint DIR [--step=N] --digest

prints one SHA-256 per item (params, stats, opt, ema, objective). A digest covers every array's
path, type, shape and bytes, so it does not depend on the mesh that wrote the checkpoint.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from facejax import cli, processes
from facejax.checksums import checksums, started
from facejax.data.packed import write_json
from facejax.errors import TrainingFailed, UserError
from facejax.optim import flatten
from facejax.state import ITEMS, Program, TrainState, placement, shapes

# Orbax logs a dozen lines per save and a traceback per thread that fails; what a user must know is
# raised as an error.
logging.getLogger("absl").setLevel(logging.CRITICAL)


CHECKSUMS = "checksums.json"

_SAVING = ocp.options.ArrayOptions.Saving(use_compression=False)


class Damaged(Exception):
    """A checkpoint that cannot be read in full, or whose arrays are not those that were saved."""


class Checkpoints:
    """The checkpoints of one working directory; `step` means completed steps.

    Args:
        workdir: the run's folder; checkpoints lie in `workdir/checkpoints/<step>`.
        keep: how many of the newest to keep; None for reading only.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._keep = keep
        self._manager = self._open()
        self._waiter = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def _open(self) -> ocp.training.Checkpointer | None:
        """Orbax's manager, which knows the checkpoints that there are at this moment."""
        if self._keep is None:
            return None
        with ocp.Context(array_options=ocp.options.ArrayOptions(saving=_SAVING)):
            return ocp.training.Checkpointer(
                self.directory,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),
                cleanup_tmp_directories=True,
            )

    def steps(self) -> list[int]:
        """The steps of the finished checkpoints, ascending."""
        folders = self._folders()
        return [step for step in folders if (self.directory / str(step) / CHECKSUMS).exists()]

    def _folders(self) -> list[int]:
        """Those, and one whose checksums were not written any more."""
        if not self.directory.is_dir():
            return []
        folders = [p for p in self.directory.iterdir() if p.name.isdigit()]
        return sorted(int(p.name) for p in folders if ocp.is_orbax_checkpoint(p))

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing the state; returns once it has left the device's buffers.

        Raises:
            TrainingFailed: the write before this one failed (a full disk, lost storage).
        """
        self.wait()
        if step in self.steps():
            return
        items = as_dict(state)
        try:
            sums = started(items)
            written = self._manager.save_async(step, items, force=True)
            self._pending = self._waiter.submit(self._finish, step, written, sums)
        except (OSError, ValueError) as e:
            raise self._failed(e) from e

    def _finish(self, step: int, written: Any, sums: Callable[[], dict[str, str]]) -> None:
        written.result()
        found = sums()
        if jax.process_index() == 0:
            write_json(self.directory / str(step) / CHECKSUMS, found)

    def poll(self) -> None:
        """Raises the error of the last write, if it has failed by now."""
        if self.written():
            self.wait()

    def written(self) -> bool:
        """Whether no write is under way."""
        return self._pending is None or self._pending.done()

    def wait(self) -> None:
        """Waits for the write under way and raises its error, if it had one."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                pending.result()
            except (OSError, ValueError) as e:
                raise self._failed(e) from e

    def _failed(self, e: Exception) -> TrainingFailed:
        reason = str(e).strip().splitlines()[0][:300] if str(e).strip() else type(e).__name__
        return TrainingFailed(
            str(self.directory),
            f"a checkpoint could not be written ({reason})",
            "free space or mend the storage, then run the same command to resume",
        )

    def close(self) -> None:
        """Finishes the write under way."""
        self.wait()
        if self._manager is not None:
            self._manager.close()

    def restore_newest(
        self, program: Program, mesh: jax.sharding.Mesh
    ) -> tuple[TrainState, int] | None:
        """The newest whole state, on the mesh, with its step; None if nothing was saved yet.

        A damaged checkpoint is set aside as `damaged-<step>`, with a warning, and the one before it
        is taken; processes agree on which.

        Raises:
            UserError: see `restore`.
            TrainingFailed: there are checkpoints, and all are damaged.
        """
        steps = self._folders()
        for step in reversed(steps):
            found, reason = None, ""
            try:
                found = self.restore(program, mesh, step)
            except Damaged as e:
                reason = str(e)
            if processes.agree(found is not None):
                return found, step
            self._set_aside(step, reason or "another process cannot read it")
        if steps:
            what = f"all checkpoints are damaged ({', '.join(map(str, steps))}), and were set aside"
            raise TrainingFailed(str(self.directory), what, "restore one, or use another --workdir")
        return None

    def _set_aside(self, step: int, reason: str) -> None:
        if jax.process_index() == 0:
            print(f"warning: checkpoint {step} is damaged ({reason}); set aside", file=sys.stderr)
            aside = self.directory / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)
        processes.agree(True)  # nobody goes on before it is gone
        if self._manager is not None:
            self._manager.close()
        self._manager = self._open()

    def restore(self, program: Program, mesh: jax.sharding.Mesh, step: int) -> TrainState:
        """Reads a state onto the mesh, whatever mesh wrote it.

        Raises:
            UserError: the checkpoint's arrays are not those of the program (another architecture,
                objective or optimiser).
            Damaged: it cannot be read, or is not what was saved.
        """
        wanted = as_dict(shapes(program))
        found, sums = self._metadata(step)
        _compare(self.directory / str(step), wanted, found)
        placed = jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
            wanted,
            as_dict(placement(program, mesh)),
        )
        return from_dict(self._load(step, placed, sums))

    def read(self, step: int, items: tuple[str, ...] = ITEMS) -> dict[str, Any]:
        """Items of a checkpoint as NumPy arrays, on any machine.

        Raises:
            UserError: it is damaged.
        """
        try:
            metadata, sums = self._metadata(step)
            wanted = {
                name: jax.tree.map(lambda m: np.empty(0, m.dtype), metadata[name])
                if name in items
                else jax.tree.map(lambda _: ocp.PLACEHOLDER, metadata[name])
                for name in metadata
            }
            found = self._load(step, wanted, sums)
        except Damaged as e:
            others = [s for s in self.steps() if s != step]
            remedy = f"there are others: --step={others[-1]}" if others else "restore it"
            raise UserError(str(self.directory / str(step)), f"damaged ({e})", remedy) from e
        return {name: found.get(name, {}) for name in items}

    def _metadata(self, step: int) -> tuple[dict[str, Any], dict[str, str]]:
        """Shapes and types of the arrays of a checkpoint as a nested dict, and their checksums."""
        with _damage():
            found = ocp.metadata(self.directory / str(step))
            arrays = found.metadata
            sums = json.loads((self.directory / str(step) / CHECKSUMS).read_text())
            if arrays is None or flatten(arrays).keys() != sums.keys():
                raise Damaged("its list of arrays is damaged")
            return arrays, sums

    def _load(self, step: int, wanted: Any, sums: Mapping[str, str]) -> dict[str, Any]:
        with _damage():
            found = ocp.load(self.directory / str(step), wanted)
        arrays = {k: v for k, v in flatten(found).items() if v is not ocp.PLACEHOLDER}
        wrong = [path for path, own in checksums(arrays).items() if sums.get(path) != own]
        if wrong:
            raise Damaged(f"{wrong[0]} is not what was saved ({len(wrong)} of {len(sums)} arrays)")
        return found


@contextlib.contextmanager
def _damage():
    """Whatever Orbax and TensorStore raise over broken files, as one error."""
    try:
        yield
    except Damaged:
        raise
    except PermissionError as e:
        raise UserError(str(e.filename), "cannot be read", "give this user the right to") from e
    except Exception as e:
        lines = str(e).strip().splitlines() or [""]
        raise Damaged(f"{type(e).__name__}: {lines[0][:200]}") from e


def as_dict(state: TrainState) -> dict[str, Any]:
    """The state's items by name (Orbax sees plain nested dicts)."""
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(TrainState)}


def from_dict(items: Mapping[str, Any]) -> TrainState:
    """The inverse of `as_dict`."""
    return TrainState(**items)


def _compare(where: Path, wanted: dict, found: dict) -> None:
    want = {k: (tuple(v.shape), str(np.dtype(v.dtype))) for k, v in flatten(wanted).items()}
    have = {k: (tuple(v.shape), str(np.dtype(v.dtype))) for k, v in flatten(found).items()}
    if want == have:
        return
    problems = [f"missing {k}" for k in want if k not in have]
    problems += [f"unexpected {k}" for k in have if k not in want]
    problems += [
        f"{k} is {have[k][0]}, the config asks for {want[k][0]}"
        for k in want
        if k in have and have[k] != want[k]
    ]
    raise UserError(
        str(where),
        f"not the config's architecture: {problems[0]} ({len(problems)} differences)",
        "use another workdir, or the config that wrote it",
    )


def find(workdir: Path, step: int | None) -> int:
    """The checkpoint to read: `step`, or the newest.

    Raises:
        UserError: there is none.
    """
    steps = Checkpoints(workdir).steps()
    if not steps:
        raise UserError(str(workdir), "no checkpoint", "give the workdir of a run that saved one")
    if step is not None and step not in steps:
        listed = ", ".join(map(str, steps))
        raise UserError("--step", f"no checkpoint at step {step}", f"there are: {listed}")
    return steps[-1] if step is None else step


def digest(workdir: Path, step: int) -> dict[str, str]:
    """SHA-256 per item of a checkpoint."""
    items = Checkpoints(workdir).read(step)
    return {name: digest_of(items[name]) for name in ITEMS}


def digest_of(tree: Any) -> str:
    """SHA-256 of the path, type, shape and bytes of every array of a nested dict."""
    h = hashlib.sha256()
    for path, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(leaf)
        h.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        h.update(array.tobytes())
    return h.hexdigest()


def run(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m facejax.checkpoint", description=__doc__)
    parser.add_argument("dir", type=Path, help="the run's working directory")
    parser.add_argument("--step", type=int, help="default: the newest")
    parser.add_argument("--digest", action="store_true", help="print a SHA-256 per item as JSON")
    args = parser.parse_args(argv)
    step = find(args.dir, args.step)
    report = {"step": step, "steps": Checkpoints(args.dir).steps()}
    if args.digest:
        report = {"step": step, **digest(args.dir, step)}
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    cli.main(run)
