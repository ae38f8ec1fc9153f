"""What a run cost: throughput, step times, the wait for data, MFU, memory, goodput."""

from collections.abc import Sequence

import numpy as np

from facejax.metrics import duration
from facejax.reporting import page, plots
from facejax.reporting.rundir import Run

COST = (
    *("images_per_s", "images_per_s_per_device", "step_ms", "step_ms_p50", "step_ms_p95"),
    *("data_wait", "mfu", "ceiling_tflops", "goodput", "wall_s"),
    *("device_peak_gib", "host_peak_gib"),
)


def speed(runs: Sequence[Run]) -> str:
    """A table of the cost, a column for each run, and its curves."""
    if not any("step_ms" in run.curves for run in runs):
        return page.section("speed", "Speed", page.missing("No step time logged yet."))
    note = (
        "<p>Medians over the logged lines. Goodput, as of the last one, is the share of the wall "
        "time since the first start that went into steps that count: not compilation, waiting for "
        "data, evaluation, blocking checkpoints, pauses, or steps that were lost and made again."
        "</p>"
    )
    rows = [[name, *(show(run) for run in runs)] for name, show in _ROWS]
    table = page.table(["", *(run.name for run in runs)], rows)
    return page.section("speed", "Speed", note, table, page.grid(_charts(runs)))


def _median(run: Run, key: str) -> float:
    values = run.curves[key].values if key in run.curves else np.zeros(0)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan


def _last(run: Run, key: str) -> float:
    return run.curves[key].last if key in run.curves else np.nan


def _most(run: Run, key: str) -> float:
    """Each start of a run counts its peak anew."""
    return float(np.max(run.curves[key].values)) if key in run.curves else np.nan


def _written(value: float, unit: str = "", digits: int = 1) -> str:
    """A dash where it is not known."""
    return f"{value:,.{digits}f}{unit}" if np.isfinite(value) else "–"


def _rate(value: float) -> str:
    return _written(value, digits=0 if value >= 10 else 2)


def _mfu(run: Run) -> tuple[str, str]:
    share, ceiling = 100 * _median(run, "mfu"), _median(run, "ceiling_tflops")
    if not np.isfinite(share):
        return "–", "unknown: an objective or an encoder does not count its FLOPs"
    if np.isfinite(ceiling):
        return _written(share, " %"), f"of the measured ceiling, {ceiling:,.3g} TFLOP/s a device"
    return _written(share, " %"), "of the dense 16-bit peak of the device"


def _memory(run: Run) -> tuple[str, str]:
    device, host = _most(run, "device_peak_gib"), _most(run, "host_peak_gib")
    if np.isfinite(device):
        return _written(device, " GiB"), f"of the fullest device; host {_written(host, ' GiB')}"
    return _written(host, " GiB"), "resident set of the process: the backend counts no memory"


def _goodput(run: Run) -> tuple[str, str]:
    wall = _last(run, "wall_s")
    of = f"of {duration(wall)}" if np.isfinite(wall) else ""
    return _written(100 * _last(run, "goodput"), " %"), of


_ROWS = (
    ("images/s", lambda run: _rate(_median(run, "images_per_s"))),
    ("images/s per device", lambda run: _rate(_median(run, "images_per_s_per_device"))),
    ("step, median", lambda run: _written(_median(run, "step_ms_p50"), " ms")),
    ("step, 95th percentile", lambda run: _written(_median(run, "step_ms_p95"), " ms")),
    ("data wait", lambda run: _written(100 * _median(run, "data_wait"), " %")),
    ("MFU", _mfu),
    ("peak memory", _memory),
    ("goodput", _goodput),
)


def _charts(runs: Sequence[Run]) -> list[str]:
    share = "The model's own FLOPs; the table says of what they are a share."
    charts = (
        ("Throughput", "images_per_s", "images/s", 1, "Over all devices; higher is better."),
        ("Step time", "step_ms", "ms", 1, "Mean over each logging interval; lower is better."),
        ("Data wait", "data_wait", "% of the time", 100, "Devices idle for want of data."),
        ("MFU", "mfu", "% of the peak", 100, share),
        ("Goodput", "goodput", "% of the wall time", 100, "Since the first start of the run."),
    )
    return [
        figure
        for name, key, ylabel, scale, caption in charts
        for figure in plots.over_runs(runs, name, key, ylabel, caption, scale, zero=True)
    ]
