"""How the scores of positive and negative pairs develop, where `feature_transform` logs them.

The drawings are those of Zhu et al. 2021, arXiv:2108.02982: each number over the steps, with a line
per run, and the same with the runs one behind the other, such as runs of several momenta.
"""

from collections.abc import Sequence

import numpy as np

from facejax.reporting import page, plots
from facejax.reporting.plots import Series
from facejax.reporting.rundir import Run

CHARTS = {
    "positive_mean": (
        "Positive scores: mean",
        "score",
        "Over the batch. Harder positives lower it; a curve that jumps tells of a momentum that is "
        "too small.",
    ),
    "positive_var": ("Positive scores: variance", "variance", "Over the batch."),
    "negative_mean": (
        "Negative scores: mean",
        "score",
        "Over an anchor's negatives, averaged over anchors. Near 0 where features spread.",
    ),
    "negative_var": (
        "Negative scores: variance",
        "variance",
        "Over an anchor's negatives, averaged over anchors. Interpolation lowers it.",
    ),
    "positive_exp": (
        "Positive scores: weight in the loss",
        "mean exp(score / tau)",
        "What positives bring into the softmax.",
    ),
    "negative_exp": (
        "Negative scores: weight in the loss",
        "mean exp(score / tau)",
        "What an average negative brings into the softmax.",
    ),
}


def is_score(key: str) -> bool:
    """Whether a training curve is one of these, `<label>/<modifier>.<name>`."""
    label, _, name = key.rpartition(".")
    return "/" in label and name in CHARTS


def logged(runs: Sequence[Run]) -> bool:
    """Whether any run has such curves."""
    return any(is_score(key) for run in runs for key in run.curves)


def scores(runs: Sequence[Run]) -> str:
    """A chart per number, and one in depth where several runs have it."""
    groups = {key.rpartition(".")[0]: None for run in runs for key in run.curves if is_score(key)}
    parts = []
    for group in groups:
        figures = [figure for name in CHARTS for figure in _figures(runs, group, name)]
        title = f"<h3>{page.escape(group)}</h3>" if len(groups) > 1 else ""
        parts.append(title + page.grid(figures))
    return page.section("scores", "Scores of pairs", *parts)


def _figures(runs: Sequence[Run], group: str, name: str) -> list[str]:
    title, ylabel, caption = CHARTS[name]
    series = []
    for i, run in enumerate(runs):
        curve = run.curves.get(f"{group}.{name}")
        if curve is not None and np.isfinite(curve.values).any():
            who, dash = _called(run, group), i % len(plots.DASHES)
            series.append(Series(who, curve.steps, curve.values, i, dash))
    figures = [plots.chart(title, series, "step", ylabel, caption)] if series else []
    if len(series) > 1:
        drawing = plots.stacked(series, "step", ylabel)
        hint = "The same curves one behind the other, the first run in front."
        figures.append(page.figure(f"{title}, in depth", drawing, hint, plots.legend(series)))
    return figures


def _called(run: Run, group: str) -> str:
    """The run's name, and its momentum where that is a number."""
    momentum = run.config.get(f"objective.{group.partition('/')[0]}.momentum")
    return f"{run.name} (momentum {momentum:g})" if isinstance(momentum, float) else run.name
