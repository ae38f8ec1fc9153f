"""What the loop writes down about its steps, on every process alike: numbers, batches, rejections.

Metrics of a step are fetched when the next one has been dispatched, so the device never waits. All
processes hold the same numbers, so all take the same decisions; what only one of them knows (which
records its rows show, which were broken) is exchanged when it is needed.
"""

import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from facejax import mesh, processes
from facejax.ceiling import measured_ceiling
from facejax.contracts import Histogram
from facejax.data.pipeline import HostBatch
from facejax.data.rejected import Rejected, Rejection
from facejax.flops import flops_per_image
from facejax.health import Id, Spikes, check_finite, short
from facejax.metrics import Progress, Writer, read_jsonl
from facejax.peaks import mfu, peak_flops
from facejax.session import Session
from facejax.speed import Goodput, StepTimer, peak_memory


class Books:
    """The books of one run.

    Args:
        session: the run.
        writer: where numbers go.
        start: completed steps.

    Attributes:
        timer: of the steps.
        progress: the line that a person watches.
    """

    def __init__(self, session: Session, writer: Writer, start: int):
        self._session, self._writer = session, writer
        self.timer = StepTimer(session.run.global_batch, jax.device_count())
        self.progress = Progress(session.run.steps, start)
        rows = read_jsonl(session.workdir / "metrics.jsonl")
        told = (row for row in rows if row["step"] <= start)
        self._goodput = Goodput(session.began.timestamp(), told)
        self._flops = flops_per_image(session.program)
        self._rejected = Rejected(session.workdir / "rejected.csv")
        self._spikes = Spikes()
        self._late: tuple[int, Mapping[str, Any], list[Id]] | None = None
        self._collected: list[dict[str, Any]] = []
        self._bad: list[Rejection] = []
        self._texts = np.zeros(2, np.int64)  # without one, cut

    def enter(self, step: int, metrics: Mapping[str, Any], host: HostBatch) -> None:
        """Takes a step that was dispatched, and fetches the one before it.

        Raises:
            TrainingFailed: too many broken records, or too many steps that are not finite.
        """
        self._bad += host.bad
        missing = np.sum(~host.arrays["has_text"]) if "has_text" in host.arrays else 0
        self._texts += np.array([missing, host.cut])
        if jax.process_count() == 1:
            self._reject(host.step)
        if self._session.run.log_batch_ids:
            self._writer.batch_ids(step, self._global_ids(host.ids))
        self._fetch()
        self._late = step, metrics, host.ids
        self.timer.dispatched(metrics)

    def log(self, step: int) -> None:
        """Closes an interval: writes the means of its numbers and shows them."""
        self._fetch()
        self._reject(step - 1)
        last = self._collected[-1]
        scalars = {
            name: float(np.mean([c[name] for c in self._collected]))
            for name, value in last.items()
            if not isinstance(value, Histogram) and name not in ("nonfinite", "skipped", "lr")
        }
        scalars |= {"lr": float(last["lr"]), "skipped_steps": int(last["skipped"])}
        scalars |= {"bad_records": self._rejected.count, **self._speed()}
        if self._session.texts is not None:
            without, cut = np.sum(processes.gather(self._texts.tolist()), axis=0)
            scalars |= {"texts_missing": int(without), "texts_cut": int(cut)}
        self._writer.scalars(step, scalars)
        for name, value in last.items():
            if isinstance(value, Histogram):
                self._writer.histogram(step, name, value.counts, value.low, value.high)
        if self._session.primary:
            self.progress.update(step, scalars)
        self._collected = []

    def _speed(self) -> dict[str, float | None]:
        """Numbers of time and memory; the last step has ended, so the devices have nothing to do.

        `mfu` is a share of the table's dense 16-bit peak, whatever the dtype, or of the measured
        ceiling, which is then told beside it as `ceiling_tflops`.
        """
        found: dict[str, float | None] = dict(self.timer.read())
        if self._flops is None:
            found["mfu"] = None
        elif found:
            peak = peak_flops(jax.devices()[0].device_kind, "bfloat16")
            if peak is None:
                with self.timer.paused():
                    peak = measured_ceiling(self._session.run.dtype)
                found["ceiling_tflops"] = peak / 1e12
            found["mfu"] = mfu(self._flops * found["images_per_s_per_device"], peak)
        return found | self._goodput.read(self.timer.worked) | peak_memory()

    def _fetch(self) -> None:
        if self._late is None:
            return
        (step, metrics, ids), self._late = self._late, None
        found = jax.device_get(metrics)
        self.timer.tick()
        if found["nonfinite"]:
            most = self._session.run.max_nonfinite
            check_finite(step, found, self._global_ids(ids), most)
        median = self._spikes.find(found["loss"])
        if median is not None:
            batch = self._global_ids(ids)
            self._writer.spike(step, found["loss"], median, batch)
            if self._session.primary:
                loss = f"loss {found['loss']:.4g} after a median of {median:.4g}"
                print(f"warning: step {step}: {loss}; batch {short(batch)}", file=sys.stderr)
        self._collected.append(found)

    def _global_ids(self, ids: list[Id]) -> list[Id]:
        """The ids of the whole batch in the order of its rows; every process must ask."""
        if jax.process_count() == 1:
            return ids
        rows = mesh.local_rows(self._session.mesh, self._session.run.global_batch)
        parts = processes.gather([[int(row), *own] for row, own in zip(rows, ids, strict=True)])
        return [(label, index) for _, label, index in sorted(row for p in parts for row in p)]

    def _reject(self, batch: int) -> None:
        """Names bad records once, and stops the run when there are too many of them."""
        bad, self._bad = self._bad, []
        everywhere = [tuple(r) for part in processes.gather(bad) for r in part]
        self._rejected.add(everywhere, write=self._session.primary)
        # Judged over 1,000 records at least, so that one bad one in the first batch stops nothing.
        read = max((batch + 1) * self._session.run.global_batch, 1000)
        share = self._session.run.max_bad_share
        self._rejected.check(share, min(read, len(self._session.mixture)))
