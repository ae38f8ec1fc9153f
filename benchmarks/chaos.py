"""Kills a training run again and again, and checks that nothing was lost, repeated or changed.

    python benchmarks/chaos.py --out=DIR [--kills=80] [--changed=20] [--seed=0]

A tiny model (MAE + SimCLR) trains on procedural faces. A run is killed with SIGKILL at chosen
moments, about ten times on its way, and started again by the same command:

    start   before its first checkpoint
    save    while a checkpoint is being written (its unfinished folder is still there afterwards)
    step    anywhere else, in mid-step as a rule

At its end the run must equal one that was never killed. On the same number of devices: the SHA-256
of every item, bit for bit, and the ordered batch ids. With `--changed` kills every restart takes
another number of (fake CPU) devices: the batch ids are equal, the parameters agree to `ATOL`.

Prints a table and writes `chaos.json` into DIR; exits with 1 if anything is wrong. Runs that stand
in DIR already are not repeated, so an interrupted benchmark goes on.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.environment import environment  # noqa: E402
from facejax.checkpoint import Checkpoints, digest  # noqa: E402
from facejax.optim import flatten  # noqa: E402

STEPS, EVERY, ATOL = 120, 10, 1e-5
DEVICES = (1, 2, 4, 8)
KILLS_PER_RUN = 10
TINY = (
    "--config=configs/quickstart.py",
    f"--config.steps={STEPS}",
    f"--config.checkpoint.every_steps={EVERY}",
    "--config.global_batch=16",
    "--config.log_every=5",
    "--config.log_batch_ids=True",
    "--config.encoder.width=64",
    "--config.encoder.depth=2",
    "--config.objective.mae.decoder_depth=1",
    "--config.objective.simclr.hidden=64",
    "--config.data.size=32",
    "--config.data.sources=({'name': 'synthetic', 'n': 100, 'identities': 20, 'size': 32},)",
    "--config.eval={}",
    "--config.export=()",
    "--config.report=False",
)
# What does not magnify rounding. Adam at eps 1e-8 turns a zero gradient's into a step of its own;
# BatchNorm divides by the spread of features that are nearly equal at first.
CALM = (
    "--config.optimizer={'name': 'sgd', 'lr': 0.003, 'weight_decay': 0.0}",
    "--config.objective.simclr.norm=layer",
)


def start(workdir: Path, options: tuple[str, ...], devices: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "facejax.train", f"--workdir={workdir}", *TINY, *options]
    flags = f"--xla_force_host_platform_device_count={devices}"
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdout=log,
            stderr=log,
        )


def finish(workdir: Path, options: tuple[str, ...], devices: int = 1) -> None:
    status = start(workdir, options, devices).wait()
    if status:
        sys.exit(f"{workdir}: status {status}; see {workdir.name}.log beside it")


def done_steps(workdir: Path) -> int:
    path = workdir / "batches.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def file_number(workdir: Path) -> int | None:
    path = workdir / "batches.jsonl"
    return path.stat().st_ino if path.exists() else None


def unfinished(workdir: Path) -> bool:
    folder = workdir / "checkpoints"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def kill(process: subprocess.Popen, workdir: Path, kind: str, rng: random.Random) -> str | None:
    """Kills the process at a moment of `kind`; the kind that it was, None if the run ended."""
    saved = (Checkpoints(workdir).steps() or [0])[-1]
    first, last = (0, EVERY - 1) if kind == "start" else (1, 2 * EVERY)
    wanted = saved + rng.randrange(first, last)
    stale = file_number(workdir)
    while process.poll() is None:
        resumed = file_number(workdir) not in (stale, None)  # it was cut back to the checkpoint
        if resumed and (unfinished(workdir) if kind == "save" else done_steps(workdir) >= wanted):
            time.sleep(rng.uniform(0, 0.02))
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return None
    if unfinished(workdir):
        return "save"
    return "step" if Checkpoints(workdir).steps() else "start"


def chaos(workdir: Path, options, kinds: list[str], devices, rng: random.Random) -> list[dict]:
    """A run with kills of these kinds on its way to the end; what happened at each."""
    happened = []
    for kind in kinds:
        count = devices()
        process = start(workdir, options, count)
        found = kill(process, workdir, kind, rng)
        if found is None:
            break
        steps = Checkpoints(workdir).steps()
        row = {"wanted": kind, "kind": found, "step": done_steps(workdir), "devices": count}
        happened.append(row | {"saved": steps[-1] if steps else 0})
    finish(workdir, options, devices())
    return happened


def compare(workdir: Path, reference: Path, exact: bool) -> dict[str, Any]:
    """Whether a run equals the one never killed."""
    same = (workdir / "batches.jsonl").read_bytes() == (reference / "batches.jsonl").read_bytes()
    if exact:
        state, drift = digest(workdir, STEPS) == digest(reference, STEPS), 0.0
    else:
        a, b = (flatten(Checkpoints(w).read(STEPS)["params"]) for w in (workdir, reference))
        drift = max(float(np.abs(a[path] - b[path]).max()) for path in b)
        state = a.keys() == b.keys() and drift <= ATOL
    return {"batches": same, "state": state, "drift": drift}


def series(name: str, kills: int, exact: bool, out: Path, seed: int) -> list[dict[str, Any]]:
    """Runs until `kills` kills have happened; a row per run."""
    options = () if exact else CALM
    reference = out / f"{name}-never"
    finish(reference, options)
    rows, count, total = [], 0, 0
    while total < kills:
        rng = random.Random(f"{seed}/{name}/{count}")
        workdir, record = out / f"{name}-{count}", out / f"{name}-{count}.json"
        if not record.exists():
            shutil.rmtree(workdir, ignore_errors=True)
            left = min(kills - total, KILLS_PER_RUN)
            kinds = ["start", "start", *rng.choices(("save", "step"), (3, 2), k=KILLS_PER_RUN)]
            devices = (lambda: 1) if exact else (lambda rng=rng: rng.choice(DEVICES))
            found = chaos(workdir, options, kinds[:left], devices, rng)
            row = {"run": workdir.name, "kills": found, **compare(workdir, reference, exact)}
            record.write_text(json.dumps(row))
        row = json.loads(record.read_text())
        rows.append(row)
        total, count = total + len(row["kills"]), count + 1
        kinds = [k["kind"] for k in row["kills"]]
        right = row["batches"] and row["state"]
        print(f"{row['run']}: {' '.join(kinds)}: {'right' if right else 'WRONG'}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kills = [k for row in rows for k in row["kills"]]
    right = [k for row in rows if row["batches"] and row["state"] for k in row["kills"]]
    kinds = {kind: sum(k["kind"] == kind for k in kills) for kind in ("start", "save", "step")}
    drift = max((row["drift"] for row in rows), default=0.0)
    return {"kills": len(kills), "right": len(right), **kinds, "drift": drift}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--changed", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    report: dict[str, Any] = {"environment": environment(), "steps": STEPS, "every": EVERY}
    for name, kills, exact in (("same", args.kills, True), ("changed", args.changed, False)):
        if kills:
            rows = series(name, kills, exact, args.out, args.seed)
            report[name] = {**summary(rows), "runs": rows}
    report["seconds"] = round(time.monotonic() - began)
    (args.out / "chaos.json").write_text(json.dumps(report, indent=1) + "\n")
    wrong = 0
    columns = ("kills", "right", "start", "save", "step")
    print(f"{'devices':8s}", *(f"{c:>6s}" for c in columns), "largest drift")
    for name in ("same", "changed"):
        if name in report:
            found = report[name]
            wrong += found["kills"] - found["right"]
            print(f"{name:8s}", *(f"{found[c]:6d}" for c in columns), f"{found['drift']:.2g}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
