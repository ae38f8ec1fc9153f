"""Steps of facejax and of PyTorch, side by side: images per second, MFU and their ratio.

    python -m benchmarks.step --out=DIR [--tasks=vit,mae,simclr,embed] [--variant=Ti] [--size=112]
        [--patch=16] [--batch=64] [--dtype=float32] [--pairs=7] [--seconds=2] [--compile]

    vit      a ViT with all tokens, and the softmax over 1,000 people
    mae      its masked autoencoder, the decoder half as wide and eight blocks deep
    simclr   two flipped views, a projector, NT-Xent
    embed    inference

Both sides take the same uint8 images, sizes, dtype and AdamW; PyTorch's has SDPA, a fused
optimizer, autocast, and with --compile `torch.compile`. No crop or colour is drawn, which PyTorch
would not do on the device. They take turns of `--seconds`, a ratio is that of a turn. Several
batches, --batch=64,128, are swept for both sides, and each side's best counts. Every finished row
is appended to DIR/step.jsonl and not measured again, so an interrupted sweep goes on. The system
time of a side is its share of the wall time, over all threads.
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.environment import environment
from facejax import config, mesh, session, state, step
from facejax.encoders import vit
from facejax.flops import flops_per_image
from facejax.peaks import mfu, peak_flops

CLASSES, HIDDEN, OUT, TAU, RATIO, DECODER_DEPTH = 1000, 2048, 128, 0.1, 0.75, 8
TASKS = ("vit", "mae", "simclr", "embed")
OBJECTIVES = {
    "vit": {"softmax": {"flip": 0.0, "groups": 8}},
    "mae": {"mae": {"scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}},
    "simclr": {
        "simclr": {"depth": 2, "scale": (1.0, 1.0), "strength": 0.0, "gray": 0.0, "blur": 0.0}
    },
}
Turn = Callable[[float], float]  # seconds -> images per second


def planned(args: argparse.Namespace, task: str, batch: int) -> state.Program:
    """The run of a task as the trainer would compile it."""
    run = config.resolve(
        {
            "steps": 1000,
            "global_batch": batch,
            "dtype": args.dtype,
            "encoder": {
                "name": "vit",
                "variant": args.variant,
                "patch": args.patch,
                "pool": "mean",
                "attention": args.attention,
            },
            "objective": OBJECTIVES.get(task, OBJECTIVES["vit"]),
            "data": {"size": args.size, "sources": ({"name": "synthetic"},)},
            "optimizer": {"lr": 1e-4, "weight_decay": 0.01},
        }
    )
    return state.plan(run, session.spec_of(run, {"identity": CLASSES}, ()))


def made_up(batch: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "identity": rng.integers(0, CLASSES, batch).astype(np.int32),
        "has_identity": np.ones(batch, bool),
    }


def ours(program: state.Program, task: str, arrays: dict[str, np.ndarray]) -> Turn:
    """A turn of facejax."""
    run, B = program.run, len(arrays["image"])
    devices = mesh.make(run.mesh)
    batch = mesh.to_global(devices, B, arrays)
    current = state.create(program, devices)
    if task == "embed":
        tower = run.towers["encoder"]

        @jax.jit
        def embed(params, image):
            view = {"image": image.astype(jnp.float32) / 127.5 - 1}
            found, _ = tower.module.apply(
                tower.config, params, {}, view, train=False, outputs=("pooled",)
            )
            return found.pooled

        return _turns(lambda: embed(current.params["encoder"], batch["image"]), B, _wait)
    train, held = step.jitted(program, devices), [current]

    def once():
        held[0], metrics = train(held[0], batch, {})
        return metrics["loss"]

    return _turns(once, B, _wait)


def theirs(args: argparse.Namespace, task: str, arrays: dict[str, np.ndarray]) -> Turn:
    """A turn of PyTorch."""
    import torch

    from benchmarks import torch_models as models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    width, depth, heads, _ = vit.VARIANTS[args.variant]
    encoder = models.ViT(width, depth, heads, args.patch, args.size)
    inner = -(-width // 64) * 32
    decoder = {"width": inner, "heads": max(inner // 32, 1), "depth": DECODER_DEPTH}
    make = {
        "vit": lambda: models.Classifier(encoder, width, CLASSES),
        "mae": lambda: models.MAE(encoder, width, args.patch, RATIO, decoder),
        "simclr": lambda: models.SimCLR(encoder, width, HIDDEN, OUT, TAU),
    }
    if task == "embed":
        run = models.embedder(encoder, args.dtype, device, args.compile)
    else:
        run = models.trainer(make[task](), args.dtype, device, args.compile)
    image, label = (torch.from_numpy(arrays[name]).to(device) for name in ("image", "identity"))
    label, sync = label.long(), torch.cuda.synchronize if device == "cuda" else (lambda: None)
    return _turns(lambda: run(image, label), len(image), lambda _: sync())


def _wait(value: Any) -> None:
    jax.block_until_ready(value)


def _turns(once: Callable[[], Any], batch: int, wait: Callable[[Any], None]) -> Turn:
    for _ in range(3):  # compiles, and fills caches
        wait(once())
    began = time.perf_counter()
    wait(once())
    each = time.perf_counter() - began

    def turn(seconds: float) -> float:
        steps, began, last = max(2, round(seconds / each)), time.perf_counter(), None
        for _ in range(steps):
            last = once()
        wait(last)
        return steps * batch / (time.perf_counter() - began)

    return turn


def system_share(turn: Turn, seconds: float) -> tuple[float, float]:
    """Images per second of a turn, and system time over wall time."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()
    found = turn(seconds)
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_stime - before
    return found, spent / (time.perf_counter() - began)


def measure(args: argparse.Namespace, task: str) -> dict[str, Any]:
    """A row: each side at its best batch, in turns."""
    batches = [int(b) for b in args.batch.split(",")]
    made: dict[str, tuple[Turn, int]] = {}
    for batch in batches:
        arrays = made_up(batch, args.size)
        program = planned(args, task, batch)
        for side, turn in (
            ("facejax", ours(program, task, arrays)),
            ("torch", theirs(args, task, arrays)),
        ):
            if side not in made or turn(args.seconds) > made[side][0](args.seconds):
                made[side] = turn, batch
    pairs = [
        {side: system_share(turn, args.seconds) for side, (turn, _) in made.items()}
        for _ in range(args.pairs)
    ]
    flops = flops_per_image(planned(args, task, batches[0]))
    if task == "embed":
        flops = vit.flops(planned(args, task, batches[0]).run.towers["encoder"].config)
    peak = peak_flops(jax.devices()[0].device_kind, "bfloat16")
    rates = {side: [pair[side][0] for pair in pairs] for side in made}
    speed = statistics.median(rates["facejax"])
    return {
        "batch": {side: batch for side, (_, batch) in made.items()},
        "images_per_s": rates,
        "system": {side: statistics.median(p[side][1] for p in pairs) for side in made},
        "ratio": [pair["facejax"][0] / pair["torch"][0] for pair in pairs],
        "flops_per_image": flops,
        "mfu": mfu(flops * speed, jax.device_count(), peak),
    }


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--variant", default="Ti")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", default="64")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--attention", default="xla", choices=("xla", "cudnn"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "step.jsonl"
    stored = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    asked = {k: v for k, v in vars(args).items() if k not in ("out", "tasks")}
    for task in args.tasks.split(","):
        key = {"task": task, **asked}
        row = next((r for r in stored if r["asked"] == key), None)
        if row is None:
            row = {"asked": key, **environment(), **measure(args, task)}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rates = [statistics.median(row["images_per_s"][side]) for side in ("facejax", "torch")]
        low, middle, high = (f(row["ratio"]) for f in (min, statistics.median, max))
        used = "" if row["mfu"] is None else f"  MFU {100 * row['mfu']:.1f} %"
        print(
            f"{task:7s} facejax {rates[0]:9,.1f}/s  torch {rates[1]:9,.1f}/s  "
            f"ratio {middle:.2f} [{low:.2f}, {high:.2f}]  system "
            f"{row['system']['facejax']:.2f} and {row['system']['torch']:.2f}{used}"
        )


if __name__ == "__main__":
    main()
