"""What a run is and where it stands; its records and its configuration."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from facejax.metrics import duration
from facejax.reporting import page
from facejax.reporting.rundir import Run

REASONS = 10


def summary(run: Run) -> list[tuple[str, str]]:
    """The run in a few numbers, as pairs of words."""
    curves = run.curves
    total, batch = run.config.get("steps"), run.config.get("global_batch")
    pairs = [("step", f"{run.step:,} of {total:,}" if isinstance(total, int) else f"{run.step:,}")]
    if isinstance(batch, int):
        pairs.append(("images seen", f"{run.step * batch:,}"))
    if "loss" in curves:
        pairs.append(("last loss", page.number(curves["loss"].last)))
    if "images_per_s" in curves:
        rate = float(np.nanmedian(curves["images_per_s"].values))
        pairs.append(("images/s (median)", f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"))
    if run.seconds is not None:
        pairs.append(("time in training steps", duration(run.seconds)))
    known = ("devices", "started", "commit", "facejax", "jax", "python")
    about = dict(run.about)
    if "commit" in about:
        about["commit"] = about["commit"][:10]
    if "started" in about:
        about["started"] = _date(about["started"])
    return pairs + [(key, about[key]) for key in known if about.get(key)]


def _date(text: str) -> str:
    """An ISO time to the minute; another text as it is."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return text


def what_it_is(run: Run) -> str:
    """One sentence: which encoder learns what from which images."""
    config = run.config
    encoder = config.get("encoder.name", "an encoder")
    labels = dict.fromkeys(k.split(".")[1] for k in config if k.startswith("objective."))
    named = [k for k in config if k.startswith("data.sources") and k.endswith(".name")]
    paths = [config.get(f"{k.removesuffix('name')}path") for k in named]
    sources = [f"{config[k]} {Path(p).name}" if p else config[k] for k, p in zip(named, paths)]
    aims = " + ".join(labels) or "no objective"
    return f"Pretraining of {encoder} with {aims} on {', '.join(map(str, sources)) or 'no source'}."


def together(runs: Sequence[Run]) -> str:
    """Several runs in one table, a column each."""
    sides = [dict(summary(run)) for run in runs]
    keys = dict.fromkeys(key for side in sides for key in side)
    rows = [[key, *(side.get(key, "–") for side in sides)] for key in keys]
    return page.section("runs", "Runs", page.table(["", *(run.name for run in runs)], rows))


def records(runs: Sequence[Run]) -> str:
    """Records that could not be read."""
    parts = []
    for run in runs:
        told = "" if len(runs) == 1 else f" ({run.name})"
        if run.rejected is not None:
            count = sum(run.rejected.values())
            parts.append(f"<p>Listed in rejected.csv{page.escape(told)}: {count:,}.</p>")
            if run.rejected:
                most = list(run.rejected.items())[:REASONS]
                parts.append(page.table(["reason", "records"], most))
        elif "bad_records" in run.curves:
            count = f"{run.curves['bad_records'].last:,.0f}"
            parts.append(f"<p>Records that could not be read{page.escape(told)}: {count}.</p>")
        else:
            parts.append(page.missing(f"No rejected.csv and no count of bad records{told}."))
    return page.section("records", "Rejected records", *parts)


def configuration(runs: Sequence[Run]) -> str:
    """The whole configuration and the versions of one run; of several, what differs."""
    if len(runs) == 1:
        (run,) = runs
        config = page.table(["key", "value"], [(k, v) for k, v in run.config.items()], text=True)
        versions = page.table(["what", "value"], run.about.items(), text=True)
        return page.section(
            "config",
            "Configuration and versions",
            page.folded(f"Configuration ({len(run.config)} keys)", config),
            page.folded("Versions, commit and devices", versions),
        )
    parts = []
    for title, sides in (
        ("Configuration", [run.config for run in runs]),
        ("Versions and devices", [run.about for run in runs]),
    ):
        keys = list(dict.fromkeys(key for side in sides for key in side))
        rows = [[key, *(side.get(key, "–") for side in sides)] for key in keys]
        rows = [row for row in rows if any(value != row[1] for value in row[2:])]
        parts.append(f"<h3>{title}: what differs</h3>")
        same = len(keys) - len(rows)
        head = ["key", *(run.name for run in runs)]
        parts.append(
            page.table(head, rows, text=True) if rows else page.missing("Nothing differs.")
        )
        parts.append(f'<p class="caption">{same} keys are the same in all runs.</p>')
    return page.section("config", "Configuration and versions", *parts)
