"""The command that trains, and its loop.

    python -m facejax.train --config=FILE[:args] --workdir=DIR [--config.a.b=value ...]

The same command again resumes from the newest checkpoint; a finished run says so. Everything that
can be wrong with the input is found before the first compilation.
"""

import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from facejax import cli, command_line, config, evaluate, mesh, model, report, state
from facejax.contracts import Histogram
from facejax.data import pipeline
from facejax.data.rejected import Rejected
from facejax.errors import TrainingFailed
from facejax.export._run import export_run
from facejax.flops import flops_per_image
from facejax.metrics import Progress, StepTimer, Writer, save_preview
from facejax.peaks import peak_flops
from facejax.preview import previews
from facejax.session import Session, prepare, starting_state, write_config
from facejax.step import jitted

PREEMPTED = 75


def train(session: Session) -> int:
    """Trains to the end; returns the exit status."""
    run = session.run
    current, start = starting_state(session)
    if start >= run.steps and _finished(session).exists():
        print(f"{session.workdir} is finished: {run.steps} steps")
        return 0
    if session.primary:
        write_config(session)
    writer = Writer(session.workdir, start, write=session.primary)
    _warn(session, current)
    current = _steps(session, writer, current, start)
    if current is None:
        return PREEMPTED
    finish(session, writer, current)
    writer.close()
    return 0


def _steps(session: Session, writer: Writer, current: state.TrainState, start: int):
    """Runs steps `start` to the end; None when asked to stop (everything is then saved)."""
    run = session.run
    step_fn = jitted(session.program, session.mesh)
    rejected = Rejected(session.workdir / "rejected.csv")
    timer, progress = _timer(session), Progress(run.steps, start)
    late: tuple[int, dict, list] | None = None
    collected: list[dict] = []
    stop = _StopRequest()
    batches = iter(read_batches(session, start))
    with progress:
        for step in range(start + 1, run.steps + 1):
            with timer.waiting():
                host = next(batches)
                batch = mesh.to_global(session.mesh, run.global_batch, host.arrays)
            _account(session, rejected, host)
            if step == start + 1:
                with timer.paused():  # compiles
                    current, metrics = step_fn(current, batch, session.frozen)
            else:
                current, metrics = step_fn(current, batch, session.frozen)
            _trace(session, step, metrics)
            if run.log_batch_ids:
                writer.batch_ids(step, host.ids)
            if late is not None:
                collected.append(_fetch(session, *late))
            late = (step, metrics, host.ids)
            timer.tick()
            saving = step % run.checkpoint.every_steps == 0 or step == run.steps or stop.requested
            evaluating = due_evaluations(session, step)
            if step % run.log_every == 0 or step == run.steps or saving:
                collected.append(_fetch(session, *late))
                late = None
                _log(writer, progress, timer, step, collected, rejected.count)
                collected = []
            if saving:
                session.checkpoints.save(step, current)
                _save_previews(session, current, batch, step)
            if evaluating:
                with timer.paused():
                    evaluate_state(session, writer, current, step, evaluating)
            if stop.requested and step < run.steps:
                session.checkpoints.close()
                writer.close()
                print(f"stopped at step {step}, everything saved; the same command resumes")
                return None
    session.checkpoints.wait()
    return current


def _trace(session: Session, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes a profiler trace of the steps that `config.profile` names."""
    if not session.run.profile:
        return
    first, last = map(int, session.run.profile.split(":"))
    if step == first - 1 or step == last:
        jax.block_until_ready(metrics)
    if step == first - 1:
        jax.profiler.start_trace(session.workdir / "profile")
    elif step == last:
        jax.profiler.stop_trace()


def read_batches(session: Session, start: int) -> Iterator[pipeline.HostBatch]:
    """Batches for the steps after `start`; batch n depends on (seed, n) alone."""
    run = session.run
    return pipeline.batches(
        session.mixture,
        size=run.data.size,
        seed=run.seed,
        global_batch=run.global_batch,
        fields=session.program.fields(),
        start=start,
        steps=run.steps,
        rows=mesh.local_rows(session.mesh, run.global_batch),
        workers=run.data.workers,
        cache=run.data.cache,
        sampler=run.data.sampler,
    )


def _account(session: Session, rejected: Rejected, host: pipeline.HostBatch) -> None:
    """Names bad records, and stops the run when there are too many of them."""
    rejected.add(host.bad)
    # Judged over at least 1,000 records, so that one bad record in the first batch stops nothing.
    read = max((host.step + 1) * session.run.global_batch, 1000)
    rejected.check(session.run.max_bad_share, min(read, len(session.mixture)))


def _fetch(session: Session, step: int, metrics: Mapping[str, Any], ids: list) -> dict[str, Any]:
    """Metrics on the host, a step late so that the device never waits; stops on non-finite runs."""
    found = jax.device_get(metrics)
    if found["nonfinite"] > session.run.max_nonfinite:
        losses = {k.removeprefix("loss/"): v for k, v in found.items() if k.startswith("loss/")}
        guilty = [label for label, v in losses.items() if not np.isfinite(v)] or ["the gradient"]
        listed = ", ".join(f"{label}:{index}" for label, index in ids[:8])
        raise TrainingFailed(
            f"step {step}",
            f"not finite for {int(found['nonfinite'])} steps in a row, from {', '.join(guilty)} "
            f"(batch {listed}, ...)",
            "lower the learning rate, set optimizer.clip, or look at these records",
        )
    return found


def _log(writer, progress, timer, step: int, collected: list[dict], bad: int) -> None:
    last = collected[-1]
    scalars = {
        name: float(np.mean([c[name] for c in collected]))
        for name, value in last.items()
        if not isinstance(value, Histogram) and name not in ("nonfinite", "skipped", "lr")
    }
    scalars |= {"lr": float(last["lr"]), "skipped_steps": int(last["skipped"]), "bad_records": bad}
    scalars |= timer.read()
    writer.scalars(step, scalars)
    for name, value in last.items():
        if isinstance(value, Histogram):
            writer.histogram(step, name, value.counts, value.low, value.high)
    progress.update(step, scalars)


def due_evaluations(session: Session, step: int) -> list[evaluate.Evaluation]:
    """The evaluations scheduled for this step; the end of the run is `finish`'s."""
    return [
        e
        for e in session.evaluations
        if e.entry.every_steps and step % e.entry.every_steps == 0 and step < session.run.steps
    ]


def evaluate_state(session, writer, current, step, evaluations) -> dict[str, float]:
    """Evaluates the encoder of a state."""
    trained = model.of_state(session.run, current.params, current.stats, step=step)
    return evaluate.evaluate(evaluations, trained, step, writer, session.workdir)


def _save_previews(session: Session, current, batch, step: int) -> None:
    for label, (columns, images) in previews(
        session.program, current, batch, session.frozen
    ).items():
        if session.primary:
            save_preview(session.workdir, label, step, images, columns)


def finish(session: Session, writer: Writer, current: state.TrainState) -> None:
    """The end of a run: the last evaluation, exports and the report."""
    run, workdir = session.run, session.workdir
    numbers = evaluate_state(session, writer, current, run.steps, session.evaluations)
    if numbers and session.primary:
        evaluate.show(numbers)
    session.checkpoints.close()
    writer.flush()
    if not session.primary:
        return
    for form in run.export:
        export_run(workdir, run.steps, form, workdir / "export" / form, replace=True)
        print(f"exported {form}: {workdir / 'export' / form}")
    if run.report:
        print(f"report: {report.write_report([workdir], workdir / 'report.html')}")
    _finished(session).parent.mkdir(exist_ok=True)
    _finished(session).touch()
    print(f"finished: {run.steps} steps, {workdir}")


def _finished(session: Session) -> Path:
    return session.workdir / "artifacts" / f"finished-{session.run.steps}"


def _timer(session: Session) -> StepTimer:
    run = session.run
    peak = peak_flops(jax.devices()[0].device_kind, "bfloat16")
    flops = flops_per_image(session.program)
    return StepTimer(
        images_per_step=run.global_batch,
        flops_per_step=None if flops is None else flops * run.global_batch,
        n_devices=jax.device_count(),
        peak=peak,
    )


def _warn(session: Session, current: state.TrainState) -> None:
    run = session.run
    if run.micro_batch not in (None, run.global_batch) and jax.tree.leaves(current.stats):
        print(
            "warning: config.micro_batch: BatchNorm sees one micro-batch at a time, so this is not "
            "the one-shot gradient",
            file=sys.stderr,
        )


class _StopRequest:
    """SIGTERM asks for a checkpoint and an orderly end (preemption)."""

    def __init__(self):
        self.requested = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self.requested = True


def run(argv: list[str]) -> int:
    """The command."""
    parser = cli.Parser(prog="python -m facejax.train", description=__doc__)
    parser.add_argument("--config", required=True, help="FILE or FILE:args")
    parser.add_argument("--workdir", required=True, type=Path)
    args, overrides = parser.parse_known(argv, "config")
    values = command_line.load_file(args.config).to_dict()
    assignments = [f"--config.{key}={value}" for key, value in overrides.items()]
    resolved = config.resolve(command_line.override(values, assignments, "config"))
    args.workdir.mkdir(parents=True, exist_ok=True)
    return train(prepare(resolved, args.workdir))


if __name__ == "__main__":
    cli.main(run)
