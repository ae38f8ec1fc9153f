"""Memory of a margin head at millions of classes, by the compiler and by its formula.

    python benchmarks/class_memory.py [--topology=v5p:2x2x2] [--batch=4096] [--out=DIR]

Compiles what a step does for class centres (ArcFace: sampling, loss, gradient, update in place)
for devices that need not be there, at 1, 10 and 29 million classes with all of them and with a
sample, and prints bytes per device beside the formula of `facejax/objectives/_margin.py`, the
largest message between devices, and which are gathers. Needs libtpu for a TPU topology
(`requirements-plan.txt`); `--topology=cpu` compiles for eight host devices.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.environment import environment  # noqa: E402
from facejax import mesh, optim  # noqa: E402
from facejax.config import MeshShape  # noqa: E402
from facejax.contracts import Ctx, Draw, Features, Sparse, Spec, Tower  # noqa: E402
from facejax.losses import sum_terms  # noqa: E402
from facejax.objectives import _margin, arcface  # noqa: E402
from facejax.ops import groups  # noqa: E402
from facejax.planning import hlo, topology  # noqa: E402

WIDTH = 512
CASES = (
    (1_000_000, 1.0, "float32"),
    (1_000_000, 0.1, "float32"),
    (10_000_000, 0.1, "float32"),
    (29_000_000, 0.1, "float32"),
    (29_000_000, 0.1, "bfloat16"),
)


def head(cfg: arcface.Config, spec: Spec):
    """(centres, velocity, embeddings, labels, step) -> what a step makes of them."""

    def step(value, velocity, pooled, identity, n):
        draw = Draw(jax.random.fold_in(jax.random.key(0), n), jnp.arange(len(pooled)))
        batch = {"identity": identity, "has_identity": identity >= 0}
        ctx = Ctx(n, draw=draw, spec=spec)
        rows = arcface.rows(cfg, {}, batch, ctx)
        ctx = dataclasses.replace(ctx, rows=rows)

        def loss(pooled, centres):
            feats = {"image": Features(pooled=pooled)}
            return sum_terms(arcface.loss(cfg, {"centres": centres}, {}, {}, feats, batch, ctx))

        taken = groups.take(value, rows["centres"], cfg.groups)
        found, grads = jax.value_and_grad(loss, argnums=(0, 1))(pooled, taken)
        sparse = Sparse(
            None, cfg.momentum, cfg.weight_decay, cfg.lr, cfg.groups, velocity=cfg.velocity
        )
        moved = optim.sparse_update(
            sparse,
            value,
            velocity,
            grads[1],
            rows["centres"],
            jnp.float32(0.1),
            jnp.isfinite(found),
        )
        return *moved, grads[0], found

    return step


def measure(devices: list, C: int, rate: float, velocity: str, batch: int) -> dict:
    """Bytes per device of one case."""
    grid = mesh.make(MeshShape(-1, 1), devices)
    split = mesh.batch_sharding(grid)
    cfg = arcface.Config(sample_rate=rate, velocity=velocity, groups=len(devices))
    towers = {"encoder": Tower(WIDTH, WIDTH, 0, 0, size=112, depth=1)}
    spec = Spec(1, batch, 112, towers, classes={"identity": C})
    n, S = groups.sizes(C, cfg.groups, rate, batch)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

    centres = array(cfg.groups * n, WIDTH), array(cfg.groups * n, WIDTH, dtype=velocity)
    images = array(batch, WIDTH), array(batch, dtype=jnp.int32)
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=mesh.replicated(grid))
    whole = mesh.within(grid, head(cfg, spec))
    placed = (split, split, split, mesh.replicated(grid))
    compiled = (
        jax.jit(whole, donate_argnums=(0, 1), out_shardings=placed)
        .lower(*centres, *images, number)
        .compile()
    )
    memory = compiled.memory_analysis()
    used = (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    formula = _margin.bytes_per_device(cfg, spec, len(devices))
    moved = hlo.collectives(hlo.parse(compiled.as_text()))
    return {
        "classes": C,
        "sample_rate": rate,
        "velocity": velocity,
        "sampled": cfg.groups * S,
        "bytes": used,
        "formula": formula,
        "ratio": used / formula,
        "temporaries": memory.temp_size_in_bytes,
        "messages": {c.kind: int(c.bytes) for c in moved},
        "centres": n * WIDTH * 4,
    }


def table(rows: list[dict]) -> str:
    lines = [
        "| classes | sampled | velocity | GiB a device | formula | ratio | all messages, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        messages = sum(r["messages"].values()) / 2**20
        lines.append(
            f"| {r['classes']:,} | {r['sampled']:,} | {r['velocity']} | {r['bytes'] / 2**30:.2f} "
            f"| {r['formula'] / 2**30:.2f} | {r['ratio']:.2f} | {messages:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5p:2x2x2")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/class_memory")
    args = parser.parse_args()
    topology.without_hardware()
    if args.topology == "cpu":
        jax.config.update("jax_num_cpu_devices", 8)
        devices = jax.devices()
    else:
        devices = topology.devices(topology.parse(args.topology))
    rows = []
    for case in CASES:
        rows.append(measure(devices, *case, args.batch))
        print(*table(rows).splitlines()[-1:], flush=True)
    facts = {**environment(), "topology": args.topology, "batch": args.batch, "rows": rows}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "class_memory.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
