"""Paired differences between runs that were evaluated on the same things."""

from collections.abc import Sequence

from facejax import plugins
from facejax.metrics import load_eval
from facejax.reporting import page
from facejax.reporting.rundir import Run


def differences(runs: Sequence[Run], label: str) -> str:
    """A table: each run minus the first, by the evaluator `label`, with 95 % intervals.

    Runs whose evaluator has other options than the first run's, or no saved result, are left out;
    without any other one the table is empty.
    """
    first, key = runs[0], (label, "")
    kind = str(first.config.get(f"eval.{label}.type", label))
    others = [
        r for r in runs[1:] if key in r.results and _options(r, label) == _options(first, label)
    ]
    if key not in first.results or not others or kind not in plugins.names("eval"):
        return ""
    module = plugins.load("eval", kind, f"eval.{label}.type")
    before = load_eval(first.results[key][1])
    found = [module.difference(load_eval(run.results[key][1]), before) for run in others]
    rows = [
        [metric, *(_cell(each.get(metric)) for each in found)]
        for metric in dict.fromkeys(m for each in found for m in each)
    ]
    if not rows:
        return ""
    head = [f"minus {first.name}", *(run.name for run in others)]
    note = "Differences are paired: both runs were judged on the same units, drawn together."
    return page.table(head, rows) + f'<p class="caption">{note}</p>'


def _options(run: Run, label: str) -> dict:
    """What decides which units are judged, and how."""
    start, when = f"eval.{label}.", f"eval.{label}.every_steps"
    return {k: v for k, v in run.config.items() if k.startswith(start) and k != when}


def _cell(interval: tuple[float, float, float] | None) -> tuple[str, str]:
    if interval is None:
        return "–", ""
    value, low, high = interval
    return f"{value:+.4f}", f"[{low:+.4f}, {high:+.4f}]"
