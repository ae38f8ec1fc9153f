"""Reads what a run left in its working directory."""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facejax.errors import UserError
from facejax.metrics import read_jsonl

SCHEMA = 1
# Metric names hold "@" themselves (tar@far=1e-3), so only the known tails are split off.
_VARIANT = re.compile(r"(.+?)(?:@((?:random|pixels)(?:_diff(?:_low|_high)?)?))?")
_ARTIFACT = re.compile(r"(eval|preview)-(.+)-(\d+)(?:-(random|pixels))?\.npz")


@dataclass(frozen=True)
class Curve:
    """Values f64[n] at increasing steps i64[n]; nan where the log holds null."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The value at the highest step."""
        return float(self.values[-1])


@dataclass(frozen=True)
class Histogram:
    """Counts f64[n] in n equal bins over [low, high]."""

    step: int
    low: float
    high: float
    counts: np.ndarray


@dataclass(frozen=True)
class Run:
    """One run, as its working directory tells it.

    Attributes:
        name: the directory's name, longer where two runs of a page share it.
        config: dotted key -> value.
        about: versions, commit, devices and date, as pairs of words.
        curves: name -> training curve.
        evals: label -> metric -> variant -> curve. The variants are "" (the encoder), "random",
            "pixels", and "<baseline>_diff" with its "_low" and "_high".
        histograms: name -> by increasing step.
        results: (label, variant) -> (step, path) of the newest evaluation artifact.
        previews: label -> [(step, path)] by increasing step.
        rejected: reason -> count, or None where the run has no rejected.csv.
    """

    name: str
    config: dict[str, Any]
    about: dict[str, str]
    curves: dict[str, Curve]
    evals: dict[str, dict[str, dict[str, Curve]]]
    histograms: dict[str, list[Histogram]] = field(default_factory=dict)
    results: dict[tuple[str, str], tuple[int, Path]] = field(default_factory=dict)
    previews: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)
    rejected: dict[str, int] | None = None

    @property
    def step(self) -> int:
        """The last step that any training line tells of."""
        return max((int(c.steps[-1]) for c in self.curves.values()), default=0)

    @property
    def seconds(self) -> float | None:
        """Time in training steps: each logged step time counts for the steps since the last one."""
        if "step_ms" not in self.curves:
            return None
        curve = self.curves["step_ms"]
        return float(np.nansum(np.diff(curve.steps, prepend=0) * curve.values) / 1e3)


def read_runs(dirs: Sequence[Path]) -> list[Run]:
    """Reads the runs in order.

    Raises:
        UserError: a directory is missing, is no run, or its config.json can't be read.
    """
    return [_read(Path(path), name) for path, name in zip(dirs, _names(dirs))]


def _names(dirs: Sequence[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart."""
    parts = [Path(path).resolve().parts[1:] or ("/",) for path in dirs]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]


def _read(path: Path, name: str) -> Run:
    if not path.is_dir():
        raise UserError(str(path), "no such directory", "give the --workdir of a training run")
    for needed in ("config.json", "metrics.jsonl"):
        if not (path / needed).is_file():
            raise UserError(str(path), f"no {needed} here", "give the --workdir of a training run")
    head = _config(path / "config.json")
    train, scores = _curves(path / "metrics.jsonl")
    results, previews = _artifacts(path / "artifacts")
    return Run(
        name=name,
        config=flatten(head.get("config", {})),
        about=_about(head),
        curves=train,
        evals=scores,
        histograms=_histograms(path / "histograms.jsonl"),
        results=results,
        previews=previews,
        rejected=_rejected(path / "rejected.csv"),
    )


def _config(path: Path) -> dict:
    try:
        head = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            str(path), f"not valid JSON ({error})", "restore it or train anew"
        ) from None
    version = head.get("schema_version") if isinstance(head, dict) else None
    if version != SCHEMA:
        what = f"schema version {version}, and this facejax reads {SCHEMA}"
        raise UserError(str(path), what, "use the facejax that wrote it")
    return head


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Turns nested dicts and lists of dicts into dotted keys; other values stay whole."""
    if isinstance(tree, Mapping):
        pairs = tree.items()
    elif isinstance(tree, list) and any(isinstance(value, Mapping) for value in tree):
        pairs = enumerate(tree)
    else:
        return {prefix: tree}
    leaves = {}
    for key, value in pairs:
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _about(head: Mapping) -> dict[str, str]:
    devices, about = head.get("devices") or {}, {}
    if devices:
        about["devices"] = f"{devices.get('count', '?')} × {devices.get('kind', '?')}"
    if head.get("created"):
        about["started"] = str(head["created"])
    if head.get("commit"):
        about["commit"] = str(head["commit"])
    return about | {str(k): str(v) for k, v in (head.get("versions") or {}).items()}


def split_metric(name: str) -> tuple[str, str]:
    """Splits a baseline's tail off a metric's name.

    >>> split_metric("tar@far=1e-3@random_diff_low")
    ('tar@far=1e-3', 'random_diff_low')
    >>> split_metric("knn@20")
    ('knn@20', '')
    """
    metric, variant = _VARIANT.fullmatch(name).groups()
    return metric, variant or ""


def _curves(path: Path) -> tuple[dict, dict]:
    points: dict[str, dict[int, float]] = {}
    for row in read_jsonl(path):
        for name, value in row.items():
            if name != "step" and (value is None or isinstance(value, int | float)):
                points.setdefault(name, {})[row["step"]] = np.nan if value is None else value
    train: dict[str, Curve] = {}
    scores: dict[str, dict[str, dict[str, Curve]]] = {}
    for name, values in points.items():
        steps = np.array(sorted(values))
        curve = Curve(steps, np.array([values[step] for step in steps.tolist()], np.float64))
        kind, _, rest = name.partition("/")
        label, _, metric = rest.partition("/")
        if kind == "eval" and metric:
            metric, variant = split_metric(metric)
            scores.setdefault(label, {}).setdefault(metric, {})[variant] = curve
        else:
            train[name] = curve
    return train, scores


def _histograms(path: Path) -> dict[str, list[Histogram]]:
    found: dict[str, dict[int, Histogram]] = {}
    for row in read_jsonl(path):
        counts = np.asarray(row["counts"], np.float64)
        step = Histogram(row["step"], row["low"], row["high"], counts)
        found.setdefault(row["name"], {})[row["step"]] = step
    return {name: [steps[s] for s in sorted(steps)] for name, steps in sorted(found.items())}


def _artifacts(folder: Path) -> tuple[dict, dict]:
    results: dict[tuple[str, str], tuple[int, Path]] = {}
    previews: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*.npz")):
        match = _ARTIFACT.fullmatch(path.name)
        if match is None:
            continue
        kind, label, step, variant = match.groups()
        if kind == "preview":
            previews.setdefault(label, []).append((int(step), path))
        else:
            key, entry = (label, variant or ""), (int(step), path)
            results[key] = max(results.get(key, entry), entry)
    return results, {label: sorted(steps) for label, steps in previews.items()}


def _rejected(path: Path) -> dict[str, int] | None:
    if not path.is_file():
        return None
    with path.open(newline="", errors="replace") as file:
        reasons = Counter((row.get("reason") or "unnamed reason") for row in csv.DictReader(file))
    return dict(reasons.most_common())
