"""The only file that touches Orbax: saving, restoring on any mesh, digests.

    python -m facejax.checkpoint DIR [--step=N] --digest

prints one SHA-256 per item (params, stats, opt, ema, objective). A digest covers every array's
path, type, shape and bytes, so it does not depend on the mesh that wrote the checkpoint.
"""

import argparse
import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from facejax import cli
from facejax.errors import TrainingFailed, UserError
from facejax.optim import flatten
from facejax.state import ITEMS, Program, TrainState, placement, shapes

# Orbax and absl print a dozen lines per save; what a user must know is raised as an error.
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints of one working directory; `step` means completed steps.

    Args:
        workdir: the run's folder; checkpoints lie in `workdir/checkpoints/<step>`.
        keep: how many of the newest to keep; None for reading only.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._manager = None
        if keep is not None:
            self._manager = ocp.training.Checkpointer(
                self.directory,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),
                cleanup_tmp_directories=True,
            )
        self._pending = None

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, ascending."""
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
        try:
            self._pending = self._manager.save_async(step, as_dict(state), force=True)
        except (OSError, ValueError) as e:
            raise self._failed(e) from e

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

    def restore(self, program: Program, mesh: jax.sharding.Mesh, step: int) -> TrainState:
        """Reads a state onto the mesh, whatever mesh wrote it.

        Raises:
            UserError: the checkpoint's arrays are not those of the program (another architecture,
                objective or optimiser).
        """
        wanted = as_dict(shapes(program))
        _compare(self.directory / str(step), wanted, self.metadata(step))
        placed = jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
            wanted,
            as_dict(placement(program, mesh)),
        )
        return from_dict(ocp.load(self.directory / str(step), placed))

    def metadata(self, step: int) -> dict[str, Any]:
        """Shapes and types of the arrays of a checkpoint, as a nested dict."""
        return ocp.metadata(self.directory / str(step)).metadata

    def read(self, step: int, items: tuple[str, ...] = ITEMS) -> dict[str, Any]:
        """Items of a checkpoint as NumPy arrays, on any machine."""
        metadata = self.metadata(step)
        wanted = {
            name: jax.tree.map(lambda m: np.empty(0, m.dtype), metadata[name])
            if name in items
            else jax.tree.map(lambda _: ocp.PLACEHOLDER, metadata[name])
            for name in metadata
        }
        found = ocp.load(self.directory / str(step), wanted)
        return {name: found.get(name, {}) for name in items}


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
