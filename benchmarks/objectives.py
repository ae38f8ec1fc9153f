"""Every objective and modifier at equal budget on real faces: a smoke test of learning.

    python -m benchmarks.objectives --data=DIR [--out=runs/objectives] [--only=NAME,...]
        [--steps=N | --seconds=S] [--seeds=3] [--seeded=NAME,...] [--preset=cpu|accelerator]

It shows what each of them learns within minutes; with one seed, one small encoder and recipes found
on procedural faces (`benchmarks/learning.py`) it is no claim about which is better. The methods are
the files `configs/*_vit_faces.py`: objective sections, with their modifiers, are theirs, and so are
the labels of their sources and the clip and rules of their optimiser. Encoder, images, augmentation
size, learning rate, batch, steps and evaluations are the preset's, the same for all.

Equal budget means the same number of images seen, not the same time: so a row does not depend on
how busy the machine was, and a killed benchmark can go on. What a method costs is a column of its
own. `--seconds=S` takes as many steps as the reference (SimCLR) makes in S seconds here; that is
measured once and kept in `budget.json`. Without it a preset has its steps; on a CPU SimCLR's
take three and a half minutes of one core.

The same command again goes on: finished runs are kept, the killed one resumes from its checkpoint.
Each run leaves `<out>/<name>-<seed>/`, with its output in `log.txt`; after each, `results.json` and
`results.md` are written anew. The random encoder and raw pixels are rows too. DIR holds the zips of
`celeba_dev`, `celebamask256_dev` and `helen256_dev`, their label files, lfw128.zip and pairs.txt.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks.environment import environment
from benchmarks.learning import BASELINES, effective_rank, fields_of, planned
from facejax import cli, command_line, config
from facejax.errors import UserError
from facejax.flops import flops_per_image
from facejax.metrics import load_eval, read_jsonl

ROOT = Path(__file__).parents[1]
TAIL = "_vit_faces"
REFERENCE = "simclr"
SEEDED = ("simclr", "mae", "byol", "barlow", "fsfm")
"""Methods with several seeds, each of another family."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """What all runs share.

    Attributes:
        size: side of the images in pixels.
        batch: rows of a step.
        steps: of a run.
        encoder: the section of the encoder.
        dtype: compute type.
    """

    size: int
    batch: int
    steps: int
    encoder: Mapping[str, Any]
    dtype: str = "float32"


SMALL = {"name": "face_vit", "width": 128, "depth": 4, "heads": 4, "patch": 16, "embed": 128}
LARGE = {"name": "face_vit", "width": 384, "depth": 12, "heads": 6, "patch": 14, "embed": 384}
PRESETS = {
    "cpu": Preset(64, 128, 400, SMALL),
    "accelerator": Preset(112, 512, 4000, LARGE, "bfloat16"),
}

# ---------------------------------------------------------------------------------- the runs


def methods() -> dict[str, Path]:
    """Config files by the name of their method."""
    return {p.stem.removesuffix(TAIL): p for p in sorted((ROOT / "configs").glob(f"*{TAIL}.py"))}


def unified(name: str, folder: str, preset: str) -> dict[str, Any]:
    """The values of a run: the method's own, and the preset's.

    Raises:
        UserError: the method wants images that are not among those of this benchmark.
    """
    own, shared = command_line.load_file(f"{methods()[name]}:{folder}").to_dict(), PRESETS[preset]
    kept = ("clip", "rules")
    optimizer = {k: v for k, v in own["optimizer"].items() if k in kept}
    return {
        "steps": shared.steps,
        "global_batch": shared.batch,
        "dtype": shared.dtype,
        "log_every": 10,
        "report": False,
        "encoder": dict(shared.encoder),
        "objective": own["objective"],
        "optimizer": {"name": "adamw", "base_lr": 2e-3, **optimizer},
        "data": {
            "size": shared.size,
            "cache": "decoded",
            "sources": _sources(own["data"]["sources"], folder),
        },
        "checkpoint": {"every_steps": 100, "keep": 1},
        "eval": _evals(folder),
    }


def _sources(own: Iterable[Mapping[str, Any]], folder: str) -> tuple[dict[str, Any], ...]:
    """The images of all runs, with the labels that a method's sources name."""
    images = {
        "celeba_dev.zip": "*.jpg",
        "celebamask256_dev.zip": "images/*.jpg",
        "helen256_dev.zip": "*.jpg",
    }
    shared = {
        f"{folder}/{file}": {"name": "folder", "path": f"{folder}/{file}", "images": glob}
        for file, glob in images.items()
    }
    for source in own:
        path = source.get("path", source["name"])
        if path not in shared:
            raise UserError("data.sources", f"{Path(path).name} is not here", "leave it out")
        shared[path] |= {k: v for k, v in source.items() if k not in ("weight", "crop")}
    return tuple(shared.values())


def _evals(folder: str) -> dict[str, Any]:
    lfw = {"path": f"{folder}/lfw128.zip"}
    return {
        "lfw": {
            "type": "verification",
            "pairs": f"{folder}/pairs.txt",
            "flip": "sum",
            "protocol": "lfw10",
            **lfw,
        },
        "knn": {"type": "knn", "k": (1,), **lfw},
        "attributes": {
            "type": "linear_probe",
            "path": f"{folder}/celeba_dev.zip",
            "labels": f"{folder}/celeba_dev_attr.csv",
            "identity": f"{folder}/celeba_dev_identity.csv",
        },
    }


def get_config(arguments: str) -> ConfigDict:
    """This file is the config of its runs: `benchmarks/objectives.py:NAME,PRESET,FOLDER`."""
    name, preset, folder = arguments.split(",", 2)
    return ConfigDict(unified(name, folder, preset))


def train(name: str, folder: str, preset: str, workdir: Path, **keys: Any) -> str:
    """Trains and evaluates a method in a process of its own, or goes on with it.

    Returns:
        "" or the last line of what went wrong.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "facejax.train", f"--workdir={workdir.resolve()}"]
    command += [f"--config=benchmarks/objectives.py:{name},{preset},{folder}"]
    command += [f"--config.{key}={value}" for key, value in keys.items()]
    with (workdir / "log.txt").open("a") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode == 0:
        return ""
    return f"exit status {done.returncode}: " + (workdir / "log.txt").read_text().split("\n")[-2]


def steps_within(seconds: float, out: Path, folder: str, preset: str) -> int:
    """Steps of the reference in a time, measured once and kept."""
    kept = out / "budget.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if preset not in found:
        with tempfile.TemporaryDirectory() as workdir:
            keys = {"steps": 30, "eval": "{}", "log_every": 1}
            failed = train(REFERENCE, folder, preset, Path(workdir), **keys)
            if failed:
                raise UserError("--seconds", f"the reference failed ({failed})", "give --steps")
            found[preset] = step_ms(Path(workdir))
        kept.write_text(json.dumps(found))
    return max(1, round(1000 * seconds / found[preset]))


def step_ms(workdir: Path) -> float:
    """Milliseconds of a step, the median over the lines of metrics.jsonl but the first."""
    lines = [row["step_ms"] for row in read_jsonl(workdir / "metrics.jsonl") if "step_ms" in row]
    return statistics.median(lines[1:] or lines)


# --------------------------------------------------------------------------------- the table

METRICS = ("lfw/accuracy", "attributes/balanced_accuracy", "knn/knn@1")
LEADS = tuple(f"{metric}@{baseline}_diff" for metric in METRICS for baseline in BASELINES)
"""What an encoder has over its baselines; rows hold the intervals."""


def row_of(workdir: Path, name: str, seed: int, values: dict[str, Any]) -> dict[str, Any]:
    """What a finished run found, for results.json."""
    run = config.resolve(values)
    numbers = _numbers(workdir, run.steps)
    flops = flops_per_image(planned(run))
    return {
        "name": name,
        "seed": seed,
        "steps": run.steps,
        "images": run.steps * run.global_batch,
        **{metric: numbers[metric] for metric in METRICS},
        **{name: [numbers[f"{name}_{end}"] for end in ("low", "high")] for name in LEADS},
        "rank": rank_of(workdir, run.steps, ""),
        "ms_per_image": step_ms(workdir) / run.global_batch,
        "gflops_per_image": None if flops is None else flops / 1e9,
        "labels": sorted(fields_of(run)),
    }


def baseline_rows(workdir: Path, steps: int) -> list[dict[str, Any]]:
    """The random encoder and raw pixels, as any run measured them."""
    numbers = _numbers(workdir, steps)
    return [
        {
            "name": {"random": "random encoder", "pixels": "raw pixels"}[baseline],
            **{metric: numbers[f"{metric}@{baseline}"] for metric in METRICS},
            "rank": rank_of(workdir, steps, f"-{baseline}"),
        }
        for baseline in BASELINES
    ]


def _numbers(workdir: Path, steps: int) -> dict[str, float]:
    last = {}
    for row in read_jsonl(workdir / "metrics.jsonl"):
        if row["step"] == steps:
            last |= {k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")}
    return last


def rank_of(workdir: Path, steps: int, tail: str) -> float:
    """Effective rank of the embeddings of LFW that the run saved."""
    path = workdir / "artifacts" / f"eval-knn-{steps}{tail}.npz"
    return effective_rank(load_eval(path).embeddings)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per method, means and deviations where there are several seeds.

    In brackets, of one seed the interval of how far it is above the random encoder, of several the
    least low end and the greatest high one.
    """
    head = ("method", "LFW View 2, %", "attributes, %", "kNN, %", "rank", "ms/image")
    head += ("GFLOP/image", "labels", "seeds")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [row for row in rows if row["name"] == name]
        if failed := [row["failed"] for row in same if "failed" in row]:
            lines.append(f"| {name} | {failed[0]} |" + " |" * (len(head) - 2))
            continue
        labels = ", ".join(same[0].get("labels", ()))
        seen = "†" if "attributes" in labels else ""
        lfw, attributes, knn = (_spread(same, m, 100) + _lead(same, m) for m in METRICS)
        cells = [
            name,
            lfw,
            attributes + seen,
            knn,
            _spread(same, "rank"),
            _spread(same, "ms_per_image", digits=2),
            _spread(same[:1], "gflops_per_image", digits=2),
            labels,
            str(len(same)) if "seed" in same[0] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(rows: list[dict[str, Any]], key: str, scale: float = 1.0, digits: int = 1) -> str:
    values = [scale * row[key] for row in rows if row.get(key) is not None]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _lead(rows: list[dict[str, Any]], metric: str) -> str:
    name = f"{metric}@random_diff"
    intervals = [row[name] for row in rows if name in row]
    if not intervals:
        return ""
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    return f" ({100 * low:+.1f} to {100 * high:+.1f})"


NOTES = """
A smoke test of learning, not a ranking claim: one small encoder, few images, and recipes that were
found on procedural faces, none on these. All methods saw the same number of images. In brackets:
by how much a method is above the random encoder, the ends of the 95 % interval of the paired
difference, over people (of several seeds the outermost ends, beside mean and deviation). LFW View
2: accuracy; attributes: balanced accuracy of a linear probe of 40 CelebA attributes on unseen
people, whose pictures were pretrained on without labels (†: with these very labels, so it is no
test); kNN: the nearest other picture of LFW is of the same person; rank: effective rank of
embeddings of LFW; ms/image: of a training step on this machine.
"""


def write(
    out: Path, rows: list[dict[str, Any]], left_out: dict[str, str], steps: int, device: Any
) -> None:
    """Writes results.json and results.md."""
    where = environment() | device
    content = {"environment": where, "steps": steps, "rows": rows, "left_out": left_out}
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    facts = ", ".join(f"{name} {value}" for name, value in where.items())
    skipped = "".join(f"\nNot run: {name} ({why}).\n" for name, why in left_out.items())
    text = f"# Objectives at equal budget\n\n{facts}\n\n{table(rows)}{NOTES}{skipped}"
    (out / "results.md").write_text(text)


def run(argv: list[str]) -> int:
    """The command."""
    parser = cli.Parser(prog="python -m benchmarks.objectives", description=__doc__)
    parser.add_argument("--data", default="../shared/data", type=Path)
    parser.add_argument("--out", default=ROOT / "runs" / "objectives", type=Path)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float, help="of the reference on this machine")
    parser.add_argument("--seeds", type=int, default=3, help="of the methods in --seeded")
    parser.add_argument("--seeded", default=",".join(SEEDED))
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator is for the runs
    folder, known = str(args.data.resolve()), methods()
    names = [name for name in args.only.split(",") if name] or list(known)
    if unknown := set(names) - known.keys():
        raise UserError("--only", f"no method '{min(unknown)}'", f"legal: {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    steps = args.steps or PRESETS[args.preset].steps
    if args.seconds:
        steps = steps_within(args.seconds, args.out, folder, args.preset)
    jobs = [(name, 0) for name in names]
    seeded = [name for name in args.seeded.split(",") if name in names]
    jobs += [(name, seed) for name in seeded for seed in range(1, args.seeds)]
    rows, left_out, device = [], {}, {}
    for name, seed in jobs:
        try:
            values = unified(name, folder, args.preset) | {"steps": steps, "seed": seed}
            planned(config.resolve(values))
        except UserError as error:
            left_out[name] = f"{error.where}: {error.what}"
            write(args.out, rows, left_out, steps, device)
            continue
        workdir = args.out / f"{name}-{seed}"
        print(f"{name}, seed {seed}: {workdir}", flush=True)
        failed = train(name, folder, args.preset, workdir, steps=steps, seed=seed)
        if failed:
            rows.append({"name": name, "seed": seed, "failed": failed})
        else:
            if not device:
                ran = json.loads((workdir / "config.json").read_text())["devices"]
                device = {"device": ran["kind"], "devices": ran["count"]}
                rows = [*baseline_rows(workdir, steps), *rows]
            rows.append(row_of(workdir, name, seed, values))
        write(args.out, rows, left_out, steps, device)
    print((args.out / "results.md").read_text())
    return 3 if not rows or any("failed" in row for row in rows) else 0


if __name__ == "__main__":
    cli.main(run)
