"""Every measurement on a GPU, row by row, in commands of a few minutes that go on where they were.

    python -m benchmarks.gpu --out=DIR [--minutes=8] [--only=NAME,...] [--list] [--retry] [--tiny]

Each row is a command of another benchmark in a process of its own, which appends to its JSONL in
DIR; DIR/gpu.jsonl says which rows are done or have failed. The same command again does the others.
It ends with 0 when none is left to do, with 1 if some failed (`--retry` tries these anew), and with
75 when the time is up. A row is begun only if it may end in time; if it does not, it is stopped,
and a sweep goes on next time at the batch where it was. What was compiled is kept in `--cache`.

`--tiny` runs the same rows with shapes for a CPU, to see that they run; its numbers mean nothing.

On a machine without a network that has jax, flax, optax, orbax and torch, the rest can be brought
along, for Python 3.12 on x86-64:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels \
        grain==0.2.18 array-record==0.8.6 ml_collections==1.1.0 simplejpeg==1.9.0 \
        tensorboardX==2.6.5 importlib_resources==7.1.0 portpicker
    pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=site
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIME_IS_UP = 75


@dataclass(frozen=True)
class Row:
    """A command.

    Attributes:
        name: of the row.
        module: the benchmark.
        options: beside --out.
        minutes: that must be left to begin; of a sweep, those of a batch.
    """

    name: str
    module: str
    options: tuple[str, ...]
    minutes: float

    def command(self, out: Path, tiny: bool) -> list[str]:
        options = self.options
        if tiny:
            options = *(o for o in options if o != "--compile"), *TINY[self.module]
        return [sys.executable, "-m", self.module, f"--out={out}", *options]


def _step(task: str, variant: str, size: int, batch: str, attention: str) -> Row:
    shape = f"--variant={variant}", f"--size={size}", f"--attention={attention}"
    options = f"--tasks={task}", *shape, f"--batch={batch}", "--dtype=bfloat16", "--compile"
    name = f"{task}-{variant}-{size}-{attention}"
    return Row(name, "benchmarks.step", options, 2.5)


def _recogniser(task: str, batch: str) -> Row:
    options = f"--tasks={task}", "--size=112", f"--batch={batch}", "--dtype=bfloat16", "--compile"
    return Row(task, "benchmarks.step", (*options, "--identities=100000"), 2.5)


def _at(kind: str, variant: str, size: int, batch: int, minutes: float, *options: str) -> Row:
    shape = f"--variant={variant}", f"--size={size}", f"--batch={batch}", "--dtype=bfloat16"
    tail = "-".join(o.partition("=")[2] for o in options[:1])
    name = "-".join(filter(None, (kind, variant, str(size), tail)))
    return Row(name, f"benchmarks.{kind}", (*shape, *options), minutes)


ATTENTIONS = ("cudnn", "xla")
ROWS = (
    *(_step("vit", "S", 224, "128,256,512", a) for a in ATTENTIONS),
    *(_step("vit", "B", 224, "64,128,256", a) for a in ATTENTIONS),
    *(_step("vit", "L", 224, "32,64,128", a) for a in ATTENTIONS),
    *(_step("vit", "S", 112, "256,512,1024", a) for a in ATTENTIONS),
    *(_step("mae", "B", 224, "128,256,512", a) for a in ATTENTIONS),
    *(_step("mae", "L", 224, "64,128,256", a) for a in ATTENTIONS),
    *(_step("simclr", "B", 224, "64,128,256", a) for a in ATTENTIONS),
    _recogniser("iresnet50", "128,256,512"),
    _recogniser("iresnet100", "128,256"),
    _at("masking", "B", 224, 256, 3.0),
    _at("masking", "L", 224, 128, 4.0),
    _at("augment", "S", 112, 512, 3.0),
    _at("augment", "B", 224, 256, 4.0),
    _at("end_to_end", "S", 112, 512, 4.0, "--objective=vit", "--workers=8", "--faces=4096"),
    _at("end_to_end", "S", 112, 512, 4.0, "--objective=mae", "--workers=8", "--faces=4096"),
    Row("input-112", "benchmarks.input", ("--side=112", "--size=112"), 5.0),
)

_SMALL = ("--variant=Ti", "--size=16", "--patch=8", "--dtype=float32", "--attention=xla")
TINY = {
    "benchmarks.step": (*_SMALL, "--batch=4,8", "--identities=64", "--pairs=1", "--seconds=0.01"),
    "benchmarks.masking": (*_SMALL, "--batch=4", "--pairs=1", "--seconds=0.01"),
    "benchmarks.augment": (*_SMALL, "--batch=4", "--images=64", "--rounds=1", "--seconds=0.01"),
    "benchmarks.end_to_end": (
        *(*_SMALL, "--batch=4", "--workers=1"),
        *("--turns=1", "--seconds=0.01", "--faces=16"),
    ),
    "benchmarks.input": ("--side=16", "--size=16", "--rounds=1", "--images=256"),
}
"""Options that come after a row's own, and count in their place."""


def run(command: list[str], seconds: float, cache: Path) -> dict[str, Any] | None:
    """Runs a row; its exit status, time and output, or None if it did not end in time."""
    own = {"JAX_COMPILATION_CACHE_DIR": "jax", "TORCHINDUCTOR_CACHE_DIR": "torch"}
    env = {**{name: str(cache / folder) for name, folder in own.items()}, **os.environ}
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its own workers end with it
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    spent = time.monotonic() - began
    return {"status": process.returncode, "seconds": spent, "output": output[-4000:]}


def known(out: Path, tiny: bool) -> dict[str, dict[str, Any]]:
    """What DIR/gpu.jsonl says of each row last."""
    path = out / "gpu.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {row["row"]: row for row in rows if row["tiny"] == tiny}


def go(rows: list[Row], args: argparse.Namespace) -> int:
    """Runs what is left to do within the time; the exit status."""
    end, before = time.monotonic() + 60 * args.minutes, known(args.out, args.tiny)
    status = 0
    for row in rows:
        found = before.get(row.name)
        if found and (found["status"] == 0 or not args.retry):
            status = max(status, int(found["status"] != 0))
            continue
        left = end - time.monotonic()
        if left < 60 * row.minutes:
            status = TIME_IS_UP
            continue
        print(f"== {row.name}", flush=True)
        result = run(row.command(args.out, args.tiny), left, args.cache)
        if result is None:
            print("stopped at the limit; the same command goes on")
            return TIME_IS_UP
        print(result["output"], flush=True)
        with (args.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps({"row": row.name, "tiny": args.tiny, **result}) + "\n")
        status = max(status, int(result["status"] != 0))
    if status == TIME_IS_UP:
        print("the time is up; the same command goes on")
    return status


def chosen(names: str | None) -> list[Row]:
    """The rows that are wanted, in the order of all."""
    wanted = {row.name for row in ROWS} if names is None else set(names.split(","))
    unknown = wanted - {row.name for row in ROWS}
    if unknown:
        raise SystemExit(f"error: --only: no row {', '.join(sorted(unknown))}; see --list")
    return [row for row in ROWS if row.name in wanted]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only")
    parser.add_argument("--list", action="store_true", help="what is done and what is not")
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    cache = Path(tempfile.gettempdir()) / "facejax-gpu-cache"
    parser.add_argument("--cache", type=Path, default=cache)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = chosen(args.only)
    if args.list:
        found = known(args.out, args.tiny)
        for row in rows:
            status = found.get(row.name, {"status": None})["status"]
            word = {None: "to do", 0: "done"}.get(status, f"failed with {status}")
            print(f"{row.name:22s} {word:14s} {row.module} {' '.join(row.options)}")
        return 0
    return go(rows, args)


if __name__ == "__main__":
    sys.exit(main())
