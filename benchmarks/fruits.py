"""Time of the whole recognition chain for one face on one core, in the manner of FRUITS.

    python benchmarks/fruits.py (--workdir=DIR | --export=DIR) [--out=DIR] [--flip] [--runs=500]

FRUITS (Zhu et al. 2021, arXiv:2103.04098) allows 100, 500 or 1,000 ms for one image on one core.
Measured here are alignment by five points and the embedding (with `--flip` also of the mirror
image), batch 1, after 50 runs to warm up; images are decoded beforehand, and detection is left
out: facejax has no detector, and the points are those of procedural faces. Prints the median and
the 95th percentile and writes `fruits.json` into DIR.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

if hasattr(os, "sched_setaffinity"):  # before any thread of JAX exists
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np  # noqa: E402

import facejax  # noqa: E402
from benchmarks.environment import environment  # noqa: E402
from facejax.data import align  # noqa: E402
from facejax.data.sources import synthetic  # noqa: E402

WARM, BUDGETS, FACES = 50, (100, 500, 1000), 16


def faces(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images u8[S, S, 3], twice as large as the aligned ones, and their five points f32[5, 2]."""
    source = synthetic.open(synthetic.Config(n=FACES, identities=FACES, size=2 * size))
    records = source.read(range(FACES))
    return [(r["image"], align.five_points(r["landmarks"])) for r in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--runs", type=int, default=500)
    args = parser.parse_args()
    if (args.workdir is None) == (args.export is None):
        parser.error("give exactly one of --workdir and --export")
    model = facejax.load(args.workdir or args.export)
    size = model.preprocess["size"]
    shown = faces(size)
    parts = {"align": [], "embed": []}
    for turn in range(WARM + args.runs):
        image, points = shown[turn % FACES]
        began = time.perf_counter()
        aligned = align.warp(image, points, size)
        middle = time.perf_counter()
        batch = np.stack([aligned, aligned[:, ::-1]]) if args.flip else aligned[None]
        model.embed(np.ascontiguousarray(batch)).sum(axis=0)
        ended = time.perf_counter()
        if turn >= WARM:
            parts["align"].append(middle - began)
            parts["embed"].append(ended - middle)
    parts["all"] = np.add(parts["align"], parts["embed"]).tolist()
    found = {
        name: {f"p{q}": float(np.percentile(values, q)) * 1e3 for q in (50, 95)}
        for name, values in parts.items()
    }
    for name, ms in found.items():
        print(f"{name:6s} p50 {ms['p50']:.2f} ms  p95 {ms['p95']:.2f} ms")
    within = [budget for budget in BUDGETS if found["all"]["p95"] <= budget]
    print(f"within {within[0]} ms" if within else f"over {BUDGETS[-1]} ms")
    facts = {
        **environment(),
        "encoder": model.encoder_name,
        "size": size,
        "flip": args.flip,
        "runs": args.runs,
        "cores": 1,
        "ms": found,
    }
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "fruits.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
