"""Steps of facejax and of PyTorch, side by side: images per second, MFU and their ratio.

    python -m benchmarks.step --out=DIR [--tasks=vit,mae,simclr,embed] [--variant=Ti] [--size=112]
        [--patch=16] [--batch=64] [--dtype=float32] [--pairs=7] [--seconds=2] [--compile]
        [--identities=100000]

    vit         a ViT with all tokens, and the softmax over 1,000 people
    mae         its masked autoencoder, the decoder half as wide and eight blocks deep
    simclr      two flipped views, a projector, NT-Xent
    embed       inference
    iresnet50   ArcFace over `--identities` people; the variant, patch and attention mean nothing
    iresnet100  the same, deeper

Both sides take the same uint8 images, sizes, dtype and AdamW, of iresnets SGD with momentum;
PyTorch's has SDPA, channels last, a fused optimizer, autocast, and with --compile `torch.compile`.
No crop or colour is drawn, which PyTorch would not do on the device. Products of float32 may be
rounded to TF32 on both sides, where a device has it.

They take turns of `--seconds`, a ratio is that of a turn. Several batches, --batch=64,128, are
swept for each side alone, in processes of their own, and each side's best counts; what does not fit
in memory counts as nothing, and if the best two do not fit together the larger gives way to its
side's next. Every finished row, and every batch of a sweep, is appended to DIR/step.jsonl and not
measured again on the same device, so an interrupted sweep goes on. The system time of a side is its
share of the wall time, over all threads.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.turns import Rows, Turn, spread, turns
from facejax import allocator, config, mesh, session, state, step
from facejax.ceiling import measured_ceiling
from facejax.encoders import iresnet, vit
from facejax.flops import flops_per_image
from facejax.peaks import mfu, peak_flops

CLASSES, HIDDEN, OUT, TAU, RATIO, DECODER_DEPTH = 1000, 2048, 128, 0.1, 0.75, 8
TASKS = ("vit", "mae", "simclr", "embed")
DEPTHS = {"iresnet50": 50, "iresnet100": 100}
SIDES = ("facejax", "torch")
ROOT = Path(__file__).parents[1]
ARCFACE = {"arcface": {"flip": 0.0, "groups": 8}}
OBJECTIVES = {
    "vit": {"softmax": {"flip": 0.0, "groups": 8}},
    "embed": {"softmax": {"flip": 0.0, "groups": 8}},
    "mae": {"mae": {"scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}},
    "simclr": {
        "simclr": {"depth": 2, "scale": (1.0, 1.0), "strength": 0.0, "gray": 0.0, "blur": 0.0}
    },
    **dict.fromkeys(DEPTHS, ARCFACE),
}


def classes(args: argparse.Namespace, task: str) -> int:
    """How many people a task tells apart."""
    return args.identities if task in DEPTHS else CLASSES


def values(args: argparse.Namespace, task: str, batch: int) -> dict[str, Any]:
    """The config of a task."""
    encoder = {
        "name": "vit",
        "variant": args.variant,
        "patch": args.patch,
        "pool": "mean",
        "attention": args.attention,
    }
    optimizer = {"lr": 1e-4, "weight_decay": 0.01}
    if task in DEPTHS:
        encoder = {"name": "iresnet", "depth": DEPTHS[task]}
        optimizer = {"name": "sgd", "lr": 1e-3, "weight_decay": 5e-4}
    return {
        "steps": 1000,
        "global_batch": batch,
        "dtype": args.dtype,
        "encoder": encoder,
        "objective": OBJECTIVES[task],
        "data": {"size": args.size, "sources": ({"name": "synthetic"},)},
        "optimizer": optimizer,
    }


def planned(args: argparse.Namespace, task: str, batch: int) -> state.Program:
    """The run of a task as the trainer would compile it."""
    run = config.resolve(values(args, task, batch))
    return state.plan(run, session.spec_of(run, {"identity": classes(args, task)}, ()))


def made_up(batch: int, size: int, people: int = CLASSES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "identity": rng.integers(0, people, batch).astype(np.int32),
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

        return turns(lambda: embed(current.params["encoder"], batch["image"]), B)
    train, held = step.jitted(program, devices), [current]

    def once():
        held[0], metrics = train(held[0], batch, {})
        return metrics["loss"]

    return turns(once, B)


def theirs(args: argparse.Namespace, task: str, arrays: dict[str, np.ndarray]) -> Turn:
    """A turn of PyTorch."""
    import torch

    from benchmarks import torch_models as models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    width, depth, heads, _ = vit.VARIANTS[args.variant]
    inner = -(-width // 64) * 32
    decoder = {"width": inner, "heads": max(inner // 32, 1), "depth": DECODER_DEPTH}

    def encoder():
        return models.ViT(width, depth, heads, args.patch, args.size)

    def recogniser():
        shape = iresnet.Config(DEPTHS[task])
        trunk = models.IResNet(*zip(*shape.stages, strict=True), shape.embed, args.size)
        return models.ArcFace(trunk, shape.embed, args.identities)

    make = {
        "vit": lambda: models.Classifier(encoder(), width, CLASSES),
        "mae": lambda: models.MAE(encoder(), width, args.patch, RATIO, decoder),
        "simclr": lambda: models.SimCLR(encoder(), width, HIDDEN, OUT, TAU),
        **dict.fromkeys(DEPTHS, recogniser),
    }
    if task == "embed":
        run = models.embedder(encoder(), args.dtype, device, args.compile)
    else:
        optimizer = models.sgd if task in DEPTHS else models.adamw
        run = models.trainer(make[task](), args.dtype, device, args.compile, optimizer)
    image, label = (torch.from_numpy(arrays[name]).to(device) for name in ("image", "identity"))
    label, sync = label.long(), torch.cuda.synchronize if device == "cuda" else (lambda: None)
    return turns(lambda: run(image, label), len(image), lambda _: sync())


def system_share(turn: Turn, seconds: float) -> tuple[float, float]:
    """Images per second of a turn, and system time over wall time."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()
    found = turn(seconds)
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_stime - before
    return found, spent / (time.perf_counter() - began)


def made(args: argparse.Namespace, task: str, side: str, batch: int) -> Turn:
    """A side at a batch."""
    arrays = made_up(batch, args.size, classes(args, task))
    if side == "facejax":
        return ours(planned(args, task, batch), task, arrays)
    return theirs(args, task, arrays)


def within_memory(work: Callable[[], Any]) -> Any:
    """What `work` returns; None where the device's memory does not suffice."""
    try:
        return work()
    except RuntimeError as e:  # that of JAX and that of PyTorch
        if not any(words in str(e) for words in ("out of memory", "RESOURCE_EXHAUSTED")):
            raise
    return None


def apart(args: argparse.Namespace, task: str, at: dict[str, int]) -> Any:
    """What `answer` says in a process of its own, since JAX never gives memory back to a device."""
    options = {k: v for k, v in vars(args).items() if k not in ("tasks", "batch", "compile", "at")}
    words = [f"--{k}={v}" for k, v in options.items()] + ["--compile"] * args.compile
    command = [sys.executable, "-m", "benchmarks.step", *words, f"--tasks={task}"]
    command.append(f"--at={json.dumps(at)}")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{task}: status {done.returncode} at {at}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(args: argparse.Namespace, task: str, at: dict[str, int]) -> Any:
    """Of one side, images per second at its batch; of both, the row; None if they do not fit."""
    if len(at) > 1:
        return within_memory(lambda: together(args, task, at))
    ((side, batch),) = at.items()
    return within_memory(lambda: made(args, task, side, batch)(args.seconds))


def sweep(args: argparse.Namespace, task: str, batches: list[int], rows: Rows) -> dict[str, Any]:
    """Each side's batches, the fastest first, without those that do not fit."""
    found = {}
    for side in SIDES:
        rate = {}
        for batch in batches:
            asked = asked_of(args, task) | {"batch": batch, "side": side}
            for other in ("pairs", "compile" if side == "facejax" else "attention"):
                del asked[other]
            row = rows.once(asked, lambda at={side: batch}: {"alone": apart(args, task, at)})
            rate[batch] = row["alone"]
        found[side] = sorted((b for b in batches if rate[b]), key=lambda b: -rate[b])
        if not found[side]:
            raise SystemExit(f"{task}: {side} fits with none of the batches {args.batch}")
    return found


def measure(args: argparse.Namespace, task: str, rows: Rows) -> dict[str, Any]:
    """A row: each side at its best batch, in turns."""
    batches = [int(b) for b in args.batch.split(",")]
    ask, best = answer, dict.fromkeys(SIDES, batches)
    if len(batches) > 1:
        ask, best = apart, sweep(args, task, batches, rows)
    while (found := ask(args, task, {side: own[0] for side, own in best.items()})) is None:
        smaller = [side for side in SIDES if len(best[side]) > 1]
        if not smaller:
            raise SystemExit(f"{task}: the sides do not fit together; add a smaller --batch")
        larger = max(smaller, key=lambda side: best[side][0])
        best[larger] = best[larger][1:]
    return found


def together(args: argparse.Namespace, task: str, at: dict[str, int]) -> dict[str, Any]:
    """Both sides at their batches, in turns."""
    sides = {side: made(args, task, side, batch) for side, batch in at.items()}
    pairs = [
        {side: system_share(turn, args.seconds) for side, turn in sides.items()}
        for _ in range(args.pairs)
    ]
    program = planned(args, task, at["facejax"])
    flops = flops_per_image(program)
    if task == "embed":
        flops = vit.flops(program.run.towers["encoder"].config)
    peak = peak_flops(jax.devices()[0].device_kind, "bfloat16") or measured_ceiling(args.dtype)
    rates = {side: [pair[side][0] for pair in pairs] for side in sides}
    speed = statistics.median(rates["facejax"])
    return {
        "batch": at,
        "images_per_s": rates,
        "system": {side: statistics.median(p[side][1] for p in pairs) for side in sides},
        "ratio": [pair["facejax"][0] / pair["torch"][0] for pair in pairs],
        "flops_per_image": flops,
        "mfu": mfu(flops * speed / jax.device_count(), peak),
    }


def asked_of(args: argparse.Namespace, task: str) -> dict[str, Any]:
    left_out = ("out", "tasks", "at")
    return {"task": task, **{k: v for k, v in vars(args).items() if k not in left_out}}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    add_model(parser)
    parser.add_argument("--batch", default="64")
    parser.add_argument("--identities", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--at", type=json.loads, help=argparse.SUPPRESS)  # see `apart`
    return parser.parse_args(argv)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options of a ViT."""
    parser.add_argument("--variant", default="Ti")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--attention", default="xla", choices=("xla", "cudnn"))


def main() -> None:
    allocator.settle()
    args = arguments()
    if args.at:
        print(json.dumps(answer(args, args.tasks, args.at)))
        return
    rows = Rows(args.out / "step.jsonl")
    for task in args.tasks.split(","):
        row = rows.once(asked_of(args, task), lambda task=task: measure(args, task, rows))
        rates = [statistics.median(row["images_per_s"][side]) for side in SIDES]
        print(
            f"{task:10s} facejax {rates[0]:9,.1f}/s  torch {rates[1]:9,.1f}/s  "
            f"ratio {spread(row['ratio'])}  batch {row['batch']['facejax']} and "
            f"{row['batch']['torch']}  system {row['system']['facejax']:.2f} and "
            f"{row['system']['torch']:.2f}  MFU {100 * row['mfu']:.1f} %"
        )


if __name__ == "__main__":
    main()
