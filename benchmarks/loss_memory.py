"""Memory and time of the similarity losses, streamed and dense.

    python -m benchmarks.loss_memory [--out=FOLDER] [--rounds=N] [--chunk=C]

Prints a table and writes FOLDER/loss_memory.json. Of value and gradient of every loss it measures

    memory  what the compiler reserves beside arguments and results on each device, at B = 32,768
            pairs of 128 numbers, for 1 device and for 8 (fake ones of the CPU); nothing is run
    time    at B = 4,096 on one device; the two forms take turns, and the ratio is that of a turn
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib

from facejax import mesh
from facejax.config import MeshShape
from facejax.contracts import Pairs
from facejax.ops import ring, similarity
from facejax.ops.logits import product

BIG, SMALL, WIDTH, TAU = 32_768, 4_096, 128, 0.1
DEVICES = 8
OUT = Path(__file__).with_name("results") / "loss_memory"

Form = Callable[[jax.Array, jax.Array], jax.Array]  # x, y f32[B, D] -> the loss of each row

# ---------------------------------------------------------------------------------- the losses


def pairs_of(x: jax.Array, y: jax.Array) -> Pairs:
    """Row i of `x` belongs to row i of `y`, and meets all others of `y`."""
    row = jnp.arange(len(x))
    exist, weight = jnp.ones((len(x), 1), bool), jnp.ones(len(x))
    return Pairs(x, y[:, None], y, jnp.float32(TAU), row, row, exist, weight)


def pairs_of_views(x: jax.Array, y: jax.Array) -> Pairs:
    """SimCLR's: all rows of both meet all rows of other images."""
    z, other = similarity.interleave(x, y), similarity.interleave(y, x)
    image = jnp.repeat(jnp.arange(len(x)), 2)
    exist, weight = jnp.ones((len(z), 1), bool), jnp.ones(len(z))
    return Pairs(z, other[:, None], z, jnp.float32(TAU), image, image, exist, weight)


def bounded(pairs: Pairs) -> jax.Array:
    """InfoNCE as it is where a modifier bounds who meets whom."""
    allowed = jnp.ones((len(pairs.q), len(pairs.neg)), bool)
    return similarity.info_nce(Pairs(**{**vars(pairs), "allowed": allowed}))


def classes(x: jax.Array) -> jax.Array:
    return jnp.arange(len(x)) // 4


def dense_sup_con(z: jax.Array, owner: jax.Array, tau: float) -> jax.Array:
    logits, others = product(z, z) / tau, ~jnp.eye(len(z), dtype=bool)
    kin = (owner[:, None] == owner[None]) & others
    count = jnp.sum(kin, 1)
    mean = jnp.sum(jnp.where(kin, logits, 0.0), 1) / jnp.maximum(count, 1)
    total = jax.nn.logsumexp(jnp.where(others, logits, -jnp.inf), 1)
    return jnp.where(count > 0, total - mean, 0.0)


def dense_clip_softmax(x: jax.Array, y: jax.Array, scale: float) -> jax.Array:
    logits = scale * product(x, y)
    totals = jax.nn.logsumexp(logits, 1) + jax.nn.logsumexp(logits, 0)
    return totals / 2 - jnp.diagonal(logits)


def dense_sigmoid_loss(x: jax.Array, y: jax.Array, scale: float, bias: float) -> jax.Array:
    logits = scale * product(x, y) + bias
    signs = 2 * jnp.eye(len(x)) - 1
    return jnp.sum(jax.nn.softplus(-signs * logits), 1)


LOSSES: dict[str, tuple[Form, Form]] = {
    "info_nce": (
        lambda x, y: bounded(pairs_of(x, y)),
        lambda x, y: similarity.info_nce(pairs_of(x, y)),
    ),
    "info_nce, two views": (
        lambda x, y: bounded(pairs_of_views(x, y)),
        lambda x, y: similarity.info_nce(pairs_of_views(x, y)),
    ),
    "sup_con": (
        lambda x, y: dense_sup_con(x + y, classes(x), TAU),
        lambda x, y: similarity.sup_con(x + y, classes(x), TAU),
    ),
    "clip_softmax": (
        lambda x, y: dense_clip_softmax(x, y, 1 / TAU),
        lambda x, y: similarity.clip_softmax(x, y, 1 / TAU),
    ),
    "sigmoid_loss": (
        lambda x, y: dense_sigmoid_loss(x, y, 10.0, -10.0),
        lambda x, y: similarity.sigmoid_loss(x, y, 10.0, -10.0),
    ),
}
"""name -> (dense, streamed)."""

# --------------------------------------------------------------------------------- measurement

COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)(?:-start)?\("
)


def compiled(form: Form, rows: int, devices: int) -> jax.stages.Compiled:
    """Mean loss and its gradients, for `rows` rows that are spread over `devices`."""
    grid = mesh.make(MeshShape(-1, min(devices, 2)), jax.devices()[:devices])
    x = jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32, sharding=mesh.batch_sharding(grid))
    step = jax.value_and_grad(lambda x, y: jnp.mean(form(x, y)), (0, 1))
    return jax.jit(mesh.within(grid, step)).lower(x, x).compile()


def reserved(program: jax.stages.Compiled) -> int:
    """Bytes of each device beside arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def largest_message(program: jax.stages.Compiled) -> int:
    """Elements of the largest array that a collective leaves on a device."""
    shapes = re.findall(r"\[([\d,]*)\]", " ".join(COLLECTIVE.findall(program.as_text())))
    return max((_size(shape) for shape in shapes), default=0)


def _size(shape: str) -> int:
    size = 1
    for n in filter(None, shape.split(",")):
        size *= int(n)
    return size


def memory(form: Form, devices: int) -> dict[str, int]:
    program = compiled(form, BIG, devices)
    return {"bytes": reserved(program), "largest_message": largest_message(program)}


def times(forms: tuple[Form, Form], rounds: int) -> dict[str, list[float]]:
    """Seconds of the dense and the streamed form, `rounds` each, by turns."""
    keys = jax.random.split(jax.random.key(0))
    x, y = (similarity.l2_normalize(jax.random.normal(key, (SMALL, WIDTH))) for key in keys)
    programs = {n: compiled(f, SMALL, 1) for n, f in zip(("dense", "streamed"), forms)}
    found = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(program(x, y))
            if turn:  # the first one warms up
                found[name].append(time.perf_counter() - begun)
    return found


def measure(rounds: int) -> dict:
    """Everything, by loss."""
    found = {}
    for name, forms in LOSSES.items():
        by_devices = {
            str(n): {key: memory(f, n) for key, f in zip(("dense", "streamed"), forms)}
            for n in (1, DEVICES)
        }
        seconds = times(forms, rounds)
        ratios = [s / d for s, d in zip(seconds["streamed"], seconds["dense"])]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "memory": by_devices,
            "seconds": {key: statistics.median(values) for key, values in seconds.items()},
            "time_ratio": {"median": middle, "quartiles": [low, high], "rounds": rounds},
        }
    return found


def hardware() -> str:
    facts = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", facts.read_text()) if facts.exists() else None
    return f"{os.cpu_count()} cores, {model[1] if model else platform.processor()}"


def table(found: dict) -> str:
    mib = 2**20
    lines = [
        "| loss | devices | dense MiB | streamed MiB | dense / streamed | time, streamed / dense |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in found.items():
        ratio = entry["time_ratio"]
        low, high = ratio["quartiles"]
        for devices, forms in entry["memory"].items():
            dense, streamed = (forms[key]["bytes"] for key in ("dense", "streamed"))
            spread = f"{ratio['median']:.2f} ({low:.2f} to {high:.2f})" if devices == "1" else ""
            lines.append(
                f"| {name} | {devices} | {dense / mib:,.0f} | {streamed / mib:,.0f} "
                f"| {dense / streamed:.1f} | {spread} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--chunk", type=int, default=ring.CHUNK, help="columns at a time")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    ring.CHUNK = args.chunk
    found = measure(args.rounds)
    facts = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
        },
        "memory_at": {"rows": BIG, "width": WIDTH},
        "chunk": ring.CHUNK,
        "time_at": {"rows": SMALL, "width": WIDTH, "devices": 1},
        "losses": found,
    }
    print(table(found))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "loss_memory.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
