"""Host side of a run's numbers: metrics.jsonl and TensorBoard, artifacts, progress.

Files beneath a working directory:

    metrics.jsonl      {"step", <name>: number or null, ...}           one object a line
    histograms.jsonl   {"step", "name", "low", "high", "counts"}
    batches.jsonl      {"step", "ids": [[source label, index], ...]}
    spikes.jsonl       {"step", "loss", "median", "ids"}, steps whose loss was far above the last
    tensorboard/       the same scalars and histograms as event files
    artifacts/         eval-<label>-<step>[-<suffix>].npz, preview-<label>-<step>.npz

A line reaches the operating system in one write, so a killed run leaves at most a torn last line.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tensorboardX import SummaryWriter

from facejax.evaluators import Result

JSONL = ("metrics.jsonl", "histograms.jsonl", "batches.jsonl", "spikes.jsonl")


def _lines(path: Path) -> Iterator[tuple[bytes, dict]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield line.rstrip(b"\n") + b"\n", row


def read_jsonl(path: Path) -> Iterator[dict]:
    """Yields the objects with an integer `step`, in file order; a torn or foreign line is skipped.

    A file that does not exist has no lines.
    """
    return (row for _, row in _lines(path))


@contextmanager
def replacing(path: Path):
    """Opens a file that takes the place of `path` once it is written in full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def _cut(path: Path, step: int) -> None:
    if path.exists():
        with replacing(path) as out:
            out.writelines(line for line, row in _lines(path) if row["step"] <= step)


def _seal(path: Path) -> None:
    """Ends a torn last line, so that the next one stands by itself."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")


class Writer:
    """Appends a run's numbers to its working directory.

    Args:
        workdir: the run's directory; made if missing.
        step: the checkpoint's step: later lines of an interrupted run are cut from the JSONL
            files, and hidden in TensorBoard. None cuts nothing (an evaluation beside the trainer).
        write: False on all processes but the first; every method then does nothing.

    Attributes:
        write: as given.
    """

    def __init__(self, workdir: Path, step: int | None, write: bool = True):
        self._dir, self.write = Path(workdir), write
        if not write:
            return
        self._dir.mkdir(parents=True, exist_ok=True)
        for name in JSONL:
            if step is None:
                _seal(self._dir / name)
            else:
                _cut(self._dir / name, step)
        purge = None if step is None else step + 1
        self._board = SummaryWriter(str(self._dir / "tensorboard"), purge_step=purge)

    def _append(self, name: str, row: dict) -> None:
        # Opened anew for each line: another process may have replaced the file by a cut one.
        with (self._dir / name).open("ab", buffering=0) as file:
            file.write(json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n")

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line of numbers (Python, NumPy or JAX scalars) for `step`.

        None and numbers that are not finite become null; TensorBoard keeps the nan or inf.
        """
        if not self.write:
            return
        row: dict[str, Any] = {"step": int(step)}
        for name, value in values.items():
            number = None if value is None else np.asarray(value).item()
            row[name] = number if number is not None and math.isfinite(number) else None
            if number is not None:
                self._board.add_scalar(name, number, int(step))
        self._append("metrics.jsonl", row)

    def histogram(self, step: int, name: str, counts: np.ndarray, low: float, high: float) -> None:
        """Writes counts [n] of values in n equal bins over [low, high]."""
        if not self.write:
            return
        counts = np.asarray(counts, np.float64)
        row = {"step": int(step), "name": name, "low": float(low), "high": float(high)}
        self._append("histograms.jsonl", row | {"counts": counts.tolist()})
        edges = np.linspace(low, high, len(counts) + 1)
        centres = (edges[1:] + edges[:-1]) / 2
        total = (counts.sum(), (counts * centres).sum(), (counts * centres**2).sum())
        self._board.add_histogram_raw(
            name, low, high, *total, edges[1:].tolist(), counts.tolist(), int(step)
        )

    def batch_ids(self, step: int, ids: Sequence[tuple[str, int]]) -> None:
        """Writes the ordered (source label, index) of the global batch that made `step`."""
        if self.write:
            self._append("batches.jsonl", {"step": int(step), "ids": _rows(ids)})

    def spike(self, step: int, loss: float, median: float, ids: Sequence[tuple[str, int]]) -> None:
        """Writes a step whose loss was far above the last ones' median, with its batch."""
        if self.write:
            row = {"step": int(step), "loss": float(loss), "median": float(median)}
            self._append("spikes.jsonl", row | {"ids": _rows(ids)})

    def flush(self) -> None:
        """Hands TensorBoard's events to the operating system; the other files have no buffer."""
        if self.write:
            self._board.flush()

    def close(self) -> None:
        """Ends the TensorBoard file."""
        if self.write:
            self._board.close()


def _rows(ids: Sequence[tuple[str, int]]) -> list[list]:
    return [[label, int(index)] for label, index in ids]


def _plain(array: Any) -> np.ndarray:
    """An array that NumPy stores without pickle: objects (strings of any length) become text."""
    array = np.asarray(array)
    return array.astype(str) if array.dtype == object else array


def save_eval(workdir: Path, label: str, step: int, suffix: str, result: Result) -> Path:
    """Saves what an evaluation found to artifacts/eval-<label>-<step>[-<suffix>].npz.

    Args:
        suffix: "" for the encoder itself, "random" or "pixels" for a baseline.
    """
    index: dict[str, Any] = {"metrics": result.metrics, "curves": {}, "items": list(result.items)}
    arrays = {}
    for i, (name, curve) in enumerate(result.curves.items()):
        index["curves"][name] = {"logx": False, **curve, "x": None, "y": None}
        arrays[f"curve{i}_x"], arrays[f"curve{i}_y"] = _plain(curve["x"]), _plain(curve["y"])
    for i, items in enumerate(result.items.values()):
        arrays[f"item{i}"] = _plain(items)
    if result.embeddings is not None:
        arrays["embeddings"] = np.asarray(result.embeddings, np.float32)
    if result.labels is not None:
        arrays["labels"] = _plain(result.labels)
    tail = f"-{suffix}" if suffix else ""
    path = Path(workdir) / "artifacts" / f"eval-{label}-{step}{tail}.npz"
    with replacing(path) as out:
        np.savez_compressed(out, index=np.array(json.dumps(index, default=float)), **arrays)
    return path


def load_eval(path: Path) -> Result:
    """Reads what `save_eval` wrote."""
    with np.load(path, allow_pickle=False) as file:
        index = json.loads(str(file["index"]))
        curves = {
            name: {**curve, "x": file[f"curve{i}_x"], "y": file[f"curve{i}_y"]}
            for i, (name, curve) in enumerate(index["curves"].items())
        }
        items = {name: file[f"item{i}"] for i, name in enumerate(index["items"])}
        return Result(index["metrics"], curves, items, file.get("embeddings"), file.get("labels"))


def is_detail(metric: str) -> bool:
    """Whether an evaluator's metric only explains others: a part of a mean, a count, a choice."""
    return "/" in metric or metric == "l2" or metric.startswith(("impostors@", "attacks@"))


def save_preview(
    workdir: Path, label: str, step: int, images: np.ndarray, columns: Sequence[str]
) -> Path:
    """Saves u8[rows, cols, H, W, 3] RGB pictures to artifacts/preview-<label>-<step>.npz.

    Args:
        columns: what each column shows ("input", "masked", "reconstruction").

    Raises:
        ValueError: the pictures have another shape or dtype, or a column has no name.
    """
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"pictures are u8[rows, cols, H, W, 3], not {images.dtype}{images.shape}")
    if images.shape[1] != len(columns):
        raise ValueError(f"{images.shape[1]} columns but {len(columns)} names")
    path = Path(workdir) / "artifacts" / f"preview-{label}-{step}.npz"
    with replacing(path) as out:
        np.savez_compressed(out, images=images, columns=np.array(list(columns)))
    return path


def load_preview(path: Path) -> tuple[np.ndarray, list[str]]:
    """Reads what `save_preview` wrote: the pictures and the columns' names."""
    with np.load(path, allow_pickle=False) as file:
        return file["images"], file["columns"].tolist()


def duration(seconds: float) -> str:
    """Writes a time span with two units at most: "42 s", "12 min 30 s", "5 h 07 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


class Progress:
    """Shows where a run stands: a live line in a terminal, a plain line per update in a log file.

    Args:
        steps: of the whole run.
        step: completed before this process started.
        stream: where to write.
        clock: seconds.
    """

    def __init__(
        self,
        steps: int,
        step: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._steps, self._stream, self._clock = steps, stream or sys.stderr, clock
        self._first: tuple[int, float] | None = None
        self._step = step
        console = Console(file=self._stream)
        live = console.is_terminal
        self._live = Live(console=console, transient=True, refresh_per_second=4) if live else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
            self._live.update(self._bar("starting"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Shows the numbers of `step`, as `Writer.scalars` takes them; absent ones are left out."""
        self._step, now = step, self._clock()
        # The first interval holds the compilation, so the rate is counted from its end.
        first, start = self._first = self._first or (step, now)
        measured = (metrics.get("step_ms") or 0.0) / 1e3
        pace = (now - start) / (step - first) if step > first else measured
        text = self._text(metrics, pace * (self._steps - step))
        if self._live:
            self._live.update(self._bar(text))
        else:
            print(f"step {step}/{self._steps}  {text}", file=self._stream, flush=True)

    def _text(self, metrics: Mapping[str, float | None], left: float) -> str:
        parts = [f"{100 * self._step / self._steps:.1f} %", f"{duration(left)} left"]
        return "  ".join([*parts, *_shown({k: v for k, v in metrics.items() if v is not None})])

    def _bar(self, text: str) -> Table:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._steps, completed=self._step, width=20)
        line = Text(f"{self._step}/{self._steps}  {text}", no_wrap=True, overflow="ellipsis")
        row.add_row(bar, line)
        return row


def _shown(known: Mapping[str, float]) -> Iterator[str]:
    """What the progress line says; the end is what a narrow terminal cuts."""
    if "loss" in known:
        yield f"loss {known['loss']:.4f}"
    if "images_per_s" in known:
        rate, own = known["images_per_s"], known.get("images_per_s_per_device")
        several = own is not None and own < rate
        yield f"{rate:.0f} images/s" + (f" ({own:.0f} a device)" if several else "")
    if "step_ms_p50" in known:
        yield f"step {known['step_ms_p50']:.0f} ms (p95 {known['step_ms_p95']:.0f})"
    if "mfu" in known:
        of = " of the measured ceiling" if "ceiling_tflops" in known else ""
        yield f"MFU {100 * known['mfu']:.1f} %{of}"
    if "data_wait" in known:
        yield f"data wait {100 * known['data_wait']:.1f} %"
    if "goodput" in known:
        yield f"goodput {100 * known['goodput']:.0f} %"
    for name, where in (("device_peak_gib", "device"), ("host_peak_gib", "host")):
        if name in known:
            yield f"{where} peak {known[name]:.1f} GiB"
