"""Evaluation: alone, on a schedule within training, or following a run.

    python -m facejax.evaluate (--workdir=DIR [--step=N] | --export=DIR)
        [--eval.<label>.<key>=v] [--follow] [--out=FILE]

Every evaluator runs three times: with the encoder, with the same encoder at random initialisation
(metric@random) and, unless it reads texts too, with raw pixels (metric@pixels), and gives paired
intervals of the differences.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from facejax import checkpoint, cli, command_line, config, model
from facejax.contracts import Draw, TowerSpec
from facejax.errors import UserError
from facejax.evaluators import Result, Space
from facejax.evaluators._baselines import pixels
from facejax.joint import at_random
from facejax.metrics import Writer, is_detail, save_eval
from facejax.typed import keys_of

POLL_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluator, its files read and checked, with what never changes already measured.

    Attributes:
        label: its key in the config.
        entry: the evaluator and its config.
        data: what `prepare` gave.
        baselines: results of "random" and "pixels", filled at the first run.
    """

    label: str
    entry: config.Eval
    data: Any
    baselines: dict[str, Result]

    @property
    def joint(self) -> bool:
        """Whether it wants a space of images and texts in place of `embed`."""
        return getattr(self.entry.module, "JOINT", False)


def prepare(evals: Mapping[str, config.Eval], size: int) -> list[Evaluation]:
    """Reads and checks the files of all evaluators, before anything is compiled.

    Args:
        evals: by label.
        size: side in pixels of the images that the encoder takes.

    Raises:
        UserError: whatever an evaluator refuses; its keys are named in full.
    """
    found = []
    for label, entry in evals.items():
        with keys_of(entry.config, f"config.eval.{label}"):
            found.append(Evaluation(label, entry, entry.module.prepare(entry.config, size), {}))
    return found


def random_encoder(trained: model.Model) -> model.Model:
    """The same encoder at random initialisation, its text tower and projections too.

    Of a seed that no run uses for its own.
    """
    key = Draw(jax.random.key(0), np.zeros(0, np.int32)).fold("random baseline").key
    init = jax.jit(lambda k: trained.module.init(trained.encoder_config, k, TowerSpec()))
    params, stats = jax.device_get(init(key))  # as NumPy they fit any mesh
    space = trained.space and at_random(trained.space, random_encoder)
    return dataclasses.replace(trained, params=params, stats=stats, space=space)


def measure(evaluation: Evaluation, trained: model.Model) -> tuple[Result, dict[str, float]]:
    """Runs one evaluator and its baselines.

    Returns:
        The encoder's result, and the numbers by name: each metric, metric@random, metric@pixels,
        and for what the evaluator can pair, metric@<baseline>_diff with _diff_low and _diff_high.
    """
    e = evaluation
    spaces: dict[str, Callable[[], Space]] = {"random": lambda: _space(e, random_encoder(trained))}
    if not e.joint:
        spaces["pixels"] = lambda: pixels
    for name, make in spaces.items():
        if name not in e.baselines:
            e.baselines[name] = _run(e, make())
    result = _run(e, _space(e, trained))
    numbers = dict(result.metrics)
    for name, baseline in e.baselines.items():
        numbers |= {f"{metric}@{name}": v for metric, v in baseline.metrics.items()}
        differences = e.entry.module.difference(result, baseline)
        for metric, (diff, low, high) in differences.items():
            numbers[f"{metric}@{name}_diff"] = diff
            numbers[f"{metric}@{name}_diff_low"] = low
            numbers[f"{metric}@{name}_diff_high"] = high
    return result, numbers


def _space(e: Evaluation, trained: model.Model) -> Space:
    return trained.joint() if e.joint else trained.embed


def _run(e: Evaluation, space: Space) -> Result:
    with keys_of(e.entry.config, f"config.eval.{e.label}"):
        return e.entry.module.run(e.entry.config, e.data, space)


def evaluate(
    evaluations: list[Evaluation], trained: model.Model, step: int, writer: Writer, workdir: Path
) -> dict[str, float]:
    """Runs evaluators on one encoder; writes metrics and the report's artifacts.

    Returns:
        "eval/<label>/<metric>" -> number.
    """
    numbers = {}
    for e in evaluations:
        result, found = measure(e, trained)
        numbers |= {f"eval/{e.label}/{metric}": v for metric, v in found.items()}
        for suffix, each in {"": result, **e.baselines}.items():
            if writer.write:
                save_eval(workdir, e.label, step, suffix, each)
    if numbers:
        writer.scalars(step, numbers)
    return numbers


def table(numbers: Mapping[str, float]) -> Table:
    """The headline metrics, one row each, beside their baselines."""
    name_column = Column("metric", overflow="fold")  # a shortened name could be another metric's
    out = Table(name_column, "encoder", "random", "pixels", "difference to random (95 %)")
    for name, value in numbers.items():
        if "@random" in name or "@pixels" in name or name.endswith(("_low", "_high")):
            continue
        if is_detail(name.split("/", 2)[2]):
            continue  # in metrics.jsonl and the report
        diff, low, high = (numbers.get(f"{name}@random_diff{end}") for end in ("", "_low", "_high"))
        interval = "" if diff is None else f"{diff:+.4f} [{low:+.4f}, {high:+.4f}]"
        cells = [_number(v) for v in (value, *(numbers.get(f"{name}@{b}") for b in BASELINES))]
        out.add_row(name, *cells, interval)
    return out


BASELINES = ("random", "pixels")


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"


def run(argv: list[str]) -> int:
    """The command."""
    parser = cli.Parser(prog="python -m facejax.evaluate", description=__doc__)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--step", type=int, help="default: the newest checkpoint")
    parser.add_argument("--follow", action="store_true", help="evaluate each new checkpoint")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    args, overrides = parser.parse_known(argv, "eval")
    if (args.workdir is None) == (args.export is None):
        raise UserError("--workdir", "exactly one of --workdir and --export is wanted", "give one")
    if args.export is not None:
        return _evaluate_export(args, overrides)
    stored = model.read_config(args.workdir)["config"]
    resolved = config.resolve(_with_evals(stored, overrides))
    evaluations = prepare(resolved.evals, resolved.data.size)
    _need(evaluations)
    writer = Writer(args.workdir, None)
    done: set[int] = set()
    while True:
        steps = checkpoint.Checkpoints(args.workdir).steps()
        new = [s for s in steps if s not in done]
        if not args.follow:
            new = [checkpoint.find(args.workdir, args.step)]
        for step in new:
            numbers = evaluate(
                evaluations, model.load_run(args.workdir, step), step, writer, args.workdir
            )
            done.add(step)
            _publish(numbers, step, args.out)
        if not args.follow or (resolved.steps and resolved.steps in done):
            break
        time.sleep(POLL_SECONDS)
    writer.close()
    return 0


def _with_evals(stored: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    values = json.loads(json.dumps(stored))
    assignments = [f"--eval.{key}={value}" for key, value in overrides.items()]
    values["eval"] = command_line.override(dict(values.get("eval") or {}), assignments, "eval")
    return values


def _need(evaluations: list[Evaluation]) -> None:
    if not evaluations:
        raise UserError(
            "config.eval", "no evaluator", "add --eval.lfw.type=verification and its keys"
        )


def _evaluate_export(args, overrides: Mapping[str, str]) -> int:
    trained = model.load(args.export)
    run_config = trained.config or {}
    evals = command_line.override(
        dict(run_config.get("eval") or {}),
        [f"--eval.{k}={v}" for k, v in overrides.items()],
        "eval",
    )
    entries = config.resolve_evals(evals)
    evaluations = prepare(entries, trained.preprocess["size"])
    _need(evaluations)
    numbers = {}
    for e in evaluations:
        found = measure(e, trained)[1]
        numbers |= {f"eval/{e.label}/{metric}": v for metric, v in found.items()}
    _publish(numbers, int(trained.meta.get("step", 0)), args.out)
    return 0


def show(numbers: Mapping[str, float]) -> None:
    """Prints the table of headline metrics."""
    Console().print(table(numbers))


def _publish(numbers: Mapping[str, float], step: int, out: Path | None) -> None:
    show(numbers)
    if out is not None:
        known = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"step": step, **known}, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    cli.main(run)
