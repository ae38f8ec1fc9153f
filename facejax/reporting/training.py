"""How training went: losses, distributions, pictures."""

from collections.abc import Sequence

import numpy as np

from facejax.metrics import load_preview
from facejax.reporting import page, pairs, plots
from facejax.reporting.plots import Series, over_runs
from facejax.reporting.rundir import Run
from facejax.reporting.speed import COST

COUNTS = ("skipped_steps", "bad_records")
RIDGES = 18
PICTURE_ROWS, PICTURE_STEPS = 5, 2


def training(runs: Sequence[Run]) -> str:
    """Losses, learning rate, gradient norm, skipped steps and what else was logged."""
    keys = list(dict.fromkeys(key for run in runs for key in run.curves))
    if "loss" not in keys:
        return page.section("training", "Training", page.missing("No training step logged yet."))
    losses = sorted(key for key in keys if key == "loss" or key.startswith("loss/"))
    figures = _losses(runs, losses)
    caption = "As the optimiser used it at each step."
    figures += over_runs(runs, "Learning rate", "lr", "learning rate", caption, zero=True)
    caption = "Global norm of the gradient; spikes go with unstable steps."
    figures += over_runs(runs, "Gradient norm", "grad_norm", "norm (log)", caption, log_y=True)
    counted = [run for run in runs if "skipped_steps" in run.curves]
    skipped = [run for run in counted if run.curves["skipped_steps"].last > 0]
    caption = "Steps so far whose loss or gradient was not finite; they changed no parameter."
    figures += over_runs(skipped, "Skipped steps", "skipped_steps", "steps", caption, zero=True)
    for key in keys:
        if key not in {*losses, "lr", "grad_norm", *COST, *COUNTS} and not pairs.is_score(key):
            figures += over_runs(runs, key, key, "value", "As the objective logs it.")
    notes = ["No step was skipped."] if counted and not skipped else []
    if any(len(run.curves[key].steps) > plots.MOST for run in runs for key in run.curves):
        notes.append("Lines are means over neighbouring log lines, bands reach to their extremes.")
    note = f"<p>{' '.join(notes)}</p>" if notes else ""
    return page.section("training", "Training", note, page.grid(figures))


def _losses(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    if len(runs) > 1:
        caption = "Losses of two runs compare only where their objectives are the same."
        return [chart for key in keys for chart in over_runs(runs, key, key, "loss", caption)]
    # With a single objective its loss and the total tell the same.
    shown = ["loss"] if len(keys) == 2 else keys
    curves = [(key, runs[0].curves[key]) for key in shown]
    series = [Series(key, curve.steps, curve.values, i) for i, (key, curve) in enumerate(curves)]
    caption = "Lower is better within one objective; losses of different ones don't compare."
    return [plots.chart("Loss", series, "step", "loss", caption)]


def distributions(runs: Sequence[Run]) -> str:
    """Histograms over the steps, such as the similarities of positive and negative pairs."""
    figures = []
    for run in runs:
        groups: dict[tuple[str, float, float], list[str]] = {}
        for name, steps in run.histograms.items():
            key = (name.rpartition("/")[0], steps[0].low, steps[0].high)
            groups.setdefault(key, []).append(name)
        for (group, low, high), names in groups.items():
            title = " ".join(filter(None, (group, f"({run.name})" if len(runs) > 1 else "")))
            figures += _distribution(
                run, title or "All objectives", sorted(names, reverse=True), low, high
            )
    if not figures:
        text = "No distribution logged: contrastive objectives log the similarities of their pairs."
        figures = [page.missing(text)]
    return page.section("similarity", "Similarity distributions", page.grid(figures))


def _distribution(run: Run, title: str, names: list[str], low: float, high: float) -> list[str]:
    short = {name: name.rpartition("/")[2] for name in names}
    xlabel = "cosine similarity" if (low, high) == (-1.0, 1.0) else "value"
    counts = {name: {h.step: h.counts for h in run.histograms[name]} for name in names}
    steps = sorted(set().union(*counts.values()))
    picks = np.unique(np.linspace(0, len(steps) - 1, RIDGES).round().astype(int)).tolist()
    rows = [
        (steps[i], {short[n]: counts[n][steps[i]] for n in names if steps[i] in counts[n]})
        for i in picks
    ]
    key = [Series(short[name], np.zeros(1), np.zeros(1), i) for i, name in enumerate(names)]
    caption = (
        "Time runs downwards, each ridge is scaled to its own peak. Similarities of positive and "
        "negative pairs should move apart."
    )
    ridges = plots.ridges(rows, low, high, xlabel)
    ends = []
    for dash, step in {steps[0]: (2, steps[0]), steps[-1]: (0, steps[-1])}.values():
        for i, name in enumerate(names):
            if step in counts[name]:
                share = 100 * counts[name][step] / max(counts[name][step].sum(), 1e-12)
                edges = np.linspace(low, high, len(share) + 1)
                middles = (edges[1:] + edges[:-1]) / 2
                ends.append(Series(f"{short[name]}, step {step:,}", middles, share, i, dash))
    ends_caption = "The first logged step dotted, the last one solid; each sums to 100 %."
    return [
        page.figure(f"{title}: over training", ridges, caption, plots.legend(key)),
        plots.chart(f"{title}: first and last", ends, xlabel, "% per bin", ends_caption, zero=True),
    ]


def previews(runs: Sequence[Run]) -> str:
    """Pictures that the objectives made, such as inputs beside their reconstructions."""
    figures = []
    for run in runs:
        for label, steps in run.previews.items():
            newest = steps[-PICTURE_STEPS:] if len(runs) == 1 else steps[-1:]
            who = label if len(runs) == 1 else f"{run.name}: {label}"
            for step, path in newest:
                images, columns = load_preview(path)
                grid = page.pictures(images[:PICTURE_ROWS], columns)
                figures.append(page.figure(f"{who}, step {step:,}", grid, "One image per row."))
    if not figures:
        figures = [page.missing("No preview yet: only objectives that make pictures save any.")]
    return page.section("previews", "Pictures", page.grid(figures))
