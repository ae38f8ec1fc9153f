"""Time from a decoded picture to an embedding on one core, one picture at a time, as in FRUITS.

    python benchmarks/fruits.py --out=DIR (--model=DIR | --encoder=NAME [--option=K=V ...])
        [--size=112] [--flip=sum] [--warmups=50] [--runs=500]

The chain is alignment by five given landmarks, normalisation, the encoder (twice with `--flip=sum`)
and scaling to unit length; decoding is not part of it. facejax has no face detector, so none is
timed: where the budget counts one (FRUITS of WebFace260M, Zhu et al. 2021, does: 100, 500 or 1000
ms for detection, alignment and embedding), add its time. A model is a run or an export; an encoder
has random weights, which take the same time. Prints the row and writes `fruits.json` into DIR.
"""

import argparse
import ast
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

BUDGETS = (100, 500, 1000)
"""Milliseconds; from memory of the challenge, as is that they are for one core [M]."""

PICTURE = 250
"""Side of the decoded pictures in pixels."""


def one_core() -> int:
    """Keeps this process on one core, with one thread per library; before any of them is loaded."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    return core


def measure(
    chain: Callable[[np.ndarray], np.ndarray],
    pictures: np.ndarray,
    warmups: int,
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Milliseconds f64[runs] that the chain takes for one picture, after `warmups` untimed ones."""
    for i in range(warmups):
        chain(pictures[i % len(pictures)])
    took = np.empty(runs)
    for i in range(runs):
        start = clock()
        chain(pictures[i % len(pictures)])
        took[i] = 1000 * (clock() - start)
    return took


def row(took: np.ndarray) -> dict[str, Any]:
    """The figures of a run: percentiles and mean, and which budgets 95 % of the pictures keep."""
    p50, p95 = np.percentile(took, [50, 95]).tolist()
    kept = {f"within_{budget}_ms": bool(p95 <= budget) for budget in BUDGETS}
    return {"p50_ms": p50, "p95_ms": p95, "mean_ms": float(took.mean()), "runs": len(took), **kept}


def model_of(args: argparse.Namespace) -> Any:
    """The model to time; jax is loaded here."""
    import jax

    import facejax
    from facejax import model, plugins, typed
    from facejax.contracts import TowerSpec

    if args.model:
        return facejax.load(args.model)
    module = plugins.load("encoder", args.encoder, "--encoder")
    options = dict(option.split("=", 1) for option in args.option)
    options = {key: _literal(value) for key, value in options.items()}
    config = typed.build(module.Config, {"size": args.size, **options}, "--option")
    init = jax.jit(lambda key: module.init(config, key, TowerSpec()))
    params, stats = init(jax.random.key(0))
    preprocess = {"size": args.size, "mean": [0.5] * 3, "std": [0.5] * 3}
    return model.Model(args.encoder, module, config, params, stats, preprocess)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def chain_of(trained: Any, flip: str) -> Callable[[np.ndarray], np.ndarray]:
    """From a decoded picture u8[H, W, 3] to a unit vector f32[D]."""
    from facejax.data import align

    size = trained.preprocess["size"]
    landmarks = align.template(112) * (PICTURE / 2 / 112) + PICTURE / 4

    def chain(picture: np.ndarray) -> np.ndarray:
        face = align.warp(picture, landmarks, size)[None]
        raw = trained.embed(face)[0]
        if flip == "sum":
            raw = raw + trained.embed(np.ascontiguousarray(face[:, :, ::-1]))[0]
        return raw / np.linalg.norm(raw)

    return chain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="the folder of a run or an export")
    what.add_argument("--encoder", help="the name of an encoder, for random weights")
    parser.add_argument("--option", action="append", default=[], help="key=value of the encoder")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--flip", choices=("none", "sum"), default="none")
    parser.add_argument("--warmups", type=int, default=50)
    parser.add_argument("--runs", type=int, default=500)
    args = parser.parse_args()
    core = one_core()

    from benchmarks.environment import environment

    trained = model_of(args)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, PICTURE, PICTURE, 3), dtype=np.uint8)
    took = measure(chain_of(trained, args.flip), pictures, args.warmups, args.runs)
    found = {
        "model": str(args.model or " ".join([args.encoder, *args.option])),
        "size": trained.preprocess["size"],
        "flip": args.flip,
        "detector": "none",
        "decode": "excluded",
        "core": core,
        "warmups": args.warmups,
        **row(took),
        "environment": environment(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "fruits.json").write_text(json.dumps(found, indent=2) + "\n")
    budgets = ", ".join(f"{b} ms" for b in BUDGETS if found[f"within_{b}_ms"]) or "none"
    print(f"{found['model']}: p50 {found['p50_ms']:.1f} ms, p95 {found['p95_ms']:.1f} ms on one")
    print(f"core of {found['environment']['cpu']}, without detector; budgets kept: {budgets}")


if __name__ == "__main__":
    main()
