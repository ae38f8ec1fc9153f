"""How long saving holds up training: asynchronous against synchronous, on the same state.

    python benchmarks/checkpoint.py --out=DIR [--megabytes=1000] [--pairs=5] [--step_ms=400]

A step computes for about `--step_ms` on a state of `--megabytes`. Pairs of saves are interleaved: a
synchronous one (start and wait), then an asynchronous one (start, and steps until it is written).
Prints what the loop was blocked for and the steps during the write over the median of the steps
without one, and writes `checkpoint.json` into DIR. The checkpoints are written into DIR too, and
removed.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.environment import environment  # noqa: E402
from facejax.checkpoint import Checkpoints  # noqa: E402
from facejax.state import TrainState  # noqa: E402

LEAVES = 16
WIDTH = 512


def state_of(megabytes: int) -> TrainState:
    rows = megabytes * 2**20 // (LEAVES * 4 * 1024)
    key = jax.random.key(0)
    params = {
        f"kernel_{i:02d}": jax.random.normal(jax.random.fold_in(key, i), (rows, 1024))
        for i in range(LEAVES)
    }
    zero = jnp.int32(0)
    return TrainState(zero, params, {}, {}, {}, {}, zero, zero)


@jax.jit
def work(x: jax.Array, rounds: jax.Array) -> jax.Array:
    """Matrix products, as many as asked for: stands in for a step."""

    def one(_, x):
        return jnp.tanh(x @ x / WIDTH)

    return jax.lax.fori_loop(0, rounds, one, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--step_ms", type=float, default=400)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    state, x = state_of(args.megabytes), jnp.ones((WIDTH, WIDTH))

    def step(rounds: int) -> float:
        began = time.perf_counter()
        work(x, rounds).block_until_ready()
        return time.perf_counter() - began

    step(1)
    rounds = max(1, round(args.step_ms / 1e3 / np.median([step(1) for _ in range(20)])))
    quiet = [step(rounds) for _ in range(20)]
    median = float(np.median(quiet))
    scratch = args.out / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    checkpoints = Checkpoints(scratch, keep=1)
    checkpoints.save(1, state)  # compiles the checksums
    checkpoints.wait()
    rows, number = [], 2
    for _ in range(args.pairs):
        began = time.perf_counter()
        checkpoints.save(number, state)
        checkpoints.wait()
        synchronous = time.perf_counter() - began
        began = time.perf_counter()
        checkpoints.save(number + 1, state)
        blocked = time.perf_counter() - began
        during = []
        while not checkpoints.written():
            during.append(step(rounds))
        checkpoints.wait()
        number += 2
        rows.append({"synchronous_s": synchronous, "blocked_s": blocked, "steps_s": during})
    checkpoints.close()
    shutil.rmtree(scratch)

    shares = [row["blocked_s"] / row["synchronous_s"] for row in rows]
    slow = [s / median for row in rows for s in row["steps_s"]]
    report = {
        "environment": environment(),
        "megabytes": args.megabytes,
        "step_s": median,
        "quiet_worst": max(quiet) / median,
        "blocked_share": {"median": float(np.median(shares)), "worst": max(shares)},
        "steps_during_write": {"median": float(np.median(slow)), "worst": max(slow)},
        "pairs": rows,
    }
    (args.out / "checkpoint.json").write_text(json.dumps(report, indent=1) + "\n")
    seconds = [np.median([row[k] for row in rows]) for k in ("synchronous_s", "blocked_s")]
    print(f"synchronous save {seconds[0]:.2f} s, asynchronous blocks {seconds[1]:.2f} s")
    print(f"share: median {np.median(shares):.1%}, worst {max(shares):.1%}")
    print(
        f"step {median * 1e3:.0f} ms; during a write x{np.median(slow):.2f}, worst x{max(slow):.2f}"
    )
    print(f"(without a write the worst of {len(quiet)} steps was x{report['quiet_worst']:.2f})")


if __name__ == "__main__":
    main()
