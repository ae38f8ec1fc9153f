"""What the evaluations found: tables, curves over steps, ROC curves, maps of embeddings."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facejax.metrics import is_detail, load_eval
from facejax.reporting import between, maps, page, plots
from facejax.reporting.plots import Series
from facejax.reporting.rundir import Curve, Run

BASELINES = {"random": "random encoder", "pixels": "raw pixels"}
VARIANTS = ("", *BASELINES)
COMPANIONS = ("_low", "_high", "_std")
Metrics = dict[str, dict[str, Curve]]  # metric -> variant -> curve
MAP_POINTS, MAP_IDENTITIES = 300, 16


def evaluations(runs: Sequence[Run]) -> str:
    """The newest scores beside the baselines, and the scores over the steps."""
    parts = []
    for label in dict.fromkeys(label for run in runs for label in run.evals):
        alone = len(runs) == 1
        parts.append(f"<h3>{page.escape(label)}</h3>")
        parts.append(_one_run_table(runs[0].evals[label]) if alone else _runs_table(runs, label))
        parts.append("" if alone else between.differences(runs, label))
        parts.append(_history(runs, label))
    if not parts:
        return page.section("evaluation", "Evaluation", page.missing("No evaluation yet."))
    intro = (
        "<p>The trained encoder beside the same encoder at random initialisation and beside raw "
        "pixels. Small figures are intervals in brackets and standard deviations after ±, where "
        "the evaluator gives them. A difference whose interval leaves out 0 is hardly chance.</p>"
    )
    return page.section("evaluation", "Evaluation", intro, *parts)


def _shown(metrics: Metrics, detail: bool = False) -> list[str]:
    """Metrics with a row of their own: not the counts, not another one's interval.

    Args:
        detail: the metrics that explain others, instead of those that stand for themselves.
    """
    return [
        m
        for m in metrics
        if m not in ("n", "failed")
        and is_detail(m) == detail
        and not any(m.endswith(c) and m.removesuffix(c) in metrics for c in COMPANIONS)
    ]


def _last(metrics: Metrics, metric: str, variant: str) -> float:
    curve = metrics.get(metric, {}).get(variant)
    return math.nan if curve is None else curve.last


def _score(metrics: Metrics, metric: str, variant: str = "") -> tuple[str, str]:
    """A value, and beneath it its interval and deviation where they are known."""
    value, low, high, std = (
        _last(metrics, metric + tail, variant) for tail in ("", "_low", "_high", "_std")
    )
    beneath = []
    if math.isfinite(low) and math.isfinite(high):
        beneath.append(f"[{page.number(low)}, {page.number(high)}]")
    if math.isfinite(std):
        beneath.append(f"± {page.number(std)}")
    return page.number(value), " ".join(beneath)


def _gain(metrics: Metrics, metric: str, baseline: str) -> tuple[str, str]:
    """A difference to a baseline with its interval, both as logged."""
    value, low, high = (
        _last(metrics, metric, f"{baseline}_diff{tail}") for tail in ("", "_low", "_high")
    )
    if not math.isfinite(value):
        return "–", ""
    known = math.isfinite(low) and math.isfinite(high)
    return f"{value:+.4f}", f"[{low:+.4f}, {high:+.4f}]" if known else ""


def _sizes(metrics: Metrics) -> str:
    """At which step, on how many units, and how many of them failed."""
    step = max(int(c.steps[-1]) for curves in metrics.values() for c in curves.values())
    counts = ((m, _last(metrics, m, "")) for m in ("n", "failed"))
    words = [f"{m} = {value:,.0f}" for m, value in counts if math.isfinite(value)]
    return ", ".join([f"step {step:,}", *words])


def _one_run_table(metrics: Metrics) -> str:
    variants = {variant for curves in metrics.values() for variant in curves}
    scored = [b for b in BASELINES if b in variants]
    gains = [b for b in BASELINES if f"{b}_diff" in variants]
    head = ["metric", "trained", *(BASELINES[b] for b in scored)]
    head += [f"trained − {BASELINES[b]}" for b in gains]

    def rows(detail: bool) -> list[list]:
        found = []
        for metric in _shown(metrics, detail):
            scores = [_score(metrics, metric, variant) for variant in ("", *scored)]
            found.append([metric, *scores, *(_gain(metrics, metric, b) for b in gains)])
        return found

    note = _sizes(metrics)
    absent = [BASELINES[b] for b in BASELINES if b not in scored]
    note += f"; not evaluated: {', '.join(absent)}" if absent else ""
    return _tables(head, rows(False), rows(True), note)


def _tables(head: Sequence[str], rows: list[list], details: list[list], note: str) -> str:
    """A table and its caption, and beneath them a table of details that a reader can open."""
    parts = [page.table(head, rows), f'<p class="caption">{page.escape(note)}</p>']
    if details:
        parts.append(page.folded("Details", page.table(head, details)))
    return "".join(parts)


def _runs_table(runs: Sequence[Run], label: str) -> str:
    sides = [run.evals.get(label, {}) for run in runs]

    def rows(detail: bool) -> list[list]:
        found: list[list] = []
        for metric in dict.fromkeys(m for side in sides for m in _shown(side, detail)):
            found.append([metric, *(_score(side, metric) for side in sides)])
            for baseline, name in BASELINES.items():
                values = [_last(side, metric, baseline) for side in sides]
                if any(map(math.isfinite, values)):
                    found.append([("", name), *(("", page.number(value)) for value in values)])
        return found

    note = "; ".join(f"{run.name}: {_sizes(side)}" for run, side in zip(runs, sides) if side)
    return _tables(["metric", *(run.name for run in runs)], rows(False), rows(True), note)


def _history(runs: Sequence[Run], label: str) -> str:
    """A chart per metric that was evaluated at two steps or more."""
    sides = [run.evals.get(label, {}) for run in runs]
    figures = []
    for metric in dict.fromkeys(m for side in sides for m in _shown(side)):
        series = []
        for i, (run, side) in enumerate(zip(runs, sides)):
            curve = side.get(metric, {}).get("")
            if curve is None or len(curve.steps) < 2 or not np.isfinite(curve.values).any():
                continue
            if len(runs) > 1:
                series.append(Series(run.name, curve.steps, curve.values, i))
            else:
                series += [_with_band(side, metric, curve), *_flat(side, metric, curve.steps)]
        if series:
            band = " The band is the interval." if series[0].low is not None else ""
            caption = f"The encoder at each evaluated step.{band}"
            figures.append(plots.chart(metric, series, "step", metric, caption))
    return page.grid(figures) if figures else ""


def _flat(metrics: Metrics, metric: str, steps: np.ndarray) -> list[Series]:
    """The baselines as level lines."""
    found = [(b, _last(metrics, metric, b)) for b in BASELINES]
    return [
        Series(BASELINES[b], steps[[0, -1]], np.full(2, value), 7, VARIANTS.index(b))
        for b, value in found
        if math.isfinite(value)
    ]


def _with_band(metrics: Metrics, metric: str, curve: Curve) -> Series:
    ends = [metrics.get(metric + tail, {}).get("") for tail in ("_low", "_high")]
    whole = all(end is not None and np.array_equal(end.steps, curve.steps) for end in ends)
    low, high = (end.values for end in ends) if whole else (None, None)
    return Series("trained", curve.steps, curve.values, 0, 0, low, high)


def curves(runs: Sequence[Run]) -> str:
    """ROC and other curves of the newest evaluation, beside the baselines'."""
    drawn: dict[tuple[str, str], list[Series]] = {}
    axes: dict[tuple[str, str], tuple[str, str, bool]] = {}
    for i, run in enumerate(runs):
        for label, variant, step, path in _newest(run, VARIANTS if len(runs) == 1 else ("",)):
            who = run.name if len(runs) > 1 else _who(variant, step)
            colour, dash = (7, VARIANTS.index(variant)) if variant else (i, 0)
            for name, curve in load_eval(path).curves.items():
                x, y = (np.asarray(curve[axis], np.float64) for axis in "xy")
                if not x.size:
                    continue
                drawn.setdefault((label, name), []).append(Series(who, x, y, colour, dash))
                axes[label, name] = curve["xlabel"], curve["ylabel"], curve["logx"]
    figures = []
    for (label, name), series in drawn.items():
        xlabel, ylabel, log = axes[label, name]
        caption = "Newest evaluation."
        if log:
            series = [replace(s, x=s.x[s.x > 0], y=s.y[s.x > 0]) for s in series]
            xlabel += " (log)"
            caption += " The x axis runs in decades: its left end is the strictest."
        series = [_fewer(s, log) for s in series]
        figures.append(plots.chart(f"{label}: {name}", series, xlabel, ylabel, caption, log_x=log))
    figures = figures or [page.missing("No evaluation curve saved yet.")]
    return page.section("curves", "ROC curves", page.grid(figures))


def _newest(run: Run, variants: Sequence[str]) -> list[tuple[str, str, int, Path]]:
    """(label, variant, step, path) of the newest artifacts, in the order of labels and variants."""
    labels = dict.fromkeys(label for label, _ in run.results)
    keys = [(label, variant) for label in labels for variant in variants]
    return [(*key, *run.results[key]) for key in keys if key in run.results]


def _who(variant: str, step: int) -> str:
    return BASELINES.get(variant, f"trained, step {step:,}")


def _fewer(series: Series, log: bool, most: int = 400) -> Series:
    """Keeps points that stand about equally far apart as drawn, the ends among them."""
    x = np.log10(series.x) if log else series.x
    width, height = (max(float(np.ptp(a)), 1e-12) for a in (x, series.y))
    moved = np.abs(np.diff(x)) / width + np.abs(np.diff(series.y)) / height
    length = np.r_[0.0, np.cumsum(moved)]
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], most)).clip(max=len(x) - 1))
    return replace(series, x=series.x[keep], y=series.y[keep])


def embedding_maps(runs: Sequence[Run], names: bool = True) -> str:
    """Embeddings of the identities with most images, in two dimensions.

    Args:
        names: False numbers the identities instead of naming them.
    """
    figures = []
    for run in runs:
        for label, variant, step, path in _newest(run, ("", "random") if len(runs) == 1 else ("",)):
            result = load_eval(path)
            if result.embeddings is None or result.labels is None:
                continue
            who = _who(variant, step) if len(runs) == 1 else f"{run.name}, step {step:,}"
            figures += _map(f"{label}, {who}", result.embeddings, result.labels, names)
    if not figures:
        text = "No labelled embeddings saved yet."
        return page.section("map", "Embedding map", page.missing(text))
    intro = (
        f"<p>Each mark is one image, its colour and shape are its identity; up to {MAP_IDENTITIES} "
        "identities with most images are shown. PCA keeps the directions of largest variance. "
        "t-SNE (perplexity 12, started from PCA) keeps neighbours together, but neither distances "
        "nor densities. Axes have no unit.</p>"
    )
    return page.section("map", "Embedding map", intro, page.grid(figures))


def _map(title: str, embeddings: np.ndarray, labels: np.ndarray, named: bool) -> list[str]:
    names, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAP_IDENTITIES]
    chosen = [i for i in order.tolist() if counts[i] > 1]
    if len(chosen) < 2:
        return []
    each = max(2, MAP_POINTS // len(chosen))
    rows = [np.flatnonzero(labels == names[i])[:each] for i in chosen]
    groups = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    points = embeddings[np.concatenate(rows)]
    identities = [f"identity {names[i] if named else k}" for k, i in enumerate(chosen, 1)]
    agree = 100 * maps.nearest_agree(points, groups)
    caption = (
        f"{len(points)} images of {len(rows)} identities. For {agree:.0f} % of them the most "
        "similar other one shown (cosine, all dimensions) is of the same identity."
    )
    drawings = [
        (name, plots.scatter(project(points), groups, identities))
        for name, project in (("PCA", maps.pca), ("t-SNE", maps.tsne))
    ]
    return [page.figure(title, page.pair(drawings), caption)]
